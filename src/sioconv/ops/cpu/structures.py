"""What belongs together in the kernels of the scan travels together; the compiler takes a structure apart again.

This file doesn't import numba, which is loaded by the first call of a kernel.
"""

from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray[Any, Any]


class Line(NamedTuple):
    """What the kernels know of the sequences, which lie one after the other, L = B * T positions in all."""

    log_a: Array  # [L, H] or [L, H, P]
    bounds: Array  # [N + 1] int64
    initial_state: Array  # [N, H, P]
    reset: Array  # [L] bool, empty for none
    reset_state: Array  # [H, P]


class Gradients(NamedTuple):
    """What the backward kernels write."""

    z: Array  # [L, H, P]
    log_a: Array  # [L, tiles], each strip its own sum over channels, or [L, H, P]
    initial_state: Array  # [N, H, P]
    reset_state: Array  # [N, H, P], each sequence its own


class Norm(NamedTuple):
    """The normalisation of each head, and what multiplies its result."""

    weight: Array  # [H]
    bias: Array  # [H]
    eps: float
    gate: Array  # [L, H, P], empty where nothing multiplies


class NormGradients(NamedTuple):
    """What the backward kernels write of these."""

    weight: Array  # [N, H], each sequence its own
    bias: Array  # [N, H]
    gate: Array  # [L, H, P]


class Cut(NamedTuple):
    """How rows [H, P] are cut into strips, and sequences into tasks.

    The last three are there for their type, which chooses what is compiled.
    """

    groups: int  # tasks of a sequence
    heads: int
    channels: int  # of a head
    registers: Any  # a tuple as long as a vector is wide: see `vectors`
    edge: Any  # None where strips divide a head evenly, so that no vector needs a mask
    per_channel: Any  # None for one gate per head


class Share(NamedTuple):
    """What one task does: the strips first … last - 1 of sequence n, which has the positions start … stop - 1."""

    n: int
    start: int
    stop: int
    first: int
    last: int


class Block(NamedTuple):
    """Steps that are done together: the positions begin … end - 1."""

    begin: int
    end: int


class Place(NamedTuple):
    """The part of a row [H, P] that a strip is."""

    tile: int  # its number
    head: int
    column: int  # of its first channel in the row
    mask: Any  # which lanes of its vectors hold channels; None for all


class Rows(NamedTuple):
    """Where the rows of a block lie: that of its step i at `at + i * step`."""

    array: Array
    at: int
    step: int


class Carried(NamedTuple):
    """What goes from step to step: of every strip of a task a vector, and what rounding took from it."""

    state: Array
    lost: Array


class Table(NamedTuple):
    """The decays of a block of steps where there is one per head, [BLOCK + 1, H] each."""

    decay: Array
    decrement: Array
