"""A small model as ONNX."""

from pathlib import Path

import pytest

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

from sioconv.data.config import TokenizerConfig
from sioconv.data.tokenizer.tokenizer import END_OF_TURN, train_tokenizer
from sioconv.model import save_model_folder
from sioconv.publish.onnx.folder import export_onnx
from tests.conftest import TEXTS
from tests.publish.onnx.models import varied_model


@pytest.fixture(scope="session")
def small_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder of one layer whose state has all parts, its head tied, with 384 tokens."""
    folder = tmp_path_factory.mktemp("small")
    tokenizer = train_tokenizer(TokenizerConfig(vocab_size=384), TEXTS * 4, folder / "tokenizer")
    parts = {"conv_width": 3, "trapezoid": True, "bigram_rows": 2}
    model = varied_model(len(tokenizer), **parts, tie_word_embeddings=True)
    stop_ids = [tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids(END_OF_TURN)]
    save_model_folder(model, tokenizer, folder / "model", stop_ids)
    return folder / "model"


@pytest.fixture(scope="session")
def exported(small_folder: Path) -> Path:
    """What `sioconv export onnx --to both` makes of it."""
    text = small_folder.parent / "text.txt"
    text.write_text("\n".join(TEXTS), encoding="utf-8")
    out = small_folder.parent / "onnx"
    done = export_onnx(small_folder, out, ("fp32", "int8"), str(text))
    assert 0 < done["bits_per_byte_before"] < 20 and abs(done["bits_per_byte"] / done["bits_per_byte_before"] - 1) < 0.1
    for name, facts in done["files"].items():
        assert facts["bytes"] == (out / name).stat().st_size and facts["logit_difference"] < 1e-4
    return out
