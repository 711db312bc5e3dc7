"""Tools that know a layer or a model by its class: quantisers, adapters, tensor parallelism, transformers' Trainer."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    BitsAndBytesConfig,
    QuantoConfig,
    TorchAoConfig,
    Trainer,
    TrainingArguments,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, MODEL_MAPPING, MODEL_MAPPING_NAMES

from sioconv.model import Architecture, SioConvConfig, SioConvForCausalLM, SioConvLayer
from sioconv.model.baselines.lstm import LstmConfig, LstmForCausalLM
from sioconv.model.causal_lm import SioConvModel

VOCABULARY = 97
SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_heads": 4,
    "intermediate_size": 48,
}


@pytest.fixture
def ids() -> Tensor:
    """[2, 9]."""
    return torch.randint(3, VOCABULARY, (2, 9), generator=torch.Generator().manual_seed(1))


def make_model(**options: object) -> SioConvForCausalLM:
    """A model some of whose embedding rows are longer than the limit."""
    torch.manual_seed(0)
    model = SioConvForCausalLM(SioConvConfig(**{**SIZES, **options}))
    with torch.no_grad():
        model.model.embed_tokens.weight *= torch.linspace(0.5, 3, VOCABULARY).unsqueeze(1)
    return model.eval()


def tune(model: nn.Module, ids: Tensor, rate: float = 1.0, steps: int = 3) -> list[float]:
    """Steps of SGD on what wants a gradient; the losses before each."""
    model.train()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=rate)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    model.eval()
    return losses


def distance(found: Tensor, expected: Tensor) -> float:
    return float((found.float() - expected.float()).detach().abs().max())


def adapters() -> dict[str, Any]:
    """Every kind of adapter that PEFT puts on an embedding."""
    peft = pytest.importorskip("peft")
    task, embedding = {"task_type": "CAUSAL_LM"}, {"target_modules": ["embed_tokens"], "task_type": "CAUSAL_LM"}
    return {
        "LoRA": peft.LoraConfig(r=2, **embedding),
        "LoRA, head too": peft.LoraConfig(r=2, target_modules=["embed_tokens", "lm_head"], **task),
        "DoRA": peft.LoraConfig(r=2, use_dora=True, **embedding),
        "OFT": peft.OFTConfig(r=0, oft_block_size=4, **embedding),
        "tokens": peft.TrainableTokensConfig(token_indices=[90, 91, 92], **embedding),
        "LoRA and tokens": peft.LoraConfig(r=2, target_modules=["z_proj"], trainable_token_indices=[90, 91], **task),
        "whole": peft.LoraConfig(r=2, target_modules=["z_proj"], modules_to_save=["embed_tokens"], **task),
    }


@pytest.mark.parametrize("kind", ["LoRA", "LoRA, head too", "DoRA", "OFT", "tokens", "LoRA and tokens", "whole"])
def test_adapters_on_the_embedding_merge_into_the_same_model(kind: str, ids: Tensor) -> None:
    from peft import get_peft_model

    model, ids = make_model(), torch.cat([ids, torch.tensor([[90, 91, 92]] * 2)], dim=1)
    before = model(ids).logits
    tuned = get_peft_model(model, adapters()[kind]).eval()
    assert torch.equal(tuned(ids).logits, before)
    losses = tune(tuned, ids)
    assert losses[-1] < losses[0]
    logits = tuned(ids).logits
    assert distance(logits, before) > 0.1
    with tuned.disable_adapter():
        assert torch.equal(tuned(ids).logits, before)
    assert distance(tuned.merge_and_unload()(ids).logits, logits) < 1e-4


def test_what_would_lose_the_bias_of_a_tied_head_is_refused(ids: Tensor) -> None:
    from peft import LoraConfig, get_peft_model

    settings = {"r": 2, "target_modules": ["z_proj"], "task_type": "CAUSAL_LM"}
    whole = LoraConfig(**settings, modules_to_save=["embed_tokens"], ensure_weight_tying=True)
    for config in (adapters()["tokens"], adapters()["LoRA and tokens"], whole):
        tuned = get_peft_model(make_model(tie_word_embeddings=True), config)
        with pytest.raises(ValueError, match="without its bias: adapt other layers"):
            tuned(ids)
        model = make_model(tie_word_embeddings=True, head_bias=False)
        before = model(ids).logits
        assert torch.equal(get_peft_model(model, config).eval()(ids).logits, before)
    model = make_model(tie_word_embeddings=True)
    before = model(ids).logits
    head = LoraConfig(**settings, modules_to_save=["lm_head"])  # has its bias
    assert torch.equal(get_peft_model(model, head).eval()(ids).logits, before)


@pytest.mark.parametrize("kind", ["nf4", "int8"])
@pytest.mark.parametrize(
    ("dtype", "trapezoid"), [(torch.float32, False), (torch.bfloat16, False), (torch.float32, True)]
)
def test_qlora(kind: str, dtype: torch.dtype, trapezoid: bool, ids: Tensor, tmp_path: Path) -> None:
    """Quantised on loading, all linear layers but gates and head; then adapters are trained and merged."""
    peft, bnb = pytest.importorskip("peft"), pytest.importorskip("bitsandbytes")
    make_model(hidden_size=64, trapezoid=trapezoid).save_pretrained(tmp_path)
    whole = SioConvForCausalLM.from_pretrained(tmp_path)
    settings = {"load_in_8bit": True} if kind == "int8" else {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
    model = AutoModelForCausalLM.from_pretrained(
        tmp_path, quantization_config=BitsAndBytesConfig(**settings), dtype=dtype, device_map="cpu"
    )
    wanted = bnb.nn.Linear8bitLt if kind == "int8" else bnb.nn.Linear4bit
    plain = {name.rpartition(".")[2] for name, module in model.named_modules() if type(module) is nn.Linear}
    assert plain == {"dt_proj", "lm_head"} | ({"mix_proj"} if trapezoid else set())
    assert sum(isinstance(module, wanted) for module in model.modules()) == 7
    assert model.model.layers[0].mixer.dt_proj.weight.dtype == torch.float32
    before, expected = model(ids).logits, whole(ids).logits
    assert 0 < distance(before, expected) < 0.25 * float(expected.detach().abs().max())

    model = peft.prepare_model_for_kbit_training(model)
    model = peft.get_peft_model(model, peft.LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
    losses = tune(model, ids, rate=0.3)
    assert losses[-1] < losses[0] - 0.1
    logits = model.eval()(ids).logits
    merged = model.merge_and_unload()(ids).logits
    assert distance(merged, logits) < 0.5 * distance(logits, before)  # it is quantised anew


def test_quantisers_that_go_by_parameters_leave_the_gates_alone() -> None:
    """transformers asks for a layer's name (bitsandbytes, quanto) or for its parameter's (torchao)."""
    from transformers.quantizers.quantizers_utils import should_convert_module

    patterns = list(SioConvForCausalLM._keep_in_fp32_modules)
    for name, module in make_model(trapezoid=True).named_modules():
        if type(module) is nn.Linear:
            gates = name.endswith(("dt_proj", "mix_proj"))
            assert should_convert_module(name, patterns) == should_convert_module(f"{name}.weight", patterns) != gates


@pytest.mark.parametrize("by", ["torchao", "quanto"])
def test_quantisers_of_others(by: str, ids: Tensor, tmp_path: Path) -> None:
    """On loading, all linear layers but gates and head; text read in pieces is the text read whole."""
    pytest.importorskip({"torchao": "torchao", "quanto": "optimum.quanto"}[by])
    make_model(hidden_size=64, trapezoid=True).save_pretrained(tmp_path)
    settings: Any
    if by == "torchao":
        from torchao.quantization import Int8WeightOnlyConfig

        settings = TorchAoConfig(Int8WeightOnlyConfig())
    else:
        settings = QuantoConfig(weights="int8")
    whole = SioConvForCausalLM.from_pretrained(tmp_path)
    model = SioConvForCausalLM.from_pretrained(tmp_path, quantization_config=settings)
    linear = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    plain = {name.rpartition(".")[2] for name, module in linear.items() if type(module.weight) is nn.Parameter}
    assert plain == {"dt_proj", "mix_proj", "lm_head"}
    logits = model(ids).logits
    assert 0 < distance(logits, whole(ids).logits) < 0.05 * float(logits.abs().max())
    cache = model.new_cache()
    pieces = [model(part, cache=cache, use_cache=True).logits for part in ids.split(3, dim=1)]
    assert distance(torch.cat(pieces, dim=1), logits) < 1e-3


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_mixture_with_the_last_z_in_half_precision(dtype: torch.dtype, ids: Tensor, tmp_path: Path) -> None:
    """Loading in fp16 leaves in fp32 what quantisers leave alone."""
    make_model(trapezoid=True).save_pretrained(tmp_path)
    expected = SioConvForCausalLM.from_pretrained(tmp_path)(ids).logits
    model = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=dtype)
    assert distance(model(ids).logits.float(), expected) < 0.05 * float(expected.detach().abs().max())


def test_quantize_dynamic(ids: Tensor) -> None:
    """torch's own, on the whole model: every linear layer, also those that make the gates."""
    model = make_model()
    expected = model(ids).logits
    quantised = torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)
    found = [module for module in quantised.modules() if isinstance(module, torch.ao.nn.quantized.dynamic.Linear)]
    assert len(found) == 9
    assert 0 < distance(quantised(ids).logits, expected) < 0.05 * float(expected.detach().abs().max())


def test_parametrizations(ids: Tensor) -> None:
    class Half(nn.Module):
        def forward(self, weight: Tensor) -> Tensor:
            return weight / 2

    model, other = make_model(), make_model()
    for layer in (module for module in model.modules() if type(module) is nn.Linear):
        parametrize.register_parametrization(layer, "weight", Half())
    for layer in (module for module in other.modules() if type(module) is nn.Linear):
        layer.weight.data /= 2
    assert torch.equal(model(ids).logits, other(ids).logits)


TENSOR_PARALLEL = """
import os, sys, torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from sioconv.model import Architecture, SioConvLayer
from sioconv.model.layers import FeedForward
import sioconv.ops.linear
sioconv.ops.linear._FASTER = True
rank = int(sys.argv[1])
torch.distributed.init_process_group("gloo", init_method=f"file://{sys.argv[2]}", rank=rank, world_size=2)
torch.manual_seed(0)
layer = FeedForward(Architecture(hidden_size=32, intermediate_size=48))
x = torch.randn(2, 300, 32)
expected = layer(x)
plan = {"up_proj": ColwiseParallel(), "gate_proj": ColwiseParallel(), "down_proj": RowwiseParallel()}
parallelize_module(layer, init_device_mesh("cpu", (2,)), plan)
assert isinstance(layer.up_proj.weight, DTensor) and layer.up_proj.weight.to_local().shape == (24, 32)
torch.testing.assert_close(layer(x), expected)
layer(x).sum().backward()
torch.distributed.destroy_process_group()
"""


def test_tensor_parallelism(tmp_path: Path) -> None:
    command = [sys.executable, "-c", TENSOR_PARALLEL]
    running = [
        subprocess.Popen([*command, str(rank), str(tmp_path / "store")], stderr=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    for process in running:
        assert process.wait(timeout=300) == 0, process.stderr.read() if process.stderr else ""


def test_operations_are_counted_alike_for_any_number_of_tokens() -> None:
    layer, counts = SioConvLayer(Architecture(hidden_size=32, num_heads=4)), []
    for tokens in (511, 512):
        with FlopCounterMode(display=False) as counter:
            layer(torch.randn(1, tokens, 32))
        counts.append(counter.get_total_flops() / tokens)
    assert counts == [2 * (4 * 32 * 32 + 32 * 4)] * 2


def smoothed(model: nn.Module, ids: Tensor, folder: Path) -> float:
    """The loss that transformers' Trainer learns with label smoothing."""
    arguments = TrainingArguments(str(folder), use_cpu=True, report_to=[], label_smoothing_factor=0.1)
    trainer = Trainer(model, arguments)
    with torch.no_grad():
        return float(trainer.compute_loss(model, {"input_ids": ids, "labels": ids.clone()}))


def next_token(model: nn.Module, ids: Tensor) -> float:
    with torch.no_grad():
        logits = model(input_ids=ids).logits
    return float(F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten(), label_smoothing=0.1))


@pytest.mark.parametrize("adapted", [False, True])
def test_label_smoothing_learns_the_next_token(ids: Tensor, tmp_path: Path, adapted: bool) -> None:
    pytest.importorskip("accelerate")
    model: nn.Module = make_model()
    if adapted:
        peft = pytest.importorskip("peft")
        settings = peft.LoraConfig(r=2, target_modules=["z_proj"], task_type="CAUSAL_LM")
        model = peft.get_peft_model(model, settings)
    assert smoothed(model, ids, tmp_path) == pytest.approx(next_token(model, ids), rel=1e-4)


def test_label_smoothing_of_the_lstm(ids: Tensor, tmp_path: Path) -> None:
    pytest.importorskip("accelerate")
    sizes = {"vocab_size": VOCABULARY, "hidden_size": 16, "num_hidden_layers": 1, "intermediate_size": 16}
    model = LstmForCausalLM(LstmConfig(**sizes)).eval()
    assert smoothed(model, ids, tmp_path) == pytest.approx(next_token(model, ids), rel=1e-4)


def test_a_folder_s_own_code_is_known_by_its_name_too(tmp_path: Path) -> None:
    """Also where the package isn't: the class that its code makes is a language model to transformers."""
    make_model().save_pretrained(tmp_path / "model")
    code = (
        "import json, sys\n"
        "sys.modules['sioconv'] = None\n"
        "from transformers import AutoModelForCausalLM\n"
        "from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as names\n"
        "model = AutoModelForCausalLM.from_pretrained(sys.argv[1], trust_remote_code=True)\n"
        "print(json.dumps([model._get_name() in names.values(), type(model).__module__]))\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "model")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    known, module = json.loads(done.stdout.splitlines()[-1])
    assert known and "transformers_modules" in module
    assert MODEL_FOR_CAUSAL_LM_MAPPING_NAMES["sioconv"] == "SioConvForCausalLM"


def test_the_base_model_is_known_as_one_without_a_loss(tmp_path: Path) -> None:
    """By its name, as transformers asks; the Auto class finds the same class as before, and whole weights."""
    model = make_model()
    assert MODEL_MAPPING_NAMES["sioconv"] == "SioConvModel"
    assert MODEL_MAPPING[SioConvConfig] is SioConvModel and SioConvConfig in MODEL_MAPPING
    assert type(AutoModel.from_config(model.config)) is SioConvModel
    model.save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path)
    assert type(loaded) is SioConvModel
    assert torch.equal(loaded.embed_tokens.weight, model.model.embed_tokens.weight)
