"""litgpt's own command on our text, with our tokenizer.

Set, because its defaults are for eight GPUs and months: the batch (512 windows), the warm-up (2,000 steps), the number
of workers that load data (4). The model is of the kind that its recipes pretrain (MicroLlama, TinyLlama). Optimizer,
learning rate and schedule are the command's own: AdamW at 1e-3, cosine; so are torch.compile and the precision,
bf16-mixed, where 32-true isn't much faster.
"""

import csv
import math
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from benchmarks.programs.process import ROOT, Result, Task, Training, bits_by_language, read_answer, run, train_for
from benchmarks.programs.text import HELDOUT, TRAIN, read_documents

NAME = "litgpt"
MODEL = {
    "name": "llama-17m",
    "n_layer": 6,
    "n_embd": 384,
    "n_head": 6,
    "intermediate_size": 1024,
    "rotary_percentage": 1.0,
    "parallel_residual": False,
    "bias": False,
    "norm_class_name": "RMSNorm",
    "mlp_class_name": "LLaMAMLP",
    "padding_multiple": 64,
}
PRECISIONS = ("bf16-mixed", "32-true")
MICRO_BATCH = 4  # litgpt's default


def measure(task: Task, python: Path, tokenizer: Path) -> Result:
    """Trains and evaluates.

    Args:
        task: what to do.
        python: of the environment that litgpt is installed in.
        tokenizer: folder with our tokenizer.json.
    """
    work = task.work / NAME
    heldout = read_documents(task.text / HELDOUT)
    for part in (TRAIN, HELDOUT):
        folder = work / part.removesuffix(".jsonl")
        folder.mkdir(parents=True)
        for number, document in enumerate(read_documents(task.text / part)):  # a file is a document, bos before each
            (folder / f"{number:06}.txt").write_text(document.text, encoding="utf-8")
    training, precision = train_for(NAME, task.minutes, PRECISIONS, partial(_train, task, python, tokenizer))
    answer = work / "answer.json"
    run(
        NAME, [python, "-m", "benchmarks.programs.eval_litgpt", work / "out/final", (task.text / HELDOUT).resolve(),
               str(task.sequence_length), answer],
        work / "evaluation.log", ROOT, PYTHONPATH=str(ROOT),
    )  # fmt: skip
    found = read_answer(answer)
    own = float(_metrics(work)[-1]["val_loss"]) / math.log(2)  # bits per token, that of the documents' begin included
    return Result(
        name=NAME,
        parameters=found["parameters"],
        tokens=len(training.steps) * task.tokens_per_step,
        seconds=training.seconds,
        wall_seconds=training.wall_seconds,
        bits_per_byte=bits_by_language(heldout, found["bits"]),
        settings=_settings(task, tokenizer, len(training.steps), precision),
        versions={"litgpt": found["version"], "torch": found["torch"]},
        own=own * (found["tokens"] + len(heldout)) / sum(document.size for document in heldout),
    )


def _settings(task: Task, tokenizer: Path, steps: int, precision: str) -> dict[str, Any]:
    work = task.work / NAME
    return {
        "model_name": MODEL["name"],
        "model_config": MODEL | {"block_size": task.sequence_length, "vocab_size": task.vocabulary},
        "out_dir": str(work / "out"),
        "precision": precision,
        "tokenizer_dir": str(tokenizer),
        "data": {
            "class_path": "TextFiles",
            "init_args": {
                "train_data_path": str(work / "train"), "val_data_path": str(work / "heldout"), "num_workers": 1,
            },
        },
        "train": {
            "global_batch_size": task.batch_size,
            "micro_batch_size": min(MICRO_BATCH, task.batch_size),
            "max_tokens": steps * task.tokens_per_step,
            "max_seq_length": task.sequence_length,
            "lr_warmup_steps": task.warmup(steps),
            "max_norm": 1.0,
            "save_interval": None,
        },
        "eval": {"interval": 10**9, "max_iters": 10**9},
        "logger_name": "csv",
    }  # fmt: skip


def _train(task: Task, python: Path, tokenizer: Path, steps: int, precision: str) -> Training:
    work = task.work / NAME
    recipe = work / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(_settings(task, tokenizer, steps, precision)), encoding="utf-8")
    log = work / f"pretrain-{steps}-{precision}.log"
    _, wall = run(NAME, [python, "-m", "litgpt", "pretrain", "--config", recipe], log, work, PYTHONPATH="")
    # Seconds since the beginning of training at the end of every step.
    ends = [float(row["time"]) for row in _metrics(work) if row["time"]]
    return Training([end - start for start, end in zip([0.0, *ends], ends, strict=False)], wall)


def _metrics(work: Path) -> list[dict[str, str]]:
    """The rows that the newest run has logged."""
    newest = max(work.glob("out/logs/csv/version_*/metrics.csv"), key=lambda path: path.stat().st_mtime)
    with newest.open(encoding="utf-8") as stream:
        return list(csv.DictReader(stream))
