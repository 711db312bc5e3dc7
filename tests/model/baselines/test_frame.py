"""What all recurrent models to compare with share: packed documents, carried states, generation, folders."""

from collections.abc import Callable
from copy import deepcopy
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from sioconv.model import SioConvCache
from sioconv.model.baselines.frame import RecurrentForCausalLM
from sioconv.model.baselines.lstm import LstmConfig, LstmForCausalLM
from sioconv.model.baselines.min_gru import MinGruConfig, MinGruForCausalLM

VOCABULARY = 40
SIZES: dict[str, Any] = {"hidden_size": 12, "num_hidden_layers": 2, "intermediate_size": 20, "vocab_size": VOCABULARY}
STATES = {"lstm": {"h": 12, "c": 12}, "min_gru": {"h": 18}}  # widths of what each layer carries

Make = Callable[..., RecurrentForCausalLM]


@pytest.fixture(params=STATES)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def make(kind: str) -> Make:
    """Width 12, 2 layers, fp64; weights large enough that the output depends on all that was read."""

    def build(tied: bool = False) -> RecurrentForCausalLM:
        torch.manual_seed(0)
        values = SIZES | {"tie_word_embeddings": tied, "initializer_range": 0.3, "pad_token_id": 0}
        model: RecurrentForCausalLM
        model = LstmForCausalLM(LstmConfig(**values)) if kind == "lstm" else MinGruForCausalLM(MinGruConfig(**values))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += torch.randn_like(parameter) * 0.2
        return model.double().eval()

    return build


@pytest.fixture
def model(make: Make) -> RecurrentForCausalLM:
    return make()


@pytest.fixture
def ids() -> Tensor:
    """[3, 11]."""
    return torch.randint(0, VOCABULARY, (3, 11), generator=torch.Generator().manual_seed(1))


def separately(model: RecurrentForCausalLM, ids: Tensor, reset: Tensor, cache: SioConvCache | None = None) -> Tensor:
    """Hidden states of each document read alone, row by row; a document that has begun before goes on from `cache`."""
    rows = []
    for row, starts in enumerate(reset):
        places = sorted({0, *starts.nonzero().flatten().tolist(), ids.shape[1]})
        pieces = []
        for start, stop in pairwise(places):
            state = None
            if cache is not None and not start and not starts[0]:
                state = deepcopy(cache)
                state.batch_select_indices(torch.tensor([row]))
            piece = ids[row : row + 1, start:stop]
            pieces.append(model.model(piece, cache=state, use_cache=state is not None).last_hidden_state)
        rows.append(torch.cat(pieces, dim=1))
    return torch.cat(rows)


@pytest.mark.parametrize("carried", [False, True])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_packed_documents_equal_separate_ones(
    model: RecurrentForCausalLM, ids: Tensor, reset: Tensor, carried: bool, checkpointing: bool
) -> None:
    """Forward and backward; the state that is carried in goes on in the rows whose first document began before."""
    if checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
    model.train()
    cache = None
    if carried:
        cache = model.new_cache()
        with torch.no_grad():
            model.model(ids.flip(0), cache=cache, use_cache=True)
    before = deepcopy(cache)
    parameters = [parameter for name, parameter in model.named_parameters() if name != "lm_head.weight"]
    grad_output = torch.randn(3, 11, 12, dtype=torch.float64)
    packed = model.model(ids, reset=reset, cache=cache, use_cache=carried).last_hidden_state
    together = torch.autograd.grad(packed, parameters, grad_output)
    expected = separately(model, ids, reset, before)
    torch.testing.assert_close(packed, expected, rtol=1e-12, atol=1e-12)
    for first, second in zip(together, torch.autograd.grad(expected, parameters, grad_output), strict=True):
        torch.testing.assert_close(first, second, rtol=1e-10, atol=1e-12)
    flowing = model.model(ids, cache=before, use_cache=carried).last_hidden_state
    assert float((flowing - packed).detach().abs().max()) > 1e-2


def test_the_state_after_packed_documents_is_that_of_the_last(
    model: RecurrentForCausalLM, ids: Tensor, reset: Tensor
) -> None:
    cache, alone = model.new_cache(), model.new_cache()
    with torch.no_grad():
        model(ids, reset=reset, cache=cache)
        model(ids[:1, 10:], cache=alone)  # the row's last document
    for name, tensor in alone.state_dict().items():
        torch.testing.assert_close(cache.state_dict()[name][:1], tensor)


def test_positions_mark_documents_too(model: RecurrentForCausalLM, ids: Tensor, reset: Tensor) -> None:
    positions = torch.arange(11).repeat(3, 1)
    positions = positions - positions.where(reset, 0).cummax(dim=1).values  # each document counts from 0
    with torch.no_grad():
        assert torch.equal(model(ids, position_ids=positions).logits, model(ids, reset=reset).logits)


@torch.no_grad()
def test_pieces_read_as_a_whole(model: RecurrentForCausalLM, ids: Tensor, kind: str) -> None:
    whole = model(ids, use_cache=False)
    assert whole.cache is None
    cache = model.new_cache()
    parts = [model(piece, cache=cache).logits for piece in ids.split(4, dim=1)]
    torch.testing.assert_close(torch.cat(parts, dim=1), whole.logits)
    assert cache.get_seq_length() == 11
    assert {name: tuple(tensor.shape) for name, tensor in cache.state_dict().items()} == {
        f"layers.{i}.{name}": (3, width) for i in range(2) for name, width in STATES[kind].items()
    }
    other = model.new_cache()
    other.load_state_dict(cache.state_dict(), 11)
    assert torch.equal(model(ids, cache=other).logits, model(ids, cache=cache).logits)


def test_a_missing_state_is_named(model: RecurrentForCausalLM, ids: Tensor) -> None:
    cache = model.new_cache()
    model(ids, cache=cache)
    tensors = cache.state_dict()
    del tensors["layers.1.h"]
    with pytest.raises(KeyError, match=r"layers\.1\.h"):
        model.new_cache().load_state_dict(tensors, 11)


@torch.no_grad()
def test_generation(model: RecurrentForCausalLM, ids: Tensor) -> None:
    prompts = ids[:, :5].clamp(min=1)
    text = prompts
    for _ in range(6):
        text = torch.cat([text, model(text).logits[:, -1:].argmax(-1)], dim=1)
    for use_cache in (True, False):
        assert torch.equal(model.generate(prompts, max_new_tokens=6, do_sample=False, use_cache=use_cache), text)
    beams = model.generate(prompts, max_new_tokens=6, num_beams=3, do_sample=False)
    again = model.generate(prompts, max_new_tokens=6, num_beams=3, do_sample=False, use_cache=False)
    assert torch.equal(beams, again)


def test_padding_is_refused(model: RecurrentForCausalLM, ids: Tensor) -> None:
    mask = torch.ones_like(ids)
    assert torch.equal(model(ids, attention_mask=mask).logits, model(ids).logits)
    mask[0, 0] = 0
    with pytest.raises(ValueError, match="would read the padding"):
        model(ids, attention_mask=mask)


def test_memory_is_not_rounded_under_autocast(make: Make, ids: Tensor) -> None:
    model = make().float()
    cache = model.new_cache()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        model(ids, cache=cache)
    assert {tensor.dtype for tensor in cache.state_dict().values()} == {torch.float32}


@pytest.mark.parametrize("tied", [False, True])
def test_saved_and_loaded_by_the_auto_class(
    make: Make, tmp_path_factory: pytest.TempPathFactory, ids: Tensor, tied: bool
) -> None:
    model, folder = make(tied).float(), tmp_path_factory.mktemp("baseline")
    model.save_pretrained(folder)
    loaded = AutoModelForCausalLM.from_pretrained(folder)
    assert type(loaded) is type(model) and (loaded.lm_head.weight is loaded.model.embed_tokens.weight) == tied
    with torch.no_grad():
        assert torch.equal(loaded(ids).logits, model(ids).logits)


def test_whole_numbers_are_numbers() -> None:
    """Tools in other languages write 1 for 1.0 into a config.json."""
    config = MinGruConfig(expansion=2, rms_norm_eps=1)
    assert type(config.expansion) is type(config.rms_norm_eps) is type(LstmConfig(rms_norm_eps=1).rms_norm_eps) is float
    with pytest.raises(Exception, match="expansion"):
        MinGruConfig(expansion=True)
