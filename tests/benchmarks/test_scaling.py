"""The law of size and text, on points that a known law gave."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("scipy")
pytest.importorskip("fcntl")  # results are locked as Unix does

from benchmarks.speedrun.__main__ import main
from benchmarks.speedrun.arm_files import read_arms
from benchmarks.speedrun.arms import ROOT
from benchmarks.speedrun.scaling import Law, fit, points_of
from sioconv.errors import UserError

TRUE = Law(np.array([6.0, 5.0, -0.2, 0.45, 0.35]))
FILE = ROOT / "benchmarks/speedrun/scaling.yaml"
SIZES, HORIZONS = (1.8e6, 3.2e6, 5.1e6, 17e6), (0.6e6, 1.2e6, 2.5e6, 9.8e6)


def points(noise: float) -> np.ndarray:
    random = np.random.default_rng(1)
    return np.array([[n, d, float(TRUE.bits(n, d)) * np.exp(noise * random.normal())] for n in SIZES for d in HORIZONS])


def test_the_law_is_found_again() -> None:
    found = fit(points(0.0))
    assert found.residual < 1e-5
    np.testing.assert_allclose(found.law.numbers, TRUE.numbers, rtol=0.02, atol=0.02)
    assert found.forecast(1.6e9, 7e9)[0] == pytest.approx(float(TRUE.bits(1.6e9, 7e9)), rel=1e-3)


def test_the_interval_is_wider_far_away_and_with_noise() -> None:
    quiet, loud = fit(points(1e-4)), fit(points(3e-3))
    for found in (quiet, loud):
        value, low, high = found.forecast(1.6e9, 7e9)
        near = found.forecast(5.1e6, 2.5e6)
        assert low < value < high and high - low > near[2] - near[1]
    true = float(TRUE.bits(1.6e9, 7e9))
    assert quiet.forecast(1.6e9, 7e9)[1] < true < quiet.forecast(1.6e9, 7e9)[2]
    assert np.diff(quiet.forecast(1.6e9, 7e9)[1:]) < np.diff(loud.forecast(1.6e9, 7e9)[1:])


def test_the_command_takes_a_files_results_and_says_what_misses(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arms = read_arms(FILE)
    rows = []
    for arm in arms:
        size = {"128": 1.8e6, "192": 3.2e6, "256": 5.1e6}[arm.name[:3]]
        row = {"track": arm.track, "name": arm.name, "tokens": arm.tokens, "seed": arm.seed, "settings": arm.settings}
        rows.append(row | {"parameters": size, "bits_per_byte": {"mean": float(TRUE.bits(size, arm.tokens))}})
    results = tmp_path / "results.jsonl"
    results.write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.setattr(sys, "argv", ["speedrun", "scaling", str(FILE), "--results", str(results)])
    main()
    said = capsys.readouterr().out
    assert "1,600,000,000" in said and "alpha" in said and f"{rows[0]['bits_per_byte']['mean']:.4f}" in said
    with pytest.raises(UserError, match="6 of 9 arms are done, 2 sizes and 3 horizons: a law takes 8 results"):
        points_of(arms, rows[:6])
    results.write_text("")
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2 and "0 of 9 arms are done" in capsys.readouterr().err
