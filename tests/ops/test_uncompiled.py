"""NUMBA_DISABLE_JIT, which people set to look into other packages' code: plain torch computes, and that is said."""

import json
import os
import subprocess
import sys
from typing import Any

import pytest

PROGRAM = """
import json, sys
import torch
from sioconv.generate.decoder import pick_decoder
from sioconv.model import SioConvConfig, SioConvForCausalLM
from sioconv.ops import cross_entropy_
torch.manual_seed(0)
torch.set_num_threads(1)
sizes = {"vocab_size": 97, "hidden_size": 64, "num_hidden_layers": 1, "num_heads": 2, "intermediate_size": 64}
model, ids = SioConvForCausalLM(SioConvConfig(**sizes)), torch.randint(0, 97, (1, 600))
loss = model(ids, labels=ids).loss
loss.backward()
logits = torch.arange(20.0).reshape(2, 10)
cross_entropy_(logits, torch.tensor([3, -1]))
print(json.dumps([loss.item(), model.model.layers[0].mixer.z_proj.weight.grad.norm().item(), logits.flatten().tolist(),
                  type(pick_decoder(model.eval())).__name__, "sioconv.ops.cpu.vectors" in sys.modules]))
"""


def found(switch: str) -> tuple[list[Any], str]:
    environment = os.environ | {"NUMBA_DISABLE_JIT": switch, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=True)
    return json.loads(done.stdout), done.stderr


def test_without_compiling_plain_torch_gives_the_same() -> None:
    (loss, gradient, logits, decoder, kernels), said = found("1")
    assert (decoder, kernels) == ("TorchDecoder", False)
    assert said.count("NUMBA_DISABLE_JIT is set, so nothing is compiled") == 1
    (right, right_gradient, right_logits, right_decoder, _), said = found("0")
    assert right_decoder == "NativeDecoder" and "NUMBA_DISABLE_JIT" not in said
    assert (loss, gradient) == pytest.approx((right, right_gradient), rel=1e-5)
    assert logits == pytest.approx(right_logits, abs=1e-6)
