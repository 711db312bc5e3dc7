import pytest
import torch

from sioconv.evaluate.parts import speed
from sioconv.evaluate.parts.speed import cache_bytes, measure_speed
from sioconv.evaluate.subject import Subject


def test_every_figure_is_there(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("READ", 32), ("WRITTEN", 3), ("TIMES", 1)):
        monkeypatch.setattr(speed, name, value)
    found = measure_speed(subject, 0)
    assert found["read_tokens"] == 32 and found["read_per_second"] > 0 and found["written_per_second"] > 0
    assert found["peak_bytes"] > 1_000_000 and found["device"].startswith("cpu (") and found["dtype"] == "float32"


def test_a_state_stays_as_it_is_and_a_cache_grows(ours: Subject, stranger: Subject) -> None:
    ids = torch.ones(1, 20, dtype=torch.int64)
    assert cache_bytes(ours.model, ids) == cache_bytes(ours.model, ids[:, :1]) == 2 * (32 * 4 + 32 * 1 * 4)
    keys_and_values = 2 * 2 * 16 * 4  # two layers of width 16 in fp32
    assert cache_bytes(stranger.model, ids) == 20 * keys_and_values


def test_a_model_writes_as_many_tokens_as_it_has_positions_for(
    stranger: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speed, "TIMES", 1)
    found = measure_speed(stranger, 0)
    assert found["read_tokens"] == 64 and found["written_tokens"] == 32
