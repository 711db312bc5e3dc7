"""The model, its training, its decoding and the commands on a GPU; left out where there is none."""

import json
import os
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import torch

from sioconv.data.batches.loader import Batch
from sioconv.generate import Engine, Request, SamplingConfig
from sioconv.model import SioConvConfig, SioConvForCausalLM
from sioconv.model.architecture import PRESETS
from sioconv.train.config import TrainConfig
from sioconv.train.distributed import World
from sioconv.train.step import Stepper

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
SHAPE: dict[str, Any] = {
    "hidden_size": 64, "num_hidden_layers": 2, "num_heads": 4, "intermediate_size": 96, "vocab_size": 200
}  # fmt: skip


def fresh_model(preset: str, **options: Any) -> SioConvForCausalLM:
    torch.manual_seed(0)
    return SioConvForCausalLM(SioConvConfig(**{**PRESETS[preset], **SHAPE, **options}))


def windows(rows: int = 3, length: int = 300) -> Batch:
    random = torch.Generator().manual_seed(0)
    ids = torch.randint(0, SHAPE["vocab_size"], (rows, length + 1), generator=random)
    positions = torch.arange(length).repeat(rows, 1) % 130
    return Batch(ids[:, :-1].contiguous(), ids[:, 1:].contiguous(), positions == 0, positions)


def stepper(model: SioConvForCausalLM, device: str, dtype: torch.dtype) -> Stepper:
    return Stepper(model, TrainConfig(tokens=1), World(torch.device(device)), dtype)


@pytest.mark.parametrize(
    ("preset", "options"),
    [
        ("sioconv-2026", {}),
        ("sioconv", {"conv_width": 4, "conv_on": "z"}),
        ("sioconv-2026", {"conv_width": 2, "conv_on": "z_gate"}),
        ("sioconv", {"gate": "channel", "output_gate": "normed", "norm_groups": 2}),
    ],
)
def test_losses_and_gradients_are_those_of_the_processor(preset: str, options: dict[str, Any]) -> None:
    found = {}
    for device in ("cpu", "cuda"):
        model = fresh_model(preset, **options)
        loss = stepper(model, device, torch.float32).gradients(windows())
        found[device] = loss, {name: p.grad.cpu() for name, p in model.named_parameters() if p.grad is not None}
    assert found["cuda"][0] == pytest.approx(found["cpu"][0], rel=1e-5)
    assert found["cuda"][1].keys() == found["cpu"][1].keys()
    for name, expected in found["cpu"][1].items():
        error = (found["cuda"][1][name] - expected).norm() / expected.norm().clamp(min=1e-8)
        assert error < 1e-3, name


def test_bf16_training_learns_as_fp32_does() -> None:
    losses = {}
    for dtype in (torch.float32, torch.bfloat16):
        made = stepper(fresh_model("sioconv-2026"), "cuda", dtype)
        for step in range(30):
            losses[dtype] = made.gradients(windows(), step)
            made.update(3e-3, losses[dtype])
    assert losses[torch.float32] < 4.9
    assert losses[torch.bfloat16] == pytest.approx(losses[torch.float32], rel=0.02)


def test_requests_together_are_what_they_are_alone() -> None:
    random = torch.Generator().manual_seed(0)
    requests = [
        Request(
            torch.randint(0, SHAPE["vocab_size"], (length,), generator=random).tolist(),
            sampling=SamplingConfig(temperature=temperature), max_new_tokens=20, seed=length,
        )
        for length in (3, 50, 700) for temperature in (0.0, 1.0)
    ]  # fmt: skip
    written: dict[str, list[list[int | None]]] = {}
    for device in ("cpu", "cuda"):
        model = fresh_model("sioconv-2026", linear_std=0.5, embedding_std=1.0).eval().to(device)
        written[device] = [[event.token for event in Engine(model).stream(request)] for request in requests]
    engine, events = Engine(model), defaultdict[int, list[int | None]](list)
    numbers = [engine.submit(request, lambda event: events[event.request].append(event.token)) for request in requests]
    while engine.step():
        pass
    assert [events[number] for number in numbers] == written["cuda"]
    assert written["cuda"] == written["cpu"]


def test_the_commands_train_tell_and_go_on(tmp_path: Path) -> None:
    def run(*words: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "sioconv", *words], cwd=tmp_path, capture_output=True, text=True, check=False,
            env={**os.environ, "HF_HUB_OFFLINE": "1"},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    (tmp_path / "text.txt").write_text("川は山から海へ流れる。海の水は空へ昇る。\n" * 400, encoding="utf-8")
    words = [
        "--name", "own", "--data.sources.own.path", "text.txt", "--data.sources.own.language", "ja",
        "--tokenizer.vocab_size", "300", "--model.hidden_size", "32", "--model.num_heads", "4",
        "--train.sample_prompts", "[]", "--train.sequence_length", "64", "--train.batch_size", "4",
    ]  # fmt: skip
    (tmp_path / "own.yaml").write_text("name: own\n", encoding="utf-8")
    run("pretrain", "own.yaml", *words, "--train.tokens", "20480")
    metrics = [json.loads(line) for line in (tmp_path / "runs/own/metrics.jsonl").read_text().splitlines()]
    assert metrics[-1]["loss"] < metrics[0]["loss"]
    run("pretrain", "runs/own", "--train.tokens", "+10240")
    greedy = ["川は", "--temperature", "0", "--max_new_tokens", "8"]
    on_gpu = run("generate", "runs/own/base", *greedy, "--device", "cuda")
    on_cpu = run("generate", "runs/own/base", *greedy, "--device", "cpu")
    assert on_gpu == on_cpu
    assert "bits" in run("evaluate", "runs/own/base", "--parts", "text", "--text", "text.txt")
