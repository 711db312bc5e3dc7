"""Recipe files and overrides as nested values: found, read, merged, compared."""

import dataclasses
import re
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from sioconv.errors import UserError
from sioconv.files import atomic_write

LARGEST = 1 << 20  # bytes of a recipe, which has some hundred lines
MOST_VALUES = 100_000  # with each alias counted as what it stands for


@dataclass(frozen=True)
class Plain:
    """A scalar without quotes: what YAML takes it for, and how it is written, which is what a key for text holds.

    Args:
        value: a number, a boolean or None.
        text: as it stands in the file.
    """

    value: Any
    text: str


def find_recipe(name: str) -> Path:
    """The file of that name, or the package's own, where `demo`, `demo.yaml` and `recipes/demo.yaml` are the same."""
    if Path(name).is_file():
        return Path(name)
    packaged = resources.files("sioconv.recipe") / "presets"
    candidate = packaged / f"{Path(name).name.removesuffix('.yaml')}.yaml"
    if Path(name).parent in (Path(), Path("recipes")) and candidate.is_file():
        return Path(str(candidate))
    known = sorted(entry.name for entry in packaged.iterdir() if entry.name.endswith(".yaml"))
    raise UserError(f"no recipe {name}: give a YAML file, or one of the package: {', '.join(known)}")


class UniqueKeyLoader(yaml.SafeLoader):
    """Refuses a key that is given twice: YAML would silently forget the first, a whole source of text for instance.

    Keys are text as it is written (`no`, `1`), scalars without quotes are `Plain`, dates are text, and 1e6 is a number.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """The mapping of a node. Raises ConstructorError for a key that comes twice."""
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key.value!r} comes twice", key.start_mark
                )
            seen.add(key.value if isinstance(key, yaml.ScalarNode) else None)
        values = super().construct_mapping(node, deep)
        return {key.text if isinstance(key, Plain) else key: value for key, value in values.items()}

    def construct_plain(self, node: yaml.ScalarNode) -> Any:
        """A number, a boolean or null."""
        kind = node.tag.rpartition(":")[2]
        if node.style is not None or kind == "timestamp":
            return node.value
        return Plain(getattr(self, f"construct_yaml_{kind}")(node), node.value)


for _kind in ("int", "float", "bool", "null", "timestamp"):
    UniqueKeyLoader.add_constructor(f"tag:yaml.org,2002:{_kind}", UniqueKeyLoader.construct_plain)
UniqueKeyLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+(?:\.[0-9]*)?[eE][-+]?[0-9]+\Z"), list("-+0123456789")
)


def parse_yaml(text: str) -> Any:
    """The one document in `text`, with `Plain` scalars.

    Raises ValueError, in one line, where it isn't YAML, contains itself, or stands for more values than a recipe has.
    """
    try:
        loader = UniqueKeyLoader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        if (count := _count(node, {})) > MOST_VALUES:
            raise ValueError(f"its aliases stand for {count:,} values")
        return loader.construct_document(node)
    except RecursionError as error:
        raise ValueError("its parts are nested too deeply") from error
    except (yaml.YAMLError, OverflowError) as error:
        raise ValueError(" ".join(str(error).split())) from error


def _count(node: yaml.Node, known: dict[int, int | None]) -> int:
    """How many values a node stands for; `known` holds the count of each that was seen, None while it is counted."""
    if id(node) in known:
        count = known[id(node)]
        if count is None:
            raise ValueError("it contains itself")
        return count
    known[id(node)] = None
    parts: list[Any] = []
    if isinstance(node, yaml.MappingNode):
        parts = [part for pair in node.value for part in pair]
    elif isinstance(node, yaml.SequenceNode):
        parts = node.value
    total = known[id(node)] = 1 + sum(_count(part, known) for part in parts)
    return total


def read_yaml(path: Path, kind: Any = None) -> dict[str, Any]:
    """A YAML file's mapping, whose values are settled for the dataclass `kind`.

    Raises UserError where it is too large, empty, broken, not UTF-8 or not a mapping.
    """
    try:
        with path.open("rb") as stream:
            data = stream.read(LARGEST + 1)
    except OSError as error:
        raise UserError(f"can't read {path}: {error.strerror}: check the path and its rights") from error
    if len(data) > LARGEST:
        raise UserError(f"{path}: more than {LARGEST:,} bytes: this is not a recipe")
    try:
        values = settle(parse_yaml(data.decode("utf-8-sig")), kind)
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 at byte {error.start}: save it as UTF-8") from error
    except ValueError as error:
        raise UserError(f"{path}: not YAML: {error}") from error
    if not isinstance(values, dict):
        problem = "empty" if values is None else "not a mapping"
        raise UserError(f"{path}: {problem}: a recipe has keys such as name, data, model, train")
    return values


def keys_of(kind: Any) -> dict[str, Any]:
    """The keys of a dataclass as they stand in a file, with their types."""
    hints = typing.get_type_hints(kind)
    return {item.metadata.get("key", item.name): hints[item.name] for item in dataclasses.fields(kind)}


def settle(values: Any, kind: Any) -> Any:
    """`values` without `Plain`: as it is written where `kind` holds text, else what YAML takes it for.

    So a name may be 2024, `on` or 2024-12-01, and a whole number may be written 1e6.
    """
    kinds = typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
    if isinstance(values, Mapping):
        return {key: settle(value, kind_of_key(kind, key)) for key, value in values.items()}
    if isinstance(values, list):
        inside = next((typing.get_args(one)[0] for one in kinds if typing.get_origin(one) is list), None)
        return [settle(value, inside) for value in values]
    if not isinstance(values, Plain):
        return values
    value = values.value
    if value is not None and (str in kinds or values.text in typing.get_args(kind)):
        return values.text
    if int in kinds and isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def kind_of_key(kind: Any, key: Any) -> Any:
    """The type of what stands under `key` in a value of type `kind`; None where that isn't known."""
    for one in typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,):
        if dataclasses.is_dataclass(one):
            return keys_of(one).get(key)
        if typing.get_origin(one) is dict:
            return typing.get_args(one)[1]
    return None


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


def parse_overrides(arguments: Sequence[str], kind: Any = None) -> dict[str, Any]:
    """`--a.b=c` and `--a.b c` as nested values; values are read as YAML and settled for the dataclass `kind`.

    Raises UserError for anything else.
    """
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
        parts = key.removeprefix("--").split(".")
        hint = kind
        for part in parts:
            hint = kind_of_key(hint, part)
        nested = _override(key, text, hint)
        for part in reversed(parts):
            nested = {part: nested}
        merge(values, nested)
    return values


def _override(key: str, text: str, hint: Any) -> Any:
    """The value of one override; where its key holds text, what isn't YAML, or is nothing to it, is that text."""
    is_text = hint is str or str in typing.get_args(hint)
    try:
        value = parse_yaml(text) if text else None
    except ValueError as error:
        if is_text:
            return text
        raise UserError(f"{key}: {text[:200]!r} can't be read as a YAML value: quote it") from error
    if is_text and text and value is None:  # a comment to YAML, such as #1
        return text
    return settle(value, hint)


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
