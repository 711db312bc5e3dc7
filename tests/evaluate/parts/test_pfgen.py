"""pfgen-bench, with a folder that has the form of its repository; the real one isn't shipped here."""

import json
from pathlib import Path

import pytest

from sioconv.errors import UserError
from sioconv.evaluate.parts import pfgen
from sioconv.evaluate.parts.pfgen import measure_pfgen
from sioconv.evaluate.parts.writing import Written
from sioconv.evaluate.subject import Subject

PROMPTS = """
def get_questions():
    return [{"question": "川は？"}, {"question": "山は？"}]
def generate_task(question, mode, trial):
    assert mode == "completion"
    return {"question": question["question"], "prompt": f"Q: {question['question']}\\nA:", "seed": trial}
"""
# Scores are lengths, so that a test can tell which answers came.
SCORER = """
import glob, json, os, sys
assert glob.glob("data/Q*.json")
rows = [json.loads(line) for line in open(sys.argv[1], encoding="utf-8")]
lengths = [len(row["answer"]) for row in rows]
questions = {row["question"]: {} for row in rows}
scores = {"fluency": {"R": 0.25, "P": 0.25}, "truthfulness": {"R": 0.125}, "helpfulness": 0.5}
result = {"score": 0.4, "score_std": 0.0, "length": sum(lengths) / len(lengths), "scores": scores,
          "questions": questions, "num_trials": len(rows) // len(questions)}
with open(os.path.join(os.path.dirname(sys.argv[1]), "result.json"), "w", encoding="utf-8") as file:
    json.dump(result, file)
"""


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(pfgen, "LONGEST", 6)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "Q01.json").write_text(json.dumps({"question": "川は？"}), encoding="utf-8")
    (tmp_path / "pfgen.py").write_text(PROMPTS, encoding="utf-8")
    (tmp_path / "pfgen_eval.py").write_text(SCORER, encoding="utf-8")
    return tmp_path


def test_answers_are_scored_by_its_program(subject: Subject, clone: Path) -> None:
    before = sorted(path.name for path in clone.rglob("*"))
    found = measure_pfgen(subject, str(clone), 2)
    assert (found["questions"], found["trials"]) == (1, 2)  # of the two questions one has data
    assert (found["score"], found["fluency"], found["truthfulness"], found["helpfulness"]) == (0.4, 0.5, 0.125, 0.5)
    assert sorted(path.name for path in clone.rglob("*")) == before


def test_an_answer_ends_before_the_next_question(ours: Subject, clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pfgen, "write", lambda *_: iter([Written("海へ。\n\nQ: 山は？", False)]))
    assert measure_pfgen(ours, str(clone), 1)["length"] == len("海へ。")


def test_what_is_no_clone_is_said(ours: Subject, clone: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no pfgen\.py in .*: give a clone"):
        measure_pfgen(ours, str(tmp_path / "data"), 1)
    (clone / "pfgen_eval.py").write_text("raise ValueError('no scores')", encoding="utf-8")
    with pytest.raises(UserError, match="failed: ValueError: no scores"):
        measure_pfgen(ours, str(clone), 1)
