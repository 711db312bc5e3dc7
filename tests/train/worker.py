"""A process of a training run: `python -m tests.train.worker OUT CASES`, started by torchrun or with its variables set.

CASES is a JSON list of stages to train one after the other, each with `run`, `steps` and settings, and what makes it
special: `architecture`, a baseline's; `model`, options of the model; `double`, train in fp64; `gradients`, only compute
those of the first step; `stall`, stop for ever in the middle of something (see `stall_at`) after leaving a file
`stalled-RANK` in the run.
The first process writes what came out of case n to OUT/n.pt.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch.distributed.tensor import DTensor

from sioconv.errors import StoppedError, UserError
from sioconv.train import checkpoint, loop, step
from sioconv.train.distributed import World, join_world
from sioconv.train.metrics import read_jsonl
from tests.train import small


def whole(tensor: Any) -> torch.Tensor:
    """A tensor with the shares of all processes."""
    result: torch.Tensor = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    return result


def stall_at(place: str, count: int, marker: Path) -> None:
    """From the `count`-th time on, this process doesn't come out of `place`.

    `accumulation` is between the pieces of a step; `writing` is when a checkpoint's files are there and not yet whole.
    """
    module, name = {"accumulation": (step.TokenLoss, "forward"), "writing": (checkpoint, "_sums")}[place]
    whole_function, calls = getattr(module, name), [0]

    def stalled(*arguments: Any) -> Any:
        result = whole_function(*arguments)
        calls[0] += 1
        if calls[0] >= count:
            marker.touch()
            time.sleep(600)
        return result

    setattr(module, name, stalled)


def work(values: dict[str, Any], world: World) -> dict[str, Any]:
    """Trains one case; returns final `weights` and the (loss, norm) of each line, or `loss` and `gradients`."""
    run, only_gradients = Path(values.pop("run")), values.pop("gradients", False)
    if stall := values.pop("stall", None):
        run.mkdir(exist_ok=True)
        stall_at(*stall, run / f"stalled-{world.rank}")
    options, architecture = values.pop("model", {}), values.pop("architecture", None)
    model = small.make_baseline(architecture, **options) if architecture else small.make_model(**options)
    if values.pop("double", False):
        model.double()
    config = small.make_config(values.pop("steps", 8), **values)
    trainer = small.make_trainer(run, model, config, world=world)
    if only_gradients:
        (batch,) = trainer._batches(0, 1)
        loss = trainer.stepper.gradients(batch)
        named = trainer.stepper.model.named_parameters()
        return {"loss": loss, "gradients": {name: whole(p.grad) for name, p in named if p.grad is not None}}
    trainer.train()
    with trainer.stepper.whole_model() as trained:
        if trained is None:
            return {}
        weights = {name: value.clone() for name, value in trained.state_dict().items()}
    rows = [row for row in read_jsonl(run / "metrics.jsonl") if row["split"] == "train"]
    return {"weights": weights, "rows": [(row["loss"], row["grad_norm"]) for row in rows]}


def main() -> None:
    """Exits as the command line does."""
    torch.set_num_threads(1)
    setattr(loop, "matrix_speed", lambda *_: 1e9)  # noqa: B010 - what is shown on the terminal, and nothing else
    cases = json.loads(sys.argv[2])
    try:
        with join_world("cpu", 300.0) as world:
            for number, values in enumerate(cases):
                result = work(values, world)
                if world.leads:
                    torch.save(result, Path(sys.argv[1]) / f"{number}.pt")
    except UserError as error:
        print(f"worker: {error}", file=sys.stderr)
        sys.exit(2)
    except StoppedError as stop:
        print(f"worker: {stop}", file=sys.stderr)
        sys.exit(75)


if __name__ == "__main__":
    main()
