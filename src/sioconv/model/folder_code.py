"""Code of the model for a model folder, so that transformers loads it where this package isn't installed.

`AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)` runs the Python file that stands beside the
weights. It is one file, because transformers warns of each that it downloads: this package's own modules, one behind
the other, without the imports among them. The recurrence comes from `sioconv.ops` where that is installed (fast
kernels), else from the `chunked` backend in plain torch.
"""

import ast
import json
import re
from functools import cache
from importlib import resources
from pathlib import Path

from sioconv.checksums import SUMS
from sioconv.files import atomic_write

# What a folder gets, in the order of use. A tuple names the only definitions of a module that are wanted.
MODULES: dict[str, tuple[str, ...]] = {
    "ops.gates": (),
    "ops.eager.from_zero": (),
    "ops.eager.chunked": (),
    "ops.eager.convolution": (),
    "ops.heads": (),
    "ops.eager.plain": (),
    "model.architecture": (),
    "model.configuration": (),
    "model.convolution": (),
    "model.layers": (),
    "model.cache": (),
    "model.quantised": (),
    "model.causal_lm": (),
}
FILE = "modeling_sioconv.py"
AUTO_MAP = {
    name: f"{FILE.removesuffix('.py')}.{of}"
    for name, of in {
        "AutoConfig": "SioConvConfig",
        "AutoModel": "SioConvModel",
        "AutoModelForCausalLM": "SioConvForCausalLM",
        "AutoModelForSequenceClassification": "SioConvForSequenceClassification",
        "AutoModelForTokenClassification": "SioConvForTokenClassification",
    }.items()
}
# A statement whose first line ends so has no place in a folder, nor have the comments directly above it.
PACKAGE_ONLY = "# in the package only"
HEADER = "# Made from the package sioconv (Apache-2.0); saving the model writes it anew."
# At the file's end: the same functions in plain torch stand above, and names are looked up when they are called.
OPERATORS = """\
try:
    from sioconv.ops import {names}
except ImportError:  # without the package: those above
    pass
"""


def write_code(folder: Path) -> None:
    """Adds the code to a model folder and names it in its config.json (`auto_map`).

    The folder's checksums go: what they were made of is being written anew, by transformers as a rule, file by file.

    Args:
        folder: holds a config.json.
    """
    (folder / SUMS).unlink(missing_ok=True)
    with atomic_write(folder / FILE) as temporary:
        temporary.write_text(folder_code(), encoding="utf-8")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["auto_map"] = AUTO_MAP
    with atomic_write(folder / "config.json") as temporary:
        temporary.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


@cache
def folder_code() -> str:
    """The text of the file of code that a model folder carries."""
    imports: list[ast.Import | ast.ImportFrom] = []
    operators: set[str] = set()
    bodies = []
    for module, wanted in MODULES.items():
        path = module.replace(".", "/") + ".py"
        source = (resources.files("sioconv") / path).read_text(encoding="utf-8")
        tree, lines = ast.parse(source), source.split("\n")
        dropped = _lines_of_docstring(tree)
        for node in ast.walk(tree):
            if isinstance(node, ast.stmt) and lines[node.lineno - 1].endswith(PACKAGE_ONLY):
                dropped |= _lines(node, lines)
        for node in tree.body:
            if node.lineno in dropped:
                continue
            if isinstance(node, ast.ImportFrom) and node.module == "sioconv.ops":
                operators |= {name.name for name in node.names}
            elif isinstance(node, ast.Import | ast.ImportFrom) and "sioconv" not in ast.unparse(node):
                imports.append(node)
            elif not _is_import_or_all(node) and (not wanted or getattr(node, "name", None) in wanted):
                continue
            dropped |= _lines(node, lines)
        text = "\n".join(line for number, line in enumerate(lines, start=1) if number not in dropped)
        bodies.append(f"# {path}\n\n" + text.strip("\n"))
    parts = (
        HEADER,
        _import_lines(imports, "\n".join(bodies)),
        *bodies,
        OPERATORS.format(names=", ".join(sorted(operators))),
    )
    return re.sub(r"\n{4,}", "\n\n\n", "\n\n\n".join(parts))


def _import_lines(nodes: list[ast.Import | ast.ImportFrom], text: str) -> str:
    """The imports of all modules whose names are used in `text`, a line for each module that they come from."""
    used = set(re.findall(r"\w+", text))
    whole: set[str] = set()
    names: dict[str, set[str]] = {}  # by the module that they come from
    for node in nodes:
        if isinstance(node, ast.Import):
            whole.add(ast.unparse(node))
        else:
            wanted = {ast.unparse(name) for name in node.names if (name.asname or name.name) in used}
            names.setdefault(node.module or "", set()).update(wanted)
    parts = [f"from {module} import {', '.join(sorted(some))}" for module, some in sorted(names.items()) if some]
    return "\n".join([*sorted(whole), *parts])


def _lines(node: ast.stmt, lines: list[str]) -> set[int]:
    """The numbers of a statement's lines, from those of the comments directly above it on."""
    first = min([node.lineno, *(decorator.lineno for decorator in getattr(node, "decorator_list", ()))])
    while first > 1 and lines[first - 2].lstrip().startswith("#"):
        first -= 1
    return set(range(first, (node.end_lineno or first) + 1))


def _lines_of_docstring(tree: ast.Module) -> set[int]:
    return set() if ast.get_docstring(tree) is None else set(range(1, (tree.body[0].end_lineno or 0) + 1))


def _is_import_or_all(node: ast.stmt) -> bool:
    if isinstance(node, ast.Assign):
        return ast.unparse(node.targets[0]) == "__all__"
    return isinstance(node, ast.Import | ast.ImportFrom)
