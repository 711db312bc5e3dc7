"""What a text has become: the model's memory of it as a value that never changes."""

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

SNAPSHOT_EVERY = 256  # tokens: memories are kept at absolute multiples of it


@dataclass(frozen=True)
class Prefix:
    """The name of a text's beginning: the same for the same token ids, however they came to be read.

    Args:
        chain: hash of the ids up to the last absolute multiple of `SNAPSHOT_EVERY`, 32 bytes; none before the first.
        tail: the ids after those, 4 bytes each, the lowest first.
    """

    chain: bytes = b""
    tail: bytes = b""

    def extend(self, ids: Sequence[int]) -> "Prefix":
        """The name after more ids, each below 2^32."""
        chain, tail, block = self.chain, self.tail + np.array(ids, "<u4").tobytes(), 4 * SNAPSHOT_EVERY
        whole = len(tail) - len(tail) % block
        for first in range(0, whole, block):
            chain = hashlib.sha256(chain + tail[first : first + block]).digest()
        return Prefix(chain, tail[whole:])

    @property
    def key(self) -> str:
        """The name in 64 letters."""
        return hashlib.sha256(self.chain + self.tail).hexdigest()


def next_cut(position: int, ids: Sequence[int], boundaries: Collection[int]) -> int:
    """How many of the ids are read in one piece: up to a snapshot, or all of them.

    Args:
        position: tokens of the text before them.
        ids: what is to be read.
        boundaries: ids behind which there is a snapshot, besides those at absolute multiples of `SNAPSHOT_EVERY`.
    """
    most = min(SNAPSHOT_EVERY - position % SNAPSHOT_EVERY, len(ids))
    return next((i + 1 for i in range(most) if ids[i] in boundaries), most)


@dataclass(frozen=True, eq=False)
class State:
    """The memory of one text, the same size however long the text is; forking is sharing it.

    Args:
        tensors: the names and shapes of `SioConvCache.state_dict`, B = 1; empty before the first token. Nobody changes
            them.
        tokens: how many tokens were read.
        prefix: the name of what was read; None where it isn't known, as in files of older versions.
    """

    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    tokens: int = 0
    prefix: Prefix | None = None

    def __post_init__(self) -> None:
        if self.tokens == 0 and self.prefix is None:
            object.__setattr__(self, "prefix", Prefix())

    @property
    def bytes(self) -> int:
        """Size of the memory in bytes."""
        return sum(tensor.nbytes for tensor in self.tensors.values())
