"""Many arms at once on one device, in processes that train one arm after the other.

The steps are those of `sioconv pretrain`: the same windows, weights, schedule and update, without checkpoints. A GPU
trains a small model in less time than the command takes to start.
"""

import math
import multiprocessing
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from multiprocessing.queues import Queue
from pathlib import Path
from queue import Empty
from queue import Queue as LocalQueue
from typing import Any

import torch

from benchmarks.speedrun.arms import Arm
from benchmarks.speedrun.prepared import prepare, read_heldout, recipe_of, working_in
from benchmarks.speedrun.results import append_result, describe, is_done, make_row
from sioconv.data.batches.prefetch import prefetch
from sioconv.data.tokenizer.tokenizer import load_tokenizer
from sioconv.errors import UserError
from sioconv.evaluate.heldout import language_totals, measure_text
from sioconv.evaluate.parts.measure import measure
from sioconv.evaluate.parts.settings import Settings
from sioconv.evaluate.parts.speed import cache_bytes
from sioconv.evaluate.subject import Subject
from sioconv.hardware import pick_precision
from sioconv.progress import say
from sioconv.recipe.schema import Recipe
from sioconv.run.folder import TOKENIZER
from sioconv.run.stages import build_model, open_windows
from sioconv.train.budget import make_budget
from sioconv.train.distributed import World
from sioconv.train.step import Stepper

STOPS = (signal.SIGINT, signal.SIGTERM)


class OverError(Exception):
    """The time was over before the arm was trained."""


def train_many(
    arms: Sequence[Arm], results: Path, work: Path, device: str, workers: int, minutes: float, commit: str
) -> int:
    """Trains what isn't done, in this order, until the time is over; returns how many arms are left.

    Args:
        arms: what is trained.
        results: where the rows go.
        work: a folder for the texts.
        device: what is trained on.
        workers: processes.
        minutes: after which none goes on.
        commit: the code's, for the rows.
    """
    left = [arm for arm in arms if not is_done(arm, results)]
    prepare(left, work)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])  # what is slow to import is imported once
    queue: Queue[Arm] = context.Queue()
    for arm in left:
        queue.put(arm)
    end = time.time() + 60 * minutes
    arguments = (queue, results.resolve(), work.resolve(), device, end, commit)
    processes = [context.Process(target=_work_off_silently, args=arguments) for _ in range(min(workers, len(left)))]
    try:
        with _not_stopped():
            for process in processes:
                process.start()
        for process in processes:
            process.join()
    finally:
        for process in processes:  # what ends this one ends them
            if process.pid is not None:
                process.terminate()
                process.join()
    return sum(not is_done(arm, results) for arm in left)


@contextmanager
def _not_stopped() -> Iterator[None]:
    """Ctrl-C and SIGTERM wait for the end of the block: a process that isn't whole yet could not be ended.

    A handler of its own, because a thread of torch's may get what this one has blocked; blocked as well, because the
    processes begin with that, and `_work_off_silently` ends it.
    """
    came: list[int] = []
    handlers = {stop: signal.signal(stop, lambda number, _: came.append(number)) for stop in STOPS}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for stop, handler in handlers.items():
            signal.signal(stop, handler)
    if came:
        signal.raise_signal(came[0])


def _work_off_silently(*arguments: Any) -> None:
    """`work_off`; Ctrl-C ends it without a traceback, since the first process says what is to be said."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)
    work_off(*arguments)


def work_off(
    arms: "Queue[Arm] | LocalQueue[Arm]", results: Path, work: Path, device: str, end: float, commit: str
) -> None:
    """What each process does: takes arms until there are none, or `end` has come; arguments as for `train_many`."""
    torch.set_num_threads(1)
    with working_in(work):
        while True:
            try:
                arm = arms.get(timeout=1)
                row = train(arm, torch.device(device), commit, end)
            except (Empty, OverError):
                return
            except (UserError, RuntimeError, ValueError) as error:
                say(f"arm {arm.name}, seed {arm.seed}: {type(error).__name__}: {error}")
                continue
            append_result(results, row)
            say(describe(row))


def train(arm: Arm, device: torch.device, commit: str, end: float = math.inf) -> dict[str, Any]:
    """Trains and measures an arm in the folder of `prepare`; returns its row.

    Raises:
        OverError: it was `end`, in seconds since the epoch, before that was done.
        UserError: what the recipe says can't be trained.
    """
    recipe = recipe_of(arm)
    config = recipe.train
    tokenizer = load_tokenizer(recipe.folder / TOKENIZER)
    model = build_model(recipe, tokenizer)
    model.config.training_length = config.sequence_length  # what a model without a state predicts from
    dtype = pick_precision(config.precision, device)
    stepper = Stepper(model, config, World(device), dtype, recipe.seed)
    seconds = _steps(recipe, stepper, end)
    with stepper.whole_model() as whole:
        texts = read_heldout(recipe)
        sources = measure_text(whole, tokenizer, recipe.data, texts, arm.name)
        subject = Subject(arm.name, whole, tokenizer)
        copying = measure(subject, recipe.data, texts, Settings(parts=("copying",)))["copying"]
        ids = torch.zeros(1, config.sequence_length, dtype=torch.int64, device=device)
        sizes = {"parameters": stepper.parameters, "state_bytes": cache_bytes(whole, ids)}
    languages = {language: bits.base for language, bits in language_totals(sources).items()}
    every = {name: bits.base for name, bits in sources.items()}
    return make_row(arm, commit, languages, every, seconds, str(dtype).removeprefix("torch."), 1, sizes, copying)


def _steps(recipe: Recipe, stepper: Stepper, end: float) -> float:
    """Trains the recipe's tokens; returns the seconds."""
    windows, _ = open_windows(recipe, recipe.data, recipe.train)
    rows = recipe.train.batch_size
    steps = make_budget(recipe.train, stepper.dtype, math.inf).steps
    start = time.perf_counter()
    with closing(prefetch(windows.batch(step * rows, rows) for step in range(steps))) as batches:
        for step, batch in enumerate(batches):
            if time.time() > end:
                raise OverError
            loss = stepper.gradients(batch, step)
            _, stepped = stepper.update(stepper.learning_rate(step, steps), loss)
            if not stepped:
                raise UserError(f"the loss or a gradient is not finite at step {step + 1}: lower train.lr")
    return time.perf_counter() - start
