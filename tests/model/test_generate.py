"""transformers' own generation."""

from collections.abc import Callable
from copy import deepcopy
from functools import partial

import pytest
import torch
from torch import Tensor

from sioconv.model import SioConvCache, SioConvForCausalLM

NEW = 6
Generate = Callable[..., Tensor]


@pytest.fixture
def generate(model: SioConvForCausalLM) -> Generate:
    model.generation_config.pad_token_id = 0
    return partial(model.generate, max_new_tokens=NEW, do_sample=False)


@pytest.fixture
def prompts(ids: Tensor) -> Tensor:
    """[3, 5], without the padding's id."""
    return ids[:, :5].clamp(min=1)


def test_greedy_equals_the_most_likely_token_each_time(
    model: SioConvForCausalLM, generate: Generate, prompts: Tensor
) -> None:
    text = prompts
    with torch.no_grad():
        for _ in range(NEW):
            text = torch.cat([text, model(text).logits[:, -1:].argmax(-1)], dim=1)
    assert torch.equal(generate(prompts), text)
    assert torch.equal(generate(prompts, use_cache=False), text)
    assert torch.equal(generate(prompts, prefill_chunk_size=2), text)


@pytest.mark.parametrize("use_cache", [True, False])
def test_left_padded_prompts(generate: Generate, prompts: Tensor, use_cache: bool) -> None:
    mask = torch.tensor([[1, 1, 1, 1, 1], [0, 0, 0, 1, 1], [0, 1, 1, 1, 1]])
    texts = generate(prompts * mask, attention_mask=mask, use_cache=use_cache)
    for text, prompt, real in zip(texts, prompts, mask.bool(), strict=True):
        assert torch.equal(text[5:], generate(prompt[real].unsqueeze(0))[0, -NEW:])


def test_a_seed_repeats_a_sample(generate: Generate, prompts: Tensor) -> None:
    texts = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        texts.append(generate(prompts, do_sample=True))
    assert torch.equal(texts[0], texts[1]) and not torch.equal(texts[0], texts[2])


def test_beam_search(generate: Generate, prompts: Tensor) -> None:
    search = partial(generate, prompts, num_beams=3, num_return_sequences=2)
    texts = search()
    assert texts.shape == (6, 5 + NEW)
    assert torch.equal(texts, search(use_cache=False))


@pytest.fixture
def turn(model: SioConvForCausalLM, prompts: Tensor) -> tuple[Tensor, Tensor, SioConvCache]:
    """A right-padded first turn [3, 5] with its mask, and the cache after it."""
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0]])
    cache = SioConvCache(model.config)
    with torch.no_grad():
        model(prompts * mask, attention_mask=mask, cache=cache)
    return prompts * mask, mask, cache


@pytest.mark.parametrize("whole", [True, False], ids=["whole text", "new tokens"])
def test_going_on_from_a_warm_cache(
    generate: Generate, ids: Tensor, turn: tuple[Tensor, Tensor, SioConvCache], whole: bool
) -> None:
    """transformers lets a caller give the whole text again or what is new; the mask is of the whole text."""
    first, mask, cache = turn
    second = ids[:, 5:8].clamp(min=1)
    both, both_mask = torch.cat([first, second], dim=1), torch.cat([mask, torch.ones_like(second)], dim=1)
    texts = generate(both if whole else second, attention_mask=both_mask, cache=cache)
    assert cache.get_seq_length() == 8 + NEW - 1
    for text, row, real in zip(texts, both, both_mask.bool(), strict=True):
        assert torch.equal(text[-NEW:], generate(row[real].unsqueeze(0))[0, -NEW:])


def test_padding_inside_a_prompt(generate: Generate, ids: Tensor) -> None:
    """As where a second turn is put behind padded first ones; transformers gives such padding position 0."""
    mask = torch.tensor([[1, 1, 0, 0, 1, 1], [1, 0, 1, 1, 1, 1], [1, 1, 1, 1, 0, 1]])
    prompts = ids[:, :6].clamp(min=1)
    texts = generate(prompts * mask, attention_mask=mask)
    for text, prompt, real in zip(texts, prompts, mask.bool(), strict=True):
        assert torch.equal(text[-NEW:], generate(prompt[real].unsqueeze(0))[0, -NEW:])


def test_one_warm_cache_serves_two_continuations(
    model: SioConvForCausalLM, generate: Generate, prompts: Tensor
) -> None:
    cache = SioConvCache(model.config)
    with torch.no_grad():
        model(prompts[:, :4], cache=cache)
    texts = [generate(prompts, cache=deepcopy(cache)) for _ in range(2)]
    assert torch.equal(texts[0], texts[1]) and torch.equal(texts[0], generate(prompts))


def test_assisted_decoding_is_refused(model: SioConvForCausalLM, generate: Generate, prompts: Tensor) -> None:
    """It would have to wind the state back."""
    with pytest.raises(ValueError, match="stateful"):
        generate(prompts[:1], assistant_model=model)
