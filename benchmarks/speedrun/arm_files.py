"""Files of arms: what `queue`, `many`, `calibrate` and `scaling` are given."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import UnionType
from typing import Any

import yaml

from benchmarks.speedrun.arms import STEP, TRACKS, Arm
from benchmarks.speedrun.results import SPEEDS, read_results
from sioconv.errors import UserError

KEYS = {"name", "note", "seeds", "settings", "tokens", "minutes", "commit"}
SHARED = {"track", "tokens", "settings", "commit", "arms"}


def _is_number(value: Any, kind: type | UnionType) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool) and value > 0


# What a key's value has to be.
KINDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "tokens": (lambda value: _is_number(value, int), "a whole number above 0"),
    "minutes": (lambda value: _is_number(value, int | float), "a number above 0"),
    "settings": (lambda value: isinstance(value, dict), "a mapping of the recipe's keys"),
    "seeds": (lambda value: isinstance(value, list) and all(type(seed) is int for seed in value), "a list of numbers"),
    "name": (lambda value: isinstance(value, str), "a name"),
}


def read_arms(path: Path, speeds: Path | None = SPEEDS) -> list[Arm]:
    """The arms of a queue's file, in its order, an arm's seeds one after the other.

    It is a mapping of `track`, `tokens`, `settings` and `commit` for all arms, and of `arms`, a list of mappings with
    `name`, `note`, `seeds`, and `settings`, `tokens`, `commit` that stand above those for all. An arm may have
    `minutes` in the place of `tokens`: the last calibration of its settings says how many tokens those are.

    Args:
        path: YAML.
        speeds: what `calibrate` has measured; without it minutes aren't looked at.

    Raises UserError where the file isn't such a mapping, or an arm with minutes wasn't calibrated.
    """
    if not path.is_file():
        raise UserError(f"no queue at {path}: give a YAML file of arms, as benchmarks/speedrun/queue.yaml is")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    _check(values, SHARED, {"arms"}, str(path))
    if not isinstance(values["arms"], list):
        raise UserError(f"{path}: arms: expected a list of mappings")
    measured = [] if speeds is None else read_results(speeds)
    arms: list[Arm] = []
    for number, entry in enumerate(values["arms"]):
        _check(entry, KEYS, {"name"}, f"{path}: arm {number}")
        common = {key: values[key] for key in ("tokens", "commit") if key in values}
        own = {key: entry[key] for key in ("tokens", "commit", "name", "note") if key in entry}
        settings = {**values.get("settings", {}), **entry.get("settings", {})}
        track = values.get("track", "bundled")
        if track not in TRACKS:
            raise UserError(f"{path}: track: {track!r} is not known: choose from {', '.join(TRACKS)}")
        seeds = entry.get("seeds", [0])
        found = [Arm(**{**common, **own}, track=track, seed=seed, settings=settings) for seed in seeds]
        if "minutes" in entry and speeds is not None:
            found = [_with_minutes(arm, entry["minutes"], measured, path) for arm in found]
        arms += found
    return arms


def _with_minutes(arm: Arm, minutes: float, speeds: list[dict[str, Any]], path: Path) -> Arm:
    for row in reversed(speeds):
        if (row["track"], row["settings"]) == (arm.track, arm.settings):
            steps = int(60 * minutes * row["tokens_per_second"] / STEP)
            machine = f"{row['machine']['processor']}, {row['threads']} threads"
            return replace(arm, tokens=steps * STEP, minutes=minutes, minutes_of=machine)
    raise UserError(
        f"{path}: {arm.name}: how many tokens {minutes:g} minutes are isn't known: run `python -m benchmarks.speedrun "
        f"calibrate {path}` on an idle machine"
    )


def _check(values: Any, known: set[str], needed: set[str], where: str) -> None:
    if not isinstance(values, dict):
        raise UserError(f"{where} is not a mapping of {', '.join(sorted(known))}")
    if wrong := [*(set(values) - known), *(needed - set(values))]:
        raise UserError(f"{where}: {wrong[0]} is unknown or missing: known are {', '.join(sorted(known))}")
    for key, (fits, wanted) in KINDS.items():
        if key in values and not fits(values[key]):
            raise UserError(f"{where}: {key}: {values[key]!r} is not {wanted}")
