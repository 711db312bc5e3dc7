"""What is trained: an arm is a recipe with settings of its own, a seed and a budget of tokens."""

import hashlib
import json
import shlex
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml

from sioconv.errors import UserError

ROOT = Path(__file__).parents[2]
TOKENS = 2_457_600  # 600 steps of the demo's 16 windows of 256 tokens
TRACKS = {
    "bundled": "benchmarks/speedrun/bundled.yaml",
    "wiki": "benchmarks/speedrun/wiki.yaml",
}  # the recipe that says text, tokenizer, held-out text and everything not set
KEYS = {"name", "note", "seeds", "settings", "tokens", "commit"}
SHARED = {"track", "tokens", "settings", "commit", "arms"}


@dataclass(frozen=True)
class Arm:
    """One training.

    Attributes:
        track: which text, a key of `TRACKS`.
        name: of what is compared; the same for all seeds.
        tokens: how many are trained on.
        seed: of the weights and of the data's order.
        settings: the recipe's keys, dotted, that are set.
        note: what is tried, in words.
        commit: the code that is wanted; None takes that of the moment when it starts.
    """

    track: str
    name: str
    tokens: int = TOKENS
    seed: int = 0
    settings: dict[str, Any] = field(default_factory=dict)
    note: str = ""
    commit: str | None = None

    def is_answered_by(self, row: dict[str, Any]) -> bool:
        """Whether `row` of the results is of this arm."""
        same = all(row[key] == getattr(self, key) for key in ("track", "name", "tokens", "seed", "settings"))
        return same and (self.commit is None or row["commit"].startswith(self.commit))

    @property
    def folder(self) -> str:
        """A folder's name that no other arm has."""
        what = {key: value for key, value in asdict(self).items() if key != "note"}
        digest = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:8]
        return f"{self.name.replace('/', '-')}-{self.tokens}-{self.seed}-{digest}"

    @property
    def words(self) -> list[str]:
        """What stands on the command line after the recipe, besides the run's name."""
        fixed = {"seed": self.seed, "train.minutes": None, "train.tokens": self.tokens}
        return [f"--{key}={as_word(value)}" for key, value in flat({**fixed, **self.settings}).items()]

    @property
    def command(self) -> str:
        """What trains it by hand, as a shell takes it."""
        return shlex.join(["sioconv", "pretrain", TRACKS[self.track], *self.words])


def flat(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings with dotted keys in the place of mappings."""
    found: dict[str, Any] = {}
    for key, value in settings.items():
        found |= (
            flat({f"{key}.{inner}": part for inner, part in value.items()}) if isinstance(value, dict) else {key: value}
        )
    return found


def as_word(value: Any) -> str:
    """A setting's value as it stands on the command line."""
    return value if isinstance(value, str) else json.dumps(value)


def read_arms(path: Path) -> list[Arm]:
    """The arms of a queue's file, in its order, an arm's seeds one after the other.

    It is a mapping of `track`, `tokens`, `settings` and `commit` for all arms, and of `arms`, a list of mappings with
    `name`, `note`, `seeds`, and `settings`, `tokens`, `commit` that stand above those for all.

    Raises UserError where the file isn't such a mapping.
    """
    if not path.is_file():
        raise UserError(f"no queue at {path}: give a YAML file of arms, as benchmarks/speedrun/queue.yaml is")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    _check(values, SHARED, {"arms"}, str(path))
    arms: list[Arm] = []
    for number, entry in enumerate(values["arms"]):
        _check(entry, KEYS, {"name"}, f"{path}: arm {number}")
        common = {key: values[key] for key in ("tokens", "commit") if key in values}
        own = {key: entry[key] for key in ("tokens", "commit", "name", "note") if key in entry}
        settings = {**values.get("settings", {}), **entry.get("settings", {})}
        track = values.get("track", "bundled")
        if track not in TRACKS:
            raise UserError(f"{path}: track: {track!r} is not known: choose from {', '.join(TRACKS)}")
        arms += [
            Arm(**{**common, **own}, track=track, seed=seed, settings=settings) for seed in entry.get("seeds", [0])
        ]
    return arms


def _check(values: Any, known: set[str], needed: set[str], where: str) -> None:
    if not isinstance(values, dict):
        raise UserError(f"{where} is not a mapping of {', '.join(sorted(known))}")
    if wrong := [*(set(values) - known), *(needed - set(values))]:
        raise UserError(f"{where}: {wrong[0]} is unknown or missing: known are {', '.join(sorted(known))}")
