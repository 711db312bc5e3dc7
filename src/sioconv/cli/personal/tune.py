"""`sioconv tune`."""

import shlex
from dataclasses import asdict, fields
from typing import TYPE_CHECKING

from sioconv.cli.options import json_option
from sioconv.cli.personal.import_files import import_options, options_of
from sioconv.cli.verb import OptionVerb
from sioconv.language import columns, translated
from sioconv.terminal import one_line, show, show_json, show_lines, tell

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

    from sioconv.run.tune import Tuned

PURPOSE = """\
Tunes a model that is there on your own conversations and text: any FILE that `sioconv import` or a source reads, or a
recipe (.yaml). Some of the base's own text is mixed in. Then it answers held-out questions of yours, before and after.
The recipe that it writes is runs/NAME/recipe.yaml."""


def options(parser: "ArgumentParser") -> None:
    """Adds the verb's options."""
    from sioconv.run.tune import TuneOptions

    parser.add_argument("files", type=str, nargs="+", help="own conversations and text; or recipes")
    parser.add_class_arguments(TuneOptions)
    import_options(parser)
    parser.add_argument(
        "--set", type=str, action="append", default=[], help="a key of the recipe, as finetune.train.batch_size=16"
    )
    json_option(parser)


def tune(arguments: "Namespace") -> None:
    """Tunes a model and shows what it has become. Raises UserError for what can't be used."""
    from sioconv.run import tune as work
    from sioconv.run.tune import TuneOptions

    given = TuneOptions(**{item.name: arguments[item.name] for item in fields(TuneOptions)})
    done = work.tune(arguments.files, given, options_of(arguments), arguments.set)
    if arguments.json:
        show_json(asdict(done))
    else:
        _show(done)


def _show(done: "Tuned") -> None:
    from sioconv.run.demo import own_command

    titles = translated("before"), translated("after"), translated("yours")
    width = max(map(columns, titles))
    for number, answer in enumerate(done.answers, start=1):
        show(f"\n{number}. {one_line(answer.question)}")
        for title, text in zip(titles, (answer.before, answer.after, answer.own), strict=True):
            show_lines(f"   {title}{' ' * (width - columns(title))}  {one_line(text)}")
    before, after = done.loss
    if before is not None and after is not None:
        show("")
        tell(f"held-out conversations, nats a token: {before:.3f} before, {after:.3f} after")
    model = [done.base, "--state", done.model] if done.model.endswith(".safetensors") else [done.model]
    show("")
    show(translated(f"talk:  {own_command()} chat {shlex.join(model)}"))


TUNE = OptionVerb(
    "tune",
    "FILE… --name NAME",
    "your own conversations and text on top of a model",
    PURPOSE,
    "sioconv tune talks.jsonl --name ゲンじい --persona persona.txt",
    options,
    tune,
)
