"""Every step at every length and batch size: the steps take turns, so that a busy machine slows all of them alike."""

import statistics
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass

from benchmarks.story.case import Case, CaseProcess, Run
from benchmarks.story.steps import STEPS

ROUNDS = 5  # turns that every step gets where the limit allows
SHORT_ROUNDS, SHORT_SECONDS = 20, 0.3  # a case that has taken less than that gets more, up to 20
PAUSE = 0.02  # seconds before a turn, in which the threads of the one before fall asleep
TELLING_BYTES = 16 * 2**20  # a peak from which on it is the length that decides it


@dataclass(frozen=True)
class Result:
    """What one case came to. `outcome` is measured, memory (over the budget) or time (over the limit)."""

    step: str
    batch: int
    length: int
    training: bool  # forward and backward, or forward alone
    outcome: str
    seconds: float | None = None  # the median
    runs: int = 0
    peak_bytes: int | None = None  # of the first run


def measure(lengths: list[int], batches: list[int], budget: int, limit: float) -> Iterator[Result]:
    """Results of all steps, by batch, length and pass; lengths rise. A step over budget or limit isn't tried longer."""
    for batch in batches:
        so_far: dict[tuple[str, bool], list[Result]] = {}
        for length in lengths:
            with ExitStack() as stack:
                processes: dict[str, CaseProcess] = {}
                for training in (False, True):
                    known = {step: _foresee(so_far, step, length, training, budget, limit) for step in STEPS}
                    for step, outcome in known.items():
                        if outcome is None and step not in processes:
                            case = Case(step, batch, length)
                            processes[step] = stack.enter_context(closing(CaseProcess(case, budget)))
                    able = {step: process for step, process in processes.items() if known[step] is None}
                    runs = _take_turns(able, training, limit)
                    for step, outcome in known.items():
                        if outcome is None:
                            result = _summarise(Case(step, batch, length), training, runs[step])
                        else:
                            result = Result(step, batch, length, training, outcome)
                        so_far.setdefault((step, training), []).append(result)
                        yield result


def _foresee(
    so_far: dict[tuple[str, bool], list[Result]], step: str, length: int, training: bool, budget: int, limit: float
) -> str | None:
    """The outcome of a case that needn't run: what shorter ones, or forward alone, came to.

    Of one that would take too long it is foretold whether it would fit.
    """
    own, forward = so_far.get((step, training), []), so_far.get((step, False), [])
    ended = {result.outcome for result in (*own, *forward)}
    if "memory" in ended:
        return "memory"
    shorter = own[-1] if own else None
    grows = shorter is not None and (shorter.seconds or 0) * length / shorter.length > limit  # at least like T
    if not grows and "time" not in ended:
        return None
    fits = longest_that_fits(own, budget)
    return "memory" if fits is not None and length > fits else "time"


def _take_turns(processes: dict[str, CaseProcess], training: bool, limit: float) -> dict[str, list[Run]]:
    runs: dict[str, list[Run]] = {step: [] for step in processes}
    for turn in range(SHORT_ROUNDS):
        for step, process in processes.items():
            spent = sum(run.seconds or 0 for run in runs[step])
            if turn > 0 and (runs[step][-1].seconds is None or spent + spent / turn > limit):
                continue
            if turn >= ROUNDS and spent > SHORT_SECONDS:
                continue
            time.sleep(PAUSE)
            runs[step].append(process.run(training, limit if turn == 0 else None))
    return runs


def _summarise(case: Case, training: bool, runs: list[Run]) -> Result:
    place = (case.step, case.batch, case.length, training)
    seconds = [run.seconds for run in runs if run.seconds is not None]
    if not seconds:
        return Result(*place, runs[0].outcome)
    return Result(*place, "measured", statistics.median(seconds), len(seconds), runs[0].peak_bytes)


def longest_that_fits(results: list[Result], budget: int) -> int | None:
    """The length at which one step's peak reaches the budget, from its longest measured case and the known power of T.

    None where all cases are so small that other things than the length decide their peak.
    """
    telling = [result for result in results if (result.peak_bytes or 0) >= TELLING_BYTES]
    if not telling:
        return None
    longest = max(telling, key=lambda result: result.length)
    assert longest.peak_bytes is not None
    return int(longest.length * (budget / longest.peak_bytes) ** (1 / STEPS[longest.step].memory_order))
