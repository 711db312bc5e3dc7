"""The house stays a house: rooms import downwards only, folders and functions stay small."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "sioconv"
# Each room may import those before it, never those behind it.
ROOMS = (
    *("ops", "model", "data", "importing", "train", "generate", "plan", "evaluate", "inspect"),
    *("recipe", "run", "publish", "serve", "cli"),
)
MOST_FILES, MOST_LINES, MOST_PARAMETERS = 14, 60, 12
# Triton's kernels take arrays one by one, as docs/decisions.md says.
KERNELS = {"ops/triton/kernels.py"}

Function = ast.FunctionDef | ast.AsyncFunctionDef


def modules() -> list[Path]:
    return sorted(SOURCE.rglob("*.py"))


def functions() -> Iterator[tuple[str, Function]]:
    for path in modules():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, Function):
                yield path.relative_to(SOURCE).as_posix(), node


def imported(path: Path) -> Iterator[str]:
    """The rooms that a file imports from when it runs, its own among them."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for_types = [node for node in ast.walk(tree) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)]
    unseen = {id(child) for node in for_types for part in node.body for child in ast.walk(part)}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and id(node) not in unseen and (node.module or "").startswith("sioconv."):
            yield (node.module or "").split(".")[1]


def lines_of(function: Function) -> int:
    """Lines of code, the docstring aside."""
    first = function.body[0]
    has_docstring = ast.get_docstring(function) is not None and first.end_lineno is not None
    docstring = (first.end_lineno or 0) - first.lineno + 1 if has_docstring else 0
    return (function.end_lineno or 0) - function.lineno + 1 - docstring


def parameters_of(function: Function) -> int:
    given = function.args
    named = [*given.posonlyargs, *given.args, *given.kwonlyargs]
    bound = bool(named) and named[0].arg in ("self", "cls")
    return len(named) - bound + (given.vararg is not None) + (given.kwarg is not None)


def test_every_room_has_its_place() -> None:
    found = {path.name for path in SOURCE.iterdir() if (path / "__init__.py").is_file()}
    assert found <= set(ROOMS)


@pytest.mark.parametrize("room", ROOMS)
def test_no_room_imports_one_above_it(room: str) -> None:
    above = ROOMS[ROOMS.index(room) + 1 :]
    for path in (SOURCE / room).rglob("*.py"):
        assert not set(imported(path)) & set(above), path


def test_what_lies_outside_of_the_rooms_uses_the_kernels_at_most() -> None:
    for path in SOURCE.glob("*.py"):
        allowed = {"__main__.py": {"cli"}, "hardware.py": {"ops"}}.get(path.name, set())
        assert set(imported(path)) & set(ROOMS) <= allowed, path


def test_no_folder_has_too_many_files() -> None:
    for folder in {path.parent for path in modules()}:
        files = [path for path in folder.glob("*.py") if path.name != "__init__.py"]
        assert len(files) <= MOST_FILES, folder


def test_functions_are_short() -> None:
    long = {(file, function.name) for file, function in functions() if lines_of(function) > MOST_LINES}
    assert {file for file, _ in long} <= KERNELS, long


def test_parameter_lists_are_short() -> None:
    wide = {(file, function.name) for file, function in functions() if parameters_of(function) > MOST_PARAMETERS}
    assert {file for file, _ in wide} == KERNELS, wide
