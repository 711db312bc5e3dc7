"""Models of two kinds: ours, and a transformers model that knows nothing of this project."""

from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from sioconv.evaluate.subject import Subject, load_subject
from tests.conftest import TEXTS


@pytest.fixture(scope="session")
def ours(tiny_model_folder: Path) -> Subject:
    return load_subject(str(tiny_model_folder), torch.device("cpu"))


@pytest.fixture(scope="session")
def strangers_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GPT-2 with 64 positions, and a tokenizer that has an eos alone and adds nothing."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=["<end>"], initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(TEXTS, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<end>")
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=len(tokenizer), n_positions=64, n_embd=16, n_layer=2, n_head=2, initializer_range=0.3
    )
    folder = tmp_path_factory.mktemp("stranger")
    GPT2LMHeadModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def stranger(strangers_folder: Path) -> Subject:
    return load_subject(str(strangers_folder), torch.device("cpu"))


@pytest.fixture(params=["ours", "stranger"])
def subject(request: pytest.FixtureRequest) -> Subject:
    found: Subject = request.getfixturevalue(request.param)
    return found
