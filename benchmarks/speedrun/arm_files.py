"""Files of arms: what `queue`, `many`, `calibrate` and `scaling` are given."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import UnionType
from typing import Any

import yaml

from benchmarks.speedrun.arms import STEP, TRACKS, Arm, flat
from benchmarks.speedrun.results import SPEEDS, read_results
from sioconv.errors import UserError

KEYS = {"name", "note", "seeds", "settings", "tokens", "minutes", "start_seconds", "commit"}
SHARED = {"track", "tokens", "settings", "commit", "arms"}
# Keys of the recipe that an arm's own say: set as well, a row would tell of another training.
NO_SETTINGS = {"name": "name", "seed": "seeds", "train.tokens": "tokens", "train.minutes": "minutes"}
START, TEXT = "train.start", "data.sources."  # settings that change no step's speed
SPEED_KEYS = ("track", "settings", "tokens_per_second", "threads", "machine")


class UniqueKeyLoader(yaml.SafeLoader):
    """Refuses a key that is written twice: YAML would silently forget the first, and another arm be trained."""

    def compose_mapping_node(self, anchor: str | None) -> yaml.MappingNode:
        """The mapping, before merges are put into it. Raises ComposerError for a key that comes twice."""
        node = super().compose_mapping_node(anchor)
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for number, key in enumerate(keys):
            if key in keys[:number]:
                raise yaml.composer.ComposerError(None, None, f"the key {key!r} comes twice", node.start_mark)
        return node


def _is_number(value: Any, kind: type | UnionType) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool) and 0 < value < math.inf


def _is_settings(value: Any) -> bool:
    """A mapping that a row of the results gives back as it was: no dates, sets, NaN, or keys that aren't text."""
    try:
        return isinstance(value, dict) and bool(json.loads(json.dumps(value)) == value)
    except (TypeError, ValueError, RecursionError):
        return False


def _are_seeds(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(type(seed) is int and seed >= 0 for seed in value)


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and value.isprintable() and bool(value.strip())


# What a key's value has to be.
KINDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "tokens": (lambda value: _is_number(value, int), "a whole number above 0"),
    "minutes": (lambda value: _is_number(value, int | float), "a number above 0"),
    "start_seconds": (lambda value: _is_number(value, int | float), "a number above 0"),
    "settings": (_is_settings, "a mapping of the recipe's keys to text, numbers, lists and mappings"),
    "seeds": (_are_seeds, "a list of numbers from 0 up"),
    "name": (_is_name, "a name on one line"),
    "note": (lambda value: isinstance(value, str), "text"),
    "commit": (lambda value: isinstance(value, str), "a commit's name: put one of digits alone in quotes"),
}


def read_arms(path: Path, speeds: Path | None = SPEEDS) -> list[Arm]:
    """The arms of a queue's file, in its order, an arm's seeds one after the other.

    It is a mapping of `track`, `tokens`, `settings` and `commit` for all arms, and of `arms`, a list of mappings with
    `name`, `note`, `seeds`, and `settings`, `tokens`, `commit` that stand above those for all. An arm may have
    `minutes` in the place of `tokens`: the last calibration of its settings, but for those of the text, says how many
    tokens those are, less `start_seconds`, in which a start from counts is made.

    Args:
        path: YAML.
        speeds: what `calibrate` has measured; without it minutes aren't looked at.

    Raises UserError where the file isn't such a mapping, or an arm with minutes wasn't calibrated.
    """
    if not path.is_file():
        raise UserError(f"no queue at {path}: give a YAML file of arms, as benchmarks/speedrun/queue.yaml is")
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), UniqueKeyLoader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    check(values, SHARED, {"arms"}, str(path))
    if not isinstance(values["arms"], list) or not values["arms"]:
        raise UserError(f"{path}: arms: expected a list of mappings")
    track = values.get("track", "bundled")
    if track not in list(TRACKS):
        raise UserError(f"{path}: track: {track!r} is not known: choose from {', '.join(TRACKS)}")
    measured = [] if speeds is None else read_results(speeds, SPEED_KEYS)
    arms: list[Arm] = []
    for number, entry in enumerate(values["arms"]):
        check(entry, KEYS, {"name"}, f"{path}: arm {number}")
        common = {key: values[key] for key in ("tokens", "commit") if key in values}
        own = {key: entry[key] for key in ("tokens", "commit", "name", "note") if key in entry}
        settings = {**values.get("settings", {}), **entry.get("settings", {})}
        seeds = entry.get("seeds", [0])
        found = [Arm(**{**common, **own}, track=track, seed=seed, settings=settings) for seed in seeds]
        if "minutes" in entry and speeds is not None:
            if (START in settings) != ("start_seconds" in entry):
                raise UserError(f"{path}: {entry['name']}: with minutes, {START} and start_seconds belong together")
            seconds = 60 * entry["minutes"] - entry.get("start_seconds", 0)
            found = [_with_minutes(arm, entry["minutes"], seconds, measured, path) for arm in found]
        arms += found
    return arms


def _with_minutes(arm: Arm, minutes: float, seconds: float, speeds: list[dict[str, Any]], path: Path) -> Arm:
    """The arm with the tokens of the `seconds` of its minutes in which it trains."""
    for row in reversed(speeds):
        if row["track"] == arm.track and _pace(row["settings"]) == _pace(arm.settings):
            steps = int(seconds * row["tokens_per_second"] / STEP)
            if steps < 1:
                raise UserError(f"{path}: {arm.name}: {minutes:g} minutes are shorter than one step: give more")
            machine = f"{row['machine']['processor']}, {row['threads']} threads"
            return replace(arm, tokens=steps * STEP, minutes=minutes, minutes_of=machine)
    raise UserError(
        f"{path}: {arm.name}: how many tokens {minutes:g} minutes are isn't known: run `python -m benchmarks.speedrun "
        f"calibrate {path}` on an idle machine"
    )


def _pace(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings that a step's speed depends on."""
    return {key: value for key, value in settings.items() if key != START and not key.startswith(TEXT)}


def check(values: Any, known: set[str], needed: set[str], where: str) -> None:
    """Raises UserError, which says `where`, for a mapping of other keys, or of values that can't be."""
    if not isinstance(values, dict):
        raise UserError(f"{where} is not a mapping of {', '.join(sorted(known))}")
    if wrong := [*(set(values) - known), *(needed - set(values))]:
        raise UserError(f"{where}: {wrong[0]} is unknown or missing: known are {', '.join(sorted(known))}")
    for key, (fits, wanted) in KINDS.items():
        if key in values and not fits(values[key]):
            raise UserError(f"{where}: {key}: {values[key]!r} is not {wanted}")
    if {"tokens", "minutes"} <= set(values):
        raise UserError(f"{where}: tokens and minutes are both given: leave one of them out")
    for key in flat(values.get("settings", {})):
        if key in NO_SETTINGS:
            raise UserError(f"{where}: settings: {key}: give {NO_SETTINGS[key]} of the arm in its place")
