"""nanochat's own scripts on our text, with a tokenizer of their own of the same size.

Set, because its defaults are for eight GPUs: depth and width (its dial at its usual aspect makes 11 or 19 M parameters,
the embeddings of values among them), full attention instead of a sliding window and short rows as in its runcpu.sh, the
batch (it would take 262,144 tokens), the warm-up (40 steps). Learning rates, which it scales by batch and width itself,
optimizer (Muon and AdamW) and schedule are its own; so are torch.compile and the precision, fp32 on a CPU, where bf16
isn't much faster.

Its loader packs whole documents into rows, and where none fits takes the beginning of the shortest and drops the rest:
of the articles that this was made with (two thirds Japanese and long, a third English and short) the first 1.2 M tokens
were 0.4% Japanese. So documents come cut at ends of lines into pieces that fit, each a document of its own: 67%.
"""

import os
import re
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import parquet

from benchmarks.programs.process import ROOT, Result, Task, Training, bits_by_language, read_answer, run, train_for
from benchmarks.programs.text import HELDOUT, TRAIN, pieces, read_documents

NAME = "nanochat"
MODEL = {"depth": 5, "aspect-ratio": 57, "head-dim": 72}  # width 288: 16.8 M parameters with 8,192 tokens
PIECE_BYTES_PER_TOKEN = 3  # a token has 3.5 bytes of English and more of Japanese
ROWS_IN_GROUP = 1000
PRECISIONS = ("float32", "bfloat16")
STEP = re.compile(r"^step \d+/.*\| dt: ([\d.]+)ms", re.MULTILINE)


def measure(task: Task, repository: Path, python: Path) -> Result:
    """Trains and evaluates.

    Args:
        task: what to do.
        repository: nanochat's, as cloned.
        python: of the environment that has what it needs.
    """
    work = task.work / NAME
    heldout = read_documents(task.text / HELDOUT)
    shards = work / "base_data_climbmix"  # where it looks for them; the last one by name is held out
    shards.mkdir(parents=True)
    most = PIECE_BYTES_PER_TOKEN * task.sequence_length
    for number, documents in enumerate((read_documents(task.text / TRAIN), heldout)):
        texts = (piece for document in documents for piece in pieces(document.text, most))
        _write_shard(texts, shards / f"shard_{number:05}.parquet")

    def call(module: str, log: Path, *options: str | Path, precision: str = PRECISIONS[0]) -> tuple[str, float]:
        environment = {
            "NANOCHAT_BASE_DIR": str(work),
            "NANOCHAT_DTYPE": precision,
            "PYTHONPATH": f"{repository}{os.pathsep}{ROOT}",
        }
        return run(NAME, [python, "-m", module, *options], log, repository, **environment)

    call("scripts.tok_train", work / "tokenizer.log", f"--vocab-size={task.vocabulary}")

    def pretrain(steps: int, precision: str) -> Training:
        options = [f"--{key}={value}" for key, value in _settings(task, steps).items()]
        output, wall = call(
            "scripts.base_train", work / f"base_train-{steps}-{precision}.log", *options, precision=precision
        )
        return Training([float(milliseconds) / 1000 for milliseconds in STEP.findall(output)], wall)

    training, precision = train_for(NAME, task.minutes, PRECISIONS, pretrain)
    answer = work / "answer.json"
    call(
        "benchmarks.programs.eval_nanochat", work / "evaluation.log",
        str(len(training.steps)), (task.text / HELDOUT).resolve(), str(task.sequence_length), answer,
    )  # fmt: skip
    found = read_answer(answer)
    return Result(
        name=NAME,
        parameters=found["parameters"],
        tokens=len(training.steps) * task.tokens_per_step,
        seconds=training.seconds,
        wall_seconds=training.wall_seconds,
        bits_per_byte=bits_by_language(heldout, found["bits"]),
        settings=_settings(task, len(training.steps)) | {"NANOCHAT_DTYPE": precision},
        versions={"nanochat": _commit(repository), "torch": found["torch"]},
        own=found["own_bpb"],
    )


def _settings(task: Task, steps: int) -> dict[str, Any]:
    return MODEL | {
        "device-type": "cpu",
        "window-pattern": "L",
        "max-seq-len": task.sequence_length,
        "device-batch-size": task.batch_size,
        "total-batch-size": task.tokens_per_step,
        "num-iterations": steps,
        "warmup-steps": task.warmup(steps),
        "eval-every": -1,
        "core-metric-every": -1,
        "sample-every": -1,
        "model-tag": "programs",
    }


def _write_shard(texts: Iterable[str], path: Path) -> None:
    parquet.write_table(pa.table({"text": list(texts)}), path, row_group_size=ROWS_IN_GROUP)


def _commit(repository: Path) -> str:
    done = subprocess.run(
        ["git", "-C", str(repository), "log", "-1", "--format=%h of %cs"], capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or "unknown"
