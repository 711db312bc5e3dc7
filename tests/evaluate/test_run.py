"""A whole run's evaluation with a tiny model: every figure of the summary, and the files of the report."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from sioconv.data.config import DataConfig, SourceConfig
from sioconv.errors import UserError
from sioconv.evaluate.config import EvaluateConfig
from sioconv.evaluate.figures import Minutes, summarise
from sioconv.evaluate.parts.settings import Settings
from sioconv.evaluate.run import evaluate_model, evaluate_run
from sioconv.evaluate.subject import Subject, load_subject
from sioconv.model import load_model_folder
from sioconv.model.fingerprint import weights_fingerprint
from sioconv.train.metrics import KEYS

PLACES = ("宮城県", "福島県", "山形県", "秋田県", "岩手県", "青森県")


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("text")
    rows = [{"text": f"{place}の第{n}の川は、山から海へ流れる。"} for place in PLACES for n in range(10)]
    (folder / "rivers.jsonl").write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    talks = [
        {
            "messages": [
                {"role": "user", "content": f"{place}の第{n}の川は？"},
                {"role": "assistant", "content": "海へ流れます。"},
            ],
            "key": "海",
            "about": place,
            "relation": "river",
            "language": "ja",
        }
        for place in PLACES
        for n in range(10)
    ]
    (folder / "talks.jsonl").write_text("\n".join(json.dumps(talk) for talk in talks), encoding="utf-8")
    return folder


@pytest.fixture
def data(text: Path) -> DataConfig:
    return DataConfig({"rivers": SourceConfig(str(text / "rivers.jsonl"))}, heldout=0.2)


@pytest.fixture
def chat(text: Path, data: DataConfig) -> DataConfig:
    talks = SourceConfig(str(text / "talks.jsonl"), kind="chat")
    return DataConfig(
        {"talks": talks, "identity": SourceConfig("identity:みやぎ", kind="chat")} | data.sources, heldout=0.2
    )


@pytest.fixture
def run(tmp_path: Path, tiny_model_folder: Path) -> Path:
    folder = tmp_path / "runs" / "tiny"
    for name in ("base", "model"):
        shutil.copytree(tiny_model_folder, folder / name)
    values = {"tokens": 4096, "loss": 3.0, "seconds": 2.0, "tokens_per_second": 2048.0, "step": 1}
    rows = [dict.fromkeys(KEYS) | values | {"stage": stage, "split": "train"} for stage in ("pretrain", "finetune")]
    rows.append(rows[0] | {"split": "heldout", "source": "rivers", "bpb": 2.0})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    sample = {
        "stage": "pretrain",
        "step": 0,
        "tokens": 0,
        "seconds": 0.0,
        "label": "start",
        "prompt": "川",
        "text": "山",
    }
    (folder / "samples.jsonl").write_text(json.dumps(sample) + "\n", encoding="utf-8")
    return folder


@pytest.fixture
def subject(tiny_model_folder: Path) -> Subject:
    return load_subject(str(tiny_model_folder), torch.device("cpu"))


CONFIG = EvaluateConfig(questions=3, max_new_tokens=8, prompts=["川は"], parts=["text", "pairs"], pairs=2)
TEXT = Settings(parts=("text",))


def test_a_run_is_evaluated_whole(run: Path, data: DataConfig, chat: DataConfig) -> None:
    figures = evaluate_run(run, "tiny", data, chat, CONFIG, Minutes(install=1.0, total=5.0), "cpu")
    summary = json.loads((run / "report/summary.json").read_text(encoding="utf-8"))
    assert summary == json.loads(json.dumps(summarise(figures)))
    measured = weights_fingerprint(load_model_folder(run / "model")[0])
    assert summary["weights"] == {"base": measured, "tuned": measured}
    assert 0 < summary["bpb"]["ja"] == summary["bpb"]["sources"]["rivers"]
    assert summary["bpb_tuned"]["ja"] == pytest.approx(summary["bpb"]["ja"])  # the two folders hold the same model
    assert 0 < summary["yardsticks"]["ja"]["ngram7"] < 8 and 0 < summary["yardsticks"]["ja"]["xz_primed"] < 12
    assert summary["chat"]["loss_before"] == pytest.approx(summary["chat"]["loss_after"])
    assert summary["chat"]["seen"]["questions"] == 3 and summary["chat"]["unseen"]["questions"] <= 3
    assert summary["chat"]["seen"]["ended"] == 0
    assert summary["parameters"] > 0
    assert summary["state_bytes"] == 2 * (32 * 4 + 32 * 1 * 4)  # two layers: c and the last input of the convolution
    assert (summary["tokens"], summary["tokens_per_second"]) == (4096, 2048)
    assert summary["minutes"]["install"] == 1 and summary["minutes"]["train"] == pytest.approx(4 / 60)
    assert 5 < summary["minutes"]["total"] < 7
    assert list(summary["continuations"]) == ["川は"]
    assert summary["evaluation"]["sources"]["rivers"]["bpb"] == pytest.approx(summary["bpb_tuned"]["ja"])
    assert set(summary["evaluation"]["pairs"]) == {"ja", "en"}
    assert "Minimal pairs" in (run / "report/report.md").read_text(encoding="utf-8")
    assert [len(layer) for layer in figures.timescales] == [4, 4]
    names = {path.name for path in (run / "report").iterdir()}
    assert names == {"index.html", "report.md", "summary.json", "loss.svg", "timescales.svg"}


def test_the_same_run_gives_the_same_figures(run: Path, data: DataConfig, chat: DataConfig) -> None:
    first, second = (summarise(evaluate_run(run, "tiny", data, chat, CONFIG, device="cpu")) for _ in range(2))
    assert first == second


def test_a_run_that_is_not_tuned(run: Path, data: DataConfig) -> None:
    shutil.rmtree(run / "model")
    config = EvaluateConfig(yardsticks=False, max_new_tokens=4, prompts=[], parts=[])
    summary = summarise(evaluate_run(run, "tiny", data, None, config, device="cpu"))
    assert summary["bpb_tuned"] == {"sources": {}} and summary["yardsticks"] == {}
    assert summary["chat"]["loss_after"] is None and summary["minutes"]["total"] is None


def test_a_run_that_only_tunes_a_model_from_elsewhere(run: Path, chat: DataConfig, tiny_model_folder: Path) -> None:
    shutil.rmtree(run / "base")
    figures = evaluate_run(run, "tiny", DataConfig(), chat, CONFIG, device="cpu", base=str(tiny_model_folder))
    summary = summarise(figures)
    assert summary["chat"]["loss_before"] == pytest.approx(summary["chat"]["loss_after"])
    assert summary["bpb"] == {"sources": {}} and summary["yardsticks"] == {}
    assert set(summary["evaluation"]) == {"pairs"}  # there is no text to measure the rest on


def test_no_held_out_text_is_said_and_nothing_is_written(run: Path, data: DataConfig) -> None:
    data.heldout = 0.0
    with pytest.raises(UserError, match=r"no held-out text.*data\.heldout"):
        evaluate_run(run, "tiny", data, None, CONFIG, device="cpu")
    assert not (run / "report").exists()


def test_a_missing_model_is_said(run: Path, data: DataConfig, chat: DataConfig) -> None:
    shutil.rmtree(run / "model")
    with pytest.raises(UserError, match="model"):
        evaluate_run(run, "tiny", data, chat, CONFIG, device="cpu")
    assert not (run / "report").exists()


def test_a_model_on_held_out_text(subject: Subject, data: DataConfig) -> None:
    result = evaluate_model(subject, None, data, TEXT)
    assert result["languages"]["ja"] == result["sources"]["rivers"]
    assert result["sources"]["rivers"]["bpb"] > 0 and json.dumps(result)
    limited = evaluate_model(subject, None, data, TEXT, max_bytes=100)
    assert 0 < limited["sources"]["rivers"]["bytes"] <= 100


def test_a_model_on_a_text_of_ones_own(subject: Subject, text: Path, data: DataConfig) -> None:
    path = str(text / "rivers.jsonl")
    result = evaluate_model(subject, path, data, TEXT)
    rows = [json.loads(line)["text"] for line in Path(path).read_text(encoding="utf-8").splitlines()]
    assert result["sources"][path]["bytes"] == sum(len(row.encode()) for row in rows)
    assert result["languages"] == {}


def test_what_reads_no_text_needs_none(subject: Subject) -> None:
    found = evaluate_model(subject, None, DataConfig(), Settings(parts=("pairs",), pairs=1))
    assert "sources" not in found and found["pairs"]["ja"]["pairs"] >= 10


@pytest.mark.parametrize(("key", "value"), [("parts", ["grammar"]), ("pairs", 0), ("samples", 0)])
def test_settings_that_cant_work(key: str, value: object) -> None:
    with pytest.raises(ValueError, match=key):
        EvaluateConfig(**{key: value}).check()


def test_nothing_to_evaluate_on(subject: Subject, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no text to evaluate on"):
        evaluate_model(subject, None, DataConfig(), TEXT)
    with pytest.raises(UserError, match=r"none\.txt"):
        evaluate_model(subject, str(tmp_path / "none.txt"), DataConfig(), TEXT)
