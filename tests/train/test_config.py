"""What a stage can't be trained with is refused before anything is spent."""

import math
from typing import Any

import pytest

from sioconv.train.config import TrainConfig


@pytest.mark.parametrize("values", [{"tokens": 1}, {"minutes": 0.01}, {"tokens": 10**12, "accumulation": 16}])
def test_accepts_one_budget(values: dict[str, Any]) -> None:
    TrainConfig(**values).check()


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("tokens", {"tokens": None}),
        ("tokens", {"minutes": 1.0}),
        ("tokens", {"tokens": 0}),
        ("tokens", {"tokens": -5}),
        ("tokens", {"tokens": None, "minutes": 0.0}),
        ("tokens", {"tokens": None, "minutes": math.nan}),
        ("tokens", {"tokens": None, "minutes": math.inf}),
        ("sequence_length", {"sequence_length": 0}),
        ("batch_size", {"batch_size": -1}),
        ("accumulation", {"accumulation": 0}),
        ("accumulation", {"accumulation": 3}),
        ("log_every", {"log_every": 0}),
        ("keep_checkpoints", {"keep_checkpoints": 0}),
        ("keep_every", {"keep_every": -1}),
        ("keep_best", {"keep_best": True}),
        ("carry_state", {"carry_state": True, "whole_documents": True}),
        ("carry_state", {"carry_state": True, "only": "initial_state"}),
        ("timeout", {"timeout": 0.0}),
        ("threads", {"threads": 0}),
        ("warmup", {"warmup": -0.1}),
        ("warmup", {"warmup": 0.6, "decay": 0.5}),
        ("warmup", {"decay": math.nan}),
        ("lr", {"lr": 0.0}),
        ("lr", {"lr": math.nan}),
        ("clip", {"clip": -1.0}),
        ("beta1", {"beta1": 1.0}),
        ("beta2", {"beta2": -0.5}),
        ("weight_decay", {"weight_decay": -0.1}),
        ("sample_seconds", {"sample_seconds": [1.0, math.inf]}),
        ("sample_seconds", {"sample_seconds": [-1.0]}),
    ],
)
def test_refuses_what_cannot_work_and_names_the_field(field: str, values: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=rf"^{field}: ") as refused:
        TrainConfig(**{"tokens": 4096, **values}).check()
    assert "\n" not in str(refused.value)
