"""`sioconv pretrain` on the text, and `sioconv evaluate` on what is held out."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import yaml

import sioconv
from benchmarks.programs.process import Result, Task, run
from benchmarks.programs.text import HELDOUT, TRAIN, Document, read_documents, write_documents
from sioconv.hardware import describe_versions
from sioconv.train.metrics import read_jsonl

NAME = "sioconv"


def measure(task: Task) -> Result:
    """Trains and evaluates; the run stays in the folder `run_folder`."""
    work = task.work / NAME
    work.mkdir(parents=True)
    (work / "recipe.yaml").write_text(yaml.safe_dump(_recipe(task)), encoding="utf-8")

    def call(verb: str, log: str, *words: str | Path) -> tuple[str, float]:
        # The package that this process has imported, wherever the command runs.
        paths = f"{Path(sioconv.__file__).parents[1]}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
        return run(NAME, [sys.executable, "-m", "sioconv", verb, *words], work / log, work, PYTHONPATH=paths)

    call("data", "data.log", "recipe.yaml")  # also makes the tokenizer
    _, wall = call("pretrain", "pretrain.log", "recipe.yaml")
    rows = read_jsonl(run_folder(task) / "metrics.jsonl")
    last = [row for row in rows if row["split"] == "train"][-1]
    documents = read_documents(task.text / HELDOUT)
    parts = {language: [d for d in documents if d.language == language] for language in sorted(_languages(documents))}
    bits, sizes, parameters = {}, {}, 0
    for language, part in parts.items():
        file = work / f"heldout-{language or 'all'}.jsonl"
        write_documents(part, file)
        log = f"evaluation-{language or 'all'}.log"
        output, _ = call("evaluate", log, run_folder(task) / "base", "--text", file, "--parts=text", "--json")
        found = json.loads(output.strip().splitlines()[-1])
        source = found["sources"][str(file)]
        bits[language], sizes[language], parameters = source["bpb"], source["bytes"], found["parameters"]
    versions = describe_versions()
    return Result(
        name=NAME,
        parameters=parameters,
        tokens=last["tokens"],
        seconds=last["seconds"],
        wall_seconds=wall,
        bits_per_byte={language: value for language, value in bits.items() if language}
        | {"all": sum(bits[language] * sizes[language] for language in parts) / sum(sizes.values())},
        settings=_recipe(task),
        versions={name: versions[name] for name in ("sioconv", "torch")},
    )


def run_folder(task: Task) -> Path:
    """Where the run is, the tokenizer and the model in it."""
    return task.work / NAME / "runs/programs"


def _languages(documents: list[Document]) -> set[str]:
    return {document.language for document in documents}


def _recipe(task: Task) -> dict[str, Any]:
    return {
        "name": "programs",
        "size": task.size,
        "tokenizer": {"vocab_size": task.vocabulary},
        "data": {"heldout": 0.0, "sources": {"text": {"path": str((task.text / TRAIN).resolve())}}},
        "train": {
            "minutes": task.minutes,
            "sequence_length": task.sequence_length,
            "batch_size": task.batch_size,
            "accumulation": 1,
            "device": "cpu",
            "sample_prompts": [],
        },
    }
