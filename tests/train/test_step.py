"""Parts of a step: carried states, fp16's scaled loss, compiled blocks, random numbers."""

import copy
from collections.abc import Callable
from importlib import import_module
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedModel

from sioconv.data.batches.loader import Batch
from sioconv.errors import UserError
from sioconv.model import SioConvForCausalLM
from sioconv.ops.linear import ROWS_MULTIPLE
from sioconv.train import step as step_module
from sioconv.train.carried_state import Carry
from sioconv.train.distributed import World
from sioconv.train.step import LossScale, Stepper
from tests.train import small

MakeStepper = Callable[..., Stepper]
MakeModel = Callable[..., SioConvForCausalLM]


def text(rows: int, length: int) -> Batch:
    """Rows of one document each, all of whose tokens count."""
    ids = torch.randint(0, small.VOCABULARY, (rows, length + 1), generator=torch.Generator().manual_seed(3))
    positions = torch.arange(length).expand(rows, -1)
    return Batch(ids[:, :-1], ids[:, 1:], torch.zeros(rows, length, dtype=torch.bool), positions)


def cut(batch: Batch, start: int, stop: int) -> Batch:
    fields = (batch.input_ids, batch.targets, batch.reset, batch.position_ids)
    return Batch(*(field[:, start:stop] for field in fields))


def losses(stepper: Stepper, *batches: Batch) -> list[float]:
    """The loss of each step, without a change of the weights."""
    found = []
    for batch in batches:
        found.append(stepper.gradients(batch))
        stepper.clear()
    return found


@pytest.mark.parametrize("options", [{}, {"conv_width": 3, "gate": "channel"}])
@pytest.mark.parametrize("accumulation", [1, 2])
def test_windows_of_a_carried_state_read_as_one_long_window(
    make_stepper: MakeStepper, make_model: MakeModel, options: dict[str, Any], accumulation: int
) -> None:
    batch = text(4, 24)
    pieces = [cut(batch, start, start + 8) for start in (0, 8, 16)]
    settings: dict[str, Any] = {"accumulation": accumulation, "steps": 0}
    (whole,) = losses(make_stepper(make_model(**options), **settings), batch)
    carried = losses(make_stepper(make_model(**options), carry_state=True, **settings), *pieces)
    alone = losses(make_stepper(make_model(**options), **settings), *pieces)
    assert sum(carried) / 3 == pytest.approx(whole, rel=1e-6)
    assert sum(alone) / 3 != pytest.approx(whole, rel=1e-4)
    for piece in pieces:
        piece.reset[:, 0] = True  # each window begins a document: what was carried doesn't count
    reset = losses(make_stepper(make_model(**options), carry_state=True, **settings), *pieces)
    assert reset == pytest.approx(alone, rel=1e-6)


def test_no_gradient_flows_into_the_window_before(make_stepper: MakeStepper) -> None:
    stepper = make_stepper(steps=0, carry_state=True)
    for start in (0, 8, 16):  # a graph that reached back would have been freed
        stepper.gradients(cut(text(4, 24), start, start + 8))
    assert stepper.carry is not None
    assert all(not value.requires_grad for value in stepper.carry.state_dict(stepper.world).values())
    stepper.restart()
    assert not stepper.carry.state_dict(stepper.world)


@pytest.mark.parametrize("name", ["lstm", "mingru"])
def test_a_recurrent_baseline_carries_its_state(make_stepper: MakeStepper, name: str) -> None:
    batch = text(4, 24)
    pieces = [cut(batch, start, start + 8) for start in (0, 8, 16)]
    (whole,) = losses(make_stepper(small.make_baseline(name), steps=0), batch)
    carried = losses(make_stepper(small.make_baseline(name), steps=0, carry_state=True), *pieces)
    alone = losses(make_stepper(small.make_baseline(name), steps=0), *pieces)
    assert sum(carried) / 3 == pytest.approx(whole, rel=1e-6)
    assert sum(alone) / 3 != pytest.approx(whole, rel=1e-6)


@pytest.mark.parametrize(("name", "kind"), [("llama", "LlamaForCausalLM"), ("mamba2", "Mamba2ForCausalLM")])
def test_a_model_without_states_carries_none(name: str, kind: str) -> None:
    with pytest.raises(UserError, match=rf"train\.carry_state: {kind} carries no state"):
        Carry(small.make_baseline(name))


@pytest.mark.parametrize("settings", [{}, {"optimizer": "muon"}, {"activation_checkpointing": True}])
@pytest.mark.parametrize("name", ["llama", "lstm", "mingru", "mamba2"])
def test_other_architectures_are_trained_by_the_same_step(
    make_stepper: MakeStepper, name: str, settings: dict[str, Any]
) -> None:
    stepper, found = make_stepper(small.make_baseline(name), steps=0, **settings), []
    for number in range(12):
        found.append(stepper.gradients(small.Windows().batch(0, 4), number))
        stepper.update(1e-2, found[-1])
    assert found[-1] < 0.7 * found[0]


@pytest.mark.parametrize("name", ["llama", "lstm", "mingru", "mamba2"])
def test_utilisation_counts_every_matrix(make_stepper: MakeStepper, name: str) -> None:
    """All that has two dimensions is one, except the embedding."""
    model = small.make_baseline(name)
    counted = make_stepper(model, steps=0).matrix_parameters
    matrices = sum(parameter.numel() for parameter in model.parameters() if parameter.dim() == 2)
    assert counted == matrices - model.get_input_embeddings().weight.numel()


def test_fp16_skips_a_step_that_overflows_and_halves_its_scale(make_stepper: MakeStepper) -> None:
    stepper = make_stepper(steps=0, dtype=torch.float16)
    assert stepper.scale.value == 2.0**16
    stepper.scale.value = 2.0**40  # no gradient of fp16 is that small
    before = {name: value.clone() for name, value in stepper.model.state_dict().items()}
    loss = stepper.gradients(small.Windows().batch(0, 4))
    norm, stepped = stepper.update(1e-2, loss)
    assert not stepped
    assert norm == pytest.approx(norm, nan_ok=True)
    assert stepper.scale.overflowed()
    assert stepper.scale.value == 2.0**39
    assert all(torch.equal(value, before[name]) for name, value in stepper.model.state_dict().items())
    stepper.scale.value = 2.0**10
    exact = make_stepper(steps=0)
    wanted = exact.update(0.0, exact.gradients(small.Windows().batch(0, 4)))[0]
    assert stepper.update(1e-2, stepper.gradients(small.Windows().batch(0, 4))) == (
        pytest.approx(wanted, rel=0.02),
        True,
    )


def test_the_scale_grows_again_and_has_its_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step_module, "GROWTH_STEPS", 3)
    scale = LossScale(moves=True, value=4.0)
    for _ in range(3):
        scale.went_well()
    assert scale.value == 8.0
    assert [scale.overflowed() for _ in range(4)] == [True, True, True, False]
    fixed = LossScale()
    for _ in range(5):
        fixed.went_well()
    assert not fixed.overflowed()
    assert fixed.value == 1.0


def test_random_numbers_are_a_function_of_the_step(make_stepper: MakeStepper) -> None:
    stepper, drawn = make_stepper(steps=0), []
    stepper.model.lm_head.register_forward_pre_hook(lambda *_: drawn.append(float(torch.rand(()))))
    for number in (0, 1, 0):
        torch.rand(5)  # whatever was drawn before
        stepper.gradients(small.Windows().batch(0, 4), number)
    assert drawn[0] == drawn[2] != drawn[1]


def test_the_optimizers_have_what_the_model_has(make_stepper: MakeStepper) -> None:
    stepper = make_stepper(optimizer="muon")
    stepped = [p for optimizer in stepper.optimizers for group in optimizer.param_groups for p in group["params"]]
    assert {id(p) for p in stepped} == {id(p) for p in stepper.model.parameters()}
    assert len(stepped) == len(list(stepper.model.parameters()))
    rates = {group["lr"] for optimizer in stepper.optimizers for group in optimizer.param_groups}
    assert rates == {1e-2}


def initial_state_names(stepper: Stepper) -> set[str]:
    return {name for name, _ in stepper.model.named_parameters() if name.endswith(".initial_state")}


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_state_tuning_changes_the_initial_states_and_nothing_else(
    make_stepper: MakeStepper, make_model: MakeModel, optimizer: str
) -> None:
    before = make_model().state_dict()
    stepper = make_stepper(only="initial_state", optimizer=optimizer)
    assert stepper.trained == 2 * 32 < stepper.parameters  # two layers of width 32
    assert stepper.base_fingerprint == make_model().fingerprint() != stepper.model.fingerprint()
    changed = {name for name, value in stepper.model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == initial_state_names(stepper)
    stepped = [p for each in stepper.optimizers for group in each.param_groups for p in group["params"]]
    assert sum(parameter.numel() for parameter in stepped) == stepper.trained


@pytest.mark.parametrize("onednn", [False, True])
def test_frozen_weights_get_no_gradient_and_no_work_for_it(
    make_stepper: MakeStepper, monkeypatch: pytest.MonkeyPatch, onednn: bool
) -> None:
    """The gradients of the initial states are those of a whole training; the matrices' own are not computed."""
    monkeypatch.setattr(import_module("sioconv.ops.linear"), "_FASTER", onednn)
    monkeypatch.setattr(import_module("sioconv.ops.linear"), "FEWEST_ROWS", 1)
    batch, width, tokens = small.Windows().batch(0, 4), 32, 48
    stepper, whole = make_stepper(steps=0, only="initial_state"), make_stepper(steps=0)
    operations = []
    for each in (stepper, whole):
        with FlopCounterMode(display=False) as counter:
            each.gradients(batch)
        operations.append(counter.get_total_flops())
    names = initial_state_names(stepper)
    for (name, parameter), other in zip(stepper.model.named_parameters(), whole.model.parameters(), strict=True):
        assert (parameter.grad is not None) == (name in names), name
        if parameter.grad is not None:
            assert other.grad is not None
            torch.testing.assert_close(parameter.grad, other.grad, rtol=1e-5, atol=1e-9, msg=name)
    # The head is computed for tokens that count alone, whose number is rounded up. The first layer's input is frozen:
    # no gradient goes through its z, z gate, y gate and forget gates.
    blocks = sum(m.weight.numel() for m in stepper.model.model.modules() if isinstance(m, nn.Linear)) * tokens
    head = stepper.model.lm_head.weight.numel() * ROWS_MULTIPLE
    first = (3 * width + 4) * width * tokens
    assert operations == [4 * (blocks + head) - 2 * first, 6 * (blocks + head)]


def tiny_llama() -> PreTrainedModel:
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    return LlamaForCausalLM(LlamaConfig(vocab_size=small.VOCABULARY, **sizes))


def test_a_model_without_initial_states_has_none_to_tune() -> None:
    model = tiny_llama()
    config = small.make_config(1, only="initial_state")
    with pytest.raises(UserError, match=r"train\.only: LlamaForCausalLM has no initial state"):
        Stepper(model, config, World(torch.device("cpu")), torch.float32)


@pytest.mark.slow
@pytest.mark.parametrize("onednn", [False, True])
def test_compiled_blocks_give_the_same_gradients(
    make_stepper: MakeStepper, monkeypatch: pytest.MonkeyPatch, onednn: bool
) -> None:
    """The blocks are compiled in training only: a text of any length must not compile them again."""
    monkeypatch.setattr(import_module("sioconv.ops.linear"), "_FASTER", onednn)
    monkeypatch.setattr(import_module("sioconv.ops.linear"), "FEWEST_ROWS", 48)  # those of a step
    plain, compiled = make_stepper(steps=0), make_stepper(steps=0, compile=True)
    batch = small.Windows().batch(0, 4)
    assert compiled.gradients(batch) == pytest.approx(plain.gradients(batch), rel=1e-5)
    for (name, first), second in zip(plain.model.named_parameters(), compiled.model.parameters(), strict=True):
        torch.testing.assert_close(first.grad, second.grad, rtol=1e-4, atol=1e-6, msg=name)
    with compiled.whole_model() as model, plain.whole_model() as other:
        assert isinstance(model, nn.Module)
        for length in (1, 5, 7):
            ids = torch.ones(1, length, dtype=torch.int64)
            assert torch.equal(model(ids).logits, other(ids).logits)


@pytest.mark.parametrize("recompute", [False, True])
def test_a_baseline_has_the_products_that_our_model_has(recompute: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """And stays what transformers made, whose layers torch's tools know by their class."""
    config = small.make_config(1, batch_size=4, sequence_length=128, activation_checkpointing=recompute)
    models = [tiny_llama()]
    models.append(copy.deepcopy(models[0]))
    steppers = [Stepper(model, config, World(torch.device("cpu")), torch.float32) for model in models]
    batch, counts = text(4, 128), []
    for stepper, faster in zip(steppers, (False, True), strict=True):
        monkeypatch.setattr(import_module("sioconv.ops.linear"), "_FASTER", faster)
        with torch.profiler.profile() as recorded:
            stepper.gradients(batch)
        counts.append({event.key: event.count for event in recorded.key_averages()}.get("sioconv::linear", 0))
    forward = 4 + 3  # attention, feed-forward
    assert counts == [0, 2 * (forward + 1) + recompute * forward]  # and the head; once more for gradients
    for first, second in zip(*(model.parameters() for model in models), strict=True):
        torch.testing.assert_close(first.grad, second.grad, rtol=1e-4, atol=1e-6)
    kinds = {type(module) for module in models[1].modules() if isinstance(module, nn.Linear)}
    assert kinds == {nn.Linear}
