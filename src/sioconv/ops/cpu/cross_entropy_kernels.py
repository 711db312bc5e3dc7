"""The kernel of `cross_entropy_` on CPUs: a row of logits becomes its gradient while it lies in the cache.

Arrays are flat (`scan.flat`). A task is one row; `registers` and `edge` as in `sioconv.ops.cpu.vectors`.
"""

from typing import Any

import numba
import numpy as np

from sioconv.ops.cpu.jit import inner, kernel
from sioconv.ops.cpu.scan_kernels import width_of
from sioconv.ops.cpu.structures import Array
from sioconv.ops.cpu.vectors import decays, first_lanes, lane_max, lane_sum, load, select, splat, store, zeros


@inner
def _row(
    row: int, registers: Any, edge: Any, logits: Array, targets: Array, scale: float, nats: Array, picked: Array
) -> None:
    """nats <- log(sum(exp(l))) - l[target], l <- scale * (softmax(l) - onehot(target)); both 0 for a target below 0."""
    number, width, vocabulary = nats.dtype.type, width_of(nats, registers), logits.size // targets.size
    start, target, nothing = row * vocabulary, targets[row], zeros(nats, registers)
    if target < 0:
        for first in range(0, vocabulary, width):
            store(logits, start + first, first_lanes(edge, vocabulary - first, nothing), nothing)
        nats[row] = number(0)
        return
    largest = splat(-np.inf, nothing)
    for first in range(0, vocabulary, width):
        mask = first_lanes(edge, vocabulary - first, nothing)
        value = load(logits, start + first, mask, registers)
        largest = select(select(mask, value > largest, nothing > nothing), value, largest)
    top = lane_max(largest)
    total = nothing
    for first in range(0, vocabulary, width):
        mask = first_lanes(edge, vocabulary - first, nothing)
        decay, _ = decays(load(logits, start + first, mask, registers) - top)
        total = total + select(mask, decay, nothing)
    total_sum = lane_sum(total)
    # The logit of the target, widened as vectors are.
    own = start + target
    store(picked, row, first_lanes(True, 1, nothing), load(logits, own, first_lanes(True, 1, nothing), registers))
    nats[row] = np.log(total_sum) + (top - picked[row])
    share = number(scale) / total_sum
    at_target = np.exp(picked[row] - top) * share - number(scale)
    for first in range(0, vocabulary, width):
        mask = first_lanes(edge, vocabulary - first, nothing)
        decay, _ = decays(load(logits, start + first, mask, registers) - top)
        store(logits, start + first, mask, decay * share)
    store(logits, own, first_lanes(True, 1, nothing), splat(at_target, nothing))


def _entries() -> tuple[Any, Any]:
    """The kernel as Python calls it."""

    @kernel()
    def serial(tasks, registers, edge, logits, targets, scale, nats, picked):
        for row in range(tasks):
            _row(row, registers, edge, logits, targets, scale, nats, picked)

    @kernel(parallel=True)
    def parallel(tasks, registers, edge, logits, targets, scale, nats, picked):
        for row in numba.prange(tasks):
            _row(np.int64(row), registers, edge, logits, targets, scale, nats, picked)

    return parallel, serial


parallel, serial = _entries()
