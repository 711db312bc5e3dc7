"""What a text has become: the model's memory of it as a value that never changes."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True, eq=False)
class State:
    """The memory of one text, the same size however long the text is; forking is sharing it.

    Args:
        tensors: the names and shapes of `SioConvCache.state_dict`, B = 1; empty before the first token. Nobody changes
            them.
        tokens: how many tokens were read.
    """

    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    tokens: int = 0

    @property
    def bytes(self) -> int:
        """Size of the memory in bytes."""
        return sum(tensor.nbytes for tensor in self.tensors.values())
