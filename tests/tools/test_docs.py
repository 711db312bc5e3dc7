"""The Python in docs/tools.md runs as it stands, with a random model in the place of the demo's."""

import re
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import pytest

from benchmarks.compat.rows import EXTRAS
from benchmarks.compat.subject import Subject, random_folder

DOCUMENT = (Path(__file__).parents[2] / "docs" / "tools.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", DOCUMENT, re.DOTALL)
ADDRESS = "http://localhost:8000/v1"


@pytest.mark.parametrize("number", range(len(BLOCKS)))
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
        from benchmarks.compat import serving

        server = serving.server(Subject(Path("runs/demo/model"), tmp_path))
    with server as address:
        exec(compile(block.replace(ADDRESS, address), f"docs/tools.md, block {number + 1}", "exec"), {})
    assert capsys.readouterr().out.strip() or (tmp_path / "runs" / "tuned" / "model" / "model.safetensors").is_file()
