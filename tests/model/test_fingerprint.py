import pytest
import torch

from sioconv.model import SioConvConfig, SioConvForCausalLM
from sioconv.model.fingerprint import weights_fingerprint


def build(**options: object) -> SioConvForCausalLM:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_heads": 4, "intermediate_size": 48, "vocab_size": 40}
    return SioConvForCausalLM(SioConvConfig(**{**sizes, **options})).eval()


def test_every_number_of_the_weights_counts() -> None:
    model = build()
    known = {weights_fingerprint(model), weights_fingerprint(build())}
    assert len(known) == 1
    for count, parameter in enumerate(model.parameters(), start=2):
        with torch.no_grad():
            parameter.view(-1)[parameter.numel() // 2] += 1e-3
        known.add(weights_fingerprint(model))
        assert len(known) == count


def test_precision_and_architecture_count() -> None:
    known = {
        weights_fingerprint(build()),
        weights_fingerprint(build().bfloat16()),
        weights_fingerprint(build(rms_norm_eps=1e-3)),
    }
    assert len(known) == 3


def test_weights_are_hashed_again_only_where_they_have_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    from sioconv.model import fingerprint

    model, hashed = build(), []
    usual = fingerprint._hash
    monkeypatch.setattr(fingerprint, "_hash", lambda tensor: hashed.append(1) or usual(tensor))
    first = weights_fingerprint(model)
    once = len(hashed)
    assert weights_fingerprint(model) == first and len(hashed) == once == len(model.state_dict())
    model.lm_head.weight.data[0, 0] += 1  # torch doesn't count this
    assert weights_fingerprint(model) != first and len(hashed) == 2 * once
    model.lm_head.weight.data[0, 0] -= 1


def test_weights_that_torch_does_not_trace_are_hashed_each_time() -> None:
    with torch.inference_mode():
        model = build()
        first = weights_fingerprint(model)
        model.lm_head.weight[20, 20] += 1
    assert weights_fingerprint(model) != first
