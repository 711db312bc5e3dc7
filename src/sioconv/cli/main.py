"""`sioconv VERB …`: parses, calls one function, prints.

Everything heavy is imported inside the verb that needs it, so that `sioconv --help` answers at once.
"""

import json
import logging
import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, get_args

from sioconv import __version__
from sioconv.cli.completion import complete
from sioconv.cli.last_net import exit_code_of
from sioconv.errors import UserError
from sioconv.terminal import VisibleFormatter, prepare_streams, show, show_json

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

USAGE = """\
sioconv: build your own language model on the recurrence c_t = a_t * c_{t-1} + z_t

  sioconv demo                        the whole way on the bundled text, in about ten minutes
  sioconv tokenizer RECIPE            train (or adopt) a tokenizer
  sioconv data RECIPE                 documents → token shards
  sioconv data inspect DIR            what is in the shards
  sioconv pretrain RECIPE             train from random weights   (the same line again goes on where it stopped)
  sioconv finetune RECIPE             train on conversations
  sioconv plan RECIPE                 parameters, memory and time on named GPUs, before anything is spent
  sioconv report RUN                  measure a run and write its report
  sioconv evaluate MODEL              bits per byte of a model on text
  sioconv generate MODEL PROMPT       continue a text
  sioconv chat MODEL                  talk
  sioconv convert CKPT OUT            a checkpoint of the 2024 model → a model folder

`sioconv VERB --help` explains a verb. RECIPE is one or more YAML files (demo.yaml is in the package) and overrides such
as --train.lr 1e-3; RUN is a folder under runs/; MODEL is a model folder or a Hub id.
"""


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """The command's entry point.

    It exits with 0; 2 where the input was bad; 70 where the program is at fault, which leaves the traceback in a file;
    75 where a signal ended it and there is more to do; 130 on Ctrl-C.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    complete(_parsers())
    prepare_streams()
    _quiet_libraries()
    sys.exit(exit_code_of(lambda: run(arguments)))


def run(arguments: list[str]) -> None:
    """Runs one verb. Raises UserError for everything that is wrong with the arguments."""
    verb = arguments[0] if arguments else "--help"
    if verb in ("-h", "--help", "help"):
        show(USAGE, end="")
    elif verb in ("-V", "--version"):
        show(f"sioconv {__version__}")
    elif arguments[:2] == ["data", "inspect"]:
        _parse_and_call(_data_inspect_parser, _data_inspect, arguments[2:])
    elif verb in RECIPE_VERBS:
        _run_recipe_verb(verb, arguments[1:])
    elif verb in VERBS:
        _parse_and_call(*VERBS[verb], arguments[1:])
    else:
        raise UserError(f"unknown verb {verb!r}: choose from {', '.join([*RECIPE_VERBS, *VERBS])}; see sioconv --help")


def _quiet_libraries() -> None:
    """Bars and notices of the libraries would stand between our own lines."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    log = logging.StreamHandler()
    log.setFormatter(VisibleFormatter())
    logging.basicConfig(handlers=[log])
    logging.getLogger("sioconv").setLevel(logging.INFO)


# --------------------------------------------------------------------------------------------- verbs that take a recipe

RECIPE_VERBS = {
    "tokenizer": ("make_tokenizer", "Trains the run's tokenizer, or adopts the one that the recipe names."),
    "data": (
        "make_data",
        "Turns the recipe's sources into token shards under runs/NAME/data. Rows that can't be used are counted there\n"
        "in SOURCE/report.md; with --strict the first of them is an error.\n"
        "`sioconv data inspect DIR` shows what is in the shards.",
    ),
    "pretrain": (
        "pretrain",
        "Trains a model from random weights; the stages before it run first where they are missing.",
    ),
    "finetune": (
        "finetune",
        "Trains the pretrained model on conversations; the stages before it run first where they are missing.\n"
        "With --finetune.train.only initial_state it trains the layers' initial states alone: a persona in a file,\n"
        "runs/NAME/state.safetensors, for `--state` of generate, chat and evaluate.",
    ),
    "plan": (
        "plan_costs",
        "Parameters, operations, memory, communication and time of pretraining on 1, 8 and 64 cards; trains nothing. "
        "--json prints one JSON object.",
    ),
}
WHOLE = re.compile(r"[-+]?[0-9]+(\.[0-9]*)?([eE]\+?[0-9]{1,2})?", re.ASCII)  # if it is one
STRICT = ("--data.strict=true", "--finetune.data.strict=true")


def _run_recipe_verb(verb: str, arguments: list[str]) -> None:
    function, purpose = RECIPE_VERBS[verb]
    if "-h" in arguments or "--help" in arguments:
        from sioconv.recipe.schema import recipe_parser

        options = "--train.batch_size 64 --json" if verb == "plan" else "--name mine --train.minutes 10"
        show(f"{purpose}\n\nExample: sioconv {verb} demo.yaml {options}\n")
        show(recipe_parser(f"sioconv {verb} RECIPE [RECIPE …]").format_help(), end="")
        return
    count = next((i for i, argument in enumerate(arguments) if argument.startswith("-")), len(arguments))
    if not count:
        raise UserError(f"no recipe: sioconv {verb} RECIPE; the package has demo.yaml")
    if verb == "plan":
        _plan(arguments)
        return
    from sioconv.recipe.schema import load_recipe

    overrides = [part for argument in arguments[count:] for part in (STRICT if argument == "--strict" else (argument,))]
    recipe = load_recipe(arguments[:count], overrides)
    from sioconv.run import stages

    getattr(stages, function)(recipe)


def _plan(arguments: list[str]) -> None:
    """`sioconv plan`: what pretraining costs. It prints figures, so unlike a recipe's other verbs it has --json."""
    from sioconv.plan.costs import describe_costs
    from sioconv.recipe.schema import load_recipe
    from sioconv.run.stages import plan_costs

    as_json, arguments = "--json" in arguments, [each for each in arguments if each != "--json"]
    count = next((i for i, argument in enumerate(arguments) if argument.startswith("-")), len(arguments))
    costs = plan_costs(load_recipe(arguments[:count], arguments[count:]))
    if as_json:
        show_json(costs)
    else:
        show(describe_costs(costs))


# ---------------------------------------------------------------------------------------------------------- the others


def _parsers() -> dict[str, Callable[[], "ArgumentParser"]]:
    """What makes the parser of each verb."""

    def recipe() -> "ArgumentParser":
        from sioconv.recipe.schema import recipe_parser

        return recipe_parser("sioconv")

    verbs = {verb: build for verb, (build, _) in VERBS.items()}
    return {**dict.fromkeys(RECIPE_VERBS, recipe), **verbs, "data inspect": _data_inspect_parser}


def _parser(verb: str, purpose: str, example: str) -> "ArgumentParser":
    from jsonargparse import ArgumentParser

    return ArgumentParser(
        prog=f"sioconv {verb}",
        description=f"{purpose}\n\nExample: {example}",
        exit_on_error=False,
        default_env=False,
    )


def _parse_and_call(
    build: Callable[[], "ArgumentParser"], call: Callable[["Namespace"], None], arguments: list[str]
) -> None:
    """Calls a verb's function with its arguments, or prints its help."""
    from jsonargparse import ArgumentError

    parser = build()
    end = arguments.index("--") if "--" in arguments else len(arguments)
    if {"-h", "--help"}.intersection(arguments[:end]):
        show(f"{parser.description}\n")  # by itself, because the parser would break the lines of the example
        parser.description = None
        show(parser.format_help(), end="")
        return
    # --max-new-tokens and --max_new_tokens are the same option.
    named = _with_digits(parser, [_underscores(argument) for argument in arguments[:end]])
    try:
        parsed = parser.parse_args(_options_first(parser, named, arguments[end + 1 :]))
    except ArgumentError as error:
        raise UserError(f"{' '.join(str(error).split())}; see {parser.prog} --help") from error
    call(parsed)


def _options_first(parser: "ArgumentParser", arguments: list[str], rest: list[str]) -> list[str]:
    """Options before everything else: argparse gives what takes many words only those of one place.

    A line with an option that isn't known stays as it is.
    """
    options, words, left = list[str](), list[str](), arguments[:]
    while left:
        word = left.pop(0)
        if not word.startswith("--"):
            words.append(word)
            continue
        action = parser._option_string_actions.get(word.partition("=")[0])
        if action is None:
            return [*arguments, "--", *rest] if rest else arguments
        options.append(word)
        if "=" not in word and action.nargs != 0 and left:
            options.append(left.pop(0))
    return [*options, "--", *words, *rest] if words or rest else options


def _with_digits(parser: "ArgumentParser", arguments: list[str]) -> list[str]:
    """The arguments with whole numbers such as 1e6 or 1.5e3, where an option takes one, in digits: as in recipes."""
    whole = set()
    for action in parser._actions:
        hint = getattr(action, "_typehint", action.type)
        if int in (hint, *get_args(hint)):
            whole |= set(action.option_strings)
    found = []
    for before, argument in zip(["", *arguments], arguments, strict=False):
        key, equals, value = argument.partition("=") if argument.startswith("--") else (before, "", argument)
        if key in whole and WHOLE.fullmatch(value) and (number := Decimal(value)) == int(number):
            argument = f"{key}={int(number)}" if equals else str(int(number))
        found.append(argument)
    return found


def _underscores(argument: str) -> str:
    if not argument.startswith("--"):
        return argument
    key, equals, value = argument.partition("=")
    return "--" + key[2:].replace("-", "_") + equals + value


def _model_options(parser: "ArgumentParser") -> None:
    parser.add_argument("model", type=str, help="a model folder or a Hub id")
    parser.add_argument(
        "--state",
        type=str | None,
        default=None,
        help="a persona: state.safetensors of a run with finetune.train.only=initial_state that started from MODEL",
    )


def _sampling_options(parser: "ArgumentParser") -> None:
    from sioconv.generate.config import SamplingConfig

    parser.add_class_arguments(SamplingConfig, skip={"stop"})
    parser.add_argument(
        "--stop", type=str, action="append", default=[],
        help='a reply ends before this text; may be given several times, or as a list: ["。", "\\n"]',
    )  # fmt: skip
    parser.add_argument("--device", type=str, default="cpu", help="cpu, cuda, mps or auto")
    parser.add_argument("--threads", type=int | None, default=None, help="CPU threads")


def _strings(text: str) -> list[str]:
    """The strings of one `--stop`: a list in brackets, else the text as it is."""
    if text.startswith("[") and text.endswith("]"):
        try:
            values = json.loads(text)
        except ValueError:
            values = [part.strip() for part in text[1:-1].split(",")]
        if isinstance(values, list) and all(isinstance(value, str) for value in values):
            return values
    return [text]


def _load(arguments: "Namespace") -> tuple[Any, Any, Any]:
    """Model, tokenizer and sampling of a verb that generates."""
    from sioconv.generate.config import SamplingConfig

    values = {item.name: arguments[item.name] for item in fields(SamplingConfig)}
    sampling = SamplingConfig(**values | {"stop": [string for given in arguments.stop for string in _strings(given)]})
    import torch

    from sioconv.hardware import pick_device
    from sioconv.model import load_model_folder
    from sioconv.train.config import MOST_THREADS

    if arguments.threads is not None:
        if not 1 <= arguments.threads <= MOST_THREADS:
            raise UserError(f"threads out of range: {arguments.threads}: give a number from 1 to {MOST_THREADS}")
        torch.set_num_threads(arguments.threads)
    device = pick_device(arguments.device)
    return *load_model_folder(arguments.model, device, state=arguments.state), sampling


def _demo_parser() -> "ArgumentParser":
    parser = _parser(
        "demo", "Trains a small model on the bundled text, tunes it on conversations, measures it and shows it.",
        "sioconv demo --minutes 2 --name みやぎ",
    )  # fmt: skip
    parser.add_argument(
        "--minutes", type=float | None, default=None, help="minutes of training in all; the recipe says 6"
    )
    parser.add_argument("--name", type=str, default="シオ", help="what the model is called and answers to")
    parser.add_argument("--recipe", type=str, default="demo.yaml", help="the recipe that is run")
    return parser


def _demo(arguments: "Namespace") -> None:
    from sioconv.run.demo import run_demo

    run_demo(arguments.recipe, arguments.minutes, arguments.name)


def _report_parser() -> "ArgumentParser":
    parser = _parser("report", "Measures a run and writes its report/.", "sioconv report runs/demo")
    parser.add_argument("run", type=str, help="the run's folder")
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")
    return parser


def _report(arguments: "Namespace") -> None:
    from sioconv.recipe.schema import load_recipe

    run = Path(arguments.run)
    if not (run / "recipe.yaml").is_file():
        from sioconv.run.folder import why_no_run

        raise UserError(why_no_run(run))
    recipe = load_recipe([str(run / "recipe.yaml")])
    from sioconv.evaluate.figures import summarise
    from sioconv.run.stages import report

    figures = report(recipe, run)
    if arguments.json:
        show_json(summarise(figures))


def _evaluate_parser() -> "ArgumentParser":
    parser = _parser(
        "evaluate", "Bits per byte of a model on text.", "sioconv evaluate runs/demo/model --text mine.txt"
    )
    _model_options(parser)
    parser.add_argument(
        "--text",
        type=str | None,
        default=None,
        help="text or JSON lines; by default the held-out text of the run",
    )
    parser.add_argument("--device", type=str, default="cpu", help="cpu, cuda, mps or auto")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


def _evaluate(arguments: "Namespace") -> None:
    from sioconv.run.stages import evaluate

    result = evaluate(arguments.model, arguments.text, arguments.device, arguments.state)
    if arguments.json:
        show_json(result)
        return
    for name, value in result["sources"].items():
        show(f"{name}: {value['bpb']:.4f} bits per byte over {value['bytes']:,} bytes")


def _data_inspect_parser() -> "ArgumentParser":
    parser = _parser(
        "data inspect",
        "Shows what is in token shards: sizes, lengths of documents, some documents at random.",
        "sioconv data inspect runs/demo/data --verify",
    )
    parser.add_argument("dir", type=str, help="a run, its data/, a source in it, or one shard set")
    parser.add_argument("--documents", type=int, default=3, help="how many documents of each set are shown")
    parser.add_argument("--seed", type=int, default=0, help="decides which documents")
    parser.add_argument("--tokenizer", type=str | None, default=None, help="its folder, if it isn't the run's")
    parser.add_argument("--verify", action="store_true", help="compare every file with its checksum")
    parser.add_argument(
        "--picture", type=str | None, default=None, help="where the picture of the lengths goes; by default into DIR"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


def _data_inspect(arguments: "Namespace") -> None:
    from sioconv.data.shards.inspection import PICTURE, describe_shards, draw_lengths, inspect_data
    from sioconv.progress import say

    folder = Path(arguments.dir)
    tokenizer = None if arguments.tokenizer is None else Path(arguments.tokenizer)
    if arguments.documents < 0:
        raise UserError(f"documents out of range: {arguments.documents}: give 0 or more")
    report = inspect_data(
        folder,
        tokenizer=tokenizer,
        documents=arguments.documents,
        seed=arguments.seed,
        verify=arguments.verify,
    )
    picture = Path(arguments.picture or folder / PICTURE)
    draw_lengths(report, picture)
    if arguments.json:
        show_json(report)
    else:
        show(describe_shards(report), end="")
    say(f"picture of the lengths → {picture}")


def _generate_parser() -> "ArgumentParser":
    parser = _parser(
        "generate",
        "Continues texts. About a long one it can be asked: sioconv generate MODEL --file book.txt --ask 'Who is it?'",
        'sioconv generate runs/demo/model "宮城県(" --max-new-tokens 64 --seed 1',
    )
    _model_options(parser)
    parser.add_argument("prompt", type=str, nargs="*", help="texts to continue; - is all of standard input")
    parser.add_argument(
        "--prompts", type=str | None, default=None,
        help="a file of prompts, one a line, or JSON lines with `prompt`; - for standard input",
    )  # fmt: skip
    parser.add_argument(
        "--file", type=str | None, default=None,
        help="a text of any length that is read first; the prompts follow it; - for standard input",
    )  # fmt: skip
    parser.add_argument("--ask", action="store_true", help="prompts are messages, and what is written are the replies")
    parser.add_argument("--n", type=int, default=1, help="continuations of each prompt, with seeds one after the other")
    parser.add_argument(
        "--save_state", type=str | None, default=None,
        help="keep the text as it is at the end, for --state and chat --load; without a prompt, as it was read",
    )  # fmt: skip
    parser.add_argument(
        "--store", type=str | None, default=None,
        help="a file that keeps what was read: texts that begin alike are read faster the next time",
    )  # fmt: skip
    _sampling_options(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object a text, each on a line")
    return parser


def _generate(arguments: "Namespace") -> None:
    from sioconv.cli.generate import generate

    generate(arguments, _load)


def _chat_parser() -> "ArgumentParser":
    parser = _parser("chat", "Talks; /help inside lists the commands.", "sioconv chat runs/demo/model")
    _model_options(parser)
    _sampling_options(parser)
    parser.add_argument(
        "--system", type=str | None, default=None, help="what the model is told before the conversation"
    )
    parser.add_argument(
        "--load",
        type=str | None,
        default=None,
        help="go on with the conversation that /save wrote to this file",
    )
    return parser


def _chat(arguments: "Namespace") -> None:
    model, tokenizer, sampling = _load(arguments)
    from sioconv.generate import chat_loop

    chat_loop(model, tokenizer, sampling, system=arguments.system, load=arguments.load)


def _convert_parser() -> "ArgumentParser":
    parser = _parser(
        "convert",
        "Turns a checkpoint of the 2024 model into a model folder.",
        "sioconv convert last.ckpt runs/talk/model --tokenizer my-tokenizer",
    )
    parser.add_argument("checkpoint", type=str, help="the file that the trainer of 2024 wrote")
    parser.add_argument("out", type=str, help="the new model folder")
    parser.add_argument(
        "--config", type=str | None, default=None, help="JSON file of sizes that the checkpoint must have"
    )
    parser.add_argument(
        "--tokenizer",
        type=str | None,
        default=None,
        help="folder or Hub id of the tokenizer that the model was trained with; without it the folder has none",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


def _convert(arguments: "Namespace") -> None:
    from sioconv.generate.config import SamplingConfig
    from sioconv.model.convert import convert_checkpoint

    sizes = None if arguments.config is None else Path(arguments.config)
    done = convert_checkpoint(
        Path(arguments.checkpoint),
        Path(arguments.out),
        sizes,
        arguments.tokenizer,
        SamplingConfig().for_transformers(),
    )
    if arguments.json:
        show_json(done)
        return
    show(", ".join(f"{name} {value:,}" for name, value in done.items() if isinstance(value, int)))
    if done["tokenizer_tokens"] is None:
        show(f"no tokenizer: put its tokenizer.json and tokenizer_config.json into {done['model']} before using it")


VERBS: dict[str, tuple[Callable[[], "ArgumentParser"], Callable[["Namespace"], None]]] = {
    "demo": (_demo_parser, _demo),
    "report": (_report_parser, _report),
    "evaluate": (_evaluate_parser, _evaluate),
    "generate": (_generate_parser, _generate),
    "chat": (_chat_parser, _chat),
    "convert": (_convert_parser, _convert),
}
