"""States that go with a model: personas, and conversations that were saved with it."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from unicodedata import normalize

from sioconv.errors import UserError
from sioconv.files import refuse_pointer, shown
from sioconv.generate.states.file import StateFormat, read_session
from sioconv.model import load_model_folder
from sioconv.model.tensor_file import INITIAL_STATE, SESSION, kind_of
from sioconv.progress import say

PERSONAS, STATES = "personas", "states"  # folders of a published one
NAME = re.compile(r"\w[\w.-]{0,63}")  # also a word of the command that the card shows


@dataclass(frozen=True)
class Conversation:
    """A saved conversation, by what its file says.

    Args:
        weights: hash of those that it was saved with; None in files of older versions.
        tokens: of which the model has read.
        messages, characters: of what was said, as text.
        last: tokens of its end that stand in it as they are.
        command: what goes on with it, in the published folder.
    """

    weights: str | None
    tokens: int
    messages: int
    characters: int
    last: int
    command: str = ""


def given_states(texts: Iterable[str]) -> tuple[dict[str, Path], dict[str, Path]]:
    """Personas, then conversations: name → file of each `NAME=FILE`, or `FILE`, which has the file's own name.

    Raises:
        UserError: a name can't be one or comes twice, or a file is missing or of neither kind.
    """
    personas: dict[str, Path] = {}
    conversations: dict[str, Path] = {}
    for text in texts:
        name, equals, file = text.partition("=")
        if not equals:
            name, file = Path(text).stem, text
        name = normalize("NFC", name)  # some systems take letters apart
        if not NAME.fullmatch(name):
            raise UserError(
                f"--state {text}: a published file can't have the name {name!r}: give NAME=FILE, a name of up to 64 "
                "letters, digits, _, - and dots"
            )
        if name.casefold() in {each.casefold() for each in (*personas, *conversations)}:
            raise UserError(f"--state {text}: the name {name} came before: give it another one, NAME=FILE")
        (conversations if _kind(Path(file)) is SESSION else personas)[name] = Path(file)
    return personas, conversations


def _kind(file: Path) -> object:
    if not file.is_file():
        raise UserError(f"--state: no file at {file}: give one that sioconv chat has saved, or a persona")
    refuse_pointer(file)
    kind = kind_of(file)
    if kind not in (SESSION, INITIAL_STATE):
        raise UserError(
            f"--state: {file} can't be read as a saved conversation or a persona: give a file that sioconv chat has "
            "saved, or state.safetensors of a run that tuned one"
        )
    return kind


def conversations_of(
    model: Path, files: Mapping[str, Path], personas: Mapping[str, Path], variants: Mapping[str, Path]
) -> dict[str, Conversation]:
    """What each saved conversation holds, and what goes on with it, by name.

    Args:
        model: the model's folder.
        files: of the conversations.
        personas, variants: what is published with it; a conversation may have been with one of them.

    Raises:
        UserError: one was with other weights than any of these, or isn't what was written.
    """
    left, found = {name: _held(file) for name, file in files.items()}, {}
    for arguments, folder, persona in _partners(model, personas, variants):
        if not left:
            break
        form = StateFormat(*load_model_folder(folder, state=persona))
        for name in [name for name, each in left.items() if each.weights == form.weights]:
            form.read(files[name])
            command = f"sioconv chat {arguments} --load {STATES}/{name}.safetensors"
            found[name] = replace(left.pop(name), command=command)
    for name, each in left.items():
        if each.weights is None:
            raise UserError(
                f"--state {files[name]} was saved by an older version and doesn't say with which weights: go on with "
                "it in sioconv chat --load, and save it again"
            )
        raise UserError(
            f"--state {files[name]} was saved with other weights than those of {shown(model)}, or with a persona or a "
            "quantised form that isn't given here: leave it out, or publish it with what it was saved with"
        )
    return dict(sorted(found.items()))


def warn_of_conversations(folder: Path) -> None:
    """Says of each saved conversation in a folder what it holds, and what it means to publish that."""
    for file in sorted(folder.rglob("*.safetensors")):
        if kind_of(file) is SESSION:
            name, held = file.relative_to(folder).as_posix(), _held(file)
            if held.messages:
                say(
                    f"warning: {name} holds a conversation of {held.tokens:,} tokens, and its {held.messages:,} "
                    f"messages ({held.characters:,} characters) as text: whoever gets the file can read them"
                )
            else:
                say(
                    f"warning: {name} holds a conversation of {held.tokens:,} tokens, no text but the last "
                    f"{held.last:,} tokens as they are: whoever gets the file may recover the whole of it"
                )


def _partners(
    model: Path, personas: Mapping[str, Path], variants: Mapping[str, Path]
) -> Iterator[tuple[str, Path, Path | None]]:
    """With what a conversation may have been: the arguments that load it in the published folder; folder, persona."""
    yield ".", model, None
    for name, file in personas.items():
        yield f". --state {PERSONAS}/{name}.safetensors", model, file
    for name, place in variants.items():
        yield name, place, None


def _held(file: Path) -> Conversation:
    session, weights = read_session(file)
    return Conversation(
        weights=weights,
        tokens=session.tokens_seen + len(session.pending_ids),
        messages=len(session.transcript),
        characters=sum(len(text) for _, text in session.transcript),
        last=len(session.prefix.tail if session.prefix else b"") // 4 + len(session.pending_ids),
    )
