"""Whether a published folder works by itself: loaded in a new process where the package can't be imported."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from sioconv.errors import UserError
from sioconv.files import work_folder
from sioconv.model import load_model_folder
from sioconv.progress import say

LENGTH = 64  # tokens that are compared
TOLERANCE = 1e-3  # of the largest logit: two ways to sum in fp32
# The finder refuses the package, wherever it is installed.
LOAD = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "sioconv":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Refuse())
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer
folder, given, result = sys.argv[1:]
model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True, dtype=torch.float32).eval()
tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
assert len(tokenizer) <= model.config.vocab_size, "the tokenizer has more tokens than the model"
with torch.no_grad():
    save_file({"logits": model(load_file(given)["ids"]).logits.contiguous()}, result)
"""


def verify_folders(folders: Iterable[Path]) -> None:
    """`verify_folder` of each, said on the way."""
    say("publish: loading the folder in a new process, without the package")
    difference = max(verify_folder(folder) for folder in folders)
    say(f"publish: it computes the same there: no logit differs by more than {difference:.1e}")


def verify_folder(folder: Path) -> float:
    """Loads a folder as a stranger does, and compares its logits with those of the package.

    Returns:
        The largest difference of two logits.

    Raises:
        UserError: it can't be loaded without the package, its checksums don't fit, or it computes something else.
    """
    model, _ = load_model_folder(folder)  # compares the checksums
    ids = torch.randint(0, model.config.vocab_size, (1, LENGTH), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected: Tensor = model(ids).logits.float()  # [1, T, V]
    found = _logits_elsewhere(folder, ids)
    difference = float((found - expected).abs().max())
    if not difference <= TOLERANCE * max(1.0, float(expected.abs().max())):
        raise UserError(
            f"{folder} computes something else without the package: a logit differs by {difference:.2g}: "
            "make the model folder anew with this version"
        )
    return difference


def _logits_elsewhere(folder: Path, ids: Tensor) -> Tensor:
    with work_folder(Path(tempfile.gettempdir()) / "sioconv-stranger") as place:
        save_file({"ids": ids}, place / "ids.safetensors")
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        environment |= {"HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": str(place / "modules")}
        command = [sys.executable, "-c", LOAD, str(folder.absolute())]
        files = [str(place / "ids.safetensors"), str(place / "logits.safetensors")]
        done = subprocess.run(
            [*command, *files], env=environment, cwd=place, capture_output=True, encoding="utf-8", errors="replace"
        )
        if done.returncode != 0:
            reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1][:300]
            raise UserError(f"{folder} can't be loaded without the package: {reason}")
        return load_file(place / "logits.safetensors")["logits"]
