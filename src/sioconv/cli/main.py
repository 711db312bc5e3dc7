"""`sioconv VERB …`: parses, calls one function, prints.

Everything heavy is imported inside the function that needs it, so that `sioconv --help` answers at once.
"""

import atexit
import logging
import os
import sys
import warnings
from collections.abc import Sequence
from typing import Any, NoReturn, TextIO

from sioconv import __version__
from sioconv.cli.chat import CHAT
from sioconv.cli.compare import COMPARE
from sioconv.cli.completion import complete
from sioconv.cli.convert import CONVERT, QUANTIZE
from sioconv.cli.demo import DEMO
from sioconv.cli.evaluate import EVALUATE, REPORT
from sioconv.cli.generate import GENERATE
from sioconv.cli.inspection.data import INSPECT_DATA
from sioconv.cli.inspection.model import INSPECT
from sioconv.cli.last_net import exit_code_of
from sioconv.cli.personal.import_files import IMPORT
from sioconv.cli.personal.tune import TUNE
from sioconv.cli.publishing.export import EXPORT_ONNX, EXPORT_PAGE
from sioconv.cli.publishing.publish import PUBLISH
from sioconv.cli.recipe_verbs import RECIPE_VERBS
from sioconv.cli.serve import SERVE, SERVE_KEY
from sioconv.cli.verb import Verb
from sioconv.errors import UserError
from sioconv.language import choose_language, translated
from sioconv.terminal import VisibleFormatter, prepare_streams, show, show_lines

HEAD = "sioconv: build your own language model on the recurrence c_t = a_t * c_{t-1} + z_t"
FOOT = """\
`sioconv VERB --help` explains a verb. RECIPE is one or more YAML files (demo.yaml is in the package) and overrides such
as --train.lr 1e-3; RUN is a folder under runs/; MODEL is a model folder or a Hub id. --lang ja, SIOCONV_LANG=ja or the
locale makes it speak Japanese."""
_TOKENIZER, _DATA, *_TRAINING = RECIPE_VERBS
VERBS: dict[str, Verb] = {
    verb.name: verb
    for verb in (
        *(DEMO, IMPORT, _TOKENIZER, _DATA, INSPECT_DATA, *_TRAINING, TUNE, REPORT, EVALUATE, COMPARE, GENERATE, CHAT),
        *(INSPECT, SERVE, SERVE_KEY, QUANTIZE, CONVERT, EXPORT_ONNX, EXPORT_PAGE, PUBLISH),
    )
}


def usage() -> str:
    """What `sioconv --help` prints: a line for each verb."""
    lines = [f"  {f'sioconv {verb.name} {verb.operands}':<35} {translated(verb.summary)}" for verb in VERBS.values()]
    return "\n".join([translated(HEAD), "", *lines, "", translated(FOOT), ""])


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """The command's entry point.

    It exits with 0; 2 where the input was bad; 70 where the program is at fault, which leaves the traceback in a file;
    75 where a signal ended it and there is more to do; 130 on Ctrl-C.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    complete({name: verb.parser for name, verb in VERBS.items()})
    prepare_streams()
    _quiet_libraries()
    code = exit_code_of(lambda: run(arguments))
    if code:  # where memory or threads were missing, what libraries do at the end fails as well, by tracebacks
        atexit.register(setattr, sys, "unraisablehook", lambda _: None)
    sys.exit(code)


def run(arguments: list[str]) -> None:
    """Runs one verb. Raises UserError for everything that is wrong with the arguments."""
    try:
        arguments = choose_language(arguments)
    except ValueError as error:
        raise UserError(f"--lang: {str(error)!r} is none that is spoken here: give ja or en") from error
    if any("\0" in argument for argument in arguments):
        raise UserError("an argument holds a NUL character: neither a file's name nor a text may have one")
    encoding = sys.getfilesystemencoding()
    if encoding != "utf-8" and any("\udc80" <= character <= "\udcff" for text in arguments for character in text):
        raise UserError(f"an argument isn't in the locale's {encoding}: set PYTHONUTF8=1 or LC_ALL=C.UTF-8")
    _check_environment()
    name = arguments[0] if arguments else "--help"
    if name in ("-h", "--help", "help"):
        show_lines(usage(), end="")
    elif name in ("-V", "--version"):
        show(f"sioconv {__version__}")
    elif " ".join(arguments[:2]) in VERBS and len(arguments) > 1:
        VERBS[" ".join(arguments[:2])].run(arguments[2:])
    elif name in VERBS:
        VERBS[name].run(arguments[1:])
    else:
        raise UserError(f"unknown verb {name!r}: choose from {', '.join(VERBS)}; see sioconv --help")


def _check_environment() -> None:
    """Raises UserError for what numba can't take: its import would raise, or LLVM end the process."""
    threads, features = (os.environ.get(name, "").strip() for name in ("NUMBA_NUM_THREADS", "NUMBA_CPU_FEATURES"))
    if threads.isascii() and threads.lstrip("-").isdigit() and int(threads) < 1:
        raise UserError(f"NUMBA_NUM_THREADS is {threads} in the environment: unset it or give a positive number")
    if features and not all(feature.startswith(("+", "-")) for feature in features.split(",")):
        raise UserError(f"NUMBA_CPU_FEATURES is {features} in the environment: unset it or give such as +avx2,-avx512f")


class _ToStderr(logging.StreamHandler[TextIO]):
    """Writes to what `sys.stderr` is now: a bar of progress takes its place, so that lines stand above the bar."""

    def emit(self, record: logging.LogRecord) -> None:
        """Writes a line."""
        self.stream = sys.stderr
        super().emit(record)


def _quiet_libraries() -> None:
    """Bars and notices of the libraries would stand between our own lines."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    usual = warnings.formatwarning

    def without_traceback(message: Warning | str, *more: Any, **others: Any) -> str:
        """numba warns of a variable that it can't read by a traceback; what it says first is enough."""
        first, *rest = str(message).splitlines() or [""]
        return f"warning: {first}\n" if any("Traceback" in line for line in rest) else usual(message, *more, **others)

    warnings.formatwarning = without_traceback
    log = _ToStderr()
    log.setFormatter(VisibleFormatter())
    logging.basicConfig(handlers=[log])
    logging.getLogger("sioconv").setLevel(logging.INFO)
