"""Recipe files as nested values: found, read, merged, overridden, compared."""

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from sioconv.errors import UserError
from sioconv.recipe.files import find_recipe, first_difference, merge, parse_overrides, read_yaml

LEAVES = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text())
KEYS = st.text("abc", min_size=1, max_size=2)
NESTED = st.dictionaries(KEYS, st.recursive(LEAVES, lambda inner: st.dictionaries(KEYS, inner), max_leaves=6))


def written(folder: Path, text: str | bytes) -> Path:
    path = folder / "recipe.yaml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def flat(values: dict[str, Any], path: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    """Each value that is no mapping by its path."""
    found: dict[tuple[str, ...], Any] = {}
    for key, value in values.items():
        found |= flat(value, (*path, key)) if isinstance(value, dict) else {(*path, key): value}
    return found


@pytest.mark.parametrize("name", ["demo", "demo.yaml", "recipes/demo.yaml"])
def test_the_packages_recipes_are_found_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_recipe(name).name == "demo.yaml"
    assert read_yaml(find_recipe(name))["name"] == "demo"


def test_a_file_of_the_user_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demo.yaml").write_text("name: mine")
    assert find_recipe("demo.yaml") == Path("demo.yaml")


@pytest.mark.parametrize("name", ["nothing.yaml", "folder/demo.yaml", "/demo.yaml", ".", "", "../recipes/demo.yaml"])
def test_what_is_not_there_is_refused_with_what_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"give a YAML file, or one of the package: .*demo\.yaml"):
        find_recipe(name)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty: a recipe has keys"),
        ("# nothing but a comment\n", "empty: a recipe has keys"),
        ("- name\n- seed\n", "not a mapping"),
        ("name", "not a mapping"),
        ("name: a: b", "not YAML"),
        ("name: [a", "not YAML"),
        ("\tname: a", "not YAML"),
        ('name: "a', "not YAML"),
        ("name: a\n  seed: 1", "not YAML"),
        ("name: \x00", "not YAML"),
        ("? [a]\n: b", "not YAML"),
        ("name: *unknown", "not YAML"),
        ("!!python/object/apply:os.system ['true']", "not YAML"),
        ("name: a\nseed: 1\nname: b", "not YAML: the key 'name' comes twice"),
        ("data: {sources: {a: {path: x}, a: {path: y}}}", "not YAML: the key 'a' comes twice"),
        (b"name: \xff\xfe", "not UTF-8 at byte 6"),
        ("名前: みやぎ".encode("shift_jis"), "not UTF-8"),
    ],
)
def test_what_is_not_a_recipe_is_refused_in_one_line(tmp_path: Path, text: str | bytes, message: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(UserError) as refused:
        read_yaml(path)
    assert str(refused.value).startswith(f"{path}: {message}")
    assert "\n" not in str(refused.value)


def test_anchors_and_merge_keys_work(tmp_path: Path) -> None:
    values = read_yaml(written(tmp_path, "a: &a {x: 1, y: 2}\nb: {<<: *a, x: 3}\nc: *a\n"))
    assert values == {"a": {"x": 1, "y": 2}, "b": {"x": 3, "y": 2}, "c": {"x": 1, "y": 2}}


@given(first=NESTED, second=NESTED)
def test_merging_takes_the_later_value_and_keeps_the_rest(first: dict[str, Any], second: dict[str, Any]) -> None:
    before = copy.deepcopy((first, second))
    merged: dict[str, Any] = {}
    merge(merged, first)
    merge(merged, second)
    assert (first, second) == before
    old, new, result = flat(first), flat(second), flat(merged)
    for path, value in new.items():
        assert result[path] == value
    for path, value in old.items():
        replaced = any(path[:n] in new for n in range(1, len(path) + 1)) or any(p[: len(path)] == path for p in new)
        assert replaced or path not in result or result[path] == value
    assert result.keys() <= old.keys() | new.keys()


def test_an_override_of_one_alias_leaves_the_other(tmp_path: Path) -> None:
    values = read_yaml(written(tmp_path, "data: &d {s: {a: &s {w: 1}, b: *s}}\nfinetune: {data: *d}\n"))
    merged: dict[str, Any] = {}
    merge(merged, values)
    merge(merged, parse_overrides(["--data.s.a.w", "2"]))
    assert merged["data"]["s"] == {"a": {"w": 2}, "b": {"w": 1}}
    assert merged["finetune"]["data"]["s"] == {"a": {"w": 1}, "b": {"w": 1}}


@given(
    key=st.lists(KEYS, min_size=1, max_size=3),
    value=st.one_of(st.integers(), st.floats(allow_nan=False), st.booleans(), st.none(), st.lists(st.integers())),
    joined=st.booleans(),
)
def test_overrides_in_both_forms(key: list[str], value: Any, joined: bool) -> None:
    option, text = "--" + ".".join(key), yaml.safe_dump(value, default_flow_style=True).removesuffix("...\n").strip()
    assert flat(parse_overrides([f"{option}={text}"] if joined else [option, text])) == {tuple(key): value}


def test_several_overrides_merge_and_the_last_one_wins() -> None:
    arguments = ["--a.b=1", "--a.c", "x=y", "--a.b", "-2", "--d={e: [1, 2]}", "--f="]
    assert parse_overrides(arguments) == {"a": {"b": -2, "c": "x=y"}, "d": {"e": [1, 2]}, "f": None}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seed"], "--seed: no value"),
        (["seed=1"], "unexpected argument 'seed'"),
        (["-s", "1"], "unexpected argument '-s'"),
        (["--", "1"], "unexpected argument '--'"),
        (["--seed", "1", "more.yaml"], "unexpected argument 'more.yaml'"),
        (["--name", "["], "--name: '\\['"),
        (["--name=a: b: c"], "--name: 'a: b: c'"),
    ],
)
def test_what_is_no_override_is_refused_in_one_line(arguments: list[str], message: str) -> None:
    with pytest.raises(UserError, match=f"^{message}") as refused:
        parse_overrides(arguments)
    assert "\n" not in str(refused.value)


@given(NESTED)
def test_nothing_differs_from_itself(values: dict[str, Any]) -> None:
    assert first_difference(values, copy.deepcopy(values)) is None


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3}}, "a.c: 2 there, 3 here"),
        ({"a": {"b": 1}}, {"a": {"b": 1, "c": "x"}}, "a.c: None there, 'x' here"),
        ({"a": {"b": 1}}, {"a": 5}, "a: {'b': 1} there, 5 here"),
    ],
)
def test_the_first_difference_is_named(old: Any, new: Any, message: str) -> None:
    assert first_difference(old, new) == message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: &a [*a]", "not YAML: it contains itself"),
        ("a: &a {b: *a}", "not YAML: it contains itself"),
        ("a: &a {<<: *a}", "not YAML: it contains itself"),
        (
            "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 9)),
            "not YAML: its aliases stand for ",
        ),
        ("a: " + "[" * 100_000, "not YAML: its parts are nested too deeply"),
        ("a: 1\n---\nb: 2\n", "not YAML: expected a single document"),
        ("a: " + "9" * 5000, "not YAML: Exceeds the limit"),
        ("a: b\n" * 300_000, "more than 1,048,576 bytes"),
        ("a: !!python/name:os.system", "not YAML"),
    ],
)
def test_what_would_never_end_is_refused_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(UserError) as refused:
        read_yaml(path)
    assert str(refused.value).startswith(f"{path}: {message}")
    assert "\n" not in str(refused.value)


def test_a_byte_order_mark_is_no_part_of_the_first_key(tmp_path: Path) -> None:
    assert read_yaml(written(tmp_path, "\ufeffname: a")) == {"name": "a"}


def test_keys_are_text_as_they_are_written(tmp_path: Path) -> None:
    text = "no: 1\n1: 2\n2024-12-01: 3\nnull: 4\n1.50: 5\n"
    assert read_yaml(written(tmp_path, text)) == {"no": 1, "1": 2, "2024-12-01": 3, "null": 4, "1.50": 5}
