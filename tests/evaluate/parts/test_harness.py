"""lm-evaluation-harness on local tasks, without a network; the log-probabilities are our own."""

import copy
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from tokenizers import processors

pytest.importorskip("lm_eval")

from sioconv.errors import UserError
from sioconv.evaluate.bits import document_nats
from sioconv.evaluate.parts.harness import ALIASES, _wrapped, measure_tasks
from sioconv.evaluate.subject import Subject

CHOICES: list[dict[str, Any]] = [
    {"question": "宮城県の県庁は", "choices": ["仙台市である。", "海である。"]},
    {"question": "The river runs from the hills", "choices": [" to the sea.", " back again and again.", " it."]},
    {"question": "川は山から", "choices": ["海へ流れる。", "the rain"]},
]
TEXTS = ["川は山から海へ流れる。", "The river runs from the hills to the sea."]


def task(folder: Path, name: str, rows: list[dict[str, Any]], **values: Any) -> None:
    data = folder / f"{name}.json"
    data.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    source = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(data)}}, "test_split": "test"}
    text = yaml.safe_dump({"task": name, **source, **values}, allow_unicode=True)
    (folder / f"{name}.yaml").write_text(text, encoding="utf-8")


@pytest.fixture
def tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    task(
        tmp_path, "rivers", CHOICES, output_type="multiple_choice", doc_to_text="{{question}}",
        doc_to_choice="{{choices}}", doc_to_target=0, target_delimiter="", metric_list=[{"metric": "acc"}],
    )  # fmt: skip
    task(
        tmp_path, "whole", [{"text": text} for text in TEXTS], output_type="loglikelihood_rolling", doc_to_text="",
        doc_to_target="{{text}}", metric_list=[{"metric": "bits_per_byte"}],
    )  # fmt: skip
    return str(tmp_path)


def test_local_tasks_are_scored_by_our_own_log_probabilities(ours: Subject, tasks: str) -> None:
    """One bos before a question, one before a whole text: the two in one call."""
    found = measure_tasks(ours, ["rivers", "whole"], tasks, None, None, 0)
    right = 0
    for row in CHOICES:
        before = len(ours.encode([row["question"]])[0])
        documents = ours.encode([row["question"] + choice for choice in row["choices"]])
        masks = [[0] * before + [1] * (len(ids) - before) for ids in documents]
        nats = dict(document_nats(ours.model, documents, masks))
        right += min(nats, key=lambda i: nats[i]) == 0
    assert found["rivers"]["metrics"]["acc"]["value"] == pytest.approx(right / 3)
    assert found["rivers"]["chance"] == pytest.approx((1 / 2 + 1 / 3 + 1 / 2) / 3)
    assert found["rivers"]["documents"] == 3 and found["rivers"]["shots"] == 0
    bits = sum(nats for _, nats in document_nats(ours.model, ours.encode(TEXTS))) / math.log(2)
    value = found["whole"]["metrics"]["bits_per_byte"]["value"]
    assert value == pytest.approx(bits / sum(len(text.encode()) for text in TEXTS), rel=1e-5)
    assert found["whole"]["chance"] is None


def test_a_limit_and_another_kind_of_model(stranger: Subject, tasks: str) -> None:
    found = measure_tasks(stranger, ["rivers"], tasks, 2, None, 0)["rivers"]
    assert found["documents"] == 2 and 0 <= found["metrics"]["acc"]["value"] <= 1


def test_an_end_that_a_tokenizer_adds_is_no_part_of_an_answer(stranger: Subject, tasks: str) -> None:
    tokenizer = copy.deepcopy(stranger.tokenizer)
    end = [("<end>", stranger.first)]
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing("<end> $A <end>", special_tokens=end)
    adding = replace(stranger, tokenizer=tokenizer)
    model = _wrapped(adding)
    question, answer = model._encode_pair("川は山から", "海へ流れる。")
    assert [question + answer] == adding.encode(["川は山から海へ流れる。"]) and [question] == adding.encode(
        ["川は山から"]
    )
    assert model.tok_batch_encode(["川は"])[0].tolist() == adding.encode(["川は"])
    assert measure_tasks(adding, ["rivers"], tasks, None, None, 0)["rivers"]["documents"] == 3


def test_a_task_that_isnt_known(ours: Subject, tasks: str) -> None:
    with pytest.raises(UserError, match=r"no task 'river': did you mean rivers"):
        measure_tasks(ours, ["river"], tasks, None, None, 0)


def test_data_out_of_reach_is_one_line(ours: Subject, tasks: str) -> None:
    Path(tasks, "rivers.json").unlink()
    with pytest.raises(UserError, match=r"can't evaluate on rivers: .*--include FOLDER") as caught:
        measure_tasks(ours, ["rivers"], tasks, None, None, 0)
    assert "\n" not in str(caught.value)


def test_short_names_are_tasks_of_the_harness() -> None:
    from lm_eval.tasks import TaskManager

    assert set(ALIASES.values()) <= set(TaskManager().all_tasks)
