"""A run that looks finished: a random model, a recipe, manifests, a report."""

import json
import shutil
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants
from huggingface_hub.utils import _http

from sioconv.checksums import write_sealed
from sioconv.model import load_model_folder
from sioconv.model.fingerprint import weights_fingerprint
from sioconv.recipe.schema import build, save_recipe
from tests.publish.hub import WRITER, Hub

SOURCES = {
    "rivers": {"path": "/home/someone/text/rivers.jsonl", "language": "ja", "licence": "CC0-1.0", "weight": 3.0},
    "books": {"path": "hf:owner/books", "language": "en", "licence": "MIT", "weight": 1.0},
}
TALKS = {"talks": {"path": "bundled:chat_smalltalk_ja.jsonl.gz", "kind": "chat", "language": "ja"}}
MakeRun = Callable[..., Path]


@pytest.fixture
def make_run(tmp_path: Path, tiny_model_folder: Path) -> MakeRun:
    """`make_run(sources, tuned=True)`: the folder of a run."""
    model = load_model_folder(tiny_model_folder)[0]
    parameters, weights = sum(value.numel() for value in model.parameters()), weights_fingerprint(model)

    def make(sources: dict[str, dict[str, Any]] = SOURCES, tuned: bool = True) -> Path:
        run = tmp_path / "runs" / "tiny"
        run.mkdir(parents=True)
        values: dict[str, Any] = {"name": "tiny", "data": {"sources": deepcopy(sources)}, "train": {"minutes": 1.0}}
        if tuned:
            values["finetune"] = {"data": {"sources": deepcopy(TALKS)}, "train": {"minutes": 1.0}}
        save_recipe(build(values), run / "recipe.yaml")
        name = "model" if tuned else "base"
        shutil.copytree(tiny_model_folder, run / name)
        stage = {"stage": "finetune" if tuned else "pretrain", "recipe": {}, "inputs": {}}
        write_sealed(run / "made.json", {name: stage})
        for source in sources | (TALKS if tuned else {}):
            inputs = [{"file": f"{source}.jsonl", "bytes": 10, "sha256": "0" * 64}]
            manifest = {"tokens": 1200, "documents": 30, "bytes": 4000, "licence": "", "inputs": inputs}
            write_sealed(run / "data" / source / "train" / "manifest.json", manifest)
        (run / "report").mkdir()
        (run / "report" / "loss.svg").write_text("<svg/>")
        bits = {"ja": 1.25, "en": None, "sources": {"rivers": 1.25}}
        summary = {
            "parameters": parameters, "bpb": bits, "bpb_tuned": bits | {"ja": 1.5}, "state_bytes": 512,
            "continuations": {"宮城県(": "a|b\n`c`"}, "machine": {"processor": "P", "system": "secret kernel"},
            "chat": {"seen": {"questions": 20, "right": 0.5}, "unseen": {"questions": 2}},
            "versions": {"torch": "2"}, "tokens": 7, "weights": {"base": weights, "tuned": weights},
        }  # fmt: skip
        (run / "report" / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
        return run

    return make


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the new process, which has a test of its own."""
    monkeypatch.setattr("sioconv.publish.verify.verify_folder", lambda _: 0.0)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """The server; the client waits for nothing between its tries."""
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(_http.time, "sleep", lambda _: None)
    server = Hub()
    yield server
    server.close()


@pytest.fixture
def online(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """The server, where the client looks for it with a token that may write."""
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.url)
    monkeypatch.setenv("HF_TOKEN", WRITER)
    return hub
