"""How held-out bits per byte fall with size and text: L(N, D) = E + A / N^alpha + B / D^beta.

The form, and the fit by a Huber loss of log L from several starts, are those of Hoffmann et al. 2022, "Training
compute-optimal large language models" (https://arxiv.org/abs/2203.15556), section 3.3 and appendix D.3. N counts all
parameters, D the tokens that were trained on.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from benchmarks.speedrun.arms import Arm
from sioconv.errors import UserError

Array = NDArray[np.float64]
HUBER = 1e-3  # of log L: what is further off counts linearly
LEAST_POINTS = 8  # for five parameters
DRAWS = 200  # of the bootstrap
# Where a fit may start: log A, log B, log E, alpha, beta.
STARTS = tuple(product((0.0, 4.0, 8.0), (0.0, 4.0, 8.0), (-1.0, 0.0), (0.2, 0.5), (0.2, 0.5)))
FORECASTS = ((5.13e6, 19.7e6), (25e6, 500e6), (123e6, 2.5e9), (1.6e9, 7e9))  # parameters, tokens


@dataclass(frozen=True)
class Law:
    """The five numbers: log A, log B, log E, alpha, beta."""

    numbers: Array

    def bits(self, parameters: Array | float, tokens: Array | float) -> Array:
        """L(N, D), bits per byte."""
        return np.exp(_log_bits(self.numbers, np.asarray(parameters, float), np.asarray(tokens, float)))


@dataclass(frozen=True)
class Fit:
    """A law, and those of the bootstrap.

    Attributes:
        law: the best.
        draws: laws of as many resampled sets.
        residual: root mean square of log L's residuals.
    """

    law: Law
    draws: tuple[Law, ...]
    residual: float

    def forecast(self, parameters: float, tokens: float) -> tuple[float, float, float]:
        """Bits per byte, and the ends of the bootstrap's interval of 90 %."""
        found = [float(draw.bits(parameters, tokens)) for draw in self.draws]
        low, high = np.quantile(found, (0.05, 0.95))
        return float(self.law.bits(parameters, tokens)), float(low), float(high)

    def interval(self, place: int) -> tuple[float, float]:
        """The same of one of the law's numbers."""
        low, high = np.quantile([draw.numbers[place] for draw in self.draws], (0.05, 0.95))
        return float(low), float(high)


def points_of(arms: Sequence[Arm], rows: Sequence[dict[str, Any]]) -> Array:
    """N, D and mean bits per byte of each arm that the results have, [P, 3].

    Raises UserError where they are too few, or of one size or horizon alone.
    """
    found = [
        (row["parameters"], row["tokens"], row["bits_per_byte"]["mean"])
        for arm in arms
        for row in rows
        if arm.is_answered_by(row)
    ]
    points = np.array(found, float).reshape(-1, 3)
    sizes, horizons = (len(set(points[:, column])) for column in (0, 1))
    if len(points) < LEAST_POINTS or sizes < 3 or horizons < 3:
        raise UserError(
            f"{len(points)} of {len(arms)} arms are done, {sizes} sizes and {horizons} horizons: a law takes "
            f"{LEAST_POINTS} results, 3 sizes and 3 horizons: run the queue of this file first"
        )
    return points


def fit(points: Array, seed: int = 0) -> Fit:
    """Fits the law to points [P, 3], and again to points with residuals drawn anew.

    Residuals are those of the best fit, with their signs drawn too, times sqrt(P / (P - 5)): so few points fit five
    numbers too well.
    """
    logs = np.log(points[:, 2])
    best = min((_solve(points, logs, np.array(start)) for start in STARTS), key=lambda found: found[1])[0]
    residuals = logs - _log_bits(best, points[:, 0], points[:, 1])
    wide = residuals * np.sqrt(len(points) / (len(points) - 5))
    random = np.random.default_rng(seed)
    draws = []
    for _ in range(DRAWS):
        noise = random.choice(wide, len(points)) * random.choice((-1.0, 1.0), len(points))
        draws.append(Law(_solve(points, logs - residuals + noise, best)[0]))
    return Fit(Law(best), tuple(draws), float(np.sqrt(np.mean(residuals**2))))


def _log_bits(numbers: Array, parameters: Array, tokens: Array) -> Array:
    a, b, e, alpha, beta = numbers
    terms = np.stack(
        np.broadcast_arrays(a - alpha * np.log(parameters), b - beta * np.log(tokens), e + 0 * np.log(tokens))
    )
    found: Array = np.logaddexp.reduce(terms, axis=0)
    return found


def _solve(points: Array, logs: Array, start: Array) -> tuple[Array, float]:
    """The law's numbers from one start, and their cost."""
    from scipy.optimize import least_squares

    found = least_squares(
        lambda numbers: _log_bits(numbers, points[:, 0], points[:, 1]) - logs,
        start,
        loss="huber",
        f_scale=HUBER,
        bounds=([-20.0, -20.0, -20.0, 0.0, 0.0], [40.0, 40.0, 2.0, 2.0, 2.0]),
        x_scale="jac",
    )
    return found.x, float(found.cost)


def tables(found: Fit, points: Array) -> list[Table]:
    """What is printed: the law's numbers, each point beside the law, and forecasts."""
    numbers = Table(title=f"L = E + A / N^alpha + B / D^beta, root mean square of log L {found.residual:.4f}")
    for name in ("", "value", "90 %"):
        numbers.add_column(name, justify="right")
    for name, place in (("log A", 0), ("log B", 1), ("log E", 2), ("alpha", 3), ("beta", 4)):
        low, high = found.interval(place)
        numbers.add_row(name, f"{found.law.numbers[place]:.3f}", f"{low:.3f} to {high:.3f}")
    measured = Table(title="Measured and by the law")
    for name in ("parameters", "tokens", "measured", "law"):
        measured.add_column(name, justify="right")
    for parameters, tokens, bits in sorted(map(tuple, points)):
        law = float(found.law.bits(parameters, tokens))
        measured.add_row(f"{parameters:,.0f}", f"{tokens:,.0f}", f"{bits:.4f}", f"{law:.4f}")
    forecasts = Table(title="Forecasts, were the text never read twice: far from all that was measured")
    for name in ("parameters", "tokens", "bits per byte", "90 %"):
        forecasts.add_column(name, justify="right")
    for size, horizon in FORECASTS:
        value, low, high = found.forecast(size, horizon)
        forecasts.add_row(f"{size:,.0f}", f"{horizon:,.0f}", f"{value:.3f}", f"{low:.3f} to {high:.3f}")
    return [numbers, measured, forecasts]
