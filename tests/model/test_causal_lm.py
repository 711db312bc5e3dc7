"""The language model's forward pass: cut, padded or packed, a text gives what it gives alone."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional as F
from transformers import DynamicCache

from sioconv.data.batches.loader import IGNORED
from sioconv.model import PRESETS, SioConvCache, SioConvConfig, SioConvForCausalLM
from tests.model.conftest import VARIANTS

# Bigrams are of ids: other inputs, and another number of ids, are refused (test_convolution.py).
WITHOUT_BIGRAMS = {name: options for name, options in VARIANTS.items() if "bigram_rows" not in options}
without_bigrams = pytest.mark.parametrize("options", WITHOUT_BIGRAMS.values(), ids=WITHOUT_BIGRAMS, indirect=True)


def alone(model: SioConvForCausalLM, ids: Tensor) -> Tensor:
    """The logits [T, V] of one document [T]."""
    logits: Tensor = model(ids.unsqueeze(0)).logits
    return logits[0]


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("size", [1, 4])
def test_cached_equals_uncached(model: SioConvForCausalLM, ids: Tensor, size: int, grad: bool) -> None:
    with torch.set_grad_enabled(grad):
        whole = model(ids, use_cache=False)
        cache = SioConvCache(model.config)
        pieces = [model(piece, cache=cache).logits for piece in ids.split(size, dim=1)]
    assert whole.cache is None
    torch.testing.assert_close(torch.cat(pieces, dim=1), whole.logits)


def test_the_cache_that_a_call_returns(model: SioConvForCausalLM, ids: Tensor) -> None:
    first = model(ids[:, :5])
    second = model(ids[:, 5:], past_key_values=first.cache)
    assert second.cache is first.cache and first.cache.get_seq_length() == 11
    torch.testing.assert_close(second.logits, model(ids).logits[:, 5:])
    assert model.train()(ids).cache is None


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_nothing(model: SioConvForCausalLM, ids: Tensor, side: str) -> None:
    """In a first batch and in one that goes on from its cache."""
    lengths = [[6, 2, 4], [5, 3, 1]]  # tokens of each row in the two batches, 6 and 5 long
    steps = [torch.arange(6), torch.arange(5)]
    if side == "left":
        steps = [step.flip(0) for step in steps]
    masks = [step < torch.tensor(length).unsqueeze(1) for step, length in zip(steps, lengths, strict=True)]
    cache, found = SioConvCache(model.config), []
    for part, mask in zip(ids.split([6, 5], dim=1), masks, strict=True):
        garbage = (part + 1) % model.config.vocab_size
        kept = model(torch.where(mask, part, garbage), attention_mask=mask.long(), cache=cache).logits
        found.append(kept)
    for i in range(3):
        real = torch.cat([masks[0][i], masks[1][i]])
        torch.testing.assert_close(torch.cat([found[0][i], found[1][i]])[real], alone(model, ids[i, real]))


@without_bigrams
def test_what_is_not_finite_stays_in_padding_and_in_its_document(model: SioConvForCausalLM, ids: Tensor) -> None:
    """Rows padded on the left, and two documents in a row: values, the loss and gradients of the others."""
    mask = torch.arange(11) >= torch.tensor([[4], [0], [0]])
    reset = torch.zeros(3, 11, dtype=torch.bool)
    reset[2, 5] = True
    there = mask.clone()
    there[2, :5] = False
    embedded = model.model.embed_tokens(ids).detach()
    found = []
    for value in (0.0, torch.nan):
        leaf = torch.where(there.unsqueeze(-1), embedded, value).requires_grad_()
        logits = model(inputs_embeds=leaf, attention_mask=mask.long(), reset=reset).logits[there]
        found.append([logits.detach(), *torch.autograd.grad(logits.square().sum(), leaf)])
    torch.testing.assert_close(found[0][0], found[1][0])
    torch.testing.assert_close(found[0][1][there], found[1][1][there])


@without_bigrams
def test_padding_that_is_not_finite_gives_finite_gradients(model: SioConvForCausalLM, ids: Tensor) -> None:
    mask = torch.arange(11) >= torch.tensor([[4], [0], [2]])
    embedded = torch.where(mask.unsqueeze(-1), model.model.embed_tokens(ids).detach(), torch.nan)
    labels = torch.where(mask, ids, IGNORED)
    output = model(inputs_embeds=embedded, attention_mask=mask.long(), labels=labels, use_cache=False)
    output.loss.backward()
    assert output.loss.isfinite()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_every_derivative_of_the_model(model: SioConvForCausalLM, ids: Tensor) -> None:
    """Forward mode, a gradient penalty's second derivative, and the gradients of each sample by torch.func."""
    ids = ids[:2, :4]
    # Well within the bound of the embedding's rows, whose scale a gradient takes as a constant.
    embedded = (model.model.embed_tokens(ids).detach() / 2).requires_grad_()

    def call(x: Tensor) -> Tensor:
        logits: Tensor = model(inputs_embeds=x, use_cache=False).logits
        return logits[..., :3]

    if not model.config.bigram_rows:
        assert torch.autograd.gradcheck(call, embedded, fast_mode=True, check_forward_ad=True)
        assert torch.autograd.gradgradcheck(call, embedded, fast_mode=True, check_fwd_over_rev=True)
    parameters = {name: value.detach() for name, value in model.named_parameters()}

    def loss(parameters: dict[str, Tensor], ids: Tensor) -> Tensor:
        arguments = {"input_ids": ids.unsqueeze(0), "labels": ids.unsqueeze(0), "use_cache": False}
        value: Tensor = functional_call(model, parameters, kwargs=arguments, args=()).loss
        return value

    found = vmap(grad(loss), in_dims=(None, 0))(parameters, ids)
    for i in range(2):
        model.zero_grad()
        model(ids[i : i + 1], labels=ids[i : i + 1], use_cache=False).loss.backward()
        for name, value in model.named_parameters():
            if value.grad is not None:
                torch.testing.assert_close(found[name][i], value.grad, msg=name)


def test_a_mask_may_cover_what_was_read(model: SioConvForCausalLM, ids: Tensor) -> None:
    mask = torch.ones_like(ids)
    mask[1, :3] = 0
    cache = SioConvCache(model.config)
    model(ids[:, :6], attention_mask=mask[:, :6], cache=cache)
    logits = model(ids[:, 6:], attention_mask=mask, cache=cache).logits
    torch.testing.assert_close(logits[1], alone(model, ids[1, 3:])[3:])


DOCUMENTS = [4, 1, 6]
STARTS = torch.tensor([[t in (0, 4, 5) for t in range(11)]])
MARKS = {
    "position_ids": {"position_ids": torch.cat([torch.arange(n) for n in DOCUMENTS]).unsqueeze(0)},
    "position_ids from 1": {"position_ids": torch.cat([1 + torch.arange(n) for n in DOCUMENTS]).unsqueeze(0)},
    "position_ids of later parts": {
        "position_ids": torch.cat([4 * n + torch.arange(n) for n in DOCUMENTS]).unsqueeze(0)
    },
    "seq_idx": {"seq_idx": torch.repeat_interleave(torch.tensor(DOCUMENTS)).unsqueeze(0)},
    "cu_seq_lens_q": {"cu_seq_lens_q": torch.tensor([0, 4, 5, 11], dtype=torch.int32), "max_length_q": 6},
    "reset": {"reset": STARTS},
    "reset above position_ids": {"reset": STARTS, "position_ids": torch.arange(11).unsqueeze(0)},
}


@pytest.mark.parametrize("name", MARKS)
def test_packed_equals_separate(model: SioConvForCausalLM, ids: Tensor, name: str) -> None:
    """Logits, and the gradient of every parameter: the learned initial state and the convolution among them."""
    packed, grad_output = ids[0], torch.randn(11, model.config.vocab_size, dtype=torch.float64)
    separate = torch.cat([alone(model, document) for document in packed.split(DOCUMENTS)])
    expected = torch.autograd.grad((separate * grad_output).sum(), list(model.parameters()))
    logits = model(packed.unsqueeze(0), use_cache=False, **MARKS[name]).logits[0]
    torch.testing.assert_close(logits, separate)
    found = torch.autograd.grad((logits * grad_output).sum(), list(model.parameters()))
    for (parameter, _), gradient, other in zip(model.named_parameters(), found, expected, strict=True):
        assert other.any(), parameter
        torch.testing.assert_close(gradient, other, msg=lambda text, at=parameter: f"{at}: {text}")


@pytest.mark.parametrize("fill", [0, 1, None])
def test_positions_may_jump_over_padding(model: SioConvForCausalLM, ids: Tensor, fill: int | None) -> None:
    mask = torch.tensor([[0, 0, 1, 1, 1, 0, 1, 0, 1, 1, 1]])
    positions = mask.cumsum(-1) - 1
    if fill is not None:  # what tools put at padding differs
        positions = positions.masked_fill(mask == 0, fill)
    logits = model(ids[:1], attention_mask=mask, position_ids=positions).logits
    torch.testing.assert_close(logits[mask.bool()], alone(model, ids[0][mask[0].bool()]))


def test_numbers_of_documents_go_on_with_the_cache(model: SioConvForCausalLM, ids: Tensor) -> None:
    cache = model(ids[:1, :6], use_cache=True).cache
    logits = model(ids[:1, 6:], cache=cache, seq_idx=torch.tensor([[3, 3, 3, 4, 4]])).logits[0]
    torch.testing.assert_close(logits[:3], alone(model, ids[0, :9])[6:])
    torch.testing.assert_close(logits[3:], alone(model, ids[0, 9:]))


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "a mask that is added": ({"attention_mask": torch.tensor([[0.0] * 10 + [-torch.inf]] * 3)}, "negative numbers"),
    "a mask of pairs": ({"attention_mask": torch.ones(3, 1, 11, 11)}, "a recurrence reads all"),
    "masks by kind": ({"attention_mask": {"full_attention": None}}, r"has shape \['dict'\]"),
    "short positions": ({"position_ids": torch.zeros(3, 1, dtype=torch.long)}, r"position_ids has shape \[3, 1\]"),
    "short numbers": ({"seq_idx": torch.zeros(3, 4)}, r"seq_idx has shape \[3, 4\]"),
    "bounds for rows": ({"cu_seq_lens_q": torch.tensor([0, 5, 11])}, "for one row of packed documents, not for 3"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cant_be_followed_is_refused(model: SioConvForCausalLM, ids: Tensor, name: str) -> None:
    arguments, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        model(ids, **arguments)


def test_a_mask_of_floats_may_be_traced_mapped_or_without_values(model: SioConvForCausalLM, ids: Tensor) -> None:
    mask = torch.ones(3, 11)
    mask[1, :3] = 0

    def call(ids: Tensor, mask: Tensor) -> Tensor:
        logits: Tensor = model(ids.view(-1, 11), attention_mask=mask.view(-1, 11), use_cache=False).logits
        return logits

    expected = model(ids, attention_mask=mask.long()).logits
    torch.testing.assert_close(call(ids, mask), expected)
    torch.testing.assert_close(vmap(call)(ids, mask)[:, 0], expected)
    torch.compiler.reset()  # else the models of all parameters count as compilations of one
    torch.testing.assert_close(torch.compile(call, backend="eager", fullgraph=True)(ids, mask), expected)
    model.to("meta")
    assert call(ids.to("meta"), mask.to("meta")).shape == expected.shape


def test_a_cache_of_another_number_of_layers_is_refused(model: SioConvForCausalLM, ids: Tensor) -> None:
    other = SioConvConfig.from_dict({**model.config.to_dict(), "num_hidden_layers": model.config.num_hidden_layers + 1})
    with pytest.raises(ValueError, match="give one of its own"):
        model(ids, cache=SioConvCache(other))


def test_one_row_of_positions_serves_all_rows(model: SioConvForCausalLM, ids: Tensor) -> None:
    logits = model(ids, **MARKS["position_ids"]).logits
    torch.testing.assert_close(logits[2, 5:], alone(model, ids[2, 5:]))


@without_bigrams
def test_embeddings_in_place_of_ids(model: SioConvForCausalLM, ids: Tensor) -> None:
    embeddings = model.get_input_embeddings()(ids)
    torch.testing.assert_close(model(inputs_embeds=embeddings).logits, model(ids).logits)
    for wrong in ({}, {"input_ids": ids, "inputs_embeds": embeddings}):
        with pytest.raises(ValueError, match="exactly one of input_ids"):
            model(**wrong)


@without_bigrams
def test_long_embeddings_are_read_at_the_limit(model: SioConvForCausalLM, ids: Tensor) -> None:
    """As ids and as `inputs_embeds`, whose gradient takes the scale as a constant."""
    embedding, limit = model.get_input_embeddings(), model.config.embedding_max_norm
    if model.config.tie_word_embeddings:
        model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach().clone())
    embedding.weight.data *= torch.linspace(0.1, 9, model.config.vocab_size).unsqueeze(1)
    vectors = embedding(ids)
    found = model(ids, output_hidden_states=True)
    torch.testing.assert_close(model(inputs_embeds=vectors).logits, found.logits)
    found.logits.sum().backward()
    grad_output = embedding.weight.grad.clone()
    bounded, copy = vectors.detach(), embedding.weight.detach().clone()
    if limit is not None:
        bounded = F.embedding(ids, copy, max_norm=limit)  # it changes the weights
    torch.testing.assert_close(found.hidden_states[0], bounded)
    scale = copy.norm(dim=-1, keepdim=True) / embedding.weight.detach().norm(dim=-1, keepdim=True)
    embedding.weight.data.copy_(copy)
    embedding.weight.grad = None
    logits = model(ids).logits  # of rows at the limit, give or take the 1e-7 in the scale
    torch.testing.assert_close(logits, found.logits, rtol=1e-4, atol=1e-5)
    logits.sum().backward()
    torch.testing.assert_close(grad_output, embedding.weight.grad * scale, rtol=1e-4, atol=1e-4)


def test_linear_layers_and_the_embedding_are_torch_s_own(model: SioConvForCausalLM) -> None:
    """Quantisers, tensor parallelism and adapters know them by their class."""
    found = {type(module) for module in model.modules() if isinstance(module, nn.Linear | nn.Embedding)}
    assert found == {nn.Linear, nn.Embedding}


@pytest.mark.parametrize("shape", [(3, 1, 11, 11), (1, 1, 11, 11), (3, 11, 11), (11,)])
def test_a_mask_of_pairs_is_refused(model: SioConvForCausalLM, ids: Tensor, shape: tuple[int, ...]) -> None:
    for mask in (torch.ones(shape), torch.zeros(shape, dtype=torch.bool)):
        with pytest.raises(ValueError, match=r"attention_mask has shape \[.*\]: give \[B, T\], 0 at padding"):
            model(ids, attention_mask=mask)


def test_a_mask_of_too_few_tokens_is_refused(model: SioConvForCausalLM, ids: Tensor) -> None:
    with pytest.raises(ValueError, match="attention_mask covers 10 tokens of 11"):
        model(ids, attention_mask=torch.ones(3, 10))


def test_shapes_on_the_meta_device(model: SioConvForCausalLM, ids: Tensor) -> None:
    with torch.device("meta"):
        shapes = SioConvForCausalLM(model.config)
        read = shapes(torch.ones_like(ids), labels=torch.ones_like(ids), use_cache=True)
        read.loss.backward()
        more = shapes(torch.ones(3, 1, dtype=torch.int64), cache=read.cache)
    assert read.logits.is_meta and read.logits.shape == (3, 11, model.config.vocab_size) and more.logits.shape[1] == 1
    assert more.cache.get_seq_length() == 12


def test_a_cache_for_keys_and_values_is_refused(model: SioConvForCausalLM, ids: Tensor) -> None:
    for call in (model, model.generate):
        with pytest.raises(TypeError, match="cache is a DynamicCache: give a SioConvCache"):
            call(ids, cache=DynamicCache())


def test_outputs_as_a_tuple(model: SioConvForCausalLM, ids: Tensor) -> None:
    whole = model(ids, labels=ids, output_hidden_states=True)
    for arguments in ({"return_dict": False}, {}):
        model.config.return_dict = bool(arguments)  # the argument stands above the configuration
        outputs = model(ids, labels=ids, output_hidden_states=True, **arguments)
        assert isinstance(outputs, tuple) and len(outputs) == 4  # loss, logits, cache, hidden states
        assert outputs[0] == whole.loss and torch.equal(outputs[1], whole.logits)


def test_hidden_states_by_the_configuration(model: SioConvForCausalLM, ids: Tensor) -> None:
    assert model(ids).hidden_states is None
    model.config.output_hidden_states = True
    assert len(model(ids).hidden_states) == model.config.num_hidden_layers + 1
    assert model(ids, output_hidden_states=False).hidden_states is None


@pytest.mark.parametrize("keep", [1, 3, torch.tensor([2, 7])], ids=str)
def test_logits_to_keep(model: SioConvForCausalLM, ids: Tensor, keep: int | Tensor) -> None:
    kept = keep if isinstance(keep, Tensor) else torch.arange(11)[-keep:]
    torch.testing.assert_close(model(ids, logits_to_keep=keep).logits, model(ids).logits[:, kept])


def test_the_last_hidden_state_is_what_the_head_gets(model: SioConvForCausalLM, ids: Tensor) -> None:
    output = model(ids, output_hidden_states=True)
    assert len(output.hidden_states) == model.config.num_hidden_layers + 1
    torch.testing.assert_close(model.lm_head(output.hidden_states[-1]), output.logits)


def test_the_loss_is_that_of_the_next_tokens(model: SioConvForCausalLM, ids: Tensor) -> None:
    labels = ids.clone()
    labels[0, 3:6] = labels[2, -1] = IGNORED
    targets = F.pad(labels[:, 1:], (0, 1), value=IGNORED)
    logits = model(ids).logits.flatten(0, 1)
    total = F.cross_entropy(logits, targets.flatten(), reduction="sum", ignore_index=IGNORED)
    count = int((targets != IGNORED).sum())
    # transformers computes the loss in fp32
    torch.testing.assert_close(model(ids, labels=labels).loss, total / count, check_dtype=False)
    accumulated = model(ids, labels=labels, num_items_in_batch=torch.tensor(2 * count)).loss
    torch.testing.assert_close(accumulated, total / (2 * count), check_dtype=False)


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointed_gradients_are_equal(model: SioConvForCausalLM, ids: Tensor, reentrant: bool) -> None:
    model.train()
    model(ids, labels=ids).loss.backward()
    expected = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    model.activation_checkpointing_enable({"use_reentrant": reentrant})
    calls: list[object] = []
    model.model.layers[0].mixer.register_forward_hook(lambda *_: calls.append(None))
    model(ids, labels=ids).loss.backward()
    assert len(calls) == 2  # once more in the backward pass
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name])


@without_bigrams
@pytest.mark.parametrize("size", [30, 50])
def test_the_vocabulary_can_be_resized(model: SioConvForCausalLM, ids: Tensor, size: int, tmp_path: Path) -> None:
    before = model(ids % 30).logits
    model.resize_token_embeddings(size)
    assert model.config.vocab_size == size
    after = model(ids % 30, labels=ids % 30)
    assert after.logits.shape[-1] == size and after.loss.isfinite()
    torch.testing.assert_close(after.logits[..., :30], before[..., :30])
    model.float().save_pretrained(tmp_path)
    torch.testing.assert_close(SioConvForCausalLM.from_pretrained(tmp_path)(ids % 30).logits, model(ids % 30).logits)


def test_forget_gates_are_those_that_the_layers_use(
    model: SioConvForCausalLM, ids: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sioconv.model import layers

    used: list[Tensor] = []

    def spy(run: Callable[..., object]) -> Callable[..., object]:
        def noting(z: Tensor, log_a: Tensor, *args: object, **kwargs: object) -> object:
            used.append(log_a)
            return run(z, log_a, *args, **kwargs)

        return noting

    for name in ("scan", "scan_norm_gate"):
        monkeypatch.setattr(layers, name, spy(getattr(layers, name)))
    gates = model.forget_gates(ids)
    assert len(gates) == model.config.num_hidden_layers
    for gate, other in zip(gates, used, strict=True):
        assert (gate <= 0).all() and torch.equal(gate, other)
    assert not any(block.mixer.dt_proj._forward_hooks for block in model.model.layers)


def test_the_fingerprint_is_the_weights_and_the_architecture(model: SioConvForCausalLM, tmp_path: Path) -> None:
    model = model.float()
    known = {model.fingerprint()}
    model.save_pretrained(tmp_path)
    assert SioConvForCausalLM.from_pretrained(tmp_path).fingerprint() in known
    for parameter in model.parameters():
        parameter.data.flatten()[-1] += 1e-3
        known.add(model.fingerprint())
    model.config.rms_norm_eps *= 2
    known.add(model.fingerprint())
    assert len(known) == 2 + len(list(model.parameters()))


@pytest.mark.parametrize(
    ("preset", "expected"),
    [
        ("sioconv-2024", "6d087b19dc5a7935cbd3cac2347865bfe7675844efa1be20f731e2c95b5198c9"),
        ("sioconv", "6f625731cc8b83bb10f5373102c7bd81b9747250e44a2b84272609f27486d4e2"),
    ],
)
def test_options_that_came_later_leave_the_fingerprint_of_older_models(preset: str, expected: str) -> None:
    """What state files of before say of their model."""
    sizes = {"hidden_size": 12, "num_heads": 3, "num_hidden_layers": 2, "intermediate_size": 20, "vocab_size": 40}
    model = SioConvForCausalLM(SioConvConfig(**{**PRESETS[preset], **sizes}))
    for i, parameter in enumerate(model.parameters()):
        parameter.data.fill_(i / 8)
    assert model.fingerprint() == expected
    model.config.trapezoid = True
    assert model.fingerprint() != expected
