"""Ways to load the folder: Auto classes, precisions, devices, another vocabulary."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from tests.compat.subject import NEW, Subject, close, continuation, require, same

GATES = {"dt_proj.weight", "dt_proj.bias", "A_log", "initial_state"}
PRECISIONS = {torch.float32: 1e-5, torch.float16: 2e-2, torch.bfloat16: 1e-1}  # largest error relative to fp64

AUTO_CLASSES = """
import sys, {first}, {second}
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM
for auto in (AutoModelForCausalLM, AutoModel, AutoConfig):
    print(type(auto.from_pretrained(sys.argv[1])).__module__)
"""


def auto_classes(subject: Subject) -> str:
    """After `import sioconv` the Auto classes load the folder with the package's code, without trust_remote_code."""
    places = ["sioconv.model.causal_lm", "sioconv.model.causal_lm", "sioconv.model.configuration"]
    for first, second in (("sioconv", "transformers"), ("transformers", "sioconv")):
        code = AUTO_CLASSES.format(first=first, second=second)
        done = subprocess.run(
            [sys.executable, "-c", code, str(subject.folder)], capture_output=True, text=True, check=False
        )
        require(done.returncode == 0, done.stderr[-500:])
        require(done.stdout.split() == places, f"classes of {done.stdout.split()}")
    return "AutoConfig, AutoModel, AutoModelForCausalLM, whichever is imported first"


@torch.no_grad()
def precisions(subject: Subject) -> str:
    """The weights take the precision asked for, the forget gates stay in fp32; saved and loaded, logits are equal."""
    ids, errors = subject.ids(), []
    exact = subject.model()(ids).logits
    for dtype, limit in PRECISIONS.items():
        model = subject.model(dtype)
        for name, parameter in model.named_parameters():
            kept = any(name.endswith(f"mixer.{end}") for end in GATES)
            kept |= dtype == torch.float16 and "mix_proj" in name  # what quantisers leave alone, in fp16 only
            expected = torch.float32 if kept else dtype
            require(parameter.dtype == expected, f"{name} is {parameter.dtype}, expected {expected}")
        output = model(ids)
        require(output.logits.dtype == dtype, f"logits are {output.logits.dtype}")
        states = {tensor.dtype for name, tensor in output.cache.state_dict().items() if name.endswith(".c")}
        require(states == {torch.float32}, f"states are {states}")
        kind = str(dtype).removeprefix("torch.")
        errors.append(f"{kind} {close(output.logits, exact, limit, kind):.0e}")
        model.save_pretrained(subject.scratch / kind)
        again = AutoModelForCausalLM.from_pretrained(subject.scratch / kind)  # in the precision of the file
        require(again.dtype == dtype, f"a folder saved in {kind} loads in {again.dtype}")
        same(again.eval()(ids).logits, output.logits, f"{kind}, saved and loaded")
    return "error to fp64: " + ", ".join(errors)


@torch.no_grad()
def device_map(subject: Subject) -> str:
    """Weights on the device that "auto" chooses, and weights that are read from the disk when their layer is called."""
    ids = subject.ids()
    model = subject.model(torch.float32)
    auto = subject.model(torch.float32, device_map="auto")
    close(auto(ids.to(auto.device)).logits.cpu(), model(ids).logits, 1e-4, "auto")
    blocks = [f"model.layers.{i}" for i in range(model.config.num_hidden_layers)]
    here = {"model.embed_tokens": "cpu", "model.norm": "cpu", blocks[0]: "cpu"}
    places = here | dict.fromkeys([*blocks[1:], "lm_head"], "disk")
    if model.config.tie_word_embeddings:
        places["lm_head"] = "cpu"
    folder = subject.scratch / "offloaded"
    split: Any = AutoModelForCausalLM.from_pretrained(subject.folder, device_map=places, offload_folder=folder).eval()
    away = sum(parameter.is_meta for parameter in split.parameters())
    require(away > 0, "nothing is on the disk")
    same(split(ids).logits, model(ids).logits, "offloaded to disk")
    same(continuation(split, ids, eos_token_id=None), continuation(model, ids), "text")
    return f"auto: {auto.device}; {away} of {len(list(split.parameters()))} tensors on the disk"


@torch.no_grad()
def resized(subject: Subject) -> str:
    """A longer and a shorter vocabulary, tied and untied: tokens that stay keep their logits, in a new folder too."""
    size = subject.model().config.vocab_size
    ids = subject.ids() % (size - 24)
    for tied in (False, True):
        for new in (size + 24, size - 24):
            model = subject.model(torch.float32, tie_word_embeddings=tied)
            model.tie_weights()  # which loading leaves undone where the folder holds two matrices
            kept, before = min(size, new), model(ids).logits
            model.resize_token_embeddings(new, mean_resizing=False)
            after = model(ids, labels=ids)
            require(after.logits.shape[-1] == model.config.vocab_size == new, f"{after.logits.shape[-1]} logits")
            require(after.loss.isfinite(), "the loss isn't finite")
            same(after.logits[..., :kept], before[..., :kept], f"logits of tokens that stay, tied: {tied}")
            shared = model.lm_head.weight is model.get_input_embeddings().weight
            require(shared == tied, "the tie isn't kept")
            folder = Path(subject.scratch / f"{tied}-{new}")
            model.save_pretrained(folder)
            again = AutoModelForCausalLM.from_pretrained(folder).eval()
            same(again(ids).logits, after.logits, f"saved and loaded, tied: {tied}")
            require(continuation(again, ids, eos_token_id=None).shape[1] == NEW, "no text")
    return f"{size} to {size + 24} and {size - 24} tokens"
