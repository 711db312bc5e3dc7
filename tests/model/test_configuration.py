import subprocess
import sys
from pathlib import Path

import pytest

from sioconv.model import SioConvConfig


def test_save_and_load(tmp_path: Path, options: dict[str, object]) -> None:
    config = SioConvConfig(vocab_size=77, tokenizer_fingerprint="abc", **options)
    config.save_pretrained(tmp_path)
    assert SioConvConfig.from_pretrained(tmp_path).to_dict() == config.to_dict()


@pytest.mark.parametrize("wrong", [{"num_heads": 7}, {"gate": "row"}, {"hidden_size": "wide"}, {"conv_width": 1}])
def test_what_cannot_be_built_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(Exception, match=next(iter(wrong))):
        SioConvConfig(**wrong)


def test_whole_numbers_are_numbers(tmp_path: Path) -> None:
    """Tools in other languages write 1 for 1.0 into a config.json."""
    config = SioConvConfig(z_gain=1, y_gain=1, timescale_max=128, embedding_max_norm=1, gate_bound=8)
    config.initial_state_std = 2
    values = [config.z_gain, config.y_gain, config.timescale_max, config.embedding_max_norm, config.initial_state_std]
    assert values == [1, 1, 128, 1, 2] and {type(value) for value in values} == {float}
    config.save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    written = file.read_text()
    file.write_text(written.replace(".0,", ","))
    assert file.read_text() != written
    assert SioConvConfig.from_pretrained(tmp_path).to_dict() == config.to_dict()
    with pytest.raises(Exception, match="z_gain"):
        SioConvConfig(z_gain=True)
    with pytest.raises(Exception, match="num_heads"):
        SioConvConfig(num_heads=8.0)


# What a script does with a folder. Other classes of transformers come first: some import the Auto classes half-way.
USE = """
import torch
folder = sys.argv[1]
tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
assert type(model).__name__ == "SioConvForCausalLM", type(model)
assert type(AutoConfig.from_pretrained(folder)).__name__ == "SioConvConfig"
assert type(AutoModel.from_config(model.config)).__name__ == "SioConvModel"
prompts = tokenizer(["川", "The river"], return_tensors="pt", padding=True, padding_side="left")
model.generate(**prompts, max_new_tokens=3, do_sample=True)
model.generate(tokenizer("", return_tensors="pt").input_ids, max_new_tokens=3, num_beams=2)
"""
SIOCONV_FIRST = """
import sys
import sioconv
assert not {"torch", "transformers", "numpy"} & set(sys.modules)
from sioconv.model import SioConvLayer
assert not {"transformers", "huggingface_hub", "tokenizers", "datatrove", "sioconv.data"} & set(sys.modules)
from transformers import LlamaForCausalLM
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoTokenizer
"""
TRANSFORMERS_FIRST = """
import sys
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoTokenizer
import sioconv
"""


@pytest.mark.parametrize("imports", [SIOCONV_FIRST, TRANSFORMERS_FIRST], ids=["sioconv first", "transformers first"])
def test_auto_classes_know_the_model(tiny_model_folder: Path, imports: str) -> None:
    """And loading and generating warn of nothing."""
    command = [sys.executable, "-W", "always", "-c", imports + USE, str(tiny_model_folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    said = [line for line in done.stderr.splitlines() if line and not line.startswith("Loading weights: ")]
    assert not said, done.stderr
