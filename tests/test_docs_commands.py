"""Every page's own sequence of commands works, one line after the other, scaled down to seconds."""

import gzip
import io
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import uvicorn

from sioconv.cli import main as cli
from sioconv.model import load_model_folder
from sioconv.serve import server
from sioconv.train import loop
from sioconv.train.metrics import read_jsonl

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "README.ja.md", *sorted((ROOT / "docs").glob("*.md"))]
STAGE = {
    "minutes": "null", "tokens": "256", "sequence_length": "16", "batch_size": "4", "device": "cpu",
    "precision": "fp32", "threads": "1", "validate_bytes": "500", "sample_prompts": "[]", "sample_seconds": "[]",
}  # fmt: skip
SMALL = {
    "tokenizer.vocab_size": "300", "tokenizer.sample_bytes": "100000", "tokenizer.compare": "[]",
    "model.hidden_size": "32", "model.num_hidden_layers": "1", "model.num_heads": "4", "model.intermediate_size": "32",
    "evaluate.yardsticks": "false", "evaluate.questions": "1", "evaluate.max_new_tokens": "1",
    "evaluate.conversations": "4", "evaluate.prompts": "[]", "evaluate.parts": "[]",
    **{f"{part}train.{key}": value for part in ("", "finetune.") for key, value in STAGE.items()},
}  # fmt: skip
DEMO = """\
name: demo
data: {heldout: 0.1, sources: {rivers: {path: rivers.jsonl, licence: CC0-1.0}}}
train: {minutes: 5}
finetune:
  data: {heldout: 0.1, sources: {talks: {path: talks.jsonl, kind: chat, licence: CC0-1.0}}}
  train: {minutes: 1}
"""


def blocks(page: Path, kind: str) -> list[str]:
    """The blocks of a kind of code, without the indent of the list that they stand in."""
    found = re.findall(rf"^( *)```{kind}\n(.*?)^ *```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return ["\n".join(line.removeprefix(indent) for line in body.splitlines()) + "\n" for indent, body in found]


def commands(page: Path) -> list[list[str]]:
    """The `sioconv …` of a page's shell blocks, in order; lines that go on are joined."""
    text = "".join(blocks(page, "sh")).replace("\\\n", " ")
    parts = [part for line in text.splitlines() for part in line.split("&&")]
    split = [shlex.split(part, comments=True) for part in parts if part.strip().startswith("sioconv ")]
    return [words[1:] for words in split]


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with the files that the pages speak of, and a finished demo."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(loop, "matrix_speed", lambda *_: 1e9)  # what is shown on the terminal, and nothing else
    threads = torch.get_num_threads()
    rows = [{"text": f"第{n}の川は、山から海へ流れる。海の水は空へ昇り、雨になって山へ帰る。"} for n in range(40)]
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    turns = [{"role": "user", "content": "川は？"}, {"role": "assistant", "content": "海へ流れます。"}]
    talks = [{"messages": [{**turns[0], "content": f"第{n}の川は？"}, turns[1]]} for n in range(40)]
    (tmp_path / "rivers.jsonl").write_text(text, encoding="utf-8")
    (tmp_path / "talks.jsonl").write_text("".join(json.dumps(row) + "\n" for row in talks), encoding="utf-8")
    for name in ("articles", "wiki_ja", "wiki_en", "aozora_ja"):
        with gzip.open(tmp_path / f"{name}.jsonl.gz", "wt", encoding="utf-8") as stream:
            stream.write("".join(json.dumps({"text": f"{name} {row['text'] * 20}"}) + "\n" for row in rows))
    (tmp_path / "letters").mkdir()
    for n, row in enumerate(rows):
        (tmp_path / "letters" / f"{n}.txt").write_text(row["text"], encoding="utf-8")
    (tmp_path / "README.md").write_text(text, encoding="utf-8")
    (tmp_path / "demo.yaml").write_text(DEMO, encoding="utf-8")
    (tmp_path / "RECIPE").write_text(DEMO.replace("name: demo", "name: recipe"), encoding="utf-8")
    yield tmp_path
    torch.set_num_threads(threads)


async def _start_and_end(self: server.Server, sockets: object = None) -> None:
    """Begins to serve, and ends at once."""
    await uvicorn.Server.startup(self, sockets)
    assert self.started
    self.should_exit = True


def run(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs `sioconv WORDS`; what has a recipe is scaled down, what talks gets a line to answer."""
    verb = words[0]
    if verb in ("tokenizer", "pretrain", "finetune") or (verb == "data" and words[1] != "inspect"):
        words = [*words, *(f"--{key}={value}" for key, value in SMALL.items())]
    if verb == "tune":
        words = [*words, "--questions=2", *(f"--set=finetune.train.{key}={value}" for key, value in STAGE.items())]
    if verb == "evaluate":
        words = [*words, "--pairs=1", "--samples=2", "--max-new-tokens=2", "--bytes=2000"]
    if verb in ("generate", "chat"):
        words = [*words, "--max-new-tokens=2"]
    if words[:2] == ["export", "page"]:
        Path("runtime").write_bytes(b"\0asm")
        monkeypatch.setattr("sioconv.publish.page.folder.find_runtime", lambda _: Path("runtime"))
    if verb == "serve" and words[1] != "key":
        words = [*words, "--port=0"]
        monkeypatch.setattr(server.Server, "startup", _start_and_end)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO("こんにちは\n".encode()), encoding="utf-8"))
    with pytest.raises(SystemExit) as ended:
        cli.main(words)
    assert ended.value.code == 0, words


def test_a_japanese_page_shows_no_other_commands() -> None:
    for page in PAGES:
        if page.name.endswith(".ja.md"):
            english = commands(page.with_name(page.name.replace(".ja.md", ".md")))
            assert [words for words in commands(page) if words not in english] == []


ENGLISH = [page for page in PAGES if commands(page) and not page.name.endswith(".ja.md")]


@pytest.mark.parametrize("page", ENGLISH, ids=lambda page: page.name)
def test_a_pages_commands_work_one_after_the_other(
    page: Path, workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if "runs/demo" in page.read_text(encoding="utf-8"):
        run(["finetune", "demo.yaml"], monkeypatch)
    recipes = blocks(page, "yaml")
    for name, text in zip(re.findall(r"`(\w+\.yaml)`", page.read_text(encoding="utf-8")), recipes, strict=False):
        if name != "demo.yaml":
            (workplace / name).write_text(text, encoding="utf-8")
    for words in commands(page):
        run(words, monkeypatch)
    assert "Traceback" not in capsys.readouterr().err
    if any(words[:2] == ["finetune", "mine.yaml"] for words in commands(page)):
        base, model = (load_model_folder(f"runs/mine/{name}")[0].state_dict() for name in ("base", "model"))
        assert not torch.equal(base["lm_head.weight"], model["lm_head.weight"])
        assert {row["stage"] for row in read_jsonl(Path("runs/mine/metrics.jsonl"))} == {"pretrain", "finetune"}


@pytest.mark.usefixtures("workplace")
@pytest.mark.parametrize("page", ["generation.md", "model.md", "scan.md"])
def test_a_pages_python_works_block_after_block(page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run(["finetune", "demo.yaml"], monkeypatch)
    for name in (page, page.replace(".md", ".ja.md")):
        names: dict[str, object] = {"__name__": "page"}
        for block in blocks(ROOT / "docs" / name, "python"):
            exec(compile(block, name, "exec"), names)
