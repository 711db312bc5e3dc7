"""What isn't finite stays in its row and document, forward and backward, on every backend and around the scan."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sioconv.ops import scan, scan_norm_gate

BACKENDS = ("reference", "matrix", "chunked", "cpu")
BAD = (float("nan"), float("inf"), -float("inf"))


class Case(NamedTuple):
    """Documents in rows or in packed sequences, and what one of them gets that isn't finite."""

    sequences: tuple[int, ...]  # their lengths, of which some may be 0 where they are packed
    packed: bool  # one row with cu_seqlens, else one row each, of the first one's length
    resets: float  # the share of the steps
    per_channel: bool
    where: tuple[str, ...]  # the inputs that get `value`
    value: float
    seed: int


@st.composite
def cases(draw: st.DrawFn, most: int = 70) -> Case:
    packed = draw(st.booleans())
    lengths = draw(st.lists(st.integers(0 if packed else 1, most), min_size=1, max_size=3).filter(any))
    return Case(
        tuple(lengths) if packed else (lengths[0],) * len(lengths),
        packed,
        draw(st.sampled_from([0, 0.05, 0.3])),
        draw(st.booleans()),
        tuple(draw(st.sets(st.sampled_from(["z", "log_a", "initial_state", "weight", "gate"]), min_size=1))),
        draw(st.sampled_from(BAD)),
        draw(st.integers(0, 1000)),
    )


class Data(NamedTuple):
    """The inputs, the options, and which document each step [B, T] and each sequence's first and last step is of."""

    inputs: dict[str, Tensor]
    options: dict[str, Any]
    document: Tensor
    first: list[int]
    last: list[int]
    by_reset: list[bool]  # whether a reset begins the document


def make(case: Case) -> Data:
    random = torch.Generator().manual_seed(case.seed)
    rows, steps = (1, sum(case.sequences)) if case.packed else (len(case.sequences), case.sequences[0])
    shape, states = (rows, steps, 2, 3), (len(case.sequences), 2, 3)
    inputs = {name: torch.randn(shape, generator=random, dtype=torch.float64) for name in ("z", "weight", "gate")}
    inputs["log_a"] = -torch.rand(shape if case.per_channel else shape[:3], generator=random, dtype=torch.float64)
    inputs["initial_state"] = torch.randn(states, generator=random, dtype=torch.float64)
    inputs["reset_state"] = torch.randn(states[1:], generator=random, dtype=torch.float64)
    reset = torch.rand(rows, steps, generator=random) < case.resets
    options: dict[str, Any] = {"reset": reset, "output_final_state": True}
    bounds = [0, *torch.tensor(case.sequences).cumsum(0).tolist()]
    if case.packed:
        options["cu_seqlens"] = torch.tensor(bounds)
    starts, marks = set(bounds), reset.flatten().tolist()
    numbers, by_reset, count = [], [False] * len(case.sequences), len(case.sequences)
    current = 0
    for at, mark in enumerate(marks):
        if mark or at in starts:
            # A sequence's own first document has the sequence's number, wherever its state comes from.
            current = next(n for n, (a, b) in enumerate(pairwise(bounds)) if a == at < b) if at in starts else count
            count += current == count
            by_reset += [True] * (count - len(by_reset))
            by_reset[current] |= mark
        numbers.append(current)
    document = torch.tensor(numbers).view(rows, steps)
    ends = [b - 1 if b > a else -1 for a, b in pairwise(bounds)]
    last = [numbers[end] if end >= 0 else n for n, end in enumerate(ends)]
    return Data(inputs, options, document, list(range(len(case.sequences))), last, by_reset)


def poison(case: Case, data: Data) -> tuple[dict[str, Tensor], int]:
    """The inputs with `value` in one document, and its number."""
    chosen = case.seed % len(data.by_reset)
    inputs = {name: tensor.clone() for name, tensor in data.inputs.items()}
    inside = (data.document == chosen).nonzero()
    for name in case.where:
        if name == "initial_state":
            if chosen < len(case.sequences) and not data.by_reset[chosen]:
                inputs[name][chosen] = case.value
        else:
            for row, step in inside[case.seed % 2 :: 2].tolist():
                # A gate is never above 0.
                inputs[name][row, step] = -torch.inf if name == "log_a" and case.value > 0 else case.value
    return inputs, chosen


Call = Callable[[dict[str, Tensor], dict[str, Any]], tuple[Tensor, Tensor | None]]


def run(call: Call, inputs: dict[str, Tensor], options: dict[str, Any]) -> dict[str, Tensor]:
    names = ("z", "log_a", "initial_state", "reset_state", "gate")
    leaves = {name: inputs[name].clone().requires_grad_() for name in names}
    c, final = call(leaves, options)
    assert final is not None
    loss = (c * inputs["weight"]).sum() + final.sum()
    slopes = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True, materialize_grads=True)
    return {"c": c.detach(), "final": final.detach(), **dict(zip(names, slopes, strict=True))}


def check_isolation(call: Call, case: Case, device: str = "cpu") -> None:
    """What another document gets is what it gets where nothing is wrong."""
    data = make(case)
    options = {name: value.to(device) if isinstance(value, Tensor) else value for name, value in data.options.items()}
    bad, chosen = poison(case, data)
    clean, found = (
        {name: value.cpu() for name, value in run(call, {k: v.to(device) for k, v in each.items()}, options).items()}
        for each in (data.inputs, bad)
    )
    others = data.document != chosen
    for name in ("c", "z", "log_a", "gate"):
        torch.testing.assert_close(found[name][others], clean[name][others], rtol=1e-9, atol=1e-9, msg=name)
    for n in range(len(case.sequences)):
        if data.last[n] != chosen:
            torch.testing.assert_close(found["final"][n], clean["final"][n], rtol=1e-9, atol=1e-9)
        if n != chosen:
            torch.testing.assert_close(found["initial_state"][n], clean["initial_state"][n], rtol=1e-9, atol=1e-9)
    if not data.by_reset[chosen]:
        torch.testing.assert_close(found["reset_state"], clean["reset_state"], rtol=1e-9, atol=1e-9)


def of_scan(backend: str) -> Call:
    def call(leaves: dict[str, Tensor], options: dict[str, Any]) -> tuple[Tensor, Tensor | None]:
        given = {name: value for name, value in leaves.items() if name != "gate"}
        return scan(**given, **options, backend=backend)

    return call


def of_scan_norm_gate(backend: str) -> Call:
    def call(leaves: dict[str, Tensor], options: dict[str, Any]) -> tuple[Tensor, Tensor | None]:
        one = torch.ones(2, dtype=leaves["z"].dtype, device=leaves["z"].device)
        return scan_norm_gate(**leaves, norm_weight=one, norm_bias=one, eps=1e-3, **options, backend=backend)

    return call


@pytest.mark.parametrize("backend", BACKENDS)
@settings(max_examples=25)
@given(case=cases())
def test_what_is_not_finite_stays_in_its_document(backend: str, case: Case) -> None:
    check_isolation(of_scan(backend), case)


@pytest.mark.parametrize("backend", BACKENDS)
@settings(max_examples=25)
@given(case=cases())
def test_what_is_not_finite_stays_in_its_document_with_norm_and_gate(backend: str, case: Case) -> None:
    check_isolation(of_scan_norm_gate(backend), case)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("value", BAD)
def test_one_bad_row_leaves_the_others(backend: str, value: float) -> None:
    z = torch.ones(3, 8, 1, 1)
    z[0, 1] = value
    c, final = scan(z, -torch.ones(3, 8, 1), backend=backend, output_final_state=True)
    assert final is not None
    assert c[1:].isfinite().all() and final[1:].isfinite().all()
    assert not c[0, 1:].isfinite().any() and not final[0].isfinite().any()
    reset = torch.zeros(1, 8, dtype=torch.bool)
    reset[0, 4] = True
    c, _ = scan(z[:1], -torch.ones(1, 8, 1), reset=reset, backend=backend)
    assert c[:, 4:].isfinite().all() and not c[:, 1:4].isfinite().any()
