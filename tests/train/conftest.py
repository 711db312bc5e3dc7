"""Fixtures around `tests/train/small.py`: models, trainers and steppers of a stage that takes no time."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from sioconv.model import SioConvForCausalLM
from sioconv.train import loop
from sioconv.train.distributed import World
from sioconv.train.loop import Trainer
from sioconv.train.step import Stepper
from tests.train import small


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Training sets the number of threads of the whole process: it is put back."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def make_model() -> Callable[..., SioConvForCausalLM]:
    """`make_model(**options)`: a model with the same weights every time."""
    return small.make_model


@pytest.fixture
def make_stepper() -> Callable[..., Stepper]:
    """`make_stepper(model=…, steps=2, dtype=…, **settings)`: a model after some steps, so that there are moments."""

    def make(
        model: SioConvForCausalLM | None = None, steps: int = 2, dtype: torch.dtype = torch.float32, **settings: Any
    ) -> Stepper:
        config = small.make_config(1, **settings)
        stepper = Stepper(model or small.make_model(), config, World(torch.device("cpu")), dtype)
        for step in range(steps):
            loss = stepper.gradients(small.Windows().batch(step * config.batch_size, config.batch_size), step)
            stepper.update(1e-2, loss)
        return stepper

    return make


@pytest.fixture
def make_trainer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Trainer]:
    """`make_trainer(steps=8, model=…, run=…, stage=…, on_batch=…, **settings)`: a trainer as a new process makes it."""
    monkeypatch.setattr(loop, "matrix_speed", lambda *_: 1e9)  # what is shown on the terminal, and nothing else

    def make(
        steps: int | None = 8,
        model: SioConvForCausalLM | None = None,
        run: Path | None = None,
        stage: str = "pretrain",
        on_batch: Callable[[int], object] = id,
        **settings: Any,
    ) -> Trainer:
        config = small.make_config(steps, **settings)
        return small.make_trainer(run or tmp_path / "run", model or small.make_model(), config, stage, on_batch)

    return make
