"""Cross-entropy over a vocabulary and its gradient at once, in the memory of the logits."""

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.profiler import record_function

from sioconv.ops.cpu.scan import KERNEL_DTYPES, REGISTERS, flat
from sioconv.ops.operators import COMPILES, refuse_transformed


@torch.no_grad()
def cross_entropy_(logits: Tensor, targets: Tensor, scale: float = 1.0) -> Tensor:
    """-ln softmax(logits)[target] of every row; the logits become scale · (softmax(logits) - onehot(target)).

    That is the gradient of scale · the sum of the losses. Rows with a negative target have neither loss nor gradient.
    On CPUs a kernel reads and writes every row while it lies in the cache; elsewhere it is plain torch. Half precisions
    are computed in fp32 and rounded once.

    Args:
        logits: [N, V], contiguous, changed in place; outside of autograd.
        targets: [N] int64, below V; negative where there is none.
        scale: of the gradient.

    Returns:
        The losses in nats [N], fp32, or fp64 for fp64 logits.

    Raises:
        ValueError: the logits aren't contiguous.
        RuntimeError: under `torch.func`'s transformations, or logits with a forward-mode tangent.
        IndexError: a target isn't below V; on a GPU it is the device's own assertion.

    Example:
        >>> logits = torch.zeros(1, 4)
        >>> cross_entropy_(logits, torch.tensor([2])), logits
        (tensor([1.3863]), tensor([[ 0.2500,  0.2500, -0.7500,  0.2500]]))
    """
    refuse_transformed("cross_entropy_", "call torch.nn.functional.cross_entropy", logits)
    if not logits.is_contiguous():
        raise ValueError("logits are not contiguous: they are changed in place")
    wide = torch.float64 if logits.dtype == torch.float64 else torch.float32
    on_cpu = logits.device.type == "cpu" and logits.numel() > 0
    # Elsewhere the look-up says it itself, and nobody waits for the device.
    if on_cpu and int(targets.max()) >= logits.shape[1]:
        raise IndexError(f"target {int(targets.max())} of {logits.shape[1]} logits: expected less")
    if on_cpu and COMPILES and logits.dtype in KERNEL_DTYPES:
        from sioconv.ops.cpu.cross_entropy_kernels import parallel, serial
        from sioconv.ops.cpu.threads import run_tasks
        from sioconv.ops.cpu.vectors import lanes

        nats, picked = torch.empty(len(targets), dtype=wide), torch.empty(len(targets), dtype=wide)
        edge = True if logits.shape[1] % lanes(len(REGISTERS), nats.itemsize) else None
        results = flat(nats), flat(picked)
        with record_function("sioconv::cross_entropy_"):  # a profiler sees torch's own operators only
            run_tasks(parallel, serial, len(targets), REGISTERS, edge, flat(logits), flat(targets), scale, *results)
        torch.autograd.graph.increment_version(logits)  # whoever has saved the logits must not take these for them
        return nats
    log_p = F.log_softmax(logits.to(wide), dim=-1)
    counts = targets >= 0
    column = targets.clamp(min=0).unsqueeze(1)  # [N, 1]
    nats = torch.where(counts, -log_p.gather(1, column).squeeze(1), 0)
    grad = log_p.exp_().scatter_add_(1, column, torch.full_like(column, -1, dtype=wide))
    logits.copy_(torch.where(counts.unsqueeze(1), grad.mul_(scale), 0))
    return nats
