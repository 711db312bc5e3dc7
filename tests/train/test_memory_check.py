"""What can't fit is refused before anything of it is made."""

from pathlib import Path

import pytest

from sioconv.errors import UserError
from sioconv.model.architecture import Architecture
from sioconv.plan.costs import check_memory
from sioconv.recipe.schema import load_recipe
from sioconv.run import stages
from sioconv.train.config import TrainConfig

GIB = 1 << 30


@pytest.mark.parametrize(
    ("model", "train"),
    [
        ({"hidden_size": 1 << 20}, {}),
        ({"num_hidden_layers": 10**7}, {}),
        ({"intermediate_size": 10**9}, {}),
        ({}, {"sequence_length": 10**12}),
        ({}, {"batch_size": 1 << 24}),
        ({}, {"batch_size": 1 << 24, "sequence_length": 1 << 12, "accumulation": 1 << 24}),  # the batch itself
    ],
)
def test_sizes_beyond_memory_are_refused(model: dict[str, int], train: dict[str, int]) -> None:
    with pytest.raises(UserError, match=r"^not enough memory: a step needs about [\d,.]+ GiB, and there are 16\.0"):
        check_memory(Architecture(**model), TrainConfig(**train), 6144, 1, 16 * GIB)


def test_what_fits_or_cannot_be_known_passes() -> None:
    check_memory(Architecture(), TrainConfig(), 6144, 1, 4 * GIB)
    check_memory(Architecture(hidden_size=1 << 20), TrainConfig(), 6144, 1, None)
    large = Architecture(hidden_size=4096, num_hidden_layers=16, num_heads=64, intermediate_size=8192)
    with pytest.raises(UserError):
        check_memory(large, TrainConfig(), 6144, 1, 16 * GIB)
    check_memory(large, TrainConfig(), 6144, 16, 16 * GIB)


@pytest.mark.parametrize("verb", ["pretrain", "finetune"])
@pytest.mark.parametrize("override", ["--model.intermediate_size=1e10", "--train.sequence_length=1e11"])
def test_a_stage_makes_nothing_where_it_cannot_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str, override: str
) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = load_recipe(["demo.yaml"], [override])
    monkeypatch.setattr(stages, "memory_of", lambda _: 64 * GIB)
    with pytest.raises(UserError, match="not enough memory"):
        getattr(stages, verb)(recipe)
    assert not list(tmp_path.iterdir())
