"""pfgen-bench (arXiv:2502.09316): answers to questions in Japanese after 20 examples, scored by its own program.

Its prompts and its scores come from a clone of github.com/pfnet-research/pfgen-bench that the user names. Its programs
run as processes of their own, and write nothing into the clone.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sioconv.errors import UserError
from sioconv.evaluate.parts.writing import that_fits, write
from sioconv.evaluate.subject import Subject
from sioconv.files import work_folder
from sioconv.generate import SamplingConfig
from sioconv.progress import track

# What its run-hf.py takes by default.
TEMPERATURE, TOP_P, LONGEST = 1.0, 0.98, 300
STOP = ("Q:", "\n\n")
PROMPTS = """
import json, sys, pfgen
trials = range(1, int(sys.argv[1]) + 1)
tasks = [pfgen.generate_task(question, "completion", trial) for trial in trials for question in pfgen.get_questions()]
json.dump(tasks, sys.stdout)
"""


def measure_pfgen(subject: Subject, folder: str, trials: int) -> dict[str, Any]:
    """The scores of `trials` answers to each question that the clone has the data of.

    Args:
        subject: the model.
        folder: the clone.
        trials: answers to each question; the examples before it differ.

    Returns:
        `{"score", "score_std", "fluency", "truthfulness", "helpfulness", "length", "questions", "trials"}`.

    Raises:
        UserError: it isn't a clone, its program fails, or the model has no positions for its prompts.
    """
    tasks, clone = prompts_of(folder, trials), Path(folder)
    with work_folder(Path(tempfile.gettempdir()) / "sioconv-pfgen") as temporary:
        answers = temporary / "trials.jsonl"
        answers.write_text("".join(_answers(subject, tasks)), encoding="utf-8")
        _run(clone, "pfgen_eval.py", str(answers))
        result = json.loads((temporary / "result.json").read_text(encoding="utf-8"))
    scores = result["scores"]
    return {
        "score": result["score"], "score_std": result["score_std"],
        "fluency": sum(scores["fluency"].values()), "truthfulness": sum(scores["truthfulness"].values()),
        "helpfulness": scores["helpfulness"], "length": result["length"],
        "questions": len(result["questions"]), "trials": result["num_trials"],
    }  # fmt: skip


def prompts_of(folder: str, trials: int) -> list[dict[str, Any]]:
    """The prompts of its questions; raises UserError as `measure_pfgen` does, without a model."""
    clone = Path(folder)
    for name in ("pfgen.py", "pfgen_eval.py", "data"):
        if not (clone / name).exists():
            raise UserError(f"no {name} in {folder}: give a clone of github.com/pfnet-research/pfgen-bench")
    scored = {json.loads(path.read_text(encoding="utf-8"))["question"] for path in clone.glob("data/Q*.json")}
    tasks = [task for task in json.loads(_run(clone, "-c", PROMPTS, str(trials))) if task["question"] in scored]
    if not tasks:
        raise UserError(f"no question in {folder}/data: copy its files Q01.json and so on again")
    return tasks


def _answers(subject: Subject, tasks: Sequence[dict[str, Any]]) -> list[str]:
    """A line for each task, as its program reads them."""
    sampling = SamplingConfig(temperature=TEMPERATURE, top_p=TOP_P, max_new_tokens=LONGEST, stop=list(STOP))
    sampling = that_fits(subject, [task["prompt"] for task in tasks], sampling, "pfgen-bench")
    lines = []
    for task in track(tasks, "pfgen-bench"):
        [written] = write(subject, [task["prompt"]], sampling, task["seed"])
        answer = written.text
        for stop in STOP:
            answer = answer.partition(stop)[0]
        lines.append(json.dumps({"question": task["question"], "answer": answer.strip()}, ensure_ascii=False) + "\n")
    return lines


def _run(clone: Path, *words: str) -> str:
    """One of its programs in its folder; what it prints."""
    environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONUTF8": "1"}
    done = subprocess.run(
        [sys.executable, *words], cwd=clone, env=environment, capture_output=True, encoding="utf-8", errors="replace"
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise UserError(f"pfgen-bench in {clone} failed: {last}: get a fresh clone")
    return done.stdout
