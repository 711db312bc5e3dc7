"""The training loss and its gradient, computed piece by piece over the vocabulary."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sioconv.data.batches.loader import IGNORED
from sioconv.ops import cross_entropy_, fast_products
from sioconv.ops.linear import ROWS_MULTIPLE


def token_loss_gradient(
    hidden: Tensor, head: nn.Linear, targets: Tensor, scale: float, rows: int = 1024
) -> tuple[float, Tensor]:
    """scale · the cross-entropy in nats, summed over the tokens whose target isn't -100, and its gradient.

    The gradient is with respect to the hidden states; the head's is added to the head's parameters.

    It goes `rows` tokens at a time: the logits [tokens, V] are never held at once, and only tokens with a target go
    through the head. Their number is rounded up to a multiple of 256: it is another one in every step, and oneDNN keeps
    code and buffers for every shape of a bf16 product that it has met (docs/decisions.md). The head is called as a
    module, so adapters on it work.

    Args:
        hidden: hidden states [B, T, D].
        head: the output head.
        targets: [B, T], already shifted, -100 where no loss is wanted.
        scale: what the sum is multiplied by.
        rows: tokens in one piece.

    Returns:
        The loss, computed in fp32, or in fp64 where the logits are, and the gradient [B, T, D] in the dtype of
        `hidden`, for `hidden.backward`.
    """
    wanted = (targets != IGNORED).flatten().nonzero().squeeze(1)  # [N]
    missing = -len(wanted) % ROWS_MULTIPLE
    # The last one again, not a token that has no target: what isn't finite in that one shall reach nothing.
    filled = torch.cat([wanted, wanted[-1:].expand(missing)])  # [N + missing]
    leaf = hidden.detach().flatten(0, -2).index_select(0, filled).requires_grad_()  # [N + missing, D]
    chosen = F.pad(targets.flatten()[wanted], (0, missing), value=IGNORED)
    losses = []
    for part, target in zip(torch.split(leaf, rows), torch.split(chosen, rows), strict=True):
        with fast_products(part):
            logits = head(part)
        logit_gradient = logits.detach()  # the same memory: a linear layer doesn't need its result again
        losses.append(cross_entropy_(logit_gradient, target, scale).sum())
        logits.backward(logit_gradient)
    gradient = torch.zeros_like(hidden, memory_format=torch.contiguous_format)
    if leaf.grad is not None:
        gradient.view(-1, hidden.shape[-1]).index_copy_(0, wanted, leaf.grad[: len(wanted)])
    # Read at the end: a GPU isn't waited for before. In Python's numbers, because not every device has fp64.
    total: float = sum(torch.stack(losses).tolist()) * scale
    return total, gradient
