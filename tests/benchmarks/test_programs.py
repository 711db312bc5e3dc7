"""What the comparison of whole programs does without the other programs: text, windows, minutes, and our own part."""

import json
import math
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor

import benchmarks.programs.__main__ as programs
from benchmarks.programs.process import Task, Training, bits_by_language, run, train_for
from benchmarks.programs.text import (
    EVERY,
    HELDOUT,
    HELDOUT_BYTES,
    TRAIN,
    Document,
    pieces,
    read_documents,
    split_documents,
    write_documents,
)
from benchmarks.programs.windows import document_bits, windows
from sioconv.errors import UserError

TINY = partial(Task, size="1m", vocabulary=300, sequence_length=32, batch_size=2)


def write_lines(path: Path, texts: list[str]) -> Path:
    path.write_text("".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts), encoding="utf-8")
    return path


# ----------------------------------------------------------------------------------------------------------------- text


def test_every_document_is_trained_on_or_held_out(tmp_path: Path) -> None:
    japanese = [f" 川{number}は海へ流れる。\n" for number in range(3 * EVERY)]
    english = [f"River {number} runs to the sea." for number in range(2 * EVERY)]
    japanese[EVERY - 1] = "山" * HELDOUT_BYTES  # no room for it among the held-out ones
    files = {"ja": write_lines(tmp_path / "a.jsonl", japanese), "en": write_lines(tmp_path / "b.jsonl", english)}
    split_documents(files, tmp_path / "one")
    train, heldout = (read_documents(tmp_path / "one" / name) for name in (TRAIN, HELDOUT))
    expected = [Document(text.strip(), "ja") for text in japanese] + [Document(text, "en") for text in english]
    assert {*train, *heldout} == {*expected}
    assert len(train) + len(heldout) == len(expected)
    assert heldout == [expected[number * EVERY - 1] for number in (2, 3, 4, 5)]
    # Languages come mixed: a program that reads from the front must not see one of them first.
    assert {document.language for document in train[:20]} == {"ja", "en"}
    split_documents(files, tmp_path / "two")
    assert all(
        (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes() for name in (TRAIN, HELDOUT)
    )
    with pytest.raises(UserError, match="already"):
        split_documents(files, tmp_path / "two")


@pytest.mark.parametrize(
    ("line", "words"), [('{"txt": "a"}', "line 1"), ('["a"]', "line 1"), ('{"text": " "}', "no text")]
)
def test_lines_that_are_no_documents_are_refused(tmp_path: Path, line: str, words: str) -> None:
    (tmp_path / HELDOUT).write_text(line + "\n", encoding="utf-8")
    with pytest.raises(UserError, match=words):
        read_documents(tmp_path / HELDOUT)
    with pytest.raises(UserError, match="not there"):
        read_documents(tmp_path / TRAIN)


@pytest.mark.parametrize("most", [1, 3, 10, 64, 1000])
def test_pieces_are_the_text_in_parts_that_fit(most: int) -> None:
    text = "川は山から海へ流れる。\n\nThe river runs.\r\nline\n" * 3 + "あ" * 50 + "x" * 50
    parts = pieces(text, most)
    assert "".join(parts) == text
    assert all(0 < len(part.encode()) <= max(most, 3) for part in parts)  # a character stays whole
    if most == 64:
        assert all(part.endswith("\n") for part in parts[:3])


# -------------------------------------------------------------------------------------------------------------- windows


@pytest.mark.parametrize("tokens", [0, 1, 2, 8, 9, 10, 13, 14, 40, 41])
@pytest.mark.parametrize("length", [2, 7, 8])
def test_windows_count_every_token_once(tokens: int, length: int) -> None:
    found = list(windows(tokens, length))
    assert [position for _, counted, end in found for position in range(counted, end)] == list(range(1, tokens))
    for start, counted, end in found:
        assert 0 < end - 1 - start <= length
        assert start == 0 if counted == 1 else counted - start > length // 2


def looks_back(memory: int, vocabulary: int = 11) -> Callable[[Tensor], Tensor]:
    """Logits that depend on the sum of the last `memory` tokens alone, and not on how many came before."""
    table = torch.randn(1000, vocabulary, generator=torch.Generator().manual_seed(0))

    def logits(ids: Tensor) -> Tensor:
        assert ids.shape[1] <= 8
        sums = [ids[:, max(0, t + 1 - memory) : t + 1].sum(1) for t in range(ids.shape[1])]
        return table[torch.stack(sums, 1)]

    return logits


def test_windows_give_what_the_whole_document_gives_where_half_a_window_is_memory_enough() -> None:
    ids = torch.randint(1, 11, (38,), generator=torch.Generator().manual_seed(1)).tolist()
    exact = 0.0
    for position in range(1, len(ids)):
        logits = looks_back(4)(torch.tensor([ids[max(0, position - 8) : position]]))[0, -1]
        exact -= float(logits.double().log_softmax(0)[ids[position]]) / math.log(2)
    assert document_bits(looks_back(4), ids, 8) == pytest.approx(exact, rel=1e-6)
    assert document_bits(looks_back(7), ids, 8) != pytest.approx(exact, rel=1e-3)  # the measure sees the memory


def test_every_window_begins_with_the_token_that_is_asked_for() -> None:
    seen = []

    def logits(ids: Tensor) -> Tensor:
        seen.append(ids[0].tolist())
        return torch.zeros(*ids.shape, 16)

    ids = list(range(14))
    assert document_bits(logits, ids, 8, begin=15) == pytest.approx(4 * 13)
    assert seen == [[15, *range(1, 8)], [15, *range(5, 12)], [15, 9, 10, 11, 12]]
    assert document_bits(logits, [0, 1], 8) == pytest.approx(4)
    assert seen[-1] == [0, 0]  # nanochat's model wants two


def test_bits_are_divided_by_bytes() -> None:
    documents = [Document("あ", "ja"), Document("ab", "en"), Document("c", "en")]
    assert bits_by_language(documents, [6.0, 3.0, 1.5]) == {"en": 1.5, "ja": 2.0, "all": 10.5 / 6}
    assert bits_by_language([Document("ab")], [3.0]) == {"all": 1.5}


# -------------------------------------------------------------------------------------------------------------- minutes


def test_the_number_of_steps_follows_from_the_rate_and_once_more_where_it_has_changed() -> None:
    tried: list[int] = []

    def train(steps: int, precision: str) -> Training:
        assert precision == "fp32"
        tried.append(steps)
        return Training([90.0, *[1.0 if len(tried) == 1 else 2.0] * (steps - 1)], 0.0)

    training, _ = train_for("x", 2.0, ["fp32"], train)
    assert tried[1:] == [120, 60]  # 1 s, then 2 s each; the first step, which compiles, doesn't count
    assert training.seconds == 120.0


@pytest.mark.parametrize(("seconds", "taken"), [(0.8, "fp32"), (0.75, "bf16"), (2.0, "fp32")])
def test_another_precision_is_taken_where_it_is_much_faster(seconds: float, taken: str) -> None:
    def train(steps: int, precision: str) -> Training:
        return Training([1.0 if precision == "fp32" else seconds] * steps, 0.0)

    training, precision = train_for("x", 1.0, ["fp32", "bf16"], train)
    assert precision == taken
    assert training.seconds == pytest.approx(60.0)


def test_a_program_that_fails_says_so_in_one_line_and_leaves_its_log(tmp_path: Path) -> None:
    code = "import os, sys; print('before'); sys.exit('no such ' + os.environ['WHAT'])"
    with pytest.raises(UserError, match=f"x ended with exit code 1, its last line: no such thing: see {tmp_path}"):
        run("x", [sys.executable, "-c", code], tmp_path / "x.log", tmp_path, WHAT="thing")
    assert (tmp_path / "x.log").read_text() == "before\nno such thing\n"
    with pytest.raises(UserError, match="can't run"):
        run("x", [tmp_path / "python"], tmp_path / "y.log", tmp_path)


# --------------------------------------------------------------------------------------------------------- the program


def test_ours_alone_is_trained_and_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(programs, "Task", TINY)
    text = tmp_path / "text"
    write_documents([Document(f"川{n}は海へ流れる。 River {n} runs to the sea." * 4) for n in range(20)], text / TRAIN)
    write_documents([Document("川は海へ流れる。", "ja"), Document("The sea.", "en")], text / HELDOUT)
    words = ["--text", str(text), "--minutes", "0.02", "--work", str(tmp_path / "work"), "--json"]
    assert programs.main([*words, str(tmp_path / "out.json")]) == 0
    report = json.loads((tmp_path / "out.json").read_text())
    (ours,) = report["programs"]
    assert set(report["left_out"]) == {"litgpt", "nanochat"}
    assert report["text"][HELDOUT] == {"ja": {"documents": 1, "bytes": 24}, "en": {"documents": 1, "bytes": 8}}
    assert (ours["name"], ours["tokens"] % report["tokens_per_step"]) == ("sioconv", 0)
    assert 0 < ours["seconds"] < ours["wall_seconds"]
    bits = ours["bits_per_byte"]
    assert bits["all"] == pytest.approx((24 * bits["ja"] + 8 * bits["en"]) / 32)
    folder = tmp_path / "work/sioconv/runs/programs"
    assert (folder / "base/model.safetensors").is_file()
    printed = capsys.readouterr()
    assert f"{bits['all']:.3f}" in printed.out
    assert "litgpt is left out: give --litgpt PYTHON" in printed.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--minutes", "0"], "expected a number of minutes above 0"),
        (["--documents", "ja=nowhere.jsonl"], "expected LANGUAGE=FILE"),
        (["--litgpt", "nowhere"], "nowhere is not there"),
        (["--nanochat", "nowhere", sys.executable], "nowhere has no scripts/base_train.py"),
        (["--work", "."], "is there already"),
        ([], f"{TRAIN} is not there"),
    ],
)
def test_what_cant_work_is_refused_before_anything_is_trained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    try:
        code = programs.main(["--text", str(tmp_path), *words])
    except SystemExit as refused:
        code = refused.code
    assert code == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert list(tmp_path.iterdir()) == []
