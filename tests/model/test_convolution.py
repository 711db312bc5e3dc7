"""The convolution by its kernel and beside padding; the hashed table of token pairs, whatever a text is cut into."""

from copy import deepcopy
from importlib import import_module

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sioconv.model import Architecture, SioConvCache, SioConvConfig, SioConvForCausalLM
from sioconv.model.convolution import NO_TOKEN, TABLE_STD, Bigrams, Steps, convolve

V, ROWS, WIDTH = 11, 3, 6
SIZES = {"hidden_size": 12, "num_heads": 3, "num_hidden_layers": 2, "intermediate_size": 20, "vocab_size": 40}


@pytest.fixture(scope="module")
def bigrams() -> Bigrams:
    """The projection is the identity, so that what comes out is a row of the table, bit for bit."""
    torch.manual_seed(0)
    module = Bigrams(Architecture(hidden_size=WIDTH, num_heads=1, bigram_rows=ROWS, bigram_width=WIDTH), V).double()
    with torch.no_grad():
        module.out.weight.copy_(torch.eye(WIDTH))
    return module


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_without_padding_it_is_what_it_is_with_none_of_it_padded(data: st.DataObject) -> None:
    """Result, new tail and gradients: the kernel without a mask, torch with one."""
    rows, length, taps = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 8)), data.draw(st.integers(2, 4))
    flags = st.lists(st.lists(st.booleans(), min_size=length, max_size=length), min_size=rows, max_size=rows)
    drawn = data.draw(st.none() | flags)
    reset = None if drawn is None else torch.tensor(drawn)
    random = torch.Generator().manual_seed(data.draw(st.integers(0, 2**20)))
    shapes = [(rows, length, 5), (5, taps), (rows, 5, taps - 1)]
    x, weight, tail = (torch.randn(s, generator=random, dtype=torch.float64, requires_grad=True) for s in shapes)
    before = tail if data.draw(st.booleans()) else None
    found = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(import_module("sioconv.ops.convolution"), "SMALLEST", 1)
        for mask in (None, torch.ones(rows, length, dtype=torch.bool)):
            y, new_tail = convolve(x, weight, before, Steps(mask, reset))
            up = y.square().sum() + (new_tail * torch.linspace(1, 2, taps - 1)).sum()
            found.append((y, new_tail, *torch.autograd.grad(up, (x, weight, tail), materialize_grads=True)))
            assert new_tail.is_contiguous() and new_tail.untyped_storage().nbytes() == new_tail.nbytes
    torch.testing.assert_close(*found)


def by_a_loop(table: Tensor, ids: Tensor, mask: Tensor, reset: Tensor) -> tuple[Tensor, list[int]]:
    """The summands [B, T, WIDTH], 0 at padding, and the last tokens."""
    result, last = torch.zeros(*ids.shape, WIDTH, dtype=torch.float64), []
    for row in range(len(ids)):
        before = -1
        for t in range(ids.shape[1]):
            if not mask[row, t]:
                continue
            before = -1 if reset[row, t] else before
            token = int(ids[row, t])
            result[row, t] = table[(token * 36313 + (before + 1) * 27191) % (ROWS * V)]
            before = token
        last.append(before)
    return result, last


@settings(max_examples=150)
@given(st.data())
def test_any_cut_reads_what_a_loop_reads(bigrams: Bigrams, data: st.DataObject) -> None:
    rows, length = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 12))
    steps = st.lists(st.lists(st.booleans(), min_size=length, max_size=length), min_size=rows, max_size=rows)
    mask, reset = (torch.tensor(data.draw(steps)) for _ in range(2))
    cuts = sorted(data.draw(st.sets(st.integers(1, length))) | {length})
    seed = data.draw(st.integers(0, 2**20))
    ids = torch.randint(V, (rows, length), generator=torch.Generator().manual_seed(seed))
    expected, last_tokens = by_a_loop(bigrams.table.weight.detach(), ids, mask, reset)

    last, found, start = None, [], 0
    for end in cuts:
        part = slice(start, end)
        # Without padding or beginnings, as callers leave them out.
        padding = None if mask[:, part].all() else mask[:, part]
        begins = reset[:, part] & mask[:, part]
        summand, last = bigrams(ids[:, part], last, Steps(padding, begins if begins.any() else None))
        found.append(summand)
        start = end
    assert torch.equal(torch.cat(found, dim=1)[mask], expected[mask])
    assert last is not None and last.dtype == torch.int64 and last.tolist() == last_tokens


def test_narrow_ids_and_a_large_vocabulary() -> None:
    """The hash is computed in 64 bits."""
    module = Bigrams(Architecture(hidden_size=4, num_heads=1, bigram_rows=1, bigram_width=2), 200_000)
    torch.nn.init.normal_(module.out.weight)
    ids = torch.tensor([[199_999, 199_998, 3]])
    row = (199_998 * 36313 + 200_000 * 27191) % 200_000
    with torch.no_grad():
        found = module(ids.int(), None, Steps(None, None))[0]
        torch.testing.assert_close(found[0, 1], module.out.weight @ module.table.weight[row])


def test_gradients(bigrams: Bigrams) -> None:
    ids, last = torch.tensor([[1, 4, 1, 4, 9]]), torch.tensor([NO_TOKEN])

    def summand(table: Tensor, out: Tensor) -> Tensor:
        weights = {"table.weight": table, "out.weight": out}
        result: Tensor = torch.func.functional_call(bigrams, weights, (ids, last, Steps(None, None)))[0]
        return result

    table, out = bigrams.table.weight.detach().clone(), torch.randn(WIDTH, WIDTH, dtype=torch.float64)
    assert torch.autograd.gradcheck(summand, (table.requires_grad_(), out.requires_grad_()))


@pytest.mark.parametrize("preset", ["sioconv", "sioconv-2026"])
def test_a_new_model_is_as_one_without_the_table(preset: str) -> None:
    """Whatever the embedding starts with; and it learns: the projection first, then the table."""
    torch.manual_seed(0)
    options = {"preset": preset, "embedding_std": 1.0 if preset == "sioconv" else 0.02, "linear_std": 0.02}
    model = SioConvForCausalLM(SioConvConfig(**SIZES, **options, bigram_rows=50, bigram_width=8))
    plain = SioConvForCausalLM(SioConvConfig(**SIZES, **options))
    missing = plain.load_state_dict(model.state_dict(), strict=False)
    assert set(missing.unexpected_keys) == {"model.bigrams.table.weight", "model.bigrams.out.weight"}
    ids = torch.randint(40, (2, 9), generator=torch.Generator().manual_seed(1))
    assert torch.equal(model(ids).logits, plain(ids).logits)
    table = model.model.bigrams.table.weight
    assert (
        float(table.detach().std()) == pytest.approx(TABLE_STD, rel=0.05) and not model.model.bigrams.out.weight.any()
    )
    optimizer = torch.optim.SGD(model.parameters(), 1.0)
    for learns in (False, True):
        model(ids, labels=ids).loss.backward()
        assert bool(table.grad.any()) == learns and model.model.bigrams.out.weight.grad.any()
        optimizer.step()
        optimizer.zero_grad()


def test_the_token_before_counts() -> None:
    """Of two texts that differ in it, and of a model that forgets everything else at once."""
    torch.manual_seed(0)
    model = SioConvForCausalLM(SioConvConfig(**SIZES, bigram_rows=50, bigram_width=8)).eval()
    with torch.no_grad():
        model.model.bigrams.out.weight.normal_()
        for block in model.model.layers:
            block.mixer.A_log += 40  # a = 0
    one, two = (model(torch.tensor([[first, 5, 6]]), use_cache=False).logits for first in (1, 2))
    assert not torch.allclose(one[0, 1], two[0, 1], atol=1e-3)
    torch.testing.assert_close(one[0, 2], two[0, 2], atol=1e-5, rtol=1e-5)


def test_what_it_can_t_read_is_refused() -> None:
    model = SioConvForCausalLM(SioConvConfig(**SIZES, bigram_rows=2, bigram_width=8)).eval()
    ids = torch.tensor([[1, 2, 3]])
    with pytest.raises(ValueError, match=r"inputs_embeds .* bigram_rows .*: give input_ids"):
        model(inputs_embeds=model.get_input_embeddings()(ids))
    cache = SioConvCache(model.config)
    model(ids, cache=cache)
    foreign = deepcopy(cache)
    foreign.last_token = None
    with pytest.raises(ValueError, match="no last_token"):
        model(ids, cache=foreign)
    with pytest.raises(ValueError, match=r"^bigram_rows: .* can't change"):
        model.resize_token_embeddings(48)
    assert model.resize_token_embeddings(40) is model.get_input_embeddings()
