"""What docs/data.md and its Japanese twin show works as it stands there."""

import json
import re
from pathlib import Path

import pytest

from sioconv.data.config import SourceConfig
from sioconv.data.sources.source import read_rows
from sioconv.recipe.schema import load_recipe

DOCS = Path(__file__).parents[1] / "docs"


def blocks(name: str, kind: str) -> list[str]:
    """The blocks of a kind of code, without the indent of the list that they stand in."""
    text = (DOCS / name).read_text(encoding="utf-8")
    found = re.findall(rf"^( *)```{kind}\n(.*?)^ *```$", text, re.MULTILINE | re.DOTALL)
    return ["\n".join(line.removeprefix(indent) for line in body.splitlines()) + "\n" for indent, body in found]


def commands(name: str) -> list[str]:
    """The lines of all shell blocks without their comments, those that go on joined."""
    lines = "".join(blocks(name, "sh")).replace("\\\n", " ").splitlines()
    return [" ".join(line.partition("#")[0].split()) for line in lines]


def test_both_languages_show_the_same() -> None:
    for kind in ("yaml", "json"):
        assert blocks("data.md", kind) == blocks("data.ja.md", kind)
    assert commands("data.md") == commands("data.ja.md")


@pytest.fixture
def recipes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, text in zip(("mine.yaml", "talks.yaml"), blocks("data.md", "yaml"), strict=True):
        (tmp_path / name).write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("command", commands("data.md"))
def test_the_commands_take_their_recipes(recipes: Path, command: str) -> None:
    program, verb, *arguments = command.split()
    assert program == "sioconv" and recipes.is_dir()
    if verb in ("pretrain", "finetune") or (verb == "data" and arguments[0] != "inspect"):
        count = next((i for i, argument in enumerate(arguments) if argument.startswith("--")), len(arguments))
        recipe = load_recipe(arguments[:count], arguments[count:])
        assert recipe.name in ("mine", "talks", "wiki") and (recipe.data.sources or recipe.finetune.data.sources)


def test_the_forms_of_conversations_are_read(tmp_path: Path) -> None:
    [text] = blocks("data.md", "json")
    (tmp_path / "talks.jsonl").write_text(text, encoding="utf-8")
    rows = [row.messages for row in read_rows(SourceConfig(str(tmp_path / "talks.jsonl"), kind="chat"))]
    assert len(rows) == len(text.splitlines()) == 4
    assert rows[0] == rows[1] == rows[3] == json.loads(text.splitlines()[0])["messages"]
