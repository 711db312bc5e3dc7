"""A model folder by itself: transformers loads it where the package isn't installed, and it computes the same."""

import ast
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, Trainer, TrainingArguments
from transformers.dynamic_module_utils import get_relative_imports

import sioconv
from sioconv.model import SioConvCache, SioConvForCausalLM, save_model_folder
from sioconv.model.folder_code import AUTO_MAP, FILE, PACKAGE_ONLY, folder_code

NEW_TOKENS = 12
MODELS: dict[str, dict[str, object]] = {
    "sioconv_2024": {"preset": "sioconv-2024", "initial_state_std": 1.0},
    "options": {"gate": "channel", "gate_bound": 4.0, "conv_width": 3, "input_scale": "mean", "output_gate": "state"},
    "mixture": {"trapezoid": True, "norm_groups": 1},
    "bigrams": {"bigram_rows": 3, "bigram_width": 8},
}
# Refuses the package, wherever it is installed.
BLOCK = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "sioconv":
            raise ModuleNotFoundError(f"No module named {name!r}")
sys.meta_path.insert(0, Refuse())
"""
USE = """
from pathlib import Path
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoTokenizer
from transformers import AutoModelForSequenceClassification, AutoModelForTokenClassification
torch.set_num_threads(1)
for folder in map(Path, sys.argv[1:]):
    given = load_file(folder.parent / "ids.safetensors")
    model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
    ids, mask = given["ids"], given["mask"]
    with torch.no_grad():
        logits = model(ids, attention_mask=mask).logits
        first = model(ids[:, :7], attention_mask=mask[:, :7], use_cache=True)
        rest = model(ids[:, 7:], past_key_values=first.cache).logits
    new = model.generate(ids, attention_mask=mask, max_new_tokens=NEW_TOKENS, do_sample=False, eos_token_id=None)
    loss = model(ids, labels=ids).loss
    loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
    config = AutoConfig.from_pretrained(folder, trust_remote_code=True)
    assert type(AutoModel.from_config(config, trust_remote_code=True)).__name__ == "SioConvModel"
    for auto in (AutoModelForSequenceClassification, AutoModelForTokenClassification):
        head = auto.from_pretrained(folder, trust_remote_code=True, num_labels=3).eval()
        result = head(ids, attention_mask=mask, labels=torch.tensor([1, 2]) if "Seq" in auto.__name__ else ids % 3)
        assert result.logits.shape[-1] == 3 and result.loss.isfinite()
        assert torch.equal(head.model.embed_tokens.weight, model.model.embed_tokens.weight)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert len(tokenizer) == config.vocab_size
    again = folder.with_name(folder.name + "_again")
    model.save_pretrained(again)
    copy = AutoModelForCausalLM.from_pretrained(again, trust_remote_code=True)
    with torch.no_grad():
        assert torch.equal(copy(ids, attention_mask=mask).logits, logits)
    result = {"logits": logits, "rest": rest, "new": new[:, ids.shape[1]:].contiguous(), "loss": loss.detach()}
    save_file(result, folder.parent / f"{folder.name}.safetensors")
""".replace("NEW_TOKENS", str(NEW_TOKENS))


def python(code: str, *arguments: Path, path: str | None, cwd: Path) -> None:
    """Runs `code` in a process of its own, offline, with dynamic modules in a folder of its own."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": str(cwd / "modules"), "OMP_NUM_THREADS": "1"}
    if path is not None:
        environment["PYTHONPATH"] = path
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, env=environment, cwd=cwd, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def ids() -> dict[str, Tensor]:
    """Two rows of 40 ids; the second is padded on the left."""
    mask = torch.ones(2, 40, dtype=torch.int64)
    mask[1, :5] = 0
    return {"ids": torch.randint(7, 384, (2, 40), generator=torch.Generator().manual_seed(3)), "mask": mask}


@pytest.fixture(scope="module")
def folders(
    tmp_path_factory: pytest.TempPathFactory,
    make_model: Callable[..., SioConvForCausalLM],
    tiny_model: tuple[SioConvForCausalLM, PreTrainedTokenizerFast],
    ids: dict[str, Tensor],
) -> dict[str, tuple[Path, SioConvForCausalLM]]:
    """A folder with code for each of `MODELS`, and the model that it was made from."""
    root, made = tmp_path_factory.mktemp("folders"), {}
    save_file(ids, root / "ids.safetensors")
    for name, options in MODELS.items():
        model = make_model(tiny_model[1], **options)
        save_model_folder(model, tiny_model[1], root / name, [2])
        made[name] = (root / name, model)
    return made


def test_it_computes_the_same_without_the_package(
    folders: dict[str, tuple[Path, SioConvForCausalLM]], ids: dict[str, Tensor], tmp_path: Path
) -> None:
    unused = "assert not {'sioconv', 'numba'} & set(sys.modules), sorted(sys.modules)"
    python(BLOCK + USE + unused, *(folder for folder, _ in folders.values()), path=None, cwd=tmp_path)
    for folder, model in folders.values():
        found = load_file(folder.parent / f"{folder.name}.safetensors")
        cache = SioConvCache(model.config)
        with torch.no_grad():
            logits = model(ids["ids"], attention_mask=ids["mask"]).logits
            model(ids["ids"][:, :7], attention_mask=ids["mask"][:, :7], cache=cache)
            rest = model(ids["ids"][:, 7:], cache=cache).logits
            new = model.generate(
                ids["ids"], attention_mask=ids["mask"], max_new_tokens=NEW_TOKENS, do_sample=False, eos_token_id=None
            )
            loss = model(ids["ids"], labels=ids["ids"]).loss
        for name, expected in {"logits": logits, "rest": rest, "loss": loss}.items():
            torch.testing.assert_close(found[name], expected, atol=1e-5, rtol=1e-5, msg=lambda text, n=name: n + text)
        assert torch.equal(found["new"], new[:, 40:])
        assert found["new"].unique().numel() > 3


USE_KERNELS = """
import sys
from transformers import AutoModelForCausalLM
assert "sioconv" not in sys.modules
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], trust_remote_code=True)
assert type(model).__module__.startswith("transformers_modules."), type(model)
layers = sys.modules[type(model.model.layers[0].mixer).__module__]
assert layers.scan_norm_gate.__module__ == "sioconv.ops.scan_norm_gate"
again = AutoModelForCausalLM.from_pretrained(sys.argv[1], trust_remote_code=True)
assert type(again).__module__ == "sioconv.model.causal_lm", type(again)
"""


def test_the_kernels_of_the_package_are_used_where_it_is(
    folders: dict[str, tuple[Path, SioConvForCausalLM]], tmp_path: Path
) -> None:
    """And once it was imported, its own classes take the place of the folder's."""
    source = str(Path(sioconv.__file__).parents[1])
    python(USE_KERNELS, folders["options"][0], path=source, cwd=tmp_path)


EXPORT = """
import sys
import torch
from torch.export import Dim
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], trust_remote_code=True).eval()
assert type(model).__module__.startswith("transformers_modules."), type(model)
shapes = {"input_ids": {0: Dim("batch", max=64), 1: Dim("length", max=4096)}, "use_cache": None}
example = {"input_ids": torch.ones(2, 8, dtype=torch.int64), "use_cache": True}
with torch.no_grad():
    torch.export.save(torch.export.export(model, (), example, dynamic_shapes=shapes, strict=False), sys.argv[2])
"""


@pytest.mark.parametrize("package", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_folder_s_code_is_exported(
    package: bool, folders: dict[str, tuple[Path, SioConvForCausalLM]], ids: dict[str, Tensor], tmp_path: Path
) -> None:
    """The program is one for every length, and one of the package's by its types."""
    folder, model = folders["options"]
    source = str(Path(sioconv.__file__).parents[1]) if package else None
    python(EXPORT if package else BLOCK + EXPORT, folder, tmp_path / "model.pt2", path=source, cwd=tmp_path)
    program = torch.export.load(tmp_path / "model.pt2")
    assert not [node for node in program.graph.nodes if "sioconv" in str(node.target)]
    for length in (1, 33, 40):
        some = ids["ids"][:1, :length]
        with torch.no_grad():
            found, expected = program.module()(input_ids=some, use_cache=True), model(some, use_cache=True)
        torch.testing.assert_close(found.logits, expected.logits, atol=1e-5, rtol=1e-5)
        assert isinstance(found.cache, SioConvCache)
        torch.testing.assert_close(found.cache.state_dict(), expected.cache.state_dict(), atol=1e-5, rtol=1e-5)


def test_what_a_folder_gets(folders: dict[str, tuple[Path, SioConvForCausalLM]]) -> None:
    """One file of code, since transformers warns of each."""
    folder, _ = folders["options"]
    assert json.loads((folder / "config.json").read_text())["auto_map"] == AUTO_MAP
    assert {reference.split(".")[0] + ".py" for reference in AUTO_MAP.values()} == {FILE}
    assert [path.name for path in folder.glob("*.py")] == [FILE]
    assert (folder / FILE).read_text(encoding="utf-8") == folder_code()
    assert get_relative_imports(folder / FILE) == []


def test_the_package_is_imported_inside_try_only() -> None:
    text = folder_code()
    tree = ast.parse(text)
    guarded = {id(node) for attempt in ast.walk(tree) if isinstance(attempt, ast.Try) for node in ast.walk(attempt)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom) and id(node) not in guarded:
            assert "sioconv" not in ast.unparse(node)
    assert PACKAGE_ONLY not in text and ".register(" not in text and "import_module" not in text
    assert "write_code" not in text and "Path" not in text


def test_no_name_is_defined_twice() -> None:
    """In one file a second definition would take the place of the first for all modules."""
    tree = ast.parse(folder_code())
    names = [node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    names += [ast.unparse(target) for node in tree.body if isinstance(node, ast.Assign) for target in node.targets]
    assert sorted(names) == sorted(set(names)) and len(names) > 40


LOAD = """
import sys
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], trust_remote_code=True)
assert type(model).__module__.startswith("transformers_modules.")
"""


def test_what_transformers_saves_has_its_code(
    folders: dict[str, tuple[Path, SioConvForCausalLM]], tmp_path: Path
) -> None:
    """`save_pretrained`, which Trainer calls too; also what was loaded from a folder whose code is older."""
    folder = tmp_path / "old"
    shutil.copytree(folders["options"][0], folder)
    (folder / FILE).write_text("raise RuntimeError")
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert type(model) is SioConvForCausalLM
    for saved in (tmp_path / "new", folder):
        model.save_pretrained(saved)
        assert json.loads((saved / "config.json").read_text())["auto_map"] == AUTO_MAP
        assert (saved / FILE).read_text(encoding="utf-8") == folder_code()
    python(BLOCK + LOAD, tmp_path / "new", path=None, cwd=tmp_path)


def test_trainer_saves_the_code_with_every_checkpoint(
    folders: dict[str, tuple[Path, SioConvForCausalLM]], tmp_path: Path
) -> None:
    model = AutoModelForCausalLM.from_pretrained(folders["options"][0])
    settings = TrainingArguments(
        str(tmp_path), max_steps=1, save_steps=1, use_cpu=True, report_to=[], disable_tqdm=True
    )
    rows = [{"input_ids": list(range(7, 17)), "labels": list(range(7, 17))}] * 2
    trainer = Trainer(model, settings, train_dataset=rows)
    trainer.train()
    trainer.save_model(str(tmp_path / "saved"))
    for folder in (tmp_path / "checkpoint-1", tmp_path / "saved"):
        assert (folder / FILE).is_file() and json.loads((folder / "config.json").read_text())["auto_map"] == AUTO_MAP
