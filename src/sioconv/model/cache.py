"""The model's memory in the shape that transformers' generation expects of a cache."""

from collections.abc import Callable, Iterable
from copy import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree
from transformers.cache_utils import Cache, CacheLayerMixin

from sioconv.model.architecture import Architecture
from sioconv.model.layers import LayerState


class SioConvCacheLayer(CacheLayerMixin):  # type: ignore[no-untyped-call]
    """One layer's state; None until the first step, which then starts from the learned initial state.

    It is a `LayerState`, or another model's named tuple of tensors [B, …].

    It counts as a stateful but not as a linear-attention layer of transformers: those don't know how many tokens they
    have seen, which continuing from a warm cache needs.
    """

    is_sliding = False
    supports_early_init = False

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.state: Any = None

    def lazy_initialization(self, *_: Any) -> None:
        """Nothing to prepare: the first forward brings the state."""

    def update(self, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """There are no keys and values here."""
        raise TypeError("a SioConv cache holds states, not keys and values: read and write `layer.state`")

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """(length, offset) of the mask: only the new tokens need one."""
        return query_length, 0

    def get_seq_length(self) -> int:
        """Kept by the cache as a whole, see `SioConvCache.tokens_seen`."""
        raise TypeError("ask the cache, not its layer, for the number of tokens seen")

    def get_max_length(self) -> int:
        """-1: no limit."""
        return -1

    def reset(self) -> None:
        """Back to the learned initial state."""
        self.state = None

    def select(self, index: Tensor) -> None:
        """Keeps the rows `index` [N] of the batch, in that order."""
        self.change(lambda tensor: tensor.index_select(0, index.to(tensor.device)))

    def change(self, how: Callable[[Tensor], Tensor]) -> None:
        """Puts `how` of each tensor of the state in its place."""
        if self.state is not None:
            self.state = self.state._make(None if tensor is None else how(tensor) for tensor in self.state)

    def __deepcopy__(self, memo: dict[int, Any]) -> "SioConvCacheLayer":
        """A copy that a gradient runs through, for the same reason as `LayerState`'s."""
        layer = copy(self)
        layer.change(Tensor.clone)
        return layer


class SioConvCache(Cache):
    """The states of all layers, [B, H, P] fp32 and [B, D, W - 1] each: constant in size however much was read.

    Attributes:
        tokens_seen: int64 tensor [], tokens read so far (a tensor, so that compiled decoding isn't compiled per token).
        last_token: int64 [B], the token before those that come, -1 where none is; None before the first token, and
            where the model doesn't read it (`bigram_rows` 0).
    """

    layers: list[SioConvCacheLayer]  # type: ignore[assignment]
    last_token: Tensor | None = None  # of the class too: exported programs hold caches that were pickled without it

    def __init__(self, config: Architecture) -> None:
        # A number that is asked for, so it is there also where the model is on meta. It is set first because
        # transformers' exporters name tensors in the order of the attributes, and take them in that of `_flatten`.
        self.tokens_seen = torch.zeros((), dtype=torch.int64, device="cpu")
        super().__init__(layers=[SioConvCacheLayer() for _ in range(config.num_hidden_layers)])
        self.last_token = None  # behind the layers, as in `_flatten`

    def get_seq_length(self, layer_idx: int = 0) -> int:  # noqa: ARG002
        """Tokens read so far."""
        return int(self.tokens_seen)

    def detach(self) -> None:
        """Ends the gradient's way here: what is read next learns from these states, but not through them.

        For training that carries states on from step to step (truncated backpropagation through time).
        """
        for layer in self.layers:
            layer.change(Tensor.detach)

    def reset(self) -> None:
        """Forgets everything."""
        super().reset()  # type: ignore[no-untyped-call]
        self.tokens_seen = torch.zeros_like(self.tokens_seen)
        self.last_token = None

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Rows of the batch in the order of beam_idx [B]."""
        self.batch_select_indices(beam_idx)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keeps the rows `indices` [N] of the batch."""
        for layer in self.layers:
            layer.select(indices)
        if self.last_token is not None:
            self.last_token = self.last_token.index_select(0, indices.to(self.last_token.device))

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Each row `repeats` times."""
        for layer in self.layers:
            if layer.state is not None:
                layer.select(torch.arange(layer.state.c.shape[0]).repeat_interleave(repeats))
        if self.last_token is not None:
            self.last_token = self.last_token.repeat_interleave(repeats)

    def crop(self, tokens_to_remove: int) -> None:  # noqa: ARG002
        """A recurrence can't be wound back."""
        raise TypeError("a SioConv cache can't be cropped: copy it before the tokens that may have to be undone")

    def state_dict(self) -> dict[str, Tensor]:
        """`layers.{i}.c` [B, H, P] fp32; with a convolution, `layers.{i}.conv` [B, D, W - 1]; `layers.{i}.z` [B, H, P]
        where the recurrence reads the last z; and `last_token` [B] where the model reads it.

        Empty before the first token.
        """
        tensors = {
            f"layers.{i}.{name}": tensor
            for i, layer in enumerate(self.layers)
            if layer.state is not None
            for name, tensor in layer.state._asdict().items()
            if tensor is not None
        }
        return tensors if self.last_token is None else tensors | {"last_token": self.last_token}

    def load_state_dict(self, tensors: dict[str, Tensor], tokens_seen: int) -> None:
        """Takes over what `state_dict` gave; the inverse of it. Raises KeyError where a layer's state is missing."""
        for i, layer in enumerate(self.layers):
            layer.state = self.read_state(tensors, f"layers.{i}.") if tensors else None
        last = tensors.get("last_token")
        self.last_token = None if last is None else last.long()  # checkpoints of training hold fp32
        self.tokens_seen = torch.tensor(tokens_seen, dtype=torch.int64, device="cpu")

    @staticmethod
    def read_state(tensors: dict[str, Tensor], prefix: str) -> Any:
        """One layer's state from the tensors whose names begin with `prefix`."""
        rest = {name: tensors.get(f"{prefix}{name}") for name in LayerState._fields[1:]}
        return LayerState(tensors[f"{prefix}c"], **rest)


def new_cache(model: nn.Module) -> SioConvCache | None:
    """The memory before the first token of a model that carries its state on, which offers `new_cache`; else None."""
    make = getattr(model, "new_cache", None)
    return None if make is None else make()


def _flatten(cache: SioConvCache) -> tuple[list[Tensor | None], int]:
    """The tensors of a cache, the counter first, and its number of layers.

    The last token is there only where there is one: so programs that were exported of models without it stay what they
    are.
    """
    tensors: list[Tensor | None] = [cache.tokens_seen]
    for layer in cache.layers:
        tensors += (None,) * len(LayerState._fields) if layer.state is None else layer.state
    tensors += [] if cache.last_token is None else [cache.last_token]
    return tensors, len(cache.layers)


def _flatten_with_keys(cache: SioConvCache) -> tuple[list[tuple[_pytree.KeyEntry, Tensor | None]], int]:
    tensors, layers = _flatten(cache)
    return [(_pytree.SequenceKey(i), tensor) for i, tensor in enumerate(tensors)], layers


def _unflatten(tensors: Iterable[Tensor | None], layers: int) -> SioConvCache:
    cache = SioConvCache(Architecture(num_hidden_layers=layers))
    cache.tokens_seen, *states = tensors  # type: ignore[assignment]
    size = len(LayerState._fields)
    for i, layer in enumerate(cache.layers):
        c, *rest = states[i * size : (i + 1) * size]
        layer.state = None if c is None else LayerState(c, *rest)
    (cache.last_token,) = states[layers * size :] or (None,)
    return cache


# torch.export lets a model take and return what it can take apart and put together.
_pytree.register_pytree_node(
    SioConvCache,
    _flatten,
    _unflatten,
    serialized_type_name="sioconv.model.cache.SioConvCache",  # also in a folder's own code: programs know it by this
    flatten_with_keys_fn=_flatten_with_keys,
)
