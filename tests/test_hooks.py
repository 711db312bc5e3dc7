"""What `import sioconv` tells other packages, and what it and its parts show of themselves."""

import ast
import inspect
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
import torch
from peft import IA3Config, LNTuningConfig, LoraConfig, VeraConfig, get_peft_model
from peft.utils import constants

import sioconv
from sioconv.hooks import LINEAR
from sioconv.model import SioConvForCausalLM

PACKAGES = ["sioconv", "sioconv.data", "sioconv.data.cleaning", "sioconv.model", "sioconv.generate"]


def run(code: str) -> str:
    """What a new process prints."""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize(
    "package", ["sioconv", "sioconv.data", "sioconv.data.cleaning", "sioconv.model", "sioconv.generate"]
)
def test_a_package_shows_its_names_and_has_their_types(package: str) -> None:
    module = import_module(package)
    assert {"__version__", *dir(module)} >= set(module.__all__)
    members = dict(inspect.getmembers(module))  # what pydoc and completion go through
    assert all(members[name] is getattr(module, name) for name in dir(module))
    tree = ast.parse(Path(str(module.__file__)).read_text(encoding="utf-8"))
    typed = next(node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
    names = {alias.asname for node in typed.body for alias in node.names}  # type: ignore[attr-defined]
    assert names == set(dir(module))
    with pytest.raises(AttributeError, match="'nothing'"):
        module.nothing  # noqa: B018


def test_importing_the_package_is_light() -> None:
    """Its parts are imported when they are asked for."""
    heavy = "{'torch', 'transformers', 'numba', 'peft'}"
    code = f"import sys, sioconv; print({heavy} & set(sys.modules)); print(sioconv.model.SioConvForCausalLM.__name__)"
    assert run(code) == "set()\nSioConvForCausalLM"


@pytest.mark.slow
def test_a_users_script_is_type_checked(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import sioconv\nfrom sioconv.model import SioConvConfig, SioConvForCausalLM\n"
        "from sioconv.generate import SamplingConfig\n"
        "model = SioConvForCausalLM(SioConvConfig())\n"
        "reveal_type(model)\nreveal_type(model.fingerprint())\nreveal_type(SamplingConfig)\n"
        "reveal_type(sioconv.model.SioConvConfig)\nsioconv.model.SioConvForCausalLN\n"
        "import torch\nfrom sioconv.model import Architecture, SioConvLayer, load_model_folder\n"
        "from sioconv.ops import scan, step\nfrom sioconv.generate import Engine, Request, Session\n"
        "z, log_a = torch.randn(8, 1024, 8, 64), -torch.rand(8, 1024, 8)\n"
        "c, state = scan(z, log_a, output_final_state=True)\n"
        "c, state = step(torch.randn(8, 8, 64), -torch.rand(8, 8), state)\n"
        "loaded, tokenizer = load_model_folder('runs/demo/model')\nreveal_type(loaded)\n"
        "ids: list[int] = tokenizer.encode('a', add_special_tokens=False)\n"
        "for event in Engine(loaded).stream(Request(ids, max_new_tokens=20, seed=1, n=2, logprobs=1)):\n"
        "    print(event.branch, event.token, event.logprob, event.ended)\n"
        "session = Session(loaded, tokenizer, seed=1)\nsession.feed(ids)\n"
        "print(''.join(session.stream(SamplingConfig(max_new_tokens=20))))\n"
        "y, carried = SioConvLayer(Architecture(hidden_size=256, num_heads=8))(torch.randn(1, 10, 256))\n"
    )
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path), str(script)]
    said = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path).stdout
    assert 'Revealed type is "sioconv.model.causal_lm.SioConvForCausalLM"' in said, said
    assert 'Revealed type is "str"' in said and "sioconv.generate.config.SamplingConfig" in said, said
    assert "Any" not in said and "Found 1 error" in said and "SioConvForCausalLN" in said, said


def test_every_adapter_of_peft_knows_the_layers(tiny_model: tuple[SioConvForCausalLM, object]) -> None:
    """Also where PEFT was imported first; `dt_proj`, from which the forget gates come, isn't among them."""
    mappings = {
        name: value["sioconv"] for name, value in vars(constants).items() if name.endswith("_TARGET_MODULES_MAPPING")
    }
    names = {name.split(".")[-1] for name, _ in tiny_model[0].named_modules()}
    assert len(mappings) > 10 and all(set(targets) <= names for targets in mappings.values())
    assert all("dt_proj" not in targets for targets in mappings.values())
    name = "TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING"
    assert run(f"import peft, sioconv; print(peft.utils.constants.{name}['sioconv'])") == str(LINEAR)


@pytest.mark.parametrize("config", [LoraConfig, IA3Config, VeraConfig, LNTuningConfig])
def test_adapters_without_named_targets(tiny_model_folder: Path, config: type[LoraConfig]) -> None:
    """They start as the model, learn, and merge into it."""
    model = SioConvForCausalLM.from_pretrained(tiny_model_folder)
    ids = torch.randint(7, 384, (2, 12), generator=torch.Generator().manual_seed(0))
    model.eval()
    with torch.no_grad():
        expected = model(ids).logits
    adapted = get_peft_model(model, config(task_type="CAUSAL_LM"))
    with torch.no_grad():
        torch.testing.assert_close(adapted(ids).logits, expected, atol=1e-5, rtol=1e-5)
    adapted(input_ids=ids, labels=ids).loss.backward()
    gradients = {name: value.grad for name, value in adapted.named_parameters() if value.requires_grad}
    assert gradients and all(gradient is not None for gradient in gradients.values())
    assert not any("dt_proj" in name for name in gradients)
    with torch.no_grad():
        for name, value in adapted.named_parameters():
            if value.requires_grad:
                value += 0.1 * torch.randn(value.shape, generator=torch.Generator().manual_seed(len(name)))
        changed = adapted(ids).logits
        torch.testing.assert_close(adapted.merge_and_unload()(ids).logits, changed, atol=1e-3, rtol=1e-3)
    assert not torch.allclose(changed, expected, atol=1e-3)


def test_a_quantiser_that_transformers_imports_may_import_torch_export(tmp_path: Path) -> None:
    """transformers' caches import hqq and quanto where they are there; with these, torch's compiler comes in."""
    for name, version in (("hqq", "0.2.8"), ("optimum_quanto", "0.2.7")):
        info = tmp_path / f"{name}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    package = tmp_path / "hqq" / "core"
    package.mkdir(parents=True)
    (tmp_path / "hqq" / "__init__.py").touch()
    (package / "__init__.py").touch()
    (package / "quantize.py").write_text("import torch._export.serde.serialize\nclass Quantizer: ...\n")
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "import sioconv; from sioconv.model import SioConvForCausalLM\n"
        "from torch.utils import _pytree; from sioconv.model.cache import SioConvCache\n"
        "assert 'hqq.core.quantize' in sys.modules\n"
        "print(SioConvCache in _pytree.SUPPORTED_NODES)"
    )
    assert run(code) == "True"


def test_a_saved_program_is_loaded_after_importing_the_package_alone(
    tiny_model: tuple[SioConvForCausalLM, object], tmp_path: Path
) -> None:
    model, ids = tiny_model[0], torch.randint(7, 384, (2, 8), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        program = torch.export.export(model, (), {"input_ids": ids, "use_cache": True}, strict=False)
        expected = model(ids, use_cache=True)
    torch.export.save(program, tmp_path / "program.pt2")
    torch.save(ids, tmp_path / "ids.pt")
    run(
        f"import sioconv, torch; folder = {str(tmp_path)!r}; ids = torch.load(folder + '/ids.pt')\n"
        "result = torch.export.load(folder + '/program.pt2').module()(input_ids=ids, use_cache=True)\n"
        "torch.save([result.logits, result.cache.state_dict(), result.cache.get_seq_length()], folder + '/result.pt')"
    )
    logits, states, seen = torch.load(tmp_path / "result.pt")
    torch.testing.assert_close(logits, expected.logits, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(states, expected.cache.state_dict(), atol=1e-5, rtol=1e-5)
    assert seen == 8 and sioconv.__version__
