"""Code of the model for a model folder, so that transformers loads it where this package isn't installed.

`AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)` runs the Python files that stand beside the
weights. They are made from this package's own modules, a file each, with the imports among them rewritten:
transformers wants them in one flat folder, importing one another as `from .x import y`. The recurrence comes from
`sioconv.ops` where that is installed (fast kernels), else from the `chunked` backend in plain torch.
"""

import ast
import json
import re
from importlib import resources
from pathlib import Path

from sioconv.files import atomic_write

# What a folder gets, and under which name. A tuple names the only definitions of a module that are wanted.
FILES: dict[str, tuple[str, tuple[str, ...]]] = {
    "model.architecture": ("architecture_sioconv", ()),
    "model.configuration": ("configuration_sioconv", ()),
    "model.layers": ("layers_sioconv", ()),
    "model.cache": ("cache_sioconv", ()),
    "model.causal_lm": ("modeling_sioconv", ()),
    "ops.gates": ("gates_sioconv", ()),
    "ops.from_zero": ("from_zero_sioconv", ()),
    "ops.chunked": ("chunked_sioconv", ()),
    "ops.heads": ("heads_sioconv", ()),
    "ops.plain": ("plain_sioconv", ()),
}
AUTO_MAP = {
    "AutoConfig": "configuration_sioconv.SioConvConfig",
    "AutoModel": "modeling_sioconv.SioConvModel",
    "AutoModelForCausalLM": "modeling_sioconv.SioConvForCausalLM",
}
# A line of a module that ends so has no place in a folder, nor have the comments directly above it.
PACKAGE_ONLY = re.compile(r"^(?: *#.*\n)*.*# in the package only\n", re.MULTILINE)
HEADER = "# Made from sioconv/{path} of the package sioconv (Apache-2.0); saving the model writes it anew.\n"


def write_code(folder: Path) -> None:
    """Adds the code to a model folder and names it in its config.json (`auto_map`).

    Args:
        folder: holds a config.json.
    """
    for name, text in folder_code().items():
        with atomic_write(folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["auto_map"] = AUTO_MAP
    with atomic_write(folder / "config.json") as temporary:
        temporary.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def folder_code() -> dict[str, str]:
    """File names and contents of the code that a model folder carries."""
    code = {}
    for module, (name, wanted) in FILES.items():
        path = module.replace(".", "/") + ".py"
        source = (resources.files("sioconv") / path).read_text(encoding="utf-8")
        text = _only(source, wanted) if wanted else source
        code[f"{name}.py"] = HEADER.format(path=path) + "\n" + _flat(PACKAGE_ONLY.sub("", text)).rstrip() + "\n"
    return code


def _only(source: str, wanted: tuple[str, ...]) -> str:
    """The definitions `wanted` of a module, and those of its imports that don't come from this package."""
    kept = []
    for node in ast.parse(source).body:
        foreign = isinstance(node, ast.Import | ast.ImportFrom) and "sioconv" not in ast.unparse(node)
        if foreign or (isinstance(node, ast.FunctionDef) and node.name in wanted):
            kept.append(ast.get_source_segment(source, node) or "")
    return "\n\n".join(kept)


def _flat(source: str) -> str:
    """A module's text with the imports from this package turned into imports of the files beside it."""

    def beside(match: re.Match[str]) -> str:
        return f"from .{FILES[match[1]][0]} import"

    def operators(match: re.Match[str]) -> str:
        plain = FILES["ops.plain"][0]
        return (
            f"try:\n    from sioconv.ops import {match[1]}\n"
            f"except ImportError:  # without the package: the same in plain torch\n    from .{plain} import {match[1]}"
        )

    source = re.sub(r"^from sioconv\.ops import (.+)$", operators, source, flags=re.MULTILINE)
    return re.sub(r"^from sioconv\.((?:model|ops)\.\w+) import", beside, source, flags=re.MULTILINE)
