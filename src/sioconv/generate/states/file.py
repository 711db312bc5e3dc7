"""The file that a session is kept in: the model's memory as safetensors, everything else as metadata."""

import json
import math
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from sioconv.generate.config import LARGEST_SEED
from sioconv.generate.constraint import NAMES, Document, Form
from sioconv.generate.states.state import SNAPSHOT_EVERY, Prefix, State
from sioconv.model import SioConvForCausalLM
from sioconv.model.convolution import NO_TOKEN
from sioconv.model.fingerprint import weights_fingerprint
from sioconv.model.folder import vocabulary_fingerprint
from sioconv.model.tensor_file import (
    SESSION,
    check_shapes,
    damage,
    foreign,
    pack,
    read_tensors,
    unpack,
    write_tensors,
)


@dataclass(frozen=True)
class SessionState:
    """What a session is besides the model's memory.

    Args:
        tokens_seen: tokens in the memory.
        pending_ids: tokens that come after them.
        pending_bytes: bytes that were written but not printed.
        turn_ids: distinct tokens of the current turn, which the repetition penalty acts on.
        seed: the session's seed.
        turns: turns of a conversation that the model has written.
        prefix: the name of the tokens in the memory; None where it isn't known.
        document: a text of some form that is to be gone on with.
        transcript: (role, text) of what was said; empty where it isn't kept.
    """

    tokens_seen: int
    pending_ids: list[int]
    pending_bytes: bytes
    turn_ids: list[int]
    seed: int
    turns: int
    prefix: Prefix | None = None
    document: Document | None = None
    transcript: tuple[tuple[str, str], ...] = ()


class StateFormat:
    """The state files of one model and, where it is given, one tokenizer; their weights are hashed once, here.

    The tensors are `layers.{i}.c` [1, H, P] fp32; with a convolution, `layers.{i}.conv` [1, D, W - 1]; with a mixture
    of z and the last one, `layers.{i}.z` [1, H, P]; with bigrams, `last_token` int64 [1].

    Args:
        model: the model; its weights may not change while this is used.
        tokenizer: its tokenizer; None where only token ids are of interest.
    """

    def __init__(self, model: SioConvForCausalLM, tokenizer: PreTrainedTokenizerFast | None = None) -> None:
        self._model, self._ends, self._vocabulary = model, model.fingerprint(), model.config.vocab_size
        self._owner = {"weights": weights_fingerprint(model)}
        if tokenizer is not None:
            self._owner["tokenizer"] = vocabulary_fingerprint(tokenizer)

    @property
    def weights(self) -> str:
        """Hash of all of the model's weights."""
        return self._owner["weights"]

    def pack(self, session: SessionState, tensors: Mapping[str, Tensor]) -> bytes:
        """A file's bytes."""
        metadata = {
            "tokens_seen": str(session.tokens_seen),
            "pending_ids": json.dumps(session.pending_ids),
            "pending_bytes": session.pending_bytes.hex(),
            "turn_ids": json.dumps(session.turn_ids),
            "seed": str(session.seed),
            "turns": str(session.turns),
            **self._owner,
        }
        if session.prefix is not None:
            metadata |= {"prefix_chain": session.prefix.chain.hex(), "prefix_tail": session.prefix.tail.hex()}
        if session.transcript:
            metadata["transcript"] = json.dumps(session.transcript)
        if session.document is not None:
            metadata["document"] = json.dumps(asdict(session.document))
        return pack(SESSION, self._ends, tensors, metadata)

    def unpack(self, data: bytes, origin: object) -> tuple[SessionState, dict[str, Tensor]]:
        """What `pack` was given, the tensors on the model's device; messages call the bytes `origin`.

        Raises:
            UserError: not a state file, another format version, another model's or tokenizer's state, or damaged.
        """
        return self._checked(*unpack(data, SESSION, self._ends, origin), origin)

    def write(self, path: Path, session: SessionState, tensors: Mapping[str, Tensor]) -> None:
        """Writes a file, whole or not at all. Raises UserError where it can't be written."""
        write_tensors(path, SESSION, self.pack(session, tensors))

    def read(self, path: Path) -> tuple[SessionState, dict[str, Tensor]]:
        """What was written to a file. Raises UserError where there is none, and as `unpack` does."""
        most = sum(map(math.prod, self._shapes().values()))
        return self._checked(*read_tensors(path, SESSION, self._ends, most), path)

    def _checked(
        self, metadata: dict[str, str], tensors: dict[str, Tensor], origin: object
    ) -> tuple[SessionState, dict[str, Tensor]]:
        # Files of older versions don't name all of their weights, nor the tokenizer.
        if metadata.get("weights", self.weights) != self.weights:
            raise foreign(SESSION, origin)
        tokenizer = self._owner.get("tokenizer")
        if tokenizer is not None and metadata.get("tokenizer", tokenizer) != tokenizer:
            raise foreign(SESSION, origin, "tokenizer")
        with damage(origin, SESSION):
            session = _parse(metadata, self._vocabulary)
            check_shapes(tensors, self._shapes() if session.tokens_seen else {})
            for name, value in tensors.items():
                if name.endswith(".c") and value.dtype != torch.float32:
                    raise ValueError("its memory is not in fp32")
                if not value.isfinite().all():
                    raise ValueError(f"{name} holds what is no number")
            last = tensors.get("last_token")
            if last is not None and (last.dtype != torch.int64 or not NO_TOKEN <= int(last) < self._vocabulary):
                raise ValueError("last_token is no token id")
        return session, {name: value.to(self._model.device) for name, value in tensors.items()}

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        config = self._model.config
        heads = (1, config.num_heads, config.head_dim)
        shapes: dict[str, tuple[int, ...]] = {"c": heads}
        if config.conv_width:
            shapes["conv"] = (1, config.hidden_size, config.conv_width - 1)
        if config.trapezoid:
            shapes["z"] = heads
        layers = range(config.num_hidden_layers)
        whole = {"last_token": (1,)} if config.bigram_rows else {}
        return {f"layers.{i}.{name}": shape for i in layers for name, shape in shapes.items()} | whole


def pack_state(format: StateFormat, state: State) -> bytes:
    """The bytes of a file that holds a state alone: a session that has nothing pending and has begun no turn."""
    return format.pack(SessionState(state.tokens, [], b"", [], 0, 0, state.prefix), state.tensors)


def unpack_state(format: StateFormat, data: bytes, origin: object) -> State:
    """What `pack_state` was given. Raises UserError as `StateFormat.unpack` does."""
    session, tensors = format.unpack(data, origin)
    return State(tensors, session.tokens_seen, session.prefix)


def read_session(path: Path) -> tuple[SessionState, str | None]:
    """What the state file of any model says besides the memory, and the hash of the weights that it names.

    The tensors aren't read, nor compared with the checksum. Raises UserError where what it says can't be.
    """
    with damage(path, SESSION), safe_open(path, framework="pt") as file:
        metadata: dict[str, str] = file.metadata()
        return _parse(metadata, sys.maxsize), metadata.get("weights")


def _parse(metadata: dict[str, str], vocab_size: int) -> SessionState:
    tokens_seen = _number(metadata, "tokens_seen")
    prefix = None
    if "prefix_chain" in metadata:
        prefix = Prefix(bytes.fromhex(metadata["prefix_chain"]), bytes.fromhex(metadata["prefix_tail"]))
        lengths = 32 * (tokens_seen >= SNAPSHOT_EVERY), 4 * (tokens_seen % SNAPSHOT_EVERY)
        if (len(prefix.chain), len(prefix.tail)) != lengths:
            raise ValueError("the name of its text doesn't fit its length")
    return SessionState(
        tokens_seen=tokens_seen,
        pending_ids=_ids(metadata, "pending_ids", vocab_size),
        pending_bytes=bytes.fromhex(metadata["pending_bytes"]),
        turn_ids=_ids(metadata, "turn_ids", vocab_size),
        seed=_number(metadata, "seed"),
        turns=_number(metadata, "turns"),
        prefix=prefix,
        document=_document(metadata, vocab_size),
        transcript=_transcript(metadata),
    )


def _transcript(metadata: dict[str, str]) -> tuple[tuple[str, str], ...]:
    turns = json.loads(metadata.get("transcript", "[]"))
    if not all(isinstance(role, str) and isinstance(text, str) for role, text in turns):
        raise ValueError("what was said is not text")
    return tuple((role, text) for role, text in turns)


def _document(metadata: dict[str, str], vocab_size: int) -> Document | None:
    if "document" not in metadata:
        return None
    values = json.loads(metadata["document"])
    form = Form(**values["form"])
    if form.kind not in NAMES or not isinstance(form.text, str) or type(values["start"]) is not int:
        raise ValueError("the form of its text is none")
    return Document(form, values["start"], _ids({"ids": json.dumps(values["ids"])}, "ids", vocab_size))


def _number(metadata: dict[str, str], key: str) -> int:
    value = int(metadata[key])
    if not 0 <= value <= LARGEST_SEED:
        raise ValueError(f"{key} is {value}")
    return value


def _ids(metadata: dict[str, str], key: str, vocab_size: int) -> list[int]:
    ids = json.loads(metadata[key])
    if not isinstance(ids, list) or not all(type(i) is int and 0 <= i < vocab_size for i in ids):
        raise ValueError(f"{key} is not a list of token ids below {vocab_size}")
    return ids
