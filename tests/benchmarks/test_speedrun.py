"""The queue of training arms, with a recipe of seconds in the place of the demo's; and the pages of results."""

import json
import math
import os
import queue
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("fcntl")  # the queue locks files as Unix does

from benchmarks.speedrun import arms, many, table, training
from benchmarks.speedrun.__main__ import main, run_queue
from benchmarks.speedrun.arm_files import read_arms
from benchmarks.speedrun.arms import Arm
from benchmarks.speedrun.calibration import measure_speeds
from benchmarks.speedrun.prepared import prepare, working_in
from benchmarks.speedrun.results import RESULTS, append_result, is_done, read_results
from benchmarks.speedrun.training import train_arm
from sioconv.errors import UserError

resource = pytest.importorskip("resource")
ROOT = Path(__file__).parents[2]
TINY = str(ROOT / "tests" / "recipe" / "tiny.yaml")
SETTINGS = {"train.checkpoint_every": 1, "train.sample_prompts": [], "model.trapezoid": True}
ARM = Arm("bundled", "a/b", 1024, 0, SETTINGS)
ROW: dict[str, Any] = {
    "date": "2026-11-29",
    "track": "bundled",
    "name": "sioconv",
    "note": "",
    "settings": {"model.num_heads": 4, "model.embedding_max_norm": None, "train.precision": "fp32", "train.lr": 0.001},
    "seed": 0,
    "tokens": 1024,
    "bits_per_byte": {"ja": 1.0, "en": 2.0, "mean": 1.5},
    "parameters": 5000,
    "state_bytes": None,
    "tokens_per_second": 1000,
    "precision": "float32",
    "commit": "0123456789abcdef",
    "command": "sioconv pretrain demo.yaml --seed=0",
}

in_a_clone = pytest.mark.skipif(not (ROOT / ".git").exists(), reason="arms are checked out of the repository")


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_a_file_of_arms_is_read(tmp_path: Path) -> None:
    path = write(
        tmp_path / "queue.yaml",
        """
tokens: 100
settings: {train.lr: 0.001, model.num_heads: 2}
arms:
  - {name: first, seeds: [0, 1], settings: {model.num_heads: 4}}
  - {name: second, tokens: 200, commit: abc, note: why}
""",
    )
    both = {"train.lr": 0.001, "model.num_heads": 4}
    assert read_arms(path) == [
        Arm("bundled", "first", 100, 0, both),
        Arm("bundled", "first", 100, 1, both),
        Arm("bundled", "second", 200, 0, {"train.lr": 0.001, "model.num_heads": 2}, "why", "abc"),
    ]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[1", "is not YAML"),
        ("arms", "is not a mapping"),
        ("{}", "arms is unknown or missing"),
        ("{arms: [], seed: 1}", "seed is unknown or missing"),
        ("arms: [{seeds: [1]}]", "arm 0: name is unknown or missing"),
        ("{track: moon, arms: [{name: a}]}", "track: 'moon' is not known"),
        ("arms: 3", "arms: expected a list"),
        ("arms:", "arms: expected a list"),
        ("arms: [{name: a, seeds: 1}]", "arm 0: seeds: 1 is not a list of numbers"),
        ("arms: [{name: a, settings: 3}]", "arm 0: settings: 3 is not a mapping"),
        ("{settings: [], arms: [{name: a}]}", "settings: .* is not a mapping"),
        ("arms: [{name: a, minutes: x}]", "arm 0: minutes: 'x' is not a number above 0"),
        ("arms: [{name: a, tokens: 0}]", "arm 0: tokens: 0 is not a whole number above 0"),
        ("arms: [{name: 1}]", "arm 0: name: 1 is not a name"),
        ('arms: [{name: ""}]', "arm 0: name: '' is not a name"),
        ('arms: [{name: "a\\nb"}]', "is not a name on one line"),
        ("arms: []", "arms: expected a list"),
        ("{track: [bundled], arms: [{name: a}]}", r"track: \['bundled'\] is not known"),
        ("arms: [{name: a, seeds: [-1]}]", r"seeds: \[-1\] is not a list of numbers from 0 up"),
        ("arms: [{name: a, seeds: []}]", "is not a list of numbers from 0 up"),
        ("arms: [{name: a, minutes: .inf}]", "minutes: inf is not a number above 0"),
        ("arms: [{name: a, minutes: 5, tokens: 4096}]", "arm 0: tokens and minutes are both given"),
        ("arms: [{name: a, commit: 1234567}]", "commit: 1234567 is not a commit's name"),
        ("arms: [{name: a, note: 5}]", "note: 5 is not text"),
        ("arms: [{name: a, settings: {train.lr: 2026-01-01}}]", "settings: .* is not a mapping"),
        ("arms: [{name: a, settings: {1: 2}}]", "settings: .* is not a mapping"),
        ("arms: [{name: a, settings: &it {model: *it}}]", "settings: .* is not a mapping"),
        # What a row says of an arm would not be what was trained.
        ("arms: [{name: a, settings: {seed: 7}}]", "settings: seed: give seeds of the arm"),
        ("arms: [{name: a, settings: {train: {tokens: 7}}}]", "settings: train.tokens: give tokens of the arm"),
        ("{settings: {train.minutes: 7}, arms: [{name: a}]}", "settings: train.minutes: give minutes of the arm"),
        ("arms: [{name: a, settings: {train.lr: 1, train.lr: 2}}]", "is not YAML: the key 'train.lr' comes twice"),
        ("{tokens: 1, arms: [{name: a}], tokens: 2}", "the key 'tokens' comes twice"),
        ('arms: [{name: "\udcff"}]', "is not YAML"),
    ],
)
def test_a_file_that_is_no_queue_is_refused(tmp_path: Path, text: str, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        path = tmp_path / "queue.yaml"
        path.write_bytes(text.encode("utf-8", "surrogateescape"))
        read_arms(path)
    with pytest.raises(UserError, match="no queue at"):
        read_arms(tmp_path / "none.yaml")


def test_the_queue_of_the_project_can_be_read() -> None:
    found = read_arms(ROOT / "benchmarks" / "speedrun" / "queue.yaml")
    assert found and len({arm.folder for arm in found}) == len(found)


def test_the_single_changes_are_those_of_the_committed_tries() -> None:
    rows = read_results(RESULTS.with_name("tries.jsonl"))
    found = read_arms(ROOT / "benchmarks" / "speedrun" / "singles.yaml")
    assert found and all(any(arm.is_answered_by(row) for row in rows) for arm in found)


def test_minutes_are_tokens_by_the_last_calibration(tmp_path: Path) -> None:
    path = write(tmp_path / "minutes.yaml", "arms: [{name: a, minutes: 2, settings: {model.num_heads: 2}}]")
    speeds = tmp_path / "speeds.jsonl"
    with pytest.raises(UserError, match=r"a: how many tokens 2 minutes are isn't known: run .* calibrate"):
        read_arms(path, speeds)
    row = {"track": "bundled", "settings": {"model.num_heads": 2}, "machine": {"processor": "P"}, "threads": 2}
    for other in ({"tokens_per_second": 1000}, {"tokens_per_second": 500}, {"settings": {}, "tokens_per_second": 1}):
        append_result(speeds, {**row, **other})
    (arm,) = read_arms(path, speeds)
    assert arm == Arm("bundled", "a", 14 * 4096, 0, {"model.num_heads": 2}, minutes=2, minutes_of="P, 2 threads")
    assert read_arms(path, None)[0].minutes is None
    counts = "arms: [{name: a, minutes: 2, %s settings: {train.start: counts, model.num_heads: 2}}]"
    (arm,) = read_arms(write(path, counts % "start_seconds: 20,"), speeds)
    assert (arm.tokens, arm.minutes) == (12 * 4096, 2)  # of 100 s
    text = "arms: [{name: a, minutes: 2, settings: {data.sources.a.weight: 0.1, model.num_heads: 2}}]"
    assert read_arms(write(path, text), speeds)[0].tokens == 14 * 4096  # another text is no slower
    with pytest.raises(UserError, match="shorter than one step"):
        read_arms(write(path, counts % "start_seconds: 119,"), speeds)
    for other in (counts % "", "arms: [{name: a, minutes: 2, start_seconds: 9, settings: {model.num_heads: 2}}]"):
        with pytest.raises(UserError, match=r"a: with minutes, train.start and start_seconds belong together"):
            read_arms(write(path, other), speeds)
    longer = {**ROW, "tokens": 8192, "bits_per_byte": dict.fromkeys(("ja", "en", "mean"), 1.25)}
    longer |= {"minutes": 2, "minutes_of": "P"}
    slower = {**longer, "name": "slower", "tokens": 4096, "bits_per_byte": dict.fromkeys(("ja", "en", "mean"), 1.5)}
    text = table.page([ROW, slower, longer], table.ENGLISH)
    by_time = text.partition("## Track *bundled*, 2 minutes on P\n")[2]
    assert by_time.index("| 8,192 |") < by_time.index("| 4,096 |") and "1,024 tokens" not in by_time
    # Another calibration: the same arm with other tokens has a line of its own, not a mean with the first.
    again = {**longer, "tokens": 12288, "bits_per_byte": dict.fromkeys(("ja", "en", "mean"), 1.0)}
    text = table.page([longer, again], table.ENGLISH)
    assert "**1.2500**" in text and "**1.0000**" in text


def test_speeds_are_measured_in_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(arms.TRACKS, "bundled", TINY)
    threads = torch.get_num_threads()
    other = Arm("bundled", "lstm", 1024, 0, {**SETTINGS, "architecture": "lstm"})
    try:
        first, second = measure_speeds([ARM, replace(ARM, seed=1), other], tmp_path, rounds=2, threads=1)
    finally:
        torch.set_num_threads(threads)
    assert (first["name"], first["settings"]) == (ARM.name, SETTINGS) and second["name"] == "lstm"
    for row in (first, second):
        assert 0 < row["slowest"] <= row["median"] <= row["tokens_per_second"]
        assert row["rounds"] == 2 and row["threads"] == 1 and row["machine"]["processor"]


def test_settings_stand_on_the_command_line_as_yaml_reads_them() -> None:
    arm = Arm("bundled", "x", 10, 3, {"a.b": None, "c": True, "d": [], "e": "fp32", "f": 0.02})
    fixed = ["--seed=3", "--train.minutes=null", "--train.tokens=10"]
    assert arm.words == [*fixed, "--a.b=null", "--c=true", "--d=[]", "--e=fp32", "--f=0.02"]


def test_a_mapping_stands_there_as_dotted_keys_and_a_command_is_what_a_shell_takes() -> None:
    arm = Arm("bundled", "x", 10, 0, {"data.sources.more": {"path": "bundled:a b", "heldout": 0}})
    assert arm.words[3:] == ["--data.sources.more.path=bundled:a b", "--data.sources.more.heldout=0"]
    assert shlex.split(arm.command)[2:] == [arms.TRACKS["bundled"], *arm.words]


def test_what_is_done_is_the_same_arm(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    row = {"track": "bundled", "name": "a/b", "tokens": 1024, "seed": 0, "settings": SETTINGS, "commit": "abc123"}
    append_result(path, row)
    assert read_results(path) == [row]
    assert is_done(ARM, path)
    assert is_done(Arm("bundled", "a/b", 1024, 0, SETTINGS, commit="abc"), path)
    for other in (
        Arm("bundled", "a/b", 1024, 1, SETTINGS),
        Arm("bundled", "a/b", 2048, 0, SETTINGS),
        Arm("bundled", "a/b", 1024, 0, {}),
        Arm("bundled", "c", 1024, 0, SETTINGS),
        Arm("bundled", "a/b", 1024, 0, SETTINGS, commit="def"),
    ):
        assert not is_done(other, path) and other.folder != ARM.folder


@in_a_clone
def test_an_arm_is_trained_measured_and_then_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(arms.TRACKS, "bundled", TINY)
    results, work = tmp_path / "results.jsonl", tmp_path / "work"
    broken = Arm("bundled", "broken", 1024, 0, {"model.num_heads": 5})
    assert run_queue([broken, ARM], results, work) == 1
    (row,) = read_results(results)
    bits = row["bits_per_byte"]
    assert 2 < bits["ja"] < 9 and 2 < bits["en"] < 9 and bits["mean"] == pytest.approx((bits["ja"] + bits["en"]) / 2)
    assert set(row["sources"]) == {"sentences_ja", "gazetteer_ja", "sentences_en"}
    assert row["seconds"] > 0 and row["precision"] == "float32" and row["threads"] >= 1 and len(row["commit"]) == 40
    assert "0" in row["recall"] and all(abs(gain) < 5 for gain in row["recall"].values())
    assert row["command"].startswith("sioconv pretrain") and "--model.trapezoid=true" in row["command"]
    assert (work / "checkouts" / row["commit"] / "src" / "sioconv").is_dir()
    before = results.read_bytes()
    assert run_queue([ARM], results, work) == 0 and results.read_bytes() == before
    assert run_queue([ARM], tmp_path / "other.jsonl", work) == 0 and read_results(tmp_path / "other.jsonl") == [row]
    assert_equal_without_commands(row, broken, tmp_path)
    table.write_pages([row], tmp_path)
    assert f"{bits['mean']:.4f}" in (tmp_path / "leaderboard.md").read_text(encoding="utf-8")


def assert_equal_without_commands(row: dict[str, Any], broken: Arm, folder: Path) -> None:
    """A process that trains arms one after the other comes to the same figures as the commands."""
    prepare([ARM], folder / "texts")
    waiting: queue.Queue[Arm] = queue.Queue()
    for arm in (broken, ARM):
        waiting.put(arm)
    threads = torch.get_num_threads()
    try:
        many.work_off(waiting, folder / "many.jsonl", folder / "texts", "cpu", math.inf, row["commit"])
    finally:
        torch.set_num_threads(threads)
    (found,) = read_results(folder / "many.jsonl")
    assert found.keys() == row.keys()
    for key in ("track", "name", "seed", "tokens", "settings", "parameters", "state_bytes", "precision", "command"):
        assert found[key] == row[key]
    assert found["bits_per_byte"] == pytest.approx(row["bits_per_byte"], rel=1e-4)
    assert found["sources"] == pytest.approx(row["sources"], rel=1e-4)


def test_what_the_time_is_over_for_leaves_no_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(arms.TRACKS, "bundled", TINY)
    prepare([ARM], tmp_path)
    with working_in(tmp_path), pytest.raises(many.OverError):
        many.train(ARM, torch.device("cpu"), "x", end=0)


@pytest.mark.parametrize(
    ("words", "reason"), [(["--workers", "0"], "above 0"), (["--minutes", "nan"], "above 0"), (["--device", "x"], "x")]
)
def test_many_refuses_what_cannot_be(
    words: list[str], reason: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(ROOT / "benchmarks" / "speedrun" / "queue.yaml")
    monkeypatch.setattr(sys, "argv", ["speedrun", "many", path, *words])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2 and reason in capsys.readouterr().err


@in_a_clone
@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_queue_that_is_killed_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: signal.Signals) -> None:
    """With the figures of one that wasn't; a training that outlives its queue is waited for."""
    monkeypatch.setitem(arms.TRACKS, "bundled", TINY)
    arm = Arm("bundled", "killed", 8192, 0, SETTINGS)
    program = f"""
import sys
from pathlib import Path
from benchmarks.speedrun import arms, __main__
arms.TRACKS["bundled"] = {TINY!r}
__main__.read_arms = lambda path: [arms.Arm("bundled", "killed", 8192, 0, {SETTINGS!r})]
sys.argv = ["speedrun", "queue", "x", "--results", {str(tmp_path / "results.jsonl")!r}, "--work", {str(tmp_path)!r}]
__main__.main()
"""
    paths = os.pathsep.join([str(ROOT), *sys.path])
    process = subprocess.Popen([sys.executable, "-c", program], env={**os.environ, "PYTHONPATH": paths})
    metrics = tmp_path / arm.folder / "runs" / "arm" / "checkpoints" / "pretrain"
    while process.poll() is None and not list(metrics.glob("step-*")):
        time.sleep(0.05)
    process.send_signal(how)
    process.wait()
    assert run_queue([arm], tmp_path / "results.jsonl", tmp_path) == 0
    assert run_queue([arm], tmp_path / "whole.jsonl", tmp_path / "whole") == 0
    (killed,), (whole,) = read_results(tmp_path / "results.jsonl"), read_results(tmp_path / "whole.jsonl")
    assert killed["bits_per_byte"] == whole["bits_per_byte"]


def test_the_committed_pages_are_those_of_the_committed_results(tmp_path: Path) -> None:
    table.write_pages(read_results(RESULTS), tmp_path)
    for words in (table.ENGLISH, table.JAPANESE):
        made, there = (folder / words.file for folder in (tmp_path, ROOT / "docs"))
        assert there.read_text(encoding="utf-8") == made.read_text(encoding="utf-8"), (
            "run `python -m benchmarks.speedrun table`"
        )


def test_a_page_ranks_the_means_of_seeds() -> None:
    other = {**ROW, "seed": 1, "bits_per_byte": {"ja": 1.2, "en": 2.2, "mean": 1.7}}
    best = {
        **ROW,
        "name": "best",
        "state_bytes": 4096,
        "recall": {"0": 0.25, "64": 0.1},
        "bits_per_byte": {"ja": 1.0, "en": 1.8, "mean": 1.4},
    }
    later = {**ROW, "tokens": 2048, "name": "longer"}
    text = table.page([ROW, best, later, other], table.ENGLISH)
    first, second, third = (line for line in text.splitlines() if line.startswith(("| best", "| sioconv", "| longer")))
    assert first.startswith("| best") and "| 4,096 | 1 |" in first and "**1.4000** |  |  | 0.25 |" in first
    assert "num_heads 4, embedding_max_norm null, train.lr 0.001 | 1,024 |" in second and "precision" not in second
    assert "| 2 | 1.1000 | 2.1000 | **1.6000** |  |  |  |" in second and "012345678" in second
    assert third.startswith("| longer") and text.index("2,048 tokens") > text.index("1,024 tokens")
    assert text.count("    sioconv pretrain benchmarks/speedrun/bundled.yaml --seed=0") == 3
    assert all(len(line) <= 120 for line in text.splitlines() if not line.startswith("|"))
    assert table.ENGLISH.nothing in table.page([], table.ENGLISH)
    assert len(table.ENGLISH.columns) == len(table.JAPANESE.columns) == second.count(" | ") + 1


def test_a_page_says_how_sure_the_means_of_seeds_are() -> None:
    """By hand: 1.51 to 1.55 have the mean 1.53, its standard error is 0.0158 / √5, t(0.975, 4) = 2.776; against 1.61 to
    1.65 Welch's t is −10 with 8 degrees of freedom. Two machines' rows of one seed are one seed.
    """

    def rows(name: str, start: float, count: int) -> list[dict[str, Any]]:
        bits = [round(start + seed / 100, 2) for seed in range(count)]
        return [
            {**ROW, "name": name, "seed": seed, "bits_per_byte": dict.fromkeys(("ja", "en", "mean"), value)}
            for seed, value in enumerate(bits)
        ]

    few = [row for row in rows("few", 1.56, 3) for _ in range(2)]
    text = table.page([*rows("worse", 1.61, 5), *few, *rows("best", 1.51, 5)], table.ENGLISH)
    best, middle, worse = (line for line in text.splitlines() if line.startswith(("| best", "| few", "| worse")))
    assert "| 5 | 1.5300 | 1.5300 | **1.5300** | 0.0196 | 8.5e-06 |" in best
    assert "| 3 | 1.5700 | 1.5700 | **1.5700** | 0.0248 |  |" in middle
    assert "| 5 | 1.6300 | 1.6300 | **1.6300** | 0.0196 |  |" in worse


def test_arms_that_differ_in_what_the_page_leaves_out_are_no_seeds_of_each_other() -> None:
    settings = ROW["settings"]
    other = {**ROW, "seed": 1, "settings": {**settings, "train.weight_decay": 0.3}}
    same = {**ROW, "seed": 2, "settings": {**settings, "train.threads": 1}}
    text = table.page([ROW, other, same], table.ENGLISH)
    assert sorted(line.count("| 2 |") for line in text.splitlines() if line.startswith("| sioconv")) == [0, 1]


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["table", "--results", "none.jsonl"], "no results at none.jsonl"),
        (["table", "--results", "broken.jsonl"], "broken.jsonl:2 is not a JSON object"),
        (["table", "--results", "few.jsonl"], "few.jsonl:1 has no track"),
        (["table", "--results", "bytes.jsonl"], "bytes.jsonl:1 is not a JSON object"),
        (["scaling", str(ROOT / "benchmarks/speedrun/scaling.yaml"), "--results", "few.jsonl"], "few.jsonl:1 has no"),
        (["queue", str(ROOT / "benchmarks/speedrun/queue.yaml"), "--results", "few.jsonl"], "few.jsonl:1 has no"),
        (["queue", str(ROOT / "benchmarks/speedrun/queue.yaml"), "--results", "."], ". is a folder"),
        (["calibrate", str(ROOT / "benchmarks/speedrun/minutes.yaml"), "--threads", "0"], "must be above 0"),
        (["arm", "x", "--set", "foo"], "--set foo: expected KEY=VALUE"),
        (["arm", "x", "--set", "=3"], "--set =3: expected KEY=VALUE"),
        (["arm", "x", "--set", "a=1", "a=2"], "--set a=2: expected KEY=VALUE, as model.num_heads=4, each key once"),
        (["arm", "x", "--set", "a=["], "--set a=[: the value is not YAML"),
        (["arm", "x", "--set", "seed=7"], "settings: seed: give seeds"),
        (["arm", "x", "--seed", "-1"], "seeds: [-1] is not a list of numbers from 0 up"),
        (["arm", "x", "--tokens", "0"], "tokens: 0 is not a whole number above 0"),
    ],
)
def test_what_cannot_be_shown_or_trained_is_one_line(
    words: list[str], reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "broken.jsonl", "{}\n[1, 2\n")
    write(tmp_path / "few.jsonl", '{"name": "x"}\n')
    (tmp_path / "bytes.jsonl").write_bytes(b"\xff\n")
    monkeypatch.setattr(sys, "argv", ["speedrun", *words, *(["--out", str(tmp_path)] if words[0] == "table" else [])])
    monkeypatch.setattr(os, "nice", lambda _: 0)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2 and reason in capsys.readouterr().err
    assert not [*tmp_path.glob("leaderboard*")]


def test_the_track_wiki_reads_its_texts_in_the_folder_for_runs(tmp_path: Path) -> None:
    arm = replace(ARM, track="wiki", commit="no-such-commit")
    with pytest.raises(UserError, match=f"no folder {tmp_path}/corpora: the track wiki"):
        train_arm(arm, tmp_path, wait=False)
    (tmp_path / "corpora").mkdir()
    for _ in range(2):  # the second time the arm has the folder already
        with pytest.raises(UserError, match="no commit no-such-commit"):
            train_arm(arm, tmp_path, wait=False)
    assert (tmp_path / arm.folder / "corpora").samefile(tmp_path / "corpora")


def test_sources_that_an_arm_adds_are_named_in_a_word() -> None:
    settings = {"data.sources.more": {"path": "bundled:x", "weight": 0.1}, "data.sources.old.weight": 0.2}
    text = table.page([{**ROW, "settings": {**settings, "model.preset": "sioconv-2026"}}], table.ENGLISH)
    assert "| sioconv | preset sioconv-2026, + more | 1,024 |" in text and "--data.sources.old.weight=0.2" in text


def test_rows_are_whole_json_lines(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    append_result(path, {"name": "日本"})
    append_result(path, {"name": "b"})
    assert [json.loads(line)["name"] for line in path.read_text(encoding="utf-8").splitlines()] == ["日本", "b"]


def test_a_row_is_not_lost_behind_a_line_that_was_cut(tmp_path: Path) -> None:
    path = write(tmp_path / "r.jsonl", '{"name": "by hand"}')
    append_result(path, {"name": "a\u2028b\x85"})
    assert [row["name"] for row in read_results(path)] == ["by hand", "a\u2028b\x85"]
    write(path, '{"name": "cu')
    append_result(path, {"name": "b"})
    with pytest.raises(UserError, match=r"r\.jsonl:1 is not a JSON object: take the line out"):
        read_results(path)
    assert json.loads(path.read_text(encoding="utf-8").splitlines()[1]) == {"name": "b"}


def test_a_full_disk_leaves_no_part_of_a_row(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    append_result(path, {"name": "a"})
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 10, limits[1]))
    try:
        with pytest.raises(UserError, match="too large a file for the disk"):
            append_result(path, {"name": "b" * 100})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert path.read_bytes() == before


def test_a_row_that_was_measured_before_answers_an_arm_of_as_many_tokens(tmp_path: Path) -> None:
    """Whether they were counted by minutes or not; else the queue would add it again whenever it is started."""
    by_time = replace(ARM, minutes=5, minutes_of="P, 2 threads")
    row = {**ROW, "name": ARM.name, "tokens": ARM.tokens, "settings": ARM.settings, "seconds": 1.0}
    for arm, there in ((by_time, row), (ARM, {**row, "minutes": 5, "minutes_of": "P, 2 threads"})):
        (tmp_path / arm.folder).mkdir(exist_ok=True)
        write(tmp_path / arm.folder / "row.json", json.dumps(there))
        results = tmp_path / f"{arm.minutes}.jsonl"
        assert run_queue([arm], results, tmp_path) == 0
        (found,) = read_results(results)
        assert arm.is_answered_by(found) and {**found, "minutes": 5, "minutes_of": "P, 2 threads"} == {
            **row, "minutes": 5, "minutes_of": "P, 2 threads",
        }  # fmt: skip


def test_a_row_says_that_the_code_was_not_the_commits(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = {"rev-parse": b"0123456789abcdef\n", "status": b" M src/sioconv/x.py\n"}
    monkeypatch.setattr(
        training, "_git", lambda verb, *_: subprocess.CompletedProcess([], 0, stdout=answers[verb], stderr=b"")
    )
    assert training.commit_here() == "0123456789abcdef+changes"
    assert "| 012345678+changes |" in table.page([{**ROW, "commit": training.commit_here()}], table.ENGLISH)
    answers["status"] = b""
    assert training.commit_here() == "0123456789abcdef"


def test_a_folders_name_fits_the_disk_and_a_tables_cell_its_column(tmp_path: Path) -> None:
    (tmp_path / replace(ARM, name="長い名前" * 40).folder).mkdir()
    assert "| a&#124;b | num_heads 4" in table.page([{**ROW, "name": "a|b"}], table.ENGLISH)


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_many_that_is_stopped_ends_its_processes(tmp_path: Path, how: signal.Signals) -> None:
    path = write(tmp_path / "arms.yaml", "{tokens: 40960000, arms: [{name: a}, {name: b}]}")
    program = f"""
import sys
from benchmarks.speedrun import arms, __main__
arms.TRACKS["bundled"] = {TINY!r}
sys.argv = ["speedrun", "many", {str(path)!r}, "--device", "cpu", "--workers", "1", "--commit", "x",
            "--results", {str(tmp_path / "results.jsonl")!r}, "--work", {str(tmp_path)!r}]
if __name__ == "__main__":
    __main__.main()
"""
    script = write(tmp_path / "program.py", program)
    paths = os.pathsep.join([str(ROOT), *sys.path])
    process = subprocess.Popen(
        [sys.executable, str(script)], env={**os.environ, "PYTHONPATH": paths}, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    while process.poll() is None and not list(tmp_path.glob("runs/*/heldout.json")):
        time.sleep(0.05)
    time.sleep(2)
    os.killpg(process.pid, how)
    _, said = process.communicate(timeout=60)  # ends when nobody holds stderr any more
    assert process.returncode == (130 if how == signal.SIGINT else 143), said
    assert "Traceback" not in said and ("stopped: the same line does what is left" in said) == (how == signal.SIGINT)
