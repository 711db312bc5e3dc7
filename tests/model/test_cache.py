from copy import deepcopy

import pytest
import torch
from torch import Tensor
from torch.utils import _pytree

from sioconv.model import LayerState, SioConvCache, SioConvConfig, SioConvForCausalLM


@pytest.fixture
def warm(model: SioConvForCausalLM, ids: Tensor) -> SioConvCache:
    """A cache that has read all of `ids` but the last two tokens."""
    cache = SioConvCache(model.config)
    with torch.no_grad():
        model(ids[:, :-2], cache=cache)
    return cache


def read(model: SioConvForCausalLM, ids: Tensor, cache: SioConvCache) -> Tensor:
    """The logits of `ids` [B, T] read from a copy of `cache`."""
    with torch.no_grad():
        logits: Tensor = model(ids, cache=deepcopy(cache)).logits
    return logits


def test_a_new_cache_is_empty(model: SioConvForCausalLM) -> None:
    cache = SioConvCache(model.config)
    assert cache.state_dict() == {} and cache.get_seq_length() == 0 and cache.tokens_seen.dtype == torch.int64
    assert cache.get_max_length() == -1


def test_shapes_and_dtypes(model: SioConvForCausalLM, ids: Tensor) -> None:
    """The state's size doesn't depend on what was read, and its precision not on the model's."""
    config, cache = model.config, SioConvCache(model.config)
    model.bfloat16()(ids, cache=cache)
    states = cache.state_dict()
    if config.bigram_rows:
        assert torch.equal(states.pop("last_token"), ids[:, -1])
    for name, tensor in states.items():
        if name.endswith(".conv"):
            assert tensor.shape == (3, config.hidden_size, config.conv_width - 1)
        else:
            assert tensor.shape == (3, config.num_heads, config.head_dim)
        assert tensor.dtype == torch.float32 or not name.endswith(".c")
    assert len(states) == config.num_hidden_layers * (1 + bool(config.conv_width) + config.trapezoid)
    assert cache.get_seq_length() == 11


def test_states_own_their_memory(warm: SioConvCache) -> None:
    """A view would keep a whole prompt's activations alive."""
    for tensor in warm.state_dict().values():
        assert tensor.is_contiguous() and tensor.untyped_storage().nbytes() == tensor.nbytes


def test_a_copy_is_independent(model: SioConvForCausalLM, ids: Tensor, warm: SioConvCache) -> None:
    before = {name: tensor.clone() for name, tensor in warm.state_dict().items()}
    copy = deepcopy(warm)
    with torch.no_grad():
        model(ids[:, -2:], cache=copy)
    assert (warm.get_seq_length(), copy.get_seq_length()) == (9, 11)
    for name, tensor in warm.state_dict().items():
        assert torch.equal(tensor, before[name]) and not torch.equal(tensor, copy.state_dict()[name])


def test_a_copy_outside_no_grad_carries_the_gradient(model: SioConvForCausalLM, ids: Tensor) -> None:
    """torch refuses to deep-copy what was computed from parameters."""
    cache = model(ids[:, :5], use_cache=True).cache
    copies = [deepcopy(cache), deepcopy({"caches": [cache]})["caches"][0]]
    expected = model(ids[:, 5:], cache=cache).logits
    for copy in copies:
        assert torch.equal(model(ids[:, 5:], cache=copy).logits, expected)
    model(ids[:, 5:], cache=deepcopy(model(ids[:, :5], use_cache=True).cache)).logits.sum().backward()
    copied = model.model.embed_tokens.weight.grad.clone()
    model.zero_grad()
    model(ids[:, 5:], cache=model(ids[:, :5], use_cache=True).cache).logits.sum().backward()
    assert torch.equal(copied, model.model.embed_tokens.weight.grad)


def test_state_dict_round_trip(model: SioConvForCausalLM, ids: Tensor, warm: SioConvCache) -> None:
    other = SioConvCache(model.config)
    other.load_state_dict(warm.state_dict(), int(warm.tokens_seen))
    assert other.get_seq_length() == 9
    assert torch.equal(read(model, ids[:, -2:], other), read(model, ids[:, -2:], warm))
    other.load_state_dict({}, 0)
    assert torch.equal(read(model, ids, other), read(model, ids, SioConvCache(model.config)))


def test_it_can_be_taken_apart_and_put_together(model: SioConvForCausalLM, ids: Tensor, warm: SioConvCache) -> None:
    """As torch.export does."""
    for cache in (warm, SioConvCache(model.config)):
        leaves, spec = _pytree.tree_flatten(cache)
        again = _pytree.tree_unflatten(leaves, spec)
        assert isinstance(again, SioConvCache) and again.get_seq_length() == cache.get_seq_length()
        assert torch.equal(read(model, ids[:, -2:], again), read(model, ids[:, -2:], cache))
    paths = [str(path[0]) for path, _ in _pytree.tree_flatten_with_path(warm)[0]]
    states = len(LayerState._fields) * model.config.num_hidden_layers
    assert len(paths) == len(set(paths)) == 1 + states + bool(model.config.bigram_rows)


def test_a_missing_state_is_named(model: SioConvForCausalLM, warm: SioConvCache) -> None:
    tensors = warm.state_dict()
    del tensors["layers.1.c"]
    with pytest.raises(KeyError, match=r"layers\.1\.c"):
        SioConvCache(model.config).load_state_dict(tensors, 9)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_training_on_carried_states(model: SioConvForCausalLM, ids: Tensor, checkpointing: bool) -> None:
    """Gradients run through the states from piece to piece, or end where the cache is detached."""
    model.train()
    if checkpointing:
        model.activation_checkpointing_enable()
    parameters = list(model.parameters())
    expected = torch.autograd.grad(model(ids).logits.square().sum(), parameters)
    cache = SioConvCache(model.config)
    loss = sum(model(piece, cache=cache).logits.square().sum() for piece in ids.split([4, 1, 6], dim=1))
    assert cache.get_seq_length() == 11
    for found, other in zip(torch.autograd.grad(loss, parameters), expected, strict=True):
        torch.testing.assert_close(found, other)

    pieces = ids.split([5, 6], dim=1)
    cache = SioConvCache(model.config)
    model(pieces[0], cache=cache)
    cache.detach()
    assert not any(tensor.requires_grad for tensor in cache.state_dict().values())
    constant = SioConvCache(model.config)
    with torch.no_grad():
        model(pieces[0], cache=constant)
    cut, want = (
        torch.autograd.grad(model(pieces[1], cache=start).logits.square().sum(), parameters, allow_unused=True)
        for start in (cache, constant)
    )
    for (name, _), found, other in zip(model.named_parameters(), cut, want, strict=True):
        if name.endswith("initial_state"):
            assert found is None or not found.any()
        else:
            torch.testing.assert_close(found, other)


def test_a_new_document_in_a_carried_state(model: SioConvForCausalLM, ids: Tensor, warm: SioConvCache) -> None:
    """A reset forgets what was carried in, and passes its gradient to the learned initial state instead."""
    reset = torch.tensor([[False, True]])
    logits = model.train()(ids[:, -2:], cache=deepcopy(warm), reset=reset).logits
    torch.testing.assert_close(logits[:, 1:], model(ids[:, -1:]).logits)
    initial = [block.mixer.initial_state for block in model.model.layers]
    assert all(gradient.any() for gradient in torch.autograd.grad(logits[:, 1].square().sum(), initial))


@pytest.mark.parametrize("method", ["reorder_cache", "batch_select_indices"])
@pytest.mark.parametrize("rows", [[2, 0, 0], [1], [2, 1, 0, 1]])
def test_rows_are_chosen(
    model: SioConvForCausalLM, ids: Tensor, warm: SioConvCache, method: str, rows: list[int]
) -> None:
    expected = read(model, ids[:, -2:], warm)[rows]
    getattr(warm, method)(torch.tensor(rows))
    torch.testing.assert_close(read(model, ids[rows, -2:], warm), expected)


def test_rows_are_repeated(model: SioConvForCausalLM, ids: Tensor, warm: SioConvCache) -> None:
    expected = read(model, ids[:, -2:], warm).repeat_interleave(2, dim=0)
    warm.batch_repeat_interleave(2)
    torch.testing.assert_close(read(model, ids[:, -2:].repeat_interleave(2, dim=0), warm), expected)


def test_an_empty_cache_has_no_rows_to_choose(model: SioConvForCausalLM) -> None:
    cache = SioConvCache(model.config)
    cache.reorder_cache(torch.tensor([1, 0]))
    cache.batch_repeat_interleave(2)
    assert cache.state_dict() == {}


def test_reset_starts_again(model: SioConvForCausalLM, ids: Tensor, warm: SioConvCache) -> None:
    warm.reset()
    assert warm.get_seq_length() == 0
    assert torch.equal(read(model, ids, warm), read(model, ids, SioConvCache(model.config)))


def test_it_cannot_be_cropped(warm: SioConvCache) -> None:
    with pytest.raises(TypeError, match="copy it before"):
        warm.crop(1)


def test_it_holds_no_keys_and_values(warm: SioConvCache) -> None:
    with pytest.raises(TypeError, match="states, not keys and values"):
        warm.update(torch.zeros(1), torch.zeros(1), 0)


def test_a_cache_that_an_older_version_pickled_is_read() -> None:
    """Exported programs hold the caches that they were exported with."""
    cache = SioConvCache(SioConvConfig())
    del vars(cache)["last_token"]
    assert len(_pytree.tree_leaves(cache)) == len(_pytree.tree_leaves(SioConvCache(SioConvConfig())))
