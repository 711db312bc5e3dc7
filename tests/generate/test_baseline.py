"""What transformers' own generation writes for models that a session can't hold."""

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from sioconv.data.tokenizer.tokenizer import BOS, EOS, encode_texts
from sioconv.generate import SamplingConfig, continue_text
from sioconv.model import Architecture, SioConvForCausalLM
from sioconv.model.baselines.architectures import build_baseline

TinyModel = tuple[SioConvForCausalLM, PreTrainedTokenizerFast]
SMALL = Architecture(hidden_size=32, num_hidden_layers=2, num_heads=4, intermediate_size=64)


@pytest.fixture(params=["llama", "lstm", "mamba2"])
def pair(request: pytest.FixtureRequest, tiny_model: TinyModel) -> tuple[torch.nn.Module, PreTrainedTokenizerFast]:
    torch.manual_seed(0)
    model = build_baseline(request.param, SMALL, len(tiny_model[1]) + 3).eval()  # three rows without a token
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += torch.randn_like(parameter) * 0.1
    return model, tiny_model[1]


@torch.no_grad()
def test_temperature_zero_takes_the_likeliest_token_that_may_be_written(pair: TinyModel) -> None:
    model, tokenizer = pair
    banned = [*tokenizer.added_tokens_decoder, *range(len(tokenizer), len(tokenizer) + 3)]
    end = tokenizer.convert_tokens_to_ids(["<|eos|>", "<|end_of_turn|>"])
    ids = [tokenizer.convert_tokens_to_ids(BOS), *encode_texts(tokenizer, [f"川は{EOS}"])[0]]
    assert not set(ids[1:]) & set(tokenizer.added_tokens_decoder)  # what looks like one in a prompt is text
    start = len(ids)
    for _ in range(6):
        logits = model(torch.tensor([ids])).logits[0, -1]
        logits[[token for token in banned if token not in end]] = -torch.inf
        ids.append(int(logits.argmax()))
        if ids[-1] in end:
            break
    text = tokenizer.decode(ids[start:], skip_special_tokens=True)
    assert continue_text(model, tokenizer, f"川は{EOS}", SamplingConfig(temperature=0, max_new_tokens=6)) == text


def test_a_seed_repeats_a_text_and_leaves_the_random_numbers_alone(pair: TinyModel) -> None:
    texts = []
    for seed in (1, 1, 2):
        torch.manual_seed(5)
        texts.append(continue_text(*pair, "川は", SamplingConfig(max_new_tokens=12, seed=seed)))
        assert float(torch.rand(())) == pytest.approx(
            float(torch.rand((), generator=torch.Generator().manual_seed(5))), abs=0
        )
    assert texts[0] == texts[1] != texts[2]
    assert continue_text(*pair, "", SamplingConfig(max_new_tokens=3, seed=1))
