"""`sioconv data inspect` counts what is there, draws the same documents again, and refuses what is damaged."""

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sioconv.data.config import DataConfig, SourceConfig, TokenizerConfig
from sioconv.data.shards.inspection import describe_shards, draw_lengths, inspect_data
from sioconv.data.shards.pipeline import prepare_source
from sioconv.data.shards.shard_set import ShardSet
from sioconv.data.tokenizer.tokenizer import train_tokenizer
from sioconv.errors import UserError

MakeShards = Callable[..., ShardSet]
TALK = [{"role": "user", "content": "川は？"}, {"role": "assistant", "content": "山から海へ流れる。\n\x1b[31m"}]


@pytest.fixture(scope="module")
def made(tokenizer_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder with a tokenizer and the shards of a source of text and one of conversations."""
    run = tmp_path_factory.mktemp("runs") / "run"
    shutil.copytree(tokenizer_folder, run / "tokenizer")
    rows: dict[str, list[dict[str, Any]]] = {
        "text": [{"text": f"{number} 川は山から海へ流れる。" * (1 + number % 5)} for number in range(50)],
        "talks": [{"messages": [{**TALK[0], "content": f"川{number}は？"}, TALK[1]]} for number in range(20)],
    }
    for name, kind in (("text", "text"), ("talks", "chat")):
        path = run / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows[name]), encoding="utf-8")
        source = SourceConfig(str(path), kind=kind, licence="CC0")  # type: ignore[arg-type]
        prepare_source(name, source, DataConfig({name: source}, heldout=0.2), run / "tokenizer", run / "data" / name)
    return run


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "run"))


def test_a_run_its_data_a_source_and_a_set_can_be_looked_at(run: Path) -> None:
    names = ["talks/heldout", "talks/train", "text/heldout", "text/train"]
    for path, expected in (
        (run, [f"data/{name}" for name in names]),
        (run / "data", names),
        (run / "data" / "text", ["heldout", "train"]),
        (run / "data" / "text" / "train", ["train"]),
    ):
        report = inspect_data(path)
        assert [one["name"] for one in report["sets"]] == expected
        assert report["tokenizer"] == str(run / "tokenizer")
    hidden = run / "data" / "text" / ".work-1" / "train"
    shutil.copytree(run / "data" / "text" / "train", hidden)
    assert len(inspect_data(run)["sets"]) == 4


def test_it_says_what_is_there(run: Path) -> None:
    report = inspect_data(run / "data", documents=50, verify=True)
    text, talks = report["sets"][3], report["sets"][1]
    assert (text["source"], text["split"], text["kind"], text["licence"]) == ("text", "train", "text", "CC0")
    shards = ShardSet.open(run / "data" / "text" / "train")
    lengths = np.diff(shards.document_ends, prepend=0)
    assert (text["documents"], text["tokens"]) == (len(lengths), lengths.sum())
    assert text["lengths"]["mean"] == lengths.mean() and text["lengths"]["median"] == np.median(lengths)
    assert text["lengths"]["longest"] == lengths.max()
    assert text["disk_bytes"] == sum(
        file.stat().st_size for file in shards.folder.iterdir() if file.name != "manifest.json"
    )
    assert text["learned"] == 1 and 0 < talks["learned"] < 1
    assert [one["number"] for one in text["drawn"]] == list(range(len(lengths)))
    assert all("川は山から海へ流れる。" in one["text"] and one["text"].startswith("<|bos|>") for one in text["drawn"])
    assert report["total"]["documents"] == 70 == sum(one["documents"] for one in report["sets"])
    assert json.loads(json.dumps(report)) == report
    told = describe_shards(report)
    assert "checksums verified" in told and "<|assistant|>山から海へ流れる。⏎␛[31m<|end_of_turn|>" in told
    assert "\x1b" not in told
    assert f"{text['tokens']:,} tokens (uint16)" in told


@given(st.lists(st.lists(st.integers(1, 70), max_size=9), min_size=1, max_size=3))
def test_the_histogram_counts_every_document_once(make_shards: MakeShards, tasks: list[list[int]]) -> None:
    shards = make_shards([[[1] * length for length in task] for task in tasks])
    [one] = inspect_data(shards.folder, documents=1)["sets"]
    lengths = [length for task in tasks for length in task]
    for least, most, count in one["lengths"]["histogram"]:
        assert count == sum(least <= length <= most for length in lengths) and most == 2 * least - 1
    assert sum(count for *_, count in one["lengths"]["histogram"]) == len(lengths)


def test_the_seed_decides_which_documents_are_drawn(run: Path) -> None:
    def drawn(path: Path, seed: int) -> list[int]:
        return [one["number"] for one in inspect_data(path, documents=5, seed=seed)["sets"][-1]["drawn"]]

    assert drawn(run / "data", 1) == drawn(run / "data", 1)
    assert len({tuple(drawn(run / "data", seed)) for seed in range(5)}) > 1


def test_without_a_tokenizer_ids_are_shown(make_shards: MakeShards) -> None:
    report = inspect_data(make_shards([[[7, 8, 9]]]).folder)
    assert report["tokenizer"] is None
    assert report["sets"][0]["drawn"] == [{"number": 0, "tokens": 3, "ids": [7, 8, 9]}]
    assert "[7, 8, 9]" in describe_shards(report) and "--tokenizer FOLDER" in describe_shards(report)


def test_the_picture_is_a_picture(run: Path, make_shards: MakeShards) -> None:
    file = run / "pictures" / "lengths.png"
    draw_lengths(inspect_data(run), file)
    assert file.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n" and file.stat().st_size > 5000
    draw_lengths(inspect_data(make_shards([[]]).folder), file)  # no documents at all
    (run / "file").write_text("")
    with pytest.raises(UserError, match="a file is in the way"):
        draw_lengths(inspect_data(run), run / "file" / "lengths.png")


def shorten(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-2])


def change(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[3] ^= 1
    file.write_bytes(data)


def other_tokenizer(file: Path) -> None:
    run = file.parents[3]
    train_tokenizer(TokenizerConfig(vocab_size=300), ["川は山から海へ流れる。" * 3], run / "tokenizer")


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (shorten, r"damaged token shards: .*text/train: 00000\.ds is missing or not as long"),
        (change, r"damaged token shards: .*text/train: 00000\.ds isn't what was written"),
        (Path.unlink, r"damaged token shards: .*text/train"),
        (other_tokenizer, "shards of another tokenizer: .*talks/heldout"),
    ],
)
def test_what_is_damaged_is_refused(run: Path, damage: Callable[[Path], None], problem: str) -> None:
    damage(run / "data" / "text" / "train" / "00000.ds")
    with pytest.raises(UserError, match=problem) as caught:
        inspect_data(run / "data", verify=True)
    assert "\n" not in str(caught.value)


def test_a_changed_byte_is_found_only_when_asked_for(run: Path) -> None:
    change(run / "data" / "text" / "train" / "00000.ds")
    assert not inspect_data(run / "data")["verified"]


@pytest.mark.parametrize("make", [Path.exists, Path.mkdir, Path.touch])
def test_a_folder_without_shards_is_refused(tmp_path: Path, make: Callable[[Path], object]) -> None:
    make(tmp_path / "nothing")
    with pytest.raises(UserError, match=r"no token shards: .*nothing"):
        inspect_data(tmp_path / "nothing")


def test_another_tokenizer_can_be_named(run: Path, tmp_path: Path) -> None:
    alone = Path(shutil.move(run / "data" / "text" / "train", tmp_path / "alone"))
    shutil.move(run / "tokenizer", tmp_path / "elsewhere")
    assert "ids" in inspect_data(alone)["sets"][0]["drawn"][0]
    named = inspect_data(alone, tokenizer=tmp_path / "elsewhere")
    assert "川" in named["sets"][0]["drawn"][0]["text"]


def test_the_name_of_a_folder_commands_no_terminal(run: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    shutil.copytree(
        next(path for path in (run / "data").iterdir() if path.is_dir()), tmp_path / "data/a\x1b[31m\u202eb"
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # the picture's fonts lack such characters
        report = inspect_data(tmp_path / "data", tokenizer=run / "tokenizer")
        draw_lengths(report, tmp_path / "lengths.png")
    assert "\x1b" not in describe_shards(report) and "a␛[31m" in describe_shards(report)
