"""Bad inputs, generated from the recipe's own schema and every verb's options: one line, no traceback, no files."""

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import is_dataclass, replace
from pathlib import Path
from typing import Any, get_args, get_origin

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sioconv.cli import main as cli
from sioconv.cli.last_net import exit_code_of
from sioconv.errors import UserError
from sioconv.recipe.files import keys_of
from sioconv.recipe.schema import Recipe, as_values, build, load_recipe, save_recipe

GOOD = {"data": {"sources": {"rivers": {"path": "rivers.jsonl"}}}, "train": {"tokens": 4096}}
TUNED = GOOD | {
    "finetune": {"data": {"sources": {"talk": {"path": "t.jsonl", "kind": "chat"}}}, "train": {"tokens": 64}}
}
EDGES = [
    0, -1, 1, 2**31, 2**63 - 1, 2**63, -(2**63) - 1, 10**18, 10**30, 0.0, -0.0, 1.5, 1e-320, 1e308, float("inf"),
    float("-inf"), float("nan"), True, False, None, "", " ", "\0", "\x1b[2J", "\ud800", "あ" * 100, "..", ".", "a/b",
    "a.", "a\nb", "\u202e", "null", "on", "1e6", "2024-13-45", "meta", "cuda:99", [], [[]], [None],
    {}, {"a": 1}, {"": None},
]  # fmt: skip
LEAVES = st.one_of(
    st.sampled_from(EDGES),
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=20),
    st.binary(max_size=4),
)
VALUES = st.recursive(
    LEAVES,
    lambda inside: st.lists(inside, max_size=3) | st.dictionaries(st.text(max_size=5), inside, max_size=3),
    max_leaves=6,
)


def fields_of(kind: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The path of every key of a recipe; a source stands for all."""
    for key, hint in keys_of(kind).items():
        yield (*path, key)
        for one in get_args(hint) or (hint,):
            if is_dataclass(one):
                name = ("rivers",) if get_origin(hint) is dict else ()
                yield from fields_of(one, (*path, key, *name))


FIELDS = list(fields_of(Recipe))


def with_value(values: dict[str, Any], path: tuple[str, ...], value: Any) -> dict[str, Any]:
    """A copy of nested values with one of them replaced."""
    key, *rest = path
    inside = values.get(key)
    return {
        **values,
        key: with_value(inside if isinstance(inside, dict) else {}, tuple(rest), value) if rest else value,
    }


def check(values: dict[str, Any], folder: Path) -> None:
    """The values as a file: refused in one line, or a recipe that is saved and read as the same one."""
    file = folder / "bad.yaml"
    try:
        text = yaml.safe_dump(values, allow_unicode=True)
        file.write_text(text, encoding="utf-8")
    except (yaml.YAMLError, UnicodeEncodeError):  # what no file can hold comes by an override or from Python
        file.write_text(yaml.safe_dump(values), encoding="utf-8")
    try:
        recipe = load_recipe([str(file)])
    except UserError as refused:
        assert str(refused).strip()
        return
    save_recipe(recipe, folder / "saved.yaml")
    assert as_values(load_recipe([str(folder / "saved.yaml")])) == as_values(recipe)


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def test_the_schema_is_known() -> None:
    assert {("train", "lr"), ("data", "sources", "rivers", "cleaning", "length", "least"), ("finetune", "from")} <= set(
        FIELDS
    )
    assert len(FIELDS) > 150


@given(path=st.sampled_from(FIELDS), value=VALUES, start=st.sampled_from([GOOD, TUNED, {}]))
@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow])
def test_a_bad_value_of_any_field_is_refused_in_one_line(
    folder: Path, path: tuple[str, ...], value: Any, start: dict[str, Any]
) -> None:
    check(with_value(start, path, value), folder)


@pytest.mark.slow
@given(path=st.sampled_from(FIELDS), value=VALUES, start=st.sampled_from([GOOD, TUNED, {}]))
@settings(max_examples=1000, suppress_health_check=[HealthCheck.too_slow])
def test_a_thousand_bad_values_are_refused_in_one_line(
    folder: Path, path: tuple[str, ...], value: Any, start: dict[str, Any]
) -> None:
    check(with_value(start, path, value), folder)


@given(path=st.sampled_from(FIELDS), text=st.text(max_size=30) | st.sampled_from([str(edge) for edge in EDGES]))
@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow])
def test_a_bad_override_is_refused_in_one_line(folder: Path, path: tuple[str, ...], text: str) -> None:
    (folder / "good.yaml").write_text(yaml.safe_dump(GOOD), encoding="utf-8")
    try:
        load_recipe([str(folder / "good.yaml")], [f"--{'.'.join(path)}", text])
    except UserError as refused:
        assert str(refused).strip()


@given(st.text(max_size=200))
@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow])
def test_any_text_as_a_recipe_is_refused_in_one_line(folder: Path, text: str) -> None:
    (folder / "any.yaml").write_bytes(text.encode(errors="surrogatepass"))
    with pytest.raises(UserError):
        load_recipe([str(folder / "any.yaml"), str(folder / "none")])


def test_values_that_no_file_holds_are_refused() -> None:
    for path in (("name",), ("data", "sources", "rivers", "path")):
        with pytest.raises(UserError):
            build(with_value(GOOD, path, "\ud800"))


# ------------------------------------------------------------------------------------------------- verbs and processes


def options_of(verb: str) -> list[str]:
    """The options of a verb that isn't given a recipe."""
    return [
        name for action in cli.VERBS[verb].parser()._actions for name in action.option_strings if name.startswith("--")
    ]


ARGUMENTS = {
    "demo": [], "report": ["run"], "evaluate": ["model"], "generate": ["model", "川"], "chat": ["model"],
    "convert": ["a", "b"], "import": ["a", "b"], "tune": ["a", "--name", "b"], "quantize": ["a", "b"], "inspect": ["a"],
    "serve": ["a"], "publish": ["a", "b"],
}  # fmt: skip


@pytest.mark.parametrize("verb", ARGUMENTS)
def test_every_option_of_every_verb_with_bad_values(
    verb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setitem(cli.VERBS, verb, replace(cli.VERBS[verb], call=lambda _: None))  # the arguments alone
    for option in options_of(verb):
        for value in (
            "",
            "\0",
            "nan",
            "-1",
            "1e400",
            "9" * 5000,
            "[",
            "{a: b}",
            "&a [*a]",
            "\udcff",
            "あ" * 300,
            "null",
        ):
            if option != "--help":
                code = exit_code_of(lambda: cli.run([verb, *ARGUMENTS[verb], f"{option}={value}"]))  # noqa: B023
                assert code in (0, 2), (option, value[:20])
    assert all(re.fullmatch(r"sioconv: .+", line) for line in capsys.readouterr().err.splitlines())
    assert not list(tmp_path.iterdir())


REAL = [
    ["pretrain", "demo.yaml", "--name", "あ" * 100],
    ["pretrain", "demo.yaml", "--name", b"\xff"],
    ["pretrain", "demo.yaml", b"--\xff", "1"],
    ["tokenizer", "a" * 5000],
    ["data", "demo.yaml", "--data.sources.x.path", ""],
    ["data", "inspect", "a" * 5000],
    ["finetune", "demo.yaml", "--train.device", "meta"],
    ["pretrain", "demo.yaml", "--model.hidden_size", "1e18", "--model.num_heads", "1"],
    ["generate", "a" * 5000, "川"],
    ["generate", b"\xff\xfe", "川"],
    ["report", "\n"],
    ["evaluate", "demo", "--text", "a" * 5000],
    ["convert", "a" * 5000, "b"],
    [b"\xff\x1b[2J"],
]


@pytest.mark.parametrize("arguments", [REAL[1], pytest.param(None, marks=pytest.mark.slow)])
def test_real_processes_end_in_one_line(tmp_path: Path, arguments: list[str | bytes] | None) -> None:
    work, temporary = tmp_path / "work", tmp_path / "temporary"  # torch leaves folders of its caches in the second
    work.mkdir()
    temporary.mkdir()
    environment = os.environ | {
        "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path), "HF_HUB_OFFLINE": "1",
        "TMPDIR": str(temporary),
    }  # fmt: skip
    for given_ in REAL if arguments is None else [arguments]:
        command: list[str | bytes] = [sys.executable, "-m", "sioconv", *given_]
        done = subprocess.run(
            command, cwd=work, env=environment, stdin=subprocess.DEVNULL, capture_output=True, timeout=300
        )
        last = done.stderr.decode(errors="backslashreplace").splitlines()[-1]
        assert done.returncode == 2 and last.startswith("sioconv: "), (given_, done.stderr)
        assert b"Traceback" not in done.stderr and b"\x1b" not in done.stderr
        assert not list(work.iterdir()) and not list(temporary.glob("sioconv-error-*")), given_
