"""A whole model folder small enough to be made anew for every test run."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import settings
from transformers import PreTrainedTokenizerFast

from sioconv.data.config import TokenizerConfig
from sioconv.data.tokenizer.tokenizer import END_OF_TURN, EOS, train_tokenizer
from sioconv.model import SioConvConfig, SioConvForCausalLM, load_model_folder, save_model_folder

os.environ["SIOCONV_LANG"] = "en"  # whatever the locale, also of the commands that tests start
settings.register_profile("sioconv", deadline=None)  # a busy machine must not decide whether a test passes
settings.load_profile("sioconv")

TEXTS = [
    "宮城県(みやぎけん)は、東北地方にある県である。県庁の所在地は仙台市である。",
    "川は山から海へ流れる。海の水は空へ昇り、雨になって山へ帰る。",
    "The river runs from the hills to the sea, and the rain brings it back again.",
    "こんにちは。お元気ですか？ Thank you, I am fine.",
]


@pytest.fixture(autouse=True)
def _environment_ends_with_the_test() -> Iterator[None]:
    """Variables that a test, or a command that it runs in this process, sets don't reach other tests."""
    before = dict(os.environ)
    yield
    for name in os.environ.keys() - before.keys():
        del os.environ[name]
    os.environ.update({name: value for name, value in before.items() if os.environ.get(name) != value})


@pytest.fixture(scope="session")
def make_model() -> Callable[..., SioConvForCausalLM]:
    """`make_model(tokenizer, **options)`: a random model (width 32, 2 layers) whose output depends on what it reads.

    The gains are those of unit variance, and the head is scaled up, so that a forgotten token changes the text. Texts
    don't end by themselves: eos and end-of-turn are unlikely.
    """

    def make(tokenizer: PreTrainedTokenizerFast, **options: object) -> SioConvForCausalLM:
        torch.manual_seed(0)
        sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_heads": 4, "intermediate_size": 48}
        gains = {"z_gain": 1.0, "y_gain": 1.0}
        model = SioConvForCausalLM(SioConvConfig(**{"vocab_size": len(tokenizer), **sizes, **gains, **options}))
        with torch.no_grad():
            model.lm_head.weight *= 4
            model.lm_head.bias[tokenizer.convert_tokens_to_ids([EOS, END_OF_TURN])] -= 30
        return model.eval()

    return make


@pytest.fixture(scope="session")
def tiny_model_folder(tmp_path_factory: pytest.TempPathFactory, make_model: Callable[..., SioConvForCausalLM]) -> Path:
    """A model folder with a random model (width 32, 2 layers, convolution of width 2) and a tokenizer of 384 tokens."""
    folder = tmp_path_factory.mktemp("tiny")
    tokenizer = train_tokenizer(TokenizerConfig(vocab_size=384), TEXTS * 4, folder / "tokenizer")
    stop_ids = [tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids(END_OF_TURN)]
    save_model_folder(make_model(tokenizer, conv_width=2), tokenizer, folder / "model", stop_ids)
    return folder / "model"


@pytest.fixture(scope="session")
def tiny_model(tiny_model_folder: Path) -> tuple[SioConvForCausalLM, PreTrainedTokenizerFast]:
    """The model and tokenizer of `tiny_model_folder`; tests must not change them."""
    return load_model_folder(tiny_model_folder)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Debian's Chromium, driven by Playwright; for one file, as nobody can call asyncio.run while it is there."""
    playwright = pytest.importorskip("playwright.sync_api")
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("no Chromium here: apt-get install chromium")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=program)
        yield browser
        browser.close()
