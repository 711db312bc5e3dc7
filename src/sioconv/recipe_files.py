"""Recipe files and overrides as nested values: found, read, merged, compared."""

from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from sioconv.errors import UserError
from sioconv.files import atomic_write


def find_recipe(name: str) -> Path:
    """The file of that name, or the package's own, where `demo`, `demo.yaml` and `recipes/demo.yaml` are the same."""
    if Path(name).is_file():
        return Path(name)
    packaged = resources.files("sioconv") / "recipes"
    candidate = packaged / f"{Path(name).name.removesuffix('.yaml')}.yaml"
    if Path(name).parent in (Path(), Path("recipes")) and candidate.is_file():
        return Path(str(candidate))
    known = sorted(entry.name for entry in packaged.iterdir() if entry.name.endswith(".yaml"))
    raise UserError(f"no recipe {name}: give a YAML file, or one of the package: {', '.join(known)}")


class UniqueKeyLoader(yaml.SafeLoader):
    """Refuses a key that is given twice: YAML would silently forget the first, a whole source of text for instance."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """The mapping of a node. Raises ConstructorError for a key that comes twice."""
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key.value!r} comes twice", key.start_mark
                )
            seen.add(key.value if isinstance(key, yaml.ScalarNode) else None)
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file's mapping. Raises UserError where it is empty, broken, not UTF-8 or not a mapping."""
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), UniqueKeyLoader)
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 at byte {error.start}: save it as UTF-8") from error
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not YAML: {' '.join(str(error).split())}") from error
    except OSError as error:
        raise UserError(f"can't read {path}: {error.strerror}: check the path and its rights") from error
    if not isinstance(values, dict):
        problem = "empty" if values is None else "not a mapping"
        raise UserError(f"{path}: {problem}: a recipe has keys such as name, data, model, train")
    return values


class _Dumper(yaml.SafeDumper):
    """Puts text with line ends or control characters in double quotes: PyYAML's other styles lose U+0085."""


_Dumper.add_representer(
    str,
    lambda dumper, text: dumper.represent_scalar(
        "tag:yaml.org,2002:str", text, style=None if text.isprintable() else '"'
    ),
)


def write_yaml(values: Mapping[str, Any], path: Path) -> None:
    """Writes a mapping so that `read_yaml` gives the same values."""
    with atomic_write(path) as temporary:
        temporary.write_text(yaml.dump(values, Dumper=_Dumper, allow_unicode=True, sort_keys=False), encoding="utf-8")


def parse_overrides(arguments: Sequence[str]) -> dict[str, Any]:
    """`--a.b=c` and `--a.b c` as nested values; values are read as YAML. Raises UserError for anything else."""
    values: dict[str, Any] = {}
    rest = list(arguments)
    while rest:
        key, equals, text = rest.pop(0).partition("=")
        if not key.startswith("--") or key == "--":
            raise UserError(f"unexpected argument {key!r}: recipe files come first, then --key.name value")
        if not equals:
            if not rest:
                raise UserError(f"{key}: no value: write {key} VALUE")
            text = rest.pop(0)
        try:
            nested: Any = yaml.safe_load(text) if text else None
        except yaml.YAMLError as error:
            raise UserError(f"{key}: {text!r} can't be read as a YAML value: quote it") from error
        for part in reversed(key.removeprefix("--").split(".")):
            nested = {part: nested}
        merge(values, nested)
    return values


def merge(into: dict[str, Any], new: Mapping[str, Any]) -> None:
    """Puts `new` over `into`, mapping by mapping; mappings are copied, because YAML's aliases share them."""
    for key, value in new.items():
        if isinstance(value, Mapping):
            into[key] = into[key] if isinstance(into.get(key), dict) else {}
            merge(into[key], value)
        else:
            into[key] = value


def first_difference(old: Any, new: Any, path: str = "") -> str | None:
    """The first key at which two nested values differ, with both values; None where they are equal."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*old, *(key for key in new if key not in old)]:
            if found := first_difference(old.get(key), new.get(key), f"{path}.{key}" if path else key):
                return found
        return None
    return None if old == new else f"{path}: {old!r} there, {new!r} here"
