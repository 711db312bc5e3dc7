"""Where a text begins: a persona's state is that of a model with its initial states, before the first token."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import PreTrainedTokenizerFast

from sioconv.generate.decoder import Piece, TorchDecoder
from sioconv.generate.states.file import StateFormat
from sioconv.generate.states.state import State
from sioconv.model import SioConvForCausalLM, load_initial_state, save_initial_state
from sioconv.model.initial_state import initial_states
from sioconv.serve.models import _persona


@pytest.mark.parametrize("options", [{}, {"trapezoid": True, "conv_width": 3}, {"bigram_rows": 3, "bigram_width": 8}])
def test_a_persona_is_the_beginning_of_the_tuned_model(
    tiny_model: tuple[SioConvForCausalLM, PreTrainedTokenizerFast],
    make_model: Callable[..., SioConvForCausalLM],
    options: dict[str, object],
    tmp_path: Path,
) -> None:
    model = make_model(tiny_model[1], **options)
    if options.get("bigram_rows"):
        torch.nn.init.normal_(model.model.bigrams.out.weight)
    base, own = model.fingerprint(), {name: value.detach().clone() for name, value in initial_states(model).items()}
    with torch.no_grad():
        for value in initial_states(model).values():
            value.normal_()
        save_initial_state(tmp_path / "kind.safetensors", model, base)
        for name, value in initial_states(model).items():
            value.copy_(own[name])
    start = _persona(tmp_path / "kind.safetensors", model, StateFormat(model))
    decoder, ids = TorchDecoder(model), [9, 300, 301, 9]
    found = decoder.read([Piece(decoder.memory(start.state), ids, True)])
    load_initial_state(tmp_path / "kind.safetensors", model)
    expected = decoder.read([Piece(decoder.memory(State()), ids, True)])
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
