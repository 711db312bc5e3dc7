"""What is trained: an arm is a recipe with settings of its own, a seed and a budget of tokens."""

import hashlib
import json
import shlex
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
STEP = 4096  # tokens of a step, the demo's 16 windows of 256
TOKENS = 600 * STEP
LONGEST_NAME = 200  # bytes of a folder's name, which has 255 with what follows
UNNAMED = ("note", "minutes", "minutes_of")  # what an arm's folder isn't named by
TRACKS = {
    "bundled": "benchmarks/speedrun/bundled.yaml",
    "wiki": "benchmarks/speedrun/wiki.yaml",
}  # the recipe that says text, tokenizer, held-out text and everything not set


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
        minutes: the budget that `tokens` were counted from, by the speed of `calibrate`; None where they are given.
        minutes_of: the machine that was calibrated, where there are minutes.
    """

    track: str
    name: str
    tokens: int = TOKENS
    seed: int = 0
    settings: dict[str, Any] = field(default_factory=dict)
    note: str = ""
    commit: str | None = None
    minutes: float | None = None
    minutes_of: str | None = None

    def is_answered_by(self, row: dict[str, Any]) -> bool:
        """Whether `row` of the results is of this arm."""
        same = all(row[key] == getattr(self, key) for key in ("track", "name", "tokens", "seed", "settings"))
        same = same and (row.get("minutes"), row.get("minutes_of")) == (self.minutes, self.minutes_of)
        return same and (self.commit is None or row.get("commit", "").startswith(self.commit))

    @property
    def folder(self) -> str:
        """A folder's name that no other arm has."""
        what = {key: value for key, value in asdict(self).items() if key not in UNNAMED}
        digest = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:8]
        name = self.name.replace("/", "-").encode()[:LONGEST_NAME].decode(errors="ignore")
        return f"{name}-{self.tokens}-{self.seed}-{digest}"

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
