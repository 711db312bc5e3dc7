"""The Python in docs/tools.md runs as it stands, with a random model in the place of the demo's."""

import re
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import pytest
import torch
from torch._dynamo.utils import counters
from transformers import CompileConfig, DynamicCache

from tests.compat.rows import EXTRAS
from tests.compat.subject import Subject, continuation, random_folder

DOCUMENT = (Path(__file__).parents[2] / "docs" / "tools.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", DOCUMENT, re.DOTALL)
ADDRESS = "http://localhost:8000/v1"


NUMBERS = [pytest.param(i, marks=[pytest.mark.slow] if ADDRESS in block else []) for i, block in enumerate(BLOCKS)]


@pytest.mark.parametrize("number", NUMBERS)
def test_it_runs(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    block = BLOCKS[number]
    for package in {name for names in EXTRAS.values() for name in names}:
        if re.search(rf"^from {package}\b", block, re.MULTILINE):
            pytest.importorskip(package)
    random_folder(tmp_path / "runs" / "demo")
    monkeypatch.chdir(tmp_path)
    server: AbstractContextManager[str] = nullcontext(ADDRESS)
    if ADDRESS in block:
        from tests.compat import serving

        server = serving.server(Subject(Path("runs/demo/model"), tmp_path))
    with server as address:
        exec(compile(block.replace(ADDRESS, address), f"docs/tools.md, block {number + 1}", "exec"), {})
    assert capsys.readouterr().out.strip() or (tmp_path / "runs" / "tuned" / "model" / "model.safetensors").is_file()


def test_what_cannot_work(tmp_path: Path) -> None:
    """Each with the error that the document names."""
    subject = Subject(random_folder(tmp_path / "folder"), tmp_path)
    model, ids = subject.model(torch.float32), subject.ids()
    refused = {
        "crop": lambda: model(ids).cache.crop(1),
        "assisted": lambda: model.generate(ids[:1], assistant_model=model),
        "prompt lookup": lambda: model.generate(ids[:1], prompt_lookup_num_tokens=2),
        "keys and values": lambda: model.generate(ids, cache=DynamicCache()),
        "a mask of pairs": lambda: model(ids, attention_mask=torch.ones(3, 1, 10, 10)),
        "continuous batching": lambda: model.generate_batch(ids.tolist(), max_new_tokens=2),
    }
    for name, call in refused.items():
        with pytest.raises((TypeError, ValueError)) as error:
            call()
        message = f"{error.type.__name__}: {str(error.value).splitlines()[0].rstrip(':')}"
        assert f"`{message}`" in DOCUMENT, f"{name}: {message}"
    counters.clear()
    text = continuation(model, ids)
    for options in ({"cache_implementation": "static"}, {"compile_config": CompileConfig(backend="eager")}):
        assert torch.equal(continuation(model, ids, **options), text)
    assert not counters["frames"] and model(ids, output_attentions=True).attentions is None
