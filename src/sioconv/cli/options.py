"""Options that several verbs share."""

import gc
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sioconv.errors import UserError
from sioconv.terminal import decode_utf8

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace


def model_options(parser: "ArgumentParser", besides: str = "", packaged: bool = False) -> None:
    """The model, and a persona for it.

    Args:
        parser: gets the options.
        besides: what else the verb takes as a state.
        packaged: whether the model may be left out, for the one in the package.
    """
    if packaged:
        parser.add_argument(
            "model", type=str | None, nargs="?", default=None,
            help="a model folder or a Hub id; without it the small model of the package",
        )  # fmt: skip
    else:
        parser.add_argument("model", type=str, help="a model folder or a Hub id")
    parser.add_argument(
        "--state",
        type=str | None,
        default=None,
        help="a persona: state.safetensors of a run with finetune.train.only=initial_state that started from MODEL"
        + besides,
    )


def device_option(parser: "ArgumentParser") -> None:
    """Which device computes."""
    parser.add_argument("--device", type=str, default="cpu", help="cpu, cuda, mps or auto")


def json_option(parser: "ArgumentParser", help: str = "print one JSON object") -> None:
    """Output for machines."""
    parser.add_argument("--json", action="store_true", help=help)


def sampling_options(parser: "ArgumentParser") -> None:
    """How tokens are chosen, and what computes them."""
    from sioconv.generate.config import SamplingConfig

    parser.add_class_arguments(SamplingConfig, skip={"stop"})
    parser.add_argument(
        "--stop", type=str, action="append", default=[],
        help='a reply ends before this text; may be given several times, or as a list: ["。", "\\n"]',
    )  # fmt: skip
    device_option(parser)
    parser.add_argument("--threads", type=int | None, default=None, help="CPU threads")


def form_options(parser: "ArgumentParser") -> None:
    """What a text must be."""
    parser.add_argument(
        "--schema", type=str | None, default=None,
        help="write a JSON document that this JSON schema allows: a file, or the schema itself",
    )  # fmt: skip
    parser.add_argument(
        "--regex", type=str | None, default=None, help="write a text that this regular expression matches as a whole"
    )
    parser.add_argument(
        "--choice", type=str, action="append", default=[], help="write one of these; given several times"
    )


def form_of(arguments: "Namespace") -> Any:
    """The `Form` that the arguments ask for, or None. Raises UserError where it is none, or can't be read."""
    from sioconv.generate import Form

    schema = arguments.schema
    if schema is not None and not schema.lstrip().startswith("{"):
        path = Path(schema)
        try:
            schema = decode_utf8(path.read_bytes(), str(path))
        except OSError as error:
            reason = error.strerror
            raise UserError(f"can't read the schema: {schema}: {reason}: give a file, or a JSON object") from error
    return Form.of(schema, arguments.regex, arguments.choice)


@contextmanager
def without_collector() -> Iterator[None]:
    """For imports and loading a model, which took a fifth longer: nearly all of their objects stay.

    What is there at the end of the first time is never looked through, so nothing that leaves much belongs inside.
    """
    gc.disable()
    try:
        yield
    finally:
        if not gc.get_freeze_count():
            gc.freeze()
        gc.enable()


@without_collector()
def load(arguments: "Namespace") -> tuple[Any, Any, Any]:
    """Model, tokenizer and sampling that the arguments ask for, or else the model's folder.

    Raises UserError where they can't be had.
    """
    from sioconv.generate.config import SamplingConfig

    values = {item.name: arguments[item.name] for item in fields(SamplingConfig)}
    sampling = SamplingConfig(**values | {"stop": strings_of(arguments.stop)})
    from sioconv.train.config import set_threads

    set_threads(arguments.threads)
    from sioconv.hardware import pick_device
    from sioconv.model import load_model_folder
    from sioconv.progress import busy

    device = pick_device(arguments.device)
    model = name = arguments.model
    if model is None:
        from sioconv.model.in_package import packaged_model

        model = packaged_model()
        name = model.name
    with busy(f"loading {name}"):
        loaded, tokenizer = load_model_folder(model, device, state=arguments.state)
    return loaded, tokenizer, sampling.with_defaults(loaded.generation_config, getattr(arguments, "given", values))


def strings_of(given: Sequence[str]) -> list[str]:
    """The strings of an option that may be given several times: of each a list in brackets, else the text as it is."""
    return [string for text in given for string in _strings(text)]


def _strings(text: str) -> list[str]:
    if text.startswith("[") and text.endswith("]"):
        try:
            values = json.loads(text)
        except ValueError:
            values = [part.strip() for part in text[1:-1].split(",")]
        if isinstance(values, list) and all(isinstance(value, str) for value in values):
            return values
    return [text]
