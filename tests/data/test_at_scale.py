"""Whole sources through cleaning and shards: killed anywhere, by any number of workers, on Slurm and on Ray."""

import gzip
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sioconv.data.cleaning.config import Cleaning, Decontaminate, Length, NearDuplicates, Normalise, Quality, Repetition
from sioconv.data.config import ClusterConfig, DataConfig, SourceConfig
from sioconv.data.shards import cluster
from sioconv.data.shards.pipeline import prepare_source
from sioconv.data.shards.shard_set import ShardSet
from sioconv.data.sources.source import read_rows
from sioconv.errors import UserError

TASKS = 4
Contents = dict[str, bytes]


def contents(out: Path) -> Contents:
    """Every file below `out` by its name, hidden ones too."""
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def messy(tmp_path_factory: pytest.TempPathFactory) -> SourceConfig:
    """Real text in three kinds of files, with broken rows, junk, duplicates, near-duplicates and repeated ids."""
    folder = tmp_path_factory.mktemp("messy")
    texts = [row.text or "" for row in read_rows(SourceConfig("bundled:sentences_ja"))]
    rows = [{"text": text, "id": str(number)} for number, text in enumerate(texts[:900])]
    rows += [rows[number] for number in range(0, 90, 3)]
    rows += [{"text": row["text"] + "おわり。", "id": f"near {row['id']}"} for row in rows[100:130]]
    rows += [{"text": "<p>" * 90, "id": f"junk {number}"} for number in range(20)]
    random.Random(0).shuffle(rows)
    lines = [json.dumps(row, ensure_ascii=False).encode() for row in rows[:500]]
    lines[7:7] = [b'{"text": "\xff"}', b"nothing", b'{"txt": 1}']
    (folder / "a.jsonl").write_bytes(b"\n".join(lines))
    rest = b"\n".join(json.dumps(row).encode() for row in rows[500:700])
    (folder / "b.jsonl.gz").write_bytes(gzip.compress(rest))
    table = {name: [row[name] for row in rows[700:]] for name in ("text", "id")}
    pq.write_table(pa.table(table), folder / "c.parquet", row_group_size=50)
    evaluation = folder.parent / "evaluation.jsonl"
    evaluation.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts[890:900]))
    cleaning = Cleaning(
        Normalise(), Length(50), Repetition(), Quality(), Decontaminate(str(evaluation)), True, NearDuplicates()
    )
    return SourceConfig(str(folder), id_column="id", cleaning=cleaning)


@pytest.fixture(scope="module")
def straight(messy: SourceConfig, tokenizer_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Contents:
    """What one worker makes of it without interruption."""
    out = tmp_path_factory.mktemp("straight") / "out"
    prepare_source("messy", messy, DataConfig(tasks=TASKS), tokenizer_folder, out)
    return contents(out)


def test_everything_left_out_is_accounted_for(straight: Contents) -> None:
    found = json.loads(straight["statistics.json"])
    steps = {step["name"]: step for step in found["steps"]}
    left_out = {name: sum(part["count"] for part in step["left_out"].values()) for name, step in steps.items()}
    assert (found["rows"], found["bad_rows"]) == (983, 3)
    assert left_out["read"] == 3
    assert left_out["repetition"] + left_out["quality"] == 20
    assert 10 <= left_out["decontaminate"] <= 12  # copies of the evaluation text among them
    assert 29 <= left_out["duplicates"] <= 30
    assert 29 <= left_out["near_duplicates"] <= 30
    assert sum(found["documents"].values()) == 983 - sum(left_out.values())
    assert found["repeated_ids"]["count"] == 30
    bad = [Path(where).name for part in steps["read"]["left_out"].values() for where, _ in part["examples"]]
    assert sorted(bad, key=lambda where: int(where[8:])) == ["a.jsonl:8", "a.jsonl:9", "a.jsonl:10"]
    report = straight["report.md"].decode()
    assert "| Near-duplicates |" in report and "a.jsonl:8`: invalid UTF-8 at byte 10 of the line" in report
    assert len(re.findall(r"^- `.*/[abc]\..*`: repeats .*/[abc]\..*:\d+: .", report, re.MULTILINE)) == 10


def test_two_workers_make_the_same(
    messy: SourceConfig, tokenizer_folder: Path, straight: Contents, tmp_path: Path
) -> None:
    prepare_source("messy", messy, DataConfig(tasks=TASKS, workers=2), tokenizer_folder, tmp_path / "out")
    assert contents(tmp_path / "out") == straight


KILLED = """
import pickle
import sys
import time
from pathlib import Path
from sioconv.data.shards import pipeline
from sioconv.data.shards import reading
from sioconv.data.config import DataConfig

messy, tokenizer, out, workers = pickle.loads(bytes.fromhex(sys.argv[1]))
read_all_rows = reading.read_rows

def read_rows(source, **options):
    for row in read_all_rows(source, **options):
        time.sleep(0.001)
        yield row

reading.read_rows = read_rows
if __name__ == "__main__":
    pipeline.prepare_source("messy", messy, DataConfig(tasks=4, workers=workers), tokenizer, out)
"""


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_killed_at_every_stage_it_makes_the_same(
    messy: SourceConfig, tokenizer_folder: Path, straight: Contents, tmp_path: Path, workers: int
) -> None:
    import pickle

    out = tmp_path / "out"
    (tmp_path / "run.py").write_text(KILLED)
    arguments = pickle.dumps((messy, tokenizer_folder, out, workers)).hex()
    for place in ("signatures/.00001.minima*", "duplicates/00000.npy", "train/.00000.ds*", "completions/00001"):
        command = [sys.executable, str(tmp_path / "run.py"), arguments]
        with subprocess.Popen(command, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}) as run:
            end = time.monotonic() + 60
            while not any(out.glob(f".work-*/{place}")):
                assert run.poll() is None and time.monotonic() < end, f"it ended before {place}"
                time.sleep(0.001)
            run.send_signal(signal.SIGKILL)
        assert not (out / "train").exists()
    time.sleep(0.5)  # workers end a moment after the process that started them
    prepare_source("messy", messy, DataConfig(tasks=TASKS, workers=workers), tokenizer_folder, out)
    assert contents(out) == straight


# --------------------------------------------------------------------------------------------------------- bad rows


def test_too_many_bad_rows_are_an_error_and_may_be_allowed(tmp_path: Path, tokenizer_folder: Path) -> None:
    lines = [json.dumps({"text": f"text {number}"}) if number % 4 else "broken" for number in range(40)]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    source, data, out = SourceConfig(str(tmp_path / "a.jsonl")), DataConfig(heldout=0), tmp_path / "out"
    with pytest.raises(UserError, match=r"bad rows in x: 10 of 40 .*a\.jsonl:1: not JSON.*max_bad_rows"):
        prepare_source("x", source, data, tokenizer_folder, out)
    assert not (out / "train").exists()
    prepare_source("x", source, replace(data, max_bad_rows=0.25), tokenizer_folder, out)
    assert ShardSet.open(out / "train").documents_total == 30
    with pytest.raises(UserError, match="bad rows in x: 10 of 40"):  # also where the shards are there
        prepare_source("x", source, data, tokenizer_folder, out)
    with pytest.raises(UserError, match=r"strict"):
        prepare_source("x", source, replace(data, max_bad_rows=1, strict=True), tokenizer_folder, out)


def test_cleaning_that_leaves_nothing_says_so(tmp_path: Path, tokenizer_folder: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "short"}\n' * 9)
    source = SourceConfig(str(tmp_path / "a.jsonl"), cleaning=Cleaning(length=Length(1000)))
    with pytest.raises(UserError, match=r"no text to train on.*length.*too short"):
        prepare_source("x", source, DataConfig(), tokenizer_folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_document_of_a_hundred_megabytes(tmp_path: Path, tokenizer_folder: Path) -> None:
    text = "吾輩は猫である。名前はまだ無い。どこで生れたか頓と見当がつかぬ。\n"
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": text * 1_000_000}, ensure_ascii=False))
    code = f"""
import resource
from pathlib import Path
from sioconv.data.config import DataConfig, SourceConfig
from sioconv.data.shards.pipeline import prepare_source

before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
prepare_source("x", SourceConfig("a.jsonl"), DataConfig(heldout=0), Path({str(tokenizer_folder)!r}), Path("out"))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    shards = ShardSet.open(tmp_path / "out" / "train")
    assert (shards.documents_total, shards.bytes_total) == (1, 97_000_000)
    assert int(done.stdout) * 1024 < 8 * shards.bytes_total


# --------------------------------------------------------------------------------------------------------- clusters

SBATCH = """#!{python}
# Runs the array tasks of a job script in the background, two at a time, and prints a job number as Slurm does.
import os, re, subprocess, sys
from pathlib import Path
script = Path(sys.argv[-1]).read_text()
state = Path({state!r})
(state / "script").write_text(script)
(state / "arguments").write_text(" ".join(sys.argv[1:-1]))
(state / "job").write_text(script)
last, limit = re.search(r"--array=0-(\\d+)%(\\d+)", script).groups()
task = "env SLURM_ARRAY_TASK_ID=@ SLURM_NODELIST=here bash " + str(state / "job")
run = "seq 0 " + last + " | xargs -P " + limit + " -I @ " + task
log = open(state / "log", "a")
job = subprocess.Popen(["bash", "-c", run], start_new_session=True, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
print("Submitted batch job", job.pid)
"""
SRUN = '#!/bin/bash\nwhile [ "${1#-}" != "$1" ]; do [ "$1" = -n ] && shift; shift; done\nexec "$@"\n'
SQUEUE = '#!/bin/bash\nfor job in $(echo "${2#--jobs=}" | tr , " "); do pgrep -g "$job" && true; done | head -1\n'
SCONTROL = '#!/bin/bash\necho "${@: -1}"\n'
SCANCEL = '#!/bin/bash\nfor job in "$@"; do kill -KILL -- "-$job"; done\n'


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Commands named like Slurm's that run jobs on this machine; returns where they keep what they were given."""
    state, commands = tmp_path / "slurm", tmp_path / "commands"
    state.mkdir()
    commands.mkdir()
    scripts = {"srun": SRUN, "squeue": SQUEUE, "scontrol": SCONTROL, "scancel": SCANCEL}
    scripts["sbatch"] = SBATCH.format(python=sys.executable, state=str(state))
    for name, script in scripts.items():
        (commands / name).write_text(script)
        (commands / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{commands}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    monkeypatch.setattr(cluster, "POLL", 0.2)
    return state


SLURM = DataConfig(
    tasks=TASKS,
    workers=2,
    executor="slurm",
    cluster=ClusterConfig(partition="cpu", time="1:00:00", memory_gb=3, options={"account": "lab"}),
)


@pytest.mark.slow
@pytest.mark.usefixtures("slurm")
def test_slurm_makes_the_same(messy: SourceConfig, tokenizer_folder: Path, straight: Contents, tmp_path: Path) -> None:
    prepare_source("messy", messy, SLURM, tokenizer_folder, tmp_path / "out")
    assert contents(tmp_path / "out") == straight


def test_a_slurm_job_is_what_the_recipe_says(tmp_path: Path, tokenizer_folder: Path, slurm: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "one"}\n{"text": "two"}\n')
    source = SourceConfig(str(tmp_path / "a.jsonl"))
    prepare_source("x", source, replace(SLURM, tasks=2, heldout=0), tokenizer_folder, tmp_path / "out")
    assert ShardSet.open(tmp_path / "out" / "train").documents_total == 2
    script = (slurm / "script").read_text()
    options = dict(
        line.removeprefix("#SBATCH --").split("=") for line in script.splitlines() if "=" in line and "#S" in line
    )
    expected = {"partition": "cpu", "time": "1:00:00", "mem-per-cpu": "3G", "account": "lab", "array": "0-1%2"}
    assert expected.items() <= options.items()
    assert f'export PATH={Path(sys.executable).parent}:"$PATH"' in script
    assert not list(tmp_path.glob("out/.work-*"))


@pytest.mark.slow
def test_what_a_slurm_task_refuses_is_said(tmp_path: Path, tokenizer_folder: Path, slurm: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "one"}\nbroken\n')
    source = SourceConfig(str(tmp_path / "a.jsonl"))
    data = replace(SLURM, tasks=2, heldout=0, strict=True)
    with pytest.raises(UserError, match=r"1 of 2 tasks ended without a result: bad row: .*a\.jsonl:2: not JSON"):
        prepare_source("x", source, data, tokenizer_folder, tmp_path / "out")
    prepare_source("x", source, replace(data, strict=False, max_bad_rows=1), tokenizer_folder, tmp_path / "out")
    assert "--array=0-0%2" in (slurm / "script").read_text()  # only the task that hadn't ended


def test_no_slurm_here(
    tmp_path: Path, tokenizer_folder: Path, messy: SourceConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="no Slurm here: sbatch"):
        prepare_source("messy", messy, SLURM, tokenizer_folder, tmp_path / "out")


@pytest.mark.slow
def test_ray_makes_the_same(
    messy: SourceConfig,
    tokenizer_folder: Path,
    straight: Contents,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("ray")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    data = DataConfig(tasks=TASKS, workers=2, executor="ray", cluster=ClusterConfig(memory_gb=1))
    prepare_source("messy", messy, data, tokenizer_folder, tmp_path / "out")
    assert contents(tmp_path / "out") == straight
    (tmp_path / "a.jsonl").write_text('{"text": "one"}\nbroken\n')
    source = SourceConfig(str(tmp_path / "a.jsonl"))
    with pytest.raises(UserError, match=r"1 of 2 tasks ended without a result: bad row: .*a\.jsonl:2: not JSON"):
        prepare_source("x", source, replace(data, tasks=2, strict=True), tokenizer_folder, tmp_path / "bad")


# -------------------------------------------------------------------------------------------------------- full disks

FULL = """
import sys
from pathlib import Path
from sioconv.data.config import DataConfig, SourceConfig
from sioconv.data.shards.pipeline import prepare_source
from sioconv.errors import UserError

source, tokenizer, out = sys.argv[1:]
try:
    prepare_source("x", SourceConfig(source), DataConfig(tasks=2), Path(tokenizer), Path(out))
except UserError as error:
    print(error)
print([path.name for path in Path(out).rglob("*") if path.name == "manifest.json" or path.name.startswith(".0")])
"""


def test_a_disk_that_really_fills(tmp_path: Path, tokenizer_folder: Path) -> None:
    mount = f"mount -t tmpfs -o size=400k tmpfs {tmp_path}/disk"
    (tmp_path / "disk").mkdir()
    (tmp_path / "full.py").write_text(FULL)
    if (
        not shutil.which("unshare")
        or subprocess.run(["unshare", "-rm", "sh", "-c", mount], capture_output=True).returncode
    ):
        pytest.skip("this system doesn't let a user mount a small disk")
    lines = "".join(json.dumps({"text": f"{number} 海と山。" * 20}) + "\n" for number in range(2_000))
    (tmp_path / "a.jsonl").write_text(lines)
    command = f"{mount} && exec {sys.executable} full.py a.jsonl {tokenizer_folder} disk/out"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", command], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    error, left = done.stdout.splitlines()
    assert error.startswith("no disk space left: writing ") and error.endswith("free some space and run again")
    assert left == "[]"  # what finished tasks have written is whole and waits for the next run
