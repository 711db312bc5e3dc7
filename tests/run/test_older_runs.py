"""A run that an older version began goes on to the same end, and its conversation goes on.

The archive holds a run of November 2026 that SIGTERM stopped at step 17 of 40, and under `expected/` what that version
made of it: the base model, the tuned model, a saved conversation and the reply that follows. Its weights were made on a
processor with AVX2; others round sums in another order.
"""

import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from sioconv.recipe.schema import load_recipe
from sioconv.run import stages

ARCHIVE = Path(__file__).parents[1] / "fixtures" / "run_of_2026_11.tar.xz"


@pytest.fixture
def older(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the older run in it, as working directory."""
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_run_of_an_older_version_goes_on_to_the_same_models(older: Path) -> None:
    threads = torch.get_num_threads()
    shards = {file: file.read_bytes() for file in older.glob("runs/old/data/**/*.ds")}
    try:
        stages.finetune(load_recipe(["small.yaml"]))
    finally:
        torch.set_num_threads(threads)
    assert shards and all(file.read_bytes() == content for file, content in shards.items())
    for made, expected in (("base", "base.safetensors"), ("model", "model/model.safetensors")):
        found, wanted = load_file(f"runs/old/{made}/model.safetensors"), load_file(f"expected/{expected}")
        assert found.keys() == wanted.keys()
        for name, value in wanted.items():
            torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-4)


def test_a_conversation_of_an_older_version_goes_on(older: Path) -> None:
    command = [sys.executable, "-m", "sioconv", "chat", "expected/model", "--load", "expected/talk.state"]
    command += ["--temperature", "0", "--max-new-tokens", "24"]
    ended = subprocess.run(
        command, input="第2の川はどこへ？\n", capture_output=True, encoding="utf-8", check=False, cwd=older
    )
    assert ended.returncode == 0, ended.stderr
    expected = (older / "expected/reply.txt").read_text("utf-8").splitlines()[-1]
    assert ended.stdout.splitlines()[-1] == expected
