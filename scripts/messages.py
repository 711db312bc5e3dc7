"""What a user can see, as messages for translators: `python scripts/messages.py` brings the catalogues up to date.

A message is a sentence with `{names}` where an f-string has values; a choice inside of one makes a message of each.
They are found in the syntax tree of every file (notices, bars, what is marked with `translated`), in the verbs (their
help), and in the report's templates. Errors are followed: what stands in an error as a value is looked for where it is
assigned, given to the function, or returned by another one.
"""

import ast
import itertools
import keyword
import re
from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import NamedTuple

from babel.messages.catalog import Catalog
from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po, write_po

SOURCE = Path(__file__).parents[1] / "src" / "sioconv"
# Functions whose text is shown, and which of their arguments it is.
SHOWN = {
    "say": 0, "_sentence": 0, "tell": 0, "translated": 0, "track": 1,
    "busy": 0, "Note": 0, "Left": 0, "_leave_out": 0, "_tell_once": 0,
}  # fmt: skip
# Functions that give a sentence, or the reason in one, to such a function.
GIVEN = {
    "bits", "side_without_documents", "notes", "warning", "_why",
}  # fmt: skip
# Names of tables and constants that hold such reasons.
HELD = {
    "ODD", "BROKEN", "OTHER_WIDTH", "MEDIA", "CALLS", "SYSTEM", "DELETED", "BOTS", "FORWARDED", "OTHERS", "EMPTY",
    "EMPTY_PAGES", "NOBODY", "INSTRUCTIONS", "ABOVE", "BESIDE", "STICKERS", "MARKS", "TITLES", "NOTES", "WRITING",
    "MAGIC", "NO_FILES", "POINTERS",
}  # fmt: skip
RAISED = ("UserError", "StoppedError", "complain", "BadInput", "bad_row", "ValueError")
IN_PARTS = ("BadInput", "bad_row")  # their arguments are parts of a message
# Files whose ValueErrors are about what a user has written; elsewhere they are a caller's.
VALUES_OF_USERS = (
    "checksums", "data/cleaning/", "data/config", "data/conversations", "data/documents", "data/sources/json_values",
    "evaluate/config", "generate/states/file", "importing/", "model/architecture", "model/initial_state",
    "model/tensor_file", "plan/size", "recipe/", "run/folder", "train/budget", "train/config",
)  # fmt: skip
SENTENCE = re.compile(r"[A-Za-z'\"}\]]\S* \S*[A-Za-z{\"]")  # words, not a key or the name of a file
SHORTEST = 8  # letters of a part of an error, its values aside
HELD_IN = (
    "importing/", "evaluate/report", "evaluate/parts/", "model/baselines/", "data/encodings", "data/sources/files",
)  # fmt: skip
MOST_FORMS = 16
DATE = datetime(2026, 1, 1, tzinfo=UTC)  # the same file for the same messages
# What comes from figures and settings and stands in a report or a sentence: stages, moments, kinds of questions.
ALSO = (
    "pretrain", "finetune", "start", "end", "{seconds} s", "step {step}", "trained place", "identity",
    "trained question", "paraphrase", "unseen place", "identity paraphrase", "held-out question", "conversations",
    "documents", "{cut} of {all} documents", ", {times} times inside what the assistant says", "nobody else speaks",
    "you say nothing", "the day", "the month", "their names stand before what they say",
    "--names writes who says what", "names", "numbers", "addresses", "names in", "import", "seen questions",
    "unseen questions", " and {count} more", "missing", "damaged", "{now} threads now, {before} before",
    "{now} processes now, {before} before", "processor", "cores", "memory", "system", "accelerator",
    "{count} characters", "cpu ({count} threads)",
    "NUMBA_DISABLE_JIT is set", "the model has a convolution",
    "the norm's groups aren't the heads", "the weights are in {dtypes}", "a weight isn't contiguous",
    "the model is on {device}", "decoding: the compiled kernel", "decoding: torch, because {reason}",
    "finds neither tbb nor OpenMP",
    "has already started its threads on {name}", "after tuning", "xz -9e, primed", "byte 7-gram", "model",
    "the state store can't be used: {error}: texts are read anew",
    "{run} holds out another part of the text than {first}: it may have learned from what it is measured on",
    "sources.{name}.{error}", "cleaning.{error}", "cluster.{error}", "{name}.{error}",
    # Of these, libraries and the system make parts of our errors.
    "No such file or directory", "Permission denied", "Is a directory", "Not a directory", "File exists",
    "Invalid argument", "Operation not permitted", "Connection refused", "Input/output error", "File name too long",
    "Name or service not known", "Temporary failure in name resolution", "Cannot allocate memory",
    "[Errno {number}] {strerror}: {filename}", "[Errno {number}] {strerror}",
    "{codec} codec can't decode byte {byte} in position {place}: {reason}",
    "{codec} codec can't decode bytes in position {place}: {reason}",
    "{codec} codec can't encode character {letter} in position {place}: {reason}", "surrogates not allowed",
    "invalid start byte", "invalid continuation byte", "unexpected end of data",
    "{problem}: line {line} column {column} (char {place})", "Expecting value", "Extra data",
    "unrecognized arguments: {arguments}", "the following arguments are required: {arguments}",
    "arguments are required: {arguments}", "argument {name}: expected one argument",
    "argument {name}: expected at least one argument",
    'Parser key "{key}": Expected a {kind}. Got value: {value}', "<class 'float'>", "<class 'int'>", "<class 'bool'>",
    "state file", "that a session was saved to", "save the session again", "tuned state file",
    "the model, and the --state file where there was one, that it was saved with", "tune it again",
    "that finetune.train.only=initial_state has made", "the model that it was tuned from", "model", "version",
    "give its name the ending {ending}", "take the text out of it", "no file",
    "{what}: {where}: {problem}: {advice}", "not JSON ({error})",
    "nothing", "none", "empty", "gradient", "loss", "JSON schema", "regular expression", "choice",
    "parameters", "a token", "training",
    "cards", "GiB each", "tokens/s", "time", "weights", "gradients", "optimizer", "activations", "logits",
    "moments", "half copies", "gathered", "activations recomputed",
    "tokens in a document", "surprise (bits)", "% of the state at the end", "head",
    "token (of the state, {older} % is older than these)", "steps until half is forgotten",
    "{run} has also read {source}: if that holds the held-out text of {first}, its figures are too good",
)  # fmt: skip


def messages() -> dict[str, list[str]]:
    """Message → the files that it stands in."""
    found = dict[str, list[str]]()
    trees = {
        path.relative_to(SOURCE).as_posix(): ast.parse(path.read_text(encoding="utf-8"))
        for path in sorted(SOURCE.rglob("*.py"))
    }
    for where, tree in trees.items():
        for text in in_code(tree, where):
            if re.search(r"[A-Za-z]{2}", re.sub(r"{\w*}", "", text)):
                found.setdefault(text, []).append(where)
    for where, text in [*Errors(trees).found, *in_help(), *in_templates(), *(("", word) for word in ALSO)]:
        found.setdefault(text, []).append(where)
    return found


def in_code(tree: ast.Module, where: str) -> Iterator[str]:
    """The messages of a file, but for its errors."""
    constants = constants_of(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.name in GIVEN:
            for inner in ast.walk(node):
                if isinstance(inner, ast.Return | ast.Yield) and inner.value is not None:
                    yield from dict.fromkeys(numbered(form) for form in forms(inner.value))
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            names = {getattr(each, "id", "") for each in getattr(node, "targets", [getattr(node, "target", None)])}
            if names & HELD and where.startswith(HELD_IN):
                held = [each for each in ast.walk(node.value) if isinstance(each, ast.Constant)]
                keys = {id(key) for each in ast.walk(node.value) if isinstance(each, ast.Dict) for key in each.keys}
                texts = [each.value for each in held if isinstance(each.value, str) and id(each) not in keys]
                yield from (text for text in texts if " " in text or not where.startswith("data/"))
        if not isinstance(node, ast.Call):
            continue
        name = name_of(node)
        if name == "_leave_out" and not where.startswith("importing/"):
            continue
        if name == "Table" and where == "evaluate/parts/tables.py":
            columns = node.args[2].elts if isinstance(node.args[2], ast.Tuple) else []
            for argument in (*node.args[:2], *columns):
                yield from dict.fromkeys(numbered(form) for form in forms(argument))
        is_note = (
            name == "append" and isinstance(node.func, ast.Attribute) and ast.unparse(node.func.value)[-5:] == "notes"
        )
        if name in ("info", "warning", "error") and ast.unparse(node.func).startswith("logger."):
            texts = [each.value for each in node.args[:1] if isinstance(each, ast.Constant)]
            yield from (logged(text) for text in texts)
        index = 0 if is_note else SHOWN.get(name)
        if index is not None and len(node.args) > index:
            argument = node.args[index]
            if isinstance(argument, ast.Name):
                argument = constants.get(argument.id, argument)
            yield from dict.fromkeys(numbered(form) for form in forms(argument))


class Errors:
    """The messages of errors, and the sentences that become parts of them.

    Args:
        trees: file → its syntax tree.

    Attributes:
        found: (file, message) of each.
    """

    def __init__(self, trees: dict[str, ast.Module]) -> None:
        self.found = list[tuple[str, str]]()
        self._functions = defaultdict[str, list[Place]](list)
        self._calls = defaultdict[str, list[tuple[Place, ast.Call]]](list)
        self._constants = {where: constants_of(tree) for where, tree in trees.items()}
        self._seen = set[int]()
        for where, tree in trees.items():
            self._learn(tree, Place(where, None))
        for place, call in [each for name in RAISED for each in self._calls[name]]:
            if name_of(call) != "ValueError" or place.where.startswith(VALUES_OF_USERS):
                if name_of(call) in IN_PARTS:
                    for argument in call.args:
                        self._look(argument, place)
                else:
                    self._look(call.args[0] if call.args else None, place, name_of(call) != "ValueError")

    def _learn(self, node: ast.AST, place: "Place") -> None:
        for child in ast.iter_child_nodes(node):
            inner = place
            if isinstance(child, ast.FunctionDef):
                inner = Place(place.where, child)
                self._functions[child.name].append(inner)
            elif isinstance(child, ast.Call):
                self._calls[name_of(child)].append((place, child))
            self._learn(child, inner)

    def _look(self, node: ast.expr | None, place: "Place", whole: bool = False) -> None:
        """Takes an expression's messages, whole ones or parts of others, and looks into the values in them."""
        if node is None or id(node) in self._seen:
            return
        self._seen.add(id(node))
        for form in forms(node):
            message = numbered(form)
            text = re.sub(r"{\w*}", "", message)
            # A part with values is recognised by its letters only.
            sure = whole or text == message or len(text) >= SHORTEST
            if (
                sure
                and SENTENCE.search(re.sub(r"{\w*}", "{}", message))
                and message.isprintable()
                and message[0] != "|"
            ):
                self.found.append((place.where, message))
            for piece in form:
                if not isinstance(piece, str):
                    for inner, where in self._origins(piece, place):
                        self._look(inner, where)

    def _origins(self, value: ast.expr, place: "Place") -> "Iterator[tuple[ast.expr | None, Place]]":
        """The expressions that a value may come from."""
        if isinstance(value, ast.IfExp):
            yield from ((value.body, place), (value.orelse, place))
        elif isinstance(value, ast.BoolOp):
            yield from ((each, place) for each in value.values)
        elif isinstance(value, ast.Call):
            for function in self._functions[name_of(value)]:
                assert function.scope is not None
                for node in ast.walk(function.scope):
                    if isinstance(node, ast.Return | ast.Yield):
                        yield node.value, function
            if name_of(value) == "join":
                yield from ((each, place) for each in value.args)
        elif isinstance(value, ast.Subscript) and isinstance(value.value, ast.Name):
            table = self._constants[place.where].get(value.value.id)
            yield from ((each, place) for each in (table.values if isinstance(table, ast.Dict) else ()))
        elif isinstance(value, ast.Name):
            yield self._constants[place.where].get(value.id), place
            if place.scope is not None:
                yield from self._origins_in(place.scope, value.id, place)

    def _origins_in(
        self, scope: ast.FunctionDef, name: str, place: "Place"
    ) -> "Iterator[tuple[ast.expr | None, Place]]":
        """What a function's variable is set to, by itself or by its callers."""
        for node in ast.walk(scope):
            if isinstance(node, ast.Assign | ast.AnnAssign | ast.NamedExpr):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                if any(getattr(target, "id", "") == name for target in targets):
                    yield node.value, place
        given = [argument.arg for argument in scope.args.args if argument.arg not in ("self", "cls")]
        if name in given or name in [argument.arg for argument in scope.args.kwonlyargs]:
            for caller, call in self._calls[scope.name]:
                if name in given and len(call.args) > given.index(name):
                    yield call.args[given.index(name)], caller
                yield from ((word.value, caller) for word in call.keywords if word.arg == name)


class Place(NamedTuple):
    """Where an expression stands: its file and function."""

    where: str
    scope: ast.FunctionDef | None


def name_of(call: ast.Call) -> str:
    """What is called."""
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")


def constants_of(tree: ast.Module) -> dict[str, ast.expr]:
    """A file's constants."""
    return {
        target.id: node.value
        for node in tree.body if isinstance(node, ast.Assign)
        for target in node.targets if isinstance(target, ast.Name)
    }  # fmt: skip


def forms(node: ast.expr) -> list[list[str | ast.expr]]:
    """What an expression may be: text and values in turn."""
    if isinstance(node, ast.Constant):
        return [[node.value]] if isinstance(node.value, str) else [[node]]
    if isinstance(node, ast.JoinedStr):
        return product([forms(part.value if isinstance(part, ast.FormattedValue) else part) for part in node.values])
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return product([forms(node.left), forms(node.right)])
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult) and is_text(node.left):
        return [*forms(node.left), [""]]
    if isinstance(node, ast.IfExp) and is_text(node.body) and is_text(node.orelse):
        return [*forms(node.body), *forms(node.orelse)]
    return [[node]]


def logged(text: str) -> str:
    """A message of a log, whose values are called by their places."""
    number = itertools.count(1)
    return re.sub(r"%s", lambda _: f"{{value{next(number)}}}", escaped(text))


def is_text(node: ast.expr) -> bool:
    """Whether an expression is written out as text, at least in part."""
    if isinstance(node, ast.IfExp):
        return is_text(node.body) and is_text(node.orelse)
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str))


def product(parts: list[list[list[str | ast.expr]]]) -> list[list[str | ast.expr]]:
    """Each way to choose one form of every part."""
    ways = itertools.islice(itertools.product(*parts), MOST_FORMS)
    return [[piece for part in way for piece in part] for way in ways]


def numbered(form: list[str | ast.expr]) -> str:
    """A form as a message; a value is called by the last name in its expression."""
    text, names = "", list[str]()
    for piece in form:
        if isinstance(piece, str):
            text += escaped(piece)
            continue
        words = [word for word in re.findall(r"[a-z_]\w*", ast.unparse(piece)) if not keyword.iskeyword(word)]
        base = re.sub(r"\W", "", words[-1] if isinstance(piece, ast.Attribute) else words[0]) if words else "value"
        name = base if base not in names else f"{base}{sum(n.startswith(base) for n in names) + 1}"
        names.append(name)
        text += "{" + name + "}"
    return text


def in_help() -> Iterator[tuple[str, str]]:
    """The help of the verbs and of their options."""
    from sioconv.cli import main

    yield "cli/main.py", escaped(main.HEAD)
    yield "cli/main.py", escaped(main.FOOT)
    for verb in main.VERBS.values():
        yield f"sioconv {verb.name}", escaped(verb.summary)
        yield f"sioconv {verb.name}", escaped(verb.purpose)
        for text in verb.parts():
            yield f"sioconv {verb.name}", escaped(" ".join(text.split()))


def escaped(text: str) -> str:
    """Text without values, as a message."""
    return text.replace("{", "{{").replace("}", "}}")


def in_templates() -> Iterator[tuple[str, str]]:
    """What the report's templates mark."""
    for path in sorted(SOURCE.rglob("templates/*")):
        for found in re.finditer(r'_\("((?:[^"\\]|\\.)*)"', path.read_text(encoding="utf-8")):
            yield f"templates/{path.name}", found[1].replace('\\"', '"')


def update(language: str) -> list[str]:
    """Brings a catalogue up to date, as .po and .mo; returns the messages that are still to be translated."""
    folder = SOURCE / "locale" / language / "LC_MESSAGES"
    path = folder / "sioconv.po"
    before = read(path) if path.exists() else {}
    catalogue = Catalog(
        language, project="sioconv", header_comment="# Messages of SioConv.", creation_date=DATE, revision_date=DATE,
        fuzzy=False,
    )  # fmt: skip
    for message, places in messages().items():
        catalogue.add(message, before.get(message, ""), [(place, None) for place in dict.fromkeys(places) if place])
    for ending, write in ((".po", partial(write_po, width=0)), (".mo", write_mo)):
        with (folder / f"sioconv{ending}").open("wb") as file:
            write(file, catalogue)
    return [message.id for message in catalogue if message.id and not message.string]


def read(path: Path) -> dict[str, str]:
    """The messages of a .po file, with their translations."""
    with path.open("rb") as file:
        return {message.id: message.string for message in read_po(file) if message.id}


if __name__ == "__main__":
    for text in update("ja"):
        print(f"to be translated: {text!r}")
