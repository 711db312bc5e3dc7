"""One step of the model for many texts at once: the compiled kernel on CPUs, torch elsewhere."""

import logging
import sys
import threading
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from sioconv.generate.native import NativeDecoder, why_not_native
from sioconv.generate.states.state import State
from sioconv.ops.operators import without_kernels

logger = logging.getLogger("sioconv")
_said: set[str] = set()
SHORT = 1e-4  # seconds for which one thread may keep the interpreter while another waits


class Piece(NamedTuple):
    """Tokens that one text reads in a step.

    Args:
        memory: the text's memory, of the decoder that reads; it is advanced.
        ids: at least one token id.
        wanted: whether the logits after the last of them are wanted.
    """

    memory: Any
    ids: Sequence[int]
    wanted: bool


class Decoder(Protocol):
    """Reads pieces of many texts; what a text's logits are doesn't depend on the other pieces."""

    def memory(self, state: State) -> Any:
        """A memory of a text's own that starts from `state`."""

    def freeze(self, memory: Any, tokens: int) -> State:
        """The memory as it is now, after `tokens` tokens, as a value."""

    def copy(self, memory: Any) -> Any:
        """Another memory with the same content."""

    def read(self, pieces: Sequence[Piece]) -> NDArray[np.float32]:
        """Advances the memories; the logits [R, V] of the R pieces that want them, in their order."""


class TorchDecoder:
    """The model's own forward pass.

    On CPUs the texts are read one by one: a product's rounding depends on the number of its rows there.

    Args:
        model: a language model with `new_cache`, in eval mode.
        kernels: whether operators may take their compiled kernels, which the first call has to compile.
    """

    def __init__(self, model: Any, kernels: bool = True) -> None:
        self._model, self._kernels = model, kernels
        self._together = model.device.type != "cpu"

    def memory(self, state: State) -> Any:
        """A cache of one row."""
        cache = self._model.new_cache()
        tensors = {name: tensor.clone().to(self._model.device) for name, tensor in state.tensors.items()}
        cache.load_state_dict(tensors, state.tokens)
        return cache

    def freeze(self, memory: Any, tokens: int) -> State:
        """The cache's tensors, copied."""
        return State({name: tensor.clone() for name, tensor in memory.state_dict().items()}, tokens)

    def copy(self, memory: Any) -> Any:
        """Another cache with the same content."""
        return self.memory(State(memory.state_dict(), int(memory.tokens_seen)))

    @torch.inference_mode()
    def read(self, pieces: Sequence[Piece]) -> NDArray[np.float32]:
        """See `Decoder.read`."""
        single = [i for i, piece in enumerate(pieces) if len(piece.ids) == 1 and piece.memory.state_dict()]
        logits: dict[int, NDArray[np.float32]] = {}
        if self._together and len(single) > 1:
            logits |= zip(single, self._read_rows([pieces[i] for i in single]), strict=True)
        for i, piece in enumerate(pieces):
            if i not in logits:
                logits[i] = self._forward([list(piece.ids)], piece.memory)[0]
        wanted = [logits[i] for i, piece in enumerate(pieces) if piece.wanted]
        return np.stack(wanted) if wanted else np.empty((0, self._model.config.vocab_size), np.float32)

    def _read_rows(self, pieces: list[Piece]) -> NDArray[np.float32]:
        """One token of each text in one forward pass."""
        rows = [piece.memory.state_dict() for piece in pieces]
        joined = self._model.new_cache()
        joined.load_state_dict({name: torch.cat([row[name] for row in rows]) for name in rows[0]}, 0)
        logits = self._forward([list(piece.ids) for piece in pieces], joined)
        for i, piece in enumerate(pieces):
            after = {name: tensor[i : i + 1].clone() for name, tensor in joined.state_dict().items()}
            piece.memory.load_state_dict(after, int(piece.memory.tokens_seen) + 1)
        return logits

    def _forward(self, ids: list[list[int]], cache: Any) -> NDArray[np.float32]:
        tokens = torch.tensor(ids, device=self._model.device)  # [B, T]
        with nullcontext() if self._kernels else without_kernels():
            out = self._model(input_ids=tokens, cache=cache, use_cache=True, logits_to_keep=1)
        logits: NDArray[np.float32] = out.logits[:, -1].float().cpu().numpy()
        return logits


class Compilation:
    """The compiling of a model's kernel on a thread of its own, which takes half a minute.

    Torch decodes meanwhile, but several times slower than alone: so it begins when the first reply is written.

    Args:
        decoder: the one whose kernel is compiled; it reads a token, and isn't used for anything else.
    """

    def __init__(self, decoder: NativeDecoder) -> None:
        self._thread = threading.Thread(target=self._compile, args=(decoder,), name="compile", daemon=True)

    @property
    def done(self) -> bool:
        """Whether it has ended; where it has failed, who reads with the kernel will see why."""
        return self._thread.ident is not None and not self._thread.is_alive()

    def begin(self) -> None:
        """Begins, unless it has."""
        if self._thread.ident is None:
            self._thread.start()

    def wait(self) -> None:
        """Returns when it has ended."""
        self.begin()
        self._thread.join()

    @staticmethod
    def _compile(decoder: NativeDecoder) -> None:
        usual = sys.getswitchinterval()
        sys.setswitchinterval(SHORT)  # torch gives the interpreter away with every operation, and wants it back
        try:
            with suppress(Exception):
                decoder.read([Piece(decoder.memory(State()), [0], True)])
        finally:
            sys.setswitchinterval(usual)


def pick_decoder(model: Any) -> Decoder:
    """The fastest decoder that the model can take; which one, and why, is said once, and that there will be a wait."""
    reason = why_not_native(model)
    _tell_once(f"decoding: {'the compiled kernel' if reason is None else f'torch, because {reason}'}")
    if reason is not None:
        return TorchDecoder(model)
    decoder = NativeDecoder(model)
    if not decoder.is_kept():
        _tell_once("decoding: the kernel is compiled first: once, half a minute")
    return decoder


def begin_decoding(model: Any) -> tuple[Decoder, Compilation | None]:
    """`pick_decoder`; where its kernel has never been compiled, torch's in its place, and the kernel's compilation."""
    if why_not_native(model) is None:
        decoder = NativeDecoder(model)
        if not decoder.is_kept():
            _tell_once("decoding: torch, until the kernel is compiled: once, half a minute")
            return TorchDecoder(model, kernels=False), Compilation(decoder)
    return pick_decoder(model), None


def _tell_once(message: str) -> None:
    if message not in _said:
        _said.add(message)
        logger.info(message)
