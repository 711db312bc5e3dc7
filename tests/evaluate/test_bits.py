import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from sioconv.data.tokenizer.tokenizer import BOS, encode_texts
from sioconv.evaluate.bits import bits_per_byte, document_nats
from sioconv.model import Architecture, SioConvForCausalLM
from sioconv.model.baselines.architectures import build_baseline

TinyModel = tuple[SioConvForCausalLM, PreTrainedTokenizerFast]
DOCUMENTS = [[1, 5, 9, 2], [1, 8], list(range(1, 24)), [1], [], [3, 3, 3, 7, 7, 30, 31, 2], [2, 4, 6, 8]]


@torch.no_grad()
def one_by_one(model: PreTrainedModel, ids: list[int], mask: list[int] | None = None) -> float:
    """−ln p of a document's tokens after its first, from the logits of the whole document."""
    if len(ids) < 2:
        return 0.0
    logits = model(torch.tensor([ids[:-1]])).logits[0].double()
    nats = F.cross_entropy(logits, torch.tensor(ids[1:]), reduction="none")
    return float((nats * torch.tensor((mask or [1] * len(ids))[1:])).sum())


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("chunk", "batch_tokens"), [(1024, 8192), (1, 8192), (3, 6), (5, 1), (22, 60)])
def test_documents_read_together_equal_one_by_one(
    model: SioConvForCausalLM, chunk: int, batch_tokens: int, masked: bool
) -> None:
    masks = [[int((i + t) % 3 > 0) for t in range(len(ids))] for i, ids in enumerate(DOCUMENTS)] if masked else None
    found = dict(document_nats(model, DOCUMENTS, masks, chunk, batch_tokens))
    assert sorted(found) == list(range(len(DOCUMENTS)))
    for i, ids in enumerate(DOCUMENTS):
        assert found[i] == pytest.approx(one_by_one(model, ids, masks[i] if masks else None), rel=1e-5)


def test_a_forward_pass_stays_within_its_size(model: SioConvForCausalLM) -> None:
    sizes: list[torch.Size] = []

    def note(_: nn.Module, __: tuple[object, ...], output: Tensor) -> None:
        sizes.append(output.shape)

    model.model.embed_tokens.register_forward_hook(note)
    list(document_nats(model, DOCUMENTS, chunk=4, batch_tokens=9))
    assert sizes and all(rows * length <= 9 and length <= 4 for rows, length, _ in sizes)


@pytest.fixture(scope="module")
def llama() -> PreTrainedModel:
    """A model without states, in fp64, whose output depends on all that it sees."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 12, "num_hidden_layers": 2, "num_heads": 3, "intermediate_size": 16}
    model = build_baseline("llama", Architecture(**sizes), 40)
    for parameter in model.parameters():
        parameter.data += torch.randn_like(parameter) * 0.3
    return model.double().eval()


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("batch_tokens", [1, 20, 8192])
@pytest.mark.parametrize(
    ("length", "starts"),  # of the windows that a document of 23 tokens is read in: from 22 of them it predicts
    [(1, list(range(22))), (5, [0, 3, 6, 9, 12, 15, 18]), (8, [0, 4, 8, 12, 16]), (21, [0, 11]), (22, [0]), (64, [0])],
)
def test_without_a_state_documents_are_read_in_windows(
    llama: PreTrainedModel, length: int, starts: list[int], batch_tokens: int, masked: bool
) -> None:
    """Each reaches back by half a window; every token is counted in the first window that predicts it."""
    document = DOCUMENTS[2]
    masks = [[int((i + t) % 3 > 0) for t in range(len(ids))] for i, ids in enumerate(DOCUMENTS)] if masked else None
    expected, done = 0.0, 1
    for start in starts:
        stop = min(start + length + 1, len(document))
        mask = [0] * len(document) if masks is None else list(masks[2])
        mask = [int(done <= t < stop and (masks is None or mask[t])) for t in range(len(document))]
        expected += one_by_one(llama, document[start:stop], mask[start:stop])
        done = stop
    assert done == len(document)
    llama.config.training_length = length
    found = dict(document_nats(llama, DOCUMENTS, masks, batch_tokens=batch_tokens))
    assert sorted(found) == list(range(len(DOCUMENTS)))
    assert found[2] == pytest.approx(expected, rel=1e-5)
    if length >= 7:  # the others fit into a window
        for i, ids in enumerate(DOCUMENTS):
            if i != 2:
                assert found[i] == pytest.approx(one_by_one(llama, ids, masks[i] if masks else None), rel=1e-5)


def test_an_lstm_carries_its_state_from_chunk_to_chunk() -> None:
    torch.manual_seed(0)
    sizes = {"hidden_size": 12, "num_hidden_layers": 2, "num_heads": 3, "intermediate_size": 64}
    model = build_baseline("lstm", Architecture(**sizes), 40).double().eval()
    for chunk in (1, 5, 1024):
        found = dict(document_nats(model, DOCUMENTS, chunk=chunk))
        for i, ids in enumerate(DOCUMENTS):
            assert found[i] == pytest.approx(one_by_one(model, ids), rel=1e-6)


def test_nothing_to_measure(tiny_model: TinyModel) -> None:
    assert list(document_nats(tiny_model[0], [])) == []
    bits = bits_per_byte(*tiny_model, [])
    assert bits.documents == bits.bytes == 0 and math.isnan(bits.value)


def test_bos_is_given_and_eos_is_excluded(tiny_model: TinyModel) -> None:
    model, tokenizer = tiny_model
    texts = ["川は山から海へ。", "a", "The river\nruns."]
    documents = [[tokenizer.bos_token_id, *ids] for ids in encode_texts(tokenizer, texts)]
    bits = bits_per_byte(model, tokenizer, iter(texts))
    assert bits.bits == pytest.approx(sum(one_by_one(model, ids) for ids in documents) / math.log(2), rel=1e-5)
    assert bits.bytes == sum(len(text.encode()) for text in texts) and bits.documents == 3
    assert bits.tokens == sum(len(ids) - 1 for ids in documents)
    assert bits.value == pytest.approx(bits.bits / bits.bytes)


def test_text_that_looks_like_a_special_token_is_text(tiny_model: TinyModel) -> None:
    model, tokenizer = tiny_model
    (ids,) = encode_texts(tokenizer, [f"川{BOS}"])
    assert not set(ids) & set(tokenizer.all_special_ids)
    bits = bits_per_byte(model, tokenizer, [f"川{BOS}"])
    assert bits.tokens == len(ids)
    assert bits.bits * math.log(2) == pytest.approx(one_by_one(model, [tokenizer.bos_token_id, *ids]), rel=1e-5)


@given(st.lists(st.integers(1, 30), max_size=6), st.integers(0, 100))
def test_max_bytes_takes_whole_texts(tiny_model: TinyModel, lengths: list[int], limit: int) -> None:
    bits = bits_per_byte(*tiny_model, ("é" * length for length in lengths), max_bytes=limit)
    taken = lengths[: bits.documents]
    assert bits.bytes == 2 * sum(taken)
    assert bits.bytes <= limit or len(taken) == 1
    if len(taken) < len(lengths):
        assert taken and bits.bytes + 2 * lengths[len(taken)] > limit
