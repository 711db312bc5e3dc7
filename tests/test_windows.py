"""Every file of tests can be collected on Windows: what it lacks isn't asked for before a test can be skipped."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
UNIX_ONLY = {"fcntl", "grp", "pty", "pwd", "resource", "termios", "tty"}
PROGRAMS = ("benchmarks", "scripts", "tests")
CALLS = ("skip", "importorskip")  # of pytest: what stands below isn't reached


def first_imports(path: Path) -> set[str]:
    """The modules that a file imports on its first level, above whatever may skip it."""
    found: set[str] = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if any(isinstance(part, ast.Attribute) and part.attr in CALLS for part in ast.walk(node)):
            if not isinstance(node, ast.FunctionDef | ast.ClassDef):
                break
        elif isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{name.name}" for name in node.names)}
    return found


def needs_unix(module: str, seen: frozenset[str] = frozenset()) -> bool:
    """Whether it is, or imports, one of these."""
    if module.partition(".")[0] in UNIX_ONLY:
        return True
    if module.partition(".")[0] not in PROGRAMS or module in seen:
        return False
    place = ROOT.joinpath(*module.split("."))
    path = next((path for path in (place.with_suffix(".py"), place / "__init__.py") if path.is_file()), None)
    return path is not None and any(needs_unix(name, seen | {module}) for name in first_imports(path))


@pytest.mark.parametrize("path", sorted((ROOT / "tests").rglob("test_*.py")), ids=lambda path: path.stem)
def test_nothing_of_unix_alone_is_imported_first(path: Path) -> None:
    assert [name for name in sorted(first_imports(path)) if needs_unix(name)] == []
