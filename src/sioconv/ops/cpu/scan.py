"""The `cpu` backend: the compiled kernels as operators that autograd and torch.compile know.

float32, bfloat16 and float64 are read and written as they are; float16, in which nobody trains on a CPU, is converted
to float32 and back, which saves compiling every kernel for it. Arrays are prepared with numpy and not with torch, whose
parallel loops hang in a forked process. numba is imported by the first call, not with the package.
"""

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from sioconv.ops.cpu.structures import Array, Gradients, Line
from sioconv.ops.eager.chunked import scan_chunked
from sioconv.ops.operators import operator
from sioconv.ops.scan_gradients import scan_gradients
from sioconv.ops.validate import check_cu_seqlens_values, state_dtype

# From this size on a result is written past the caches: they couldn't keep it anyway, and the processor then
# needn't read first what it is going to overwrite.
STREAM_BYTES = 8 * 2**20
KERNEL_DTYPES = (torch.float32, torch.bfloat16, torch.float64)  # numba has no float16 on CPUs
REGISTERS = (0, 0)  # of the elementwise kernels: vectors of 128 bytes of fp32 or fp64
# Numbers: elementwise work on fewer is as fast in plain torch, and a decoding step should be as short as it can.
SMALLEST = 2**18


class Strips(NamedTuple):
    """How the channels of a head are cut for the kernels, see `scan_kernels`."""

    registers: tuple[int, ...]
    edge: bool | None
    per_head: int


def scan_cpu(
    z: Tensor,
    log_a: Tensor,
    initial_state: Tensor,
    reset: Tensor | None,
    reset_state: Tensor | None,
    cu_seqlens: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """See `sioconv.ops.backends.ScanFunction` for shapes."""
    read = z.float() if z.dtype == torch.float16 else z
    c, final_state, _saved = _forward(read, log_a, initial_state, reset, reset_state, cu_seqlens)
    return c.to(z.dtype), final_state


def _plain(
    z: Tensor,
    log_a: Tensor,
    initial_state: Tensor,
    reset: Tensor | None,
    reset_state: Tensor | None,
    cu_seqlens: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    return *scan_chunked(z, log_a, initial_state, reset, reset_state, cu_seqlens), initial_state.new_empty(0)


@operator("sioconv::scan_cpu", _plain)
def _forward(
    z: Tensor,
    log_a: Tensor,
    initial_state: Tensor,
    reset: Tensor | None,
    reset_state: Tensor | None,
    cu_seqlens: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """c, the final state, and for bfloat16 the states from which the backward pass computes c again."""
    from sioconv.ops.cpu.scan_kernels import forward_parallel, forward_serial

    line = make_line(z, log_a, initial_state, reset, reset_state, cu_seqlens)
    c = torch.empty(z.shape, dtype=z.dtype)
    final_state = torch.empty(initial_state.shape, dtype=initial_state.dtype)
    saved = torch.empty(_saved_shape(z, initial_state), dtype=initial_state.dtype)
    kept = flat(saved) if z.dtype == torch.bfloat16 else None
    result = flat(c), flat(final_state), kept
    run_kernel((forward_parallel, forward_serial), z, line, flat(z), result, largest=c)
    return c, final_state, saved


@_forward.register_fake
def _(
    z: Tensor,
    log_a: Tensor,  # noqa: ARG001
    initial_state: Tensor,
    reset: Tensor | None,  # noqa: ARG001
    reset_state: Tensor | None,  # noqa: ARG001
    cu_seqlens: Tensor | None,  # noqa: ARG001
) -> tuple[Tensor, Tensor, Tensor]:
    saved = initial_state.new_empty(_saved_shape(z, initial_state))
    return z.new_empty(z.shape), initial_state.new_empty(initial_state.shape), saved


def _saved_shape(z: Tensor, initial_state: Tensor) -> tuple[int, ...]:
    return saved_shape(z, initial_state) if z.dtype == torch.bfloat16 else (0,)


def saved_shape(z: Tensor, initial_state: Tensor) -> tuple[int, ...]:
    """The shape of the states before every block of steps: a row [H, P] for each, of all sequences."""
    from sioconv.ops.cpu.scan_kernels import BLOCK

    return (z.shape[0] * z.shape[1] // BLOCK + initial_state.shape[0], *z.shape[2:])


def _plain_backward(
    grad_c: Tensor,
    grad_final: Tensor,
    source: Tensor,
    saved: Tensor,  # noqa: ARG001
    log_a: Tensor,
    initial_state: Tensor,
    reset: Tensor | None,
    reset_state: Tensor | None,
    cu_seqlens: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    line = log_a, initial_state, reset, reset_state, cu_seqlens
    if source.dtype != torch.bfloat16:
        return scan_gradients(grad_c, grad_final, source, *line)
    c, _ = scan_chunked(source.to(log_a.dtype), *line)
    grad_z, grad_log_a, grad_initial, grad_reset = scan_gradients(grad_c, grad_final, c, *line)
    return grad_z.to(source.dtype), grad_log_a, grad_initial, grad_reset


@operator("sioconv::scan_cpu_backward", _plain_backward)
def _backward(
    grad_c: Tensor,
    grad_final: Tensor,
    source: Tensor,
    saved: Tensor,
    log_a: Tensor,
    initial_state: Tensor,
    reset: Tensor | None,
    reset_state: Tensor | None,
    cu_seqlens: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of z, log_a, initial_state and reset_state; `source` is what `_save_for_backward` chose."""
    from sioconv.ops.cpu.scan_kernels import backward_parallel, backward_serial

    line = make_line(source, log_a, initial_state, reset, reset_state, cu_seqlens)
    states = flat(saved) if source.dtype == torch.bfloat16 else None
    gradients = GradientTensors.like(source, log_a, initial_state)
    given = flat(grad_c), flat(grad_final), flat(source), states
    kernels = backward_parallel, backward_serial
    run_kernel(kernels, source, line, given, gradients.arrays(), largest=gradients.z)
    return gradients.summed()


@_backward.register_fake
def _(
    grad_c: Tensor,  # noqa: ARG001
    grad_final: Tensor,  # noqa: ARG001
    source: Tensor,
    saved: Tensor,  # noqa: ARG001
    log_a: Tensor,
    initial_state: Tensor,
    reset: Tensor | None,  # noqa: ARG001
    reset_state: Tensor | None,  # noqa: ARG001
    cu_seqlens: Tensor | None,  # noqa: ARG001
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return fake_gradients(source, log_a, initial_state)


def fake_gradients(z: Tensor, log_a: Tensor, initial_state: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What `GradientTensors.summed` gives, without values."""
    return (
        z.new_empty(z.shape),
        log_a.new_empty(log_a.shape),
        initial_state.new_empty(initial_state.shape),
        initial_state.new_empty(initial_state.shape[1:]),
    )


def _save_for_backward(ctx: Any, inputs: tuple[Tensor | None, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    """Keep c, which the next layer keeps anyway, for the gates' gradient a_t * dc_t * c_{t-1}.

    In bfloat16 c has lost digits that this product needs: there z is kept, and c computed again.
    """
    z, *others = inputs
    c, _, saved = output
    ctx.save_for_backward(z if c.dtype == torch.bfloat16 else c, saved, *others)


def _differentiate(ctx: Any, grad_c: Tensor, grad_final: Tensor, _grad_saved: Tensor) -> tuple[Tensor | None, ...]:
    *saved, log_a, initial_state, reset, reset_state, cu_seqlens = ctx.saved_tensors
    grad_z, grad_log_a, grad_initial, grad_reset = _backward(
        grad_c, grad_final, *saved, log_a, initial_state, reset, reset_state, cu_seqlens
    )
    return grad_z, grad_log_a, grad_initial, None, None if reset_state is None else grad_reset, None


_forward.register_autograd(_differentiate, _save_for_backward)
_backward.differentiate_plain()


class GradientTensors(NamedTuple):
    """The tensors of what the backward kernels write."""

    z: Tensor  # [B, T, H, P]
    log_a: Tensor  # [B, T, H * strips, 1], every strip its own sum over channels, or [B, T, H, P]
    initial_state: Tensor  # [N, H, P]
    reset_state: Tensor  # [N, H, P], every sequence its own

    @classmethod
    def like(cls, z: Tensor, log_a: Tensor, initial_state: Tensor) -> "GradientTensors":
        """Memory for the gradients of these."""
        batch, steps, heads, _channels = z.shape
        strips = 1 if log_a.shape[3] != 1 else cut_heads(z).per_head
        gates = (batch, steps, heads * strips, log_a.shape[3])
        states = torch.empty(initial_state.shape, dtype=initial_state.dtype)
        return cls(
            torch.empty(z.shape, dtype=z.dtype), torch.empty(gates, dtype=log_a.dtype), states, torch.empty_like(states)
        )

    def arrays(self) -> Gradients:
        """As the kernels take them."""
        return Gradients(*map(flat, self))

    def summed(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Gradients of z, log_a [B, T, H, 1 or P], initial_state and reset_state [H, P].

        numpy adds in one order, whatever the number of threads.
        """
        heads = self.z.shape[2]
        gates = self.log_a
        if gates.shape[2] != heads:
            by_strip = gates.numpy().reshape(*gates.shape[:2], heads, -1)
            gates = torch.from_numpy(by_strip.sum(axis=3, keepdims=True))
        return self.z, gates, self.initial_state, torch.from_numpy(self.reset_state.numpy().sum(axis=0))


def cut_heads(z: Tensor) -> Strips:
    """Vectors of 128 bytes of states where a head fits into one, else of 256."""
    from sioconv.ops.cpu.vectors import lanes

    size, channels = state_dtype(z).itemsize, z.shape[3]
    registers = 2 if channels <= lanes(2, size) else 4
    width = lanes(registers, size)
    return Strips((0,) * registers, True if channels % width else None, -(-channels // width))


def run_kernel(
    kernels: tuple[Any, Any],
    z: Tensor,
    line: Line,
    *arguments: Any,
    largest: Tensor,
    whole_heads: bool = False,
) -> None:
    """Run a kernel (its parallel and its serial form) over all sequences.

    One sequence is one task unless there are fewer than threads: its strips are cut into groups then, as few
    as the threads need, since reading short parts of every row is several times slower than long ones.

    Args:
        kernels: the two forms.
        z: [B, T, H, P].
        line: the sequences.
        arguments: what the kernel takes after the line.
        largest: of what the kernel writes.
        whole_heads: groups don't cut a head.
    """
    from sioconv.ops.cpu.threads import run_tasks

    sequences, heads, channels = line.bounds.size - 1, *z.shape[2:]
    strips = cut_heads(z)
    per_channel = None if line.log_a.size != z.numel() or channels == 1 else True
    most = heads * (1 if whole_heads else strips.per_head)
    groups = min(max(1, torch.get_num_threads() // max(1, sequences)), most)
    streams = strips.edge is None and may_stream(largest)
    sizes = groups, heads, channels
    run_tasks(
        *kernels, sequences * groups, sizes, strips.registers, strips.edge, per_channel, streams, line, *arguments
    )


def may_stream(result: Tensor) -> bool:
    """Whether a result is so large that nobody finds it in the caches, and lies where vectors can be streamed to."""
    return result.nbytes >= STREAM_BYTES and result.data_ptr() % 64 == 0


def make_line(
    z: Tensor,
    log_a: Tensor,
    initial_state: Tensor,
    reset: Tensor | None,
    reset_state: Tensor | None,
    cu_seqlens: Tensor | None,
) -> Line:
    """The sequences as the kernels take them; log_a is [B, T, H, 1 or P]. Raises ValueError for bad boundaries."""
    batch, steps, heads, channels = z.shape
    if cu_seqlens is None:
        bounds = np.arange(batch + 1, dtype=np.int64) * steps
    else:
        check_cu_seqlens_values(cu_seqlens, steps)
        bounds = flat(cu_seqlens).astype(np.int64)
    initial = flat(initial_state)
    return Line(
        log_a=flat(log_a),
        bounds=bounds,
        initial_state=initial,
        reset=np.zeros(0, dtype=np.bool_) if reset is None else flat(reset),
        reset_state=np.zeros(heads * channels, dtype=initial.dtype) if reset_state is None else flat(reset_state),
    )


def flat(tensor: Tensor) -> Array:
    """The tensor's memory as an array of one dimension (a copy if it isn't contiguous); bfloat16 as its bits.

    By DLPack, because torch never again resizes a storage that `Tensor.numpy` has been called on, and sharded training
    empties the storage of a gathered parameter when it has been used.
    """
    tensor = tensor.detach()
    if tensor.dtype == torch.bfloat16:
        tensor = tensor.view(torch.uint16)
    return np.ascontiguousarray(np.from_dlpack(tensor)).reshape(-1)
