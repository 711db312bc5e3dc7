"""A small model, trained from nothing on a task by the loop's own step, and asked at longer and longer ways."""

import time
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from benchmarks.probes.mixers import LEVERS, replace_mixers
from benchmarks.probes.tasks import TASKS, VOCABULARY, batch
from sioconv.data.batches.loader import IGNORED
from sioconv.evaluate.parts.speed import cache_bytes
from sioconv.model import SioConvConfig, SioConvForCausalLM
from sioconv.model.architecture import PRESETS, Architecture
from sioconv.model.baselines.architectures import build_baseline
from sioconv.progress import track
from sioconv.train.config import TrainConfig
from sioconv.train.distributed import World
from sioconv.train.step import Stepper

BASELINES = ("llama", "lstm", "mingru", "mamba2")
ARMS = (*PRESETS, *LEVERS, *BASELINES)
SMALLEST = 4  # size of a mixed training
FACTORS = (1, 2, 4, 8, 16, 32)  # lengths that are asked, in training lengths
ASKED, TOKENS_AT_ONCE = 64, 32_768  # sequences of each length


@dataclass(frozen=True)
class Probe:
    """One training.

    Args:
        arm: of `ARMS`: a family, a lever of `mixers.LEVERS` on the family `sioconv-2026b`, a baseline.
        task: of `tasks.TASKS`.
        size: how much is kept in memory.
        length: of the sequences that it is trained on.
        width: the model's hidden_size, by which the state grows.
        layers: its blocks.
        heads: its heads.
        steps: optimizer steps.
        rows: sequences in each.
        lr: highest learning rate.
        seed: of the weights and of the sequences.
        settings: other fields of `Architecture`.
        mixed: steps of 4, 8, … and `size` things take turns, at lengths in proportion, as Arora et al. train; the
            smaller ones have more sequences, up to four times as many.
    """

    arm: str
    task: str
    size: int
    length: int
    width: int = 64
    layers: int = 2
    heads: int = 4
    steps: int = 2000
    rows: int = 64
    lr: float = 3e-3
    seed: int = 0
    settings: dict[str, Any] = field(default_factory=dict)
    mixed: bool = False

    def is_answered_by(self, row: dict[str, Any]) -> bool:
        """Whether a row of the results is of this training."""
        return probe_of(row) == self

    def sequences(self, step: int) -> tuple[int, int, int]:
        """Rows, length and size of what a step trains on."""
        if not self.mixed or self.size <= SMALLEST:
            return self.rows, self.length, self.size
        sizes = [size for size in (SMALLEST << power for power in range(8)) if size < self.size] + [self.size]
        size = sizes[step % len(sizes)]
        least = TASKS[self.task].least(size)
        return self.rows * min(4, self.size // size), max(least, self.length * size // self.size), size


def probe_of(row: dict[str, Any]) -> Probe:
    """The training that a row of the results is of."""
    return Probe(**{field.name: row[field.name] for field in fields(Probe) if field.name in row})


def build(probe: Probe) -> PreTrainedModel:
    """The arm's model with fresh weights; a baseline has nearly as many parameters as the family `sioconv-2026`."""
    family = {**dict.fromkeys(BASELINES, "sioconv-2026"), **dict.fromkeys(LEVERS, "sioconv-2026b")}
    preset = PRESETS[family.get(probe.arm, probe.arm)]
    sizes = {
        "hidden_size": probe.width, "num_hidden_layers": probe.layers, "num_heads": probe.heads,
        "intermediate_size": 2 * probe.width,
    }  # fmt: skip
    values = {**preset, **sizes, **probe.settings}
    torch.manual_seed(probe.seed)
    if probe.arm in BASELINES:
        return build_baseline(probe.arm, Architecture(**values), VOCABULARY)
    model = SioConvForCausalLM(SioConvConfig(vocab_size=VOCABULARY, **values))
    if probe.arm in LEVERS:
        replace_mixers(model, probe.arm)
    return model


def run_probe(probe: Probe) -> dict[str, Any]:
    """Trains and asks; the probe's fields with `accuracy` by length, `chance`, `parameters`, `state_bytes`, `seconds`.

    `state_bytes` is what the model keeps of one sequence of the training length.
    """
    model = build(probe)
    config = TrainConfig(
        tokens=1, sequence_length=probe.length, batch_size=probe.rows, lr=probe.lr, weight_decay=0.0, device="cpu"
    )
    stepper = Stepper(model, config, World(torch.device("cpu")), torch.float32, probe.seed)
    random = np.random.default_rng([probe.seed, 1])
    start = time.perf_counter()
    for step in track(range(probe.steps), f"{probe.arm}, {probe.task} of {probe.size} (steps)"):
        loss = stepper.gradients(batch(probe.task, random, *probe.sequences(step)), step)
        stepper.update(stepper.learning_rate(step, probe.steps), loss)
    seconds = time.perf_counter() - start
    with stepper.whole_model() as whole:
        accuracy = {str(factor * probe.length): ask(whole, probe, factor * probe.length) for factor in FACTORS}
        ids = batch(probe.task, random, 1, probe.length, probe.size).input_ids
        state = cache_bytes(whole, ids)
    return {
        **asdict(probe), "accuracy": accuracy, "chance": TASKS[probe.task].chance(probe.size),
        "parameters": model.num_parameters(), "state_bytes": state, "seconds": round(seconds, 1),
        "torch": torch.__version__,
    }  # fmt: skip


@torch.inference_mode()
def ask(model: Any, probe: Probe, length: int) -> float:
    """The share of right answers at a length; the sequences are others than those of training."""
    random = np.random.default_rng([probe.seed, 2, length])
    right = asked = 0
    left = ASKED
    while left:
        rows = min(left, max(1, TOKENS_AT_ONCE // length))
        left -= rows
        made = batch(probe.task, random, rows, length, probe.size)
        wanted = made.targets != IGNORED
        hidden = model.base_model(made.input_ids, use_cache=False).last_hidden_state[wanted]
        found = model.get_output_embeddings()(hidden).argmax(-1)
        right += int((found == made.targets[wanted]).sum())
        asked += int(wanted.sum())
    return right / asked


def best_of(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of each arm, task, size and width the rows of the learning rate whose mean accuracy at its own length is best."""
    groups: dict[tuple[Any, ...], dict[float, list[dict[str, Any]]]] = {}
    for row in rows:
        key = (*(str(value) for value in asdict(replace(probe_of(row), lr=0.0, seed=0)).values()),)
        groups.setdefault(key, {}).setdefault(row["lr"], []).append(row)

    def mean(listed: list[dict[str, Any]]) -> float:
        return float(np.mean([row["accuracy"][str(row["length"])] for row in listed]))

    return [row for rates in groups.values() for row in max(rates.values(), key=mean)]
