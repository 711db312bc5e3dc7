"""States carried from one window of a lane to the next: truncated back-propagation through time."""

from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, Shard
from transformers import PreTrainedModel

from sioconv.errors import UserError
from sioconv.model.cache import SioConvCache, new_cache
from sioconv.train.distributed import World


class Carry:
    """The state that each lane's last window left, without its graph.

    Lanes are the rows of a step's windows. A step reads the states of the step before and leaves its own for the next.

    Args:
        model: whose states they are; it offers `new_cache`.

    Raises:
        UserError: the model carries no state.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        if new_cache(model) is None:
            raise UserError(f"train.carry_state: {type(model).__name__} carries no state: set it to false")
        self._model = model
        self._states: dict[str, Tensor] = {}  # names of `SioConvCache.state_dict`, [lanes, …]
        self._next: list[dict[str, Tensor]] = []

    def cache(self, number: int, micro_batches: int) -> SioConvCache:
        """The states that micro-batch `number` of the step's lanes starts from; empty before the first step."""
        cache = new_cache(self._model)
        assert cache is not None
        cache.load_state_dict({name: value.chunk(micro_batches)[number] for name, value in self._states.items()}, 0)
        return cache

    def keep(self, number: int, cache: SioConvCache) -> None:
        """Takes a micro-batch's last states; micro-batches come in order."""
        assert number == len(self._next)
        # fp32, which checkpoints have, holds exactly a convolution's window that is in bf16, and the last token's id
        # (a vocabulary has far fewer than 2^24 tokens).
        self._next.append(
            {
                name: value.detach().to(torch.promote_types(value.dtype, torch.float32))
                for name, value in cache.state_dict().items()
            }
        )

    def turn(self) -> None:
        """The step is over: what it left is what the next one reads."""
        self._states = {name: torch.cat([micro_batch[name] for micro_batch in self._next]) for name in self._next[0]}
        self._next = []

    def state_dict(self, world: World) -> dict[str, Any]:
        """The states of all processes' lanes, for a checkpoint."""
        if world.mesh is None:
            return dict(self._states)
        return {name: DTensor.from_local(value, world.mesh, [Shard(0)]) for name, value in self._states.items()}

    def allocate(self, sizes: dict[str, torch.Size], world: World) -> dict[str, Any]:
        """Room for the states of a checkpoint, whose whole sizes are given; they are the carry's from now on."""
        self._states = {
            name: torch.zeros(size[0] // world.size, *size[1:], device=world.device) for name, size in sizes.items()
        }
        return self.state_dict(world)
