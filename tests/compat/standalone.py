"""The folder where the package isn't installed."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from sioconv.model.folder_code import write_code
from tests.compat.subject import NEW, Subject, close, continuation, require, same

ALONE = """
import sys
sys.modules["sioconv"] = None  # as if it weren't installed
import torch
from pathlib import Path
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM
folder, file = map(Path, sys.argv[1:3])
model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
ids = load_file(file)["ids"]
with torch.no_grad():
    logits = model(ids).logits
text = model.generate(ids, max_new_tokens=int(sys.argv[3]), do_sample=False, eos_token_id=None)
save_file({"logits": logits, "text": text[:, ids.shape[1]:].contiguous()}, file)
print(sorted(name for name, module in sys.modules.items() if name.split(".")[0] == "sioconv" and module))
"""


@torch.no_grad()
def without_package(subject: Subject) -> str:
    """With its own code and trust_remote_code: the logits and the text that the folder gives with the package."""
    folder, file = Path(shutil.copytree(subject.folder, subject.scratch / "model")), subject.scratch / "ids.safetensors"
    write_code(folder)
    ids = subject.ids(100)
    save_file({"ids": ids}, file)
    surroundings = os.environ | {"HF_MODULES_CACHE": str(subject.scratch / "modules")}
    command = [sys.executable, "-c", ALONE, str(folder), str(file), str(NEW)]
    done = subprocess.run(command, env=surroundings, capture_output=True, text=True, check=False)
    require(done.returncode == 0, done.stderr[-500:])
    require(done.stdout.strip() == "[]", f"modules of the package are loaded: {done.stdout}")
    found, model = load_file(file), subject.model(torch.float32)
    error = close(found["logits"], model(ids).logits, 1e-4, "logits")
    same(found["text"], continuation(model, ids), "text")
    return f"logits differ by {error:.0e}"
