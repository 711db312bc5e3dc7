"""The models of a server: each with its tokenizer, engine and personas."""

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from sioconv.errors import UserError
from sioconv.generate.constraint import Grammars
from sioconv.generate.engine import Engine, Request
from sioconv.generate.states.file import SessionState, StateFormat
from sioconv.generate.states.state import Prefix, State
from sioconv.generate.states.store import StateStore
from sioconv.generate.vocabulary import Vocabulary
from sioconv.model import load_model_folder
from sioconv.model.convolution import NO_TOKEN
from sioconv.model.initial_state import initial_states, load_initial_state
from sioconv.model.tensor_file import SESSION, kind_of
from sioconv.serve.config import ServeConfig
from sioconv.serve.runner import Runner


@dataclass(frozen=True)
class Start:
    """What a text begins from.

    Args:
        state: the memory.
        pending: ids after it.
        name: what tells its texts from those that begin in another way; empty for the model's own beginning.
    """

    state: State = field(default_factory=State)
    pending: tuple[int, ...] = ()
    name: str = ""


@dataclass(frozen=True)
class ServedModel:
    """A model and everything that answers with it.

    Args:
        name: what clients call it.
        model: the language model.
        tokenizer: its tokenizer.
        vocabulary: the tokenizer's bytes and ids.
        grammars: compiles the forms that replies must have.
        runner: its engine.
        format: of its state files.
        personas: other beginnings, by name.
        created: seconds of the clock when it was loaded.
        half_lives: of each layer's forget gates, in tokens, once somebody has asked for them.
    """

    name: str
    model: Any
    tokenizer: Any
    vocabulary: Vocabulary
    grammars: Grammars
    runner: Runner
    format: StateFormat
    personas: Mapping[str, Start]
    created: int
    half_lives: list[list[float]] = field(default_factory=list)

    @property
    def fingerprint(self) -> str:
        """Names the weights."""
        return f"fp_{self.format.weights[:16]}"

    @property
    def state_bytes(self) -> int:
        """Size of one text's memory."""
        config = self.model.config
        each = config.hidden_size * (1 + bool(config.trapezoid) + config.conv_past)
        return int(4 * each * config.num_hidden_layers) + (8 if config.bigram_rows else 0)

    def pack(self, state: State) -> bytes:
        """A state file's bytes, as `sioconv chat --load` reads it."""
        return self.format.pack(SessionState(state.tokens, [], b"", [], 0, 0, state.prefix), state.tensors)

    def unpack(self, data: bytes, trusted: bool = False) -> Start:
        """What a state file's bytes say.

        Args:
            data: the bytes.
            trusted: whether this server wrote them. Others may claim to be of a text that they aren't of, so what is
                read after them is never kept for those who send that text.

        Raises:
            UserError: it isn't a state file, or another model's.
        """
        session, tensors = self.format.unpack(data, "the state")
        state = State(tensors, session.tokens_seen, session.prefix if trusted else None)
        return Start(state, tuple(session.pending_ids))


def named(words: Sequence[str]) -> dict[str, str]:
    """Models by the names that clients call them: `NAME=MODEL`, or a folder or Hub id whose own name is taken.

    `runs/demo/model` is called demo, `runs/demo/base` demo-base. Raises UserError where two have one name.
    """
    found: dict[str, str] = {}
    for word in words:
        name, equals, place = word.partition("=")
        if not equals or Path(word).exists():
            name, place = _own_name(word), word
        if not name or not place:
            raise UserError(f"not a model: {word!r}: give a folder, a Hub id, or NAME=MODEL")
        if name in found:
            raise UserError(f"two models are called {name}: give one of them another name: NAME={place}")
        found[name] = place
    return found


def _own_name(word: str) -> str:
    path = Path(word)
    if not path.exists():
        return word
    run = path.resolve()
    if run.name in ("model", "base") and run.parent.name:
        return run.parent.name + ("-base" if run.name == "base" else "")
    return run.name


def load_models(
    words: Sequence[str],
    personas: Sequence[str],
    store: StateStore | None,
    config: ServeConfig,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> dict[str, ServedModel]:
    """Loads models, and gives each an engine.

    Args:
        words: as `named` takes them.
        personas: `NAME=FILE` each; a file belongs to the model that it was made with.
        store: where snapshots are kept; None for nowhere.
        config: the server's limits.
        device: where the models run.
        dtype: precision of their weights.

    Raises:
        UserError: a model or a persona can't be loaded.
    """
    loaded = {name: load_model_folder(place, device, dtype) for name, place in named(words).items()}
    formats = {name: StateFormat(*both) for name, both in loaded.items()}
    starts = _personas(personas, loaded, formats)
    served = {}
    for name, (model, tokenizer) in loaded.items():
        model.requires_grad_(False)
        engine = Engine(model, token_budget=max(512, 2 * config.texts), max_texts=config.texts, store=store, fixed=True)
        vocabulary = Vocabulary(tokenizer, model.config.vocab_size)
        for _ in engine.stream(Request([vocabulary.bos], max_new_tokens=2, stored=False)):
            pass  # kernels that have to be compiled are compiled now, not while the first client waits
        served[name] = ServedModel(
            name, model, tokenizer, vocabulary, Grammars(vocabulary), Runner(engine, name), formats[name],
            starts[name], int(time.time()),
        )  # fmt: skip
    return served


def _personas(
    words: Sequence[str], loaded: Mapping[str, tuple[Any, Any]], formats: Mapping[str, StateFormat]
) -> dict[str, dict[str, Start]]:
    starts: dict[str, dict[str, Start]] = {name: {} for name in loaded}
    for word in words:
        persona, equals, file = word.partition("=")
        if not equals or not persona or not file:
            raise UserError(f"not a persona: {word!r}: give NAME=FILE")
        owners, problem = 0, UserError(f"{file} belongs to none of the models")
        for name, (model, _) in loaded.items():
            try:
                starts[name][persona] = _persona(Path(file), model, formats[name])
            except UserError as error:
                problem = error
            else:
                owners += 1
        if not owners:
            raise problem
    return starts


def _persona(path: Path, model: Any, format: StateFormat) -> Start:
    """A beginning from a file: a saved conversation, or initial states that were tuned."""
    if kind_of(path) is SESSION:
        session, tensors = format.read(path)
        return Start(State(tensors, session.tokens_seen, session.prefix), tuple(session.pending_ids))
    own = {key: value.detach().clone() for key, value in initial_states(model).items()}
    try:
        load_initial_state(path, model)
        tuned = {key: value.detach().clone().float() for key, value in initial_states(model).items()}
    finally:
        with torch.no_grad():
            for key, value in initial_states(model).items():
                value.copy_(own[key])
    tensors = {key.replace("initial_state", "c"): value[None] for key, value in tuned.items()}  # [1, H, P]
    config = model.config
    for i in range(config.num_hidden_layers):
        c = tensors[f"layers.{i}.c"]
        if config.conv_width:
            tensors[f"layers.{i}.conv"] = c.new_zeros(1, config.hidden_size, config.conv_width - 1)
        if config.trapezoid:
            tensors[f"layers.{i}.z"] = torch.zeros_like(c)
    if config.bigram_rows:
        tensors["last_token"] = torch.full((1,), NO_TOKEN, device=model.device)
    return Start(State(tensors, 0, Prefix()), name=_hash(tensors))


def _hash(tensors: Mapping[str, torch.Tensor]) -> str:
    digest = hashlib.sha256()
    for key in sorted(tensors):
        digest.update(tensors[key].cpu().numpy().tobytes())
    return digest.hexdigest()[:16]
