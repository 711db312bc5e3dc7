"""The ONNX graph in onnxruntime against the model in PyTorch."""

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sioconv.checksums import check_sums
from sioconv.cli import main as cli
from sioconv.errors import UserError
from sioconv.generate.quantise import quantise_model
from sioconv.model import SioConvForCausalLM, load_model_folder
from sioconv.model.architecture import PRESETS
from sioconv.model.in_package import packaged_model
from sioconv.publish.onnx import folder
from sioconv.publish.onnx.check import OnnxModel, compare
from sioconv.publish.onnx.folder import export_onnx
from sioconv.publish.onnx.graph import export_graph
from tests.publish.onnx.models import varied_model

CLOSE = 2e-4  # logits of two tokens that are nearer may change places


@pytest.fixture(scope="module")
def model(small_folder: Path) -> SioConvForCausalLM:
    return load_model_folder(small_folder)[0]


@pytest.fixture(scope="module")
def graph(exported: Path, model: SioConvForCausalLM) -> OnnxModel:
    return OnnxModel(exported / "onnx/model.onnx", model.config)


def ids_of(rows: int, length: int, size: int = 384) -> Any:
    return torch.randint(size, (rows, length), generator=torch.Generator().manual_seed(length)).numpy()


def test_the_folder_has_what_other_tools_look_for(exported: Path, small_folder: Path) -> None:
    names = {path.relative_to(exported).as_posix() for path in exported.rglob("*") if path.is_file()}
    files = {"config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"}
    graphs = {"onnx/SHA256SUMS", "onnx/model.onnx", "onnx/model_quantized.onnx"}
    assert names == files | graphs | {"README.md", "SHA256SUMS"}
    check_sums(exported)
    check_sums(exported / "onnx")
    for name in files:
        assert (exported / name).read_bytes() == (small_folder / name).read_bytes()
    for name in ("model", "model_quantized"):
        read = onnx.load(exported / f"onnx/{name}.onnx")
        onnx.checker.check_model(read, full_check=True)
        assert [value.name for value in read.graph.input] == [
            "input_ids", "num_logits_to_keep", "past_ssm.0", "past_conv.0", "past_token",
        ]  # fmt: skip
        names = [value.name for value in read.graph.output]
        assert names == ["logits", "present_ssm.0", "present_conv.0", "present_token"]
        axes = [[axis.dim_param for axis in value.type.tensor_type.shape.dim] for value in read.graph.input]
        assert axes[0] == ["batch_size", "sequence_length"] and axes[2] == ["batch_size", "", ""]
        assert {fact.key for fact in read.metadata_props} >= {"model", "weights", "tokenizer"}


def test_tied_matrices_of_8_bits_are_there_once(exported: Path) -> None:
    read = onnx.load(exported / "onnx/model_quantized.onnx")
    matrices = [value for value in read.graph.initializer if sorted(value.dims) == [32, 384]]
    assert [value.data_type for value in matrices] == [onnx.TensorProto.INT8]


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_any_split_of_a_text_equals_the_whole(graph: OnnxModel, model: SioConvForCausalLM, data: st.DataObject) -> None:
    length = data.draw(st.integers(1, 90))
    cuts = data.draw(st.sets(st.integers(1, length), max_size=6)) - {length}
    ids = ids_of(data.draw(st.integers(1, 3)), length)
    logits, last = graph.read_in_pieces(ids, sorted(cuts))
    with torch.inference_mode():
        expected = model(torch.from_numpy(ids), use_cache=True)
    np.testing.assert_allclose(logits, expected.logits.numpy(), atol=1e-4, rtol=1e-5)
    whole = expected.cache.state_dict()
    np.testing.assert_allclose(last["past_ssm.0"], whole["layers.0.c"].numpy(), atol=1e-4, rtol=1e-5)
    tail = torch.cat([whole["layers.0.conv"], whole["layers.0.z"].flatten(1).unsqueeze(-1)], -1)
    np.testing.assert_allclose(last["past_conv.0"], tail.numpy(), atol=1e-4, rtol=1e-5)
    assert last["past_token"].tolist() == (ids[:, -1:] + 1).tolist() == (whole["last_token"][:, None] + 1).tolist()


def test_only_the_last_logits_where_that_is_asked_for(graph: OnnxModel) -> None:
    ids = ids_of(2, 20)
    every, _ = graph.read(ids, graph.start(2))
    for keep in (1, 3, 20):
        some, _ = graph.read(ids, graph.start(2), keep)
        np.testing.assert_array_equal(some, every[:, -keep:])


def greedy(graph: OnnxModel, model: SioConvForCausalLM, rows: int, length: int) -> None:
    """Writes on from random prompts, one token after the other; PyTorch would choose the same but at closer ties."""
    ids = [ids_of(rows, 5)]
    logits, past = graph.read(ids[0], graph.start(rows), 1)
    for _ in range(length):
        ids.append(logits[:, -1].argmax(-1)[:, None])
        logits, past = graph.read(ids[-1], past, 1)
    with torch.inference_mode():
        text = torch.from_numpy(np.concatenate(ids, 1))
        expected = model(text, use_cache=False).logits[:, 4:-1]  # [B, length, V]
    chosen = expected.gather(-1, text[:, 5:, None]).squeeze(-1)
    assert chosen.shape == (rows, length)
    assert float((expected.amax(-1) - chosen).max()) < CLOSE


@pytest.mark.parametrize("kind", ["fp32", "int8"])
@pytest.mark.parametrize("tokens", [20, pytest.param(500, marks=pytest.mark.slow)])
def test_greedy_tokens_are_those_of_pytorch(exported: Path, model: SioConvForCausalLM, kind: str, tokens: int) -> None:
    """10,000 of them in the slow half."""
    name = "onnx/model.onnx" if kind == "fp32" else "onnx/model_quantized.onnx"
    if kind == "int8":
        model = copy.deepcopy(model)
        quantise_model(model, 8)
    greedy(OnnxModel(exported / name, model.config), model, 20, tokens)


def test_a_graph_of_other_weights_is_refused(exported: Path, model: SioConvForCausalLM) -> None:
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.model.norm.weight += 1e-3
    with pytest.raises(UserError, match="computes something else than the model: logits differ by"):
        compare(exported / "onnx/model.onnx", other)


OPTIONS: list[dict[str, Any]] = [
    *PRESETS.values(),
    {"gate": "channel", "gate_bound": 8.0, "input_scale": "variance"},
    {"conv_width": 4, "conv_on": "z", "output_gate": "state", "norm_groups": 8},
    {"conv_width": 2, "conv_on": "recurrence", "trapezoid": True, "gate": "channel", "output_gate": "normed"},
    {"conv_width": 2, "conv_on": "z_gate", "trapezoid": True},
    {"bigram_rows": 3, "bigram_width": 32},
    {"input_scale": "mean", "use_bias": False, "head_bias": False, "tie_word_embeddings": True, "norm_groups": 2},
]


@pytest.mark.slow
@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: options.get("preset", "-".join(options)))
def test_every_option_is_exported(options: dict[str, Any], tmp_path: Path) -> None:
    import onnx_ir

    model = varied_model(60, **{"num_hidden_layers": 2, **options})
    for name in ("fp32", "int8"):
        if name == "int8":
            quantise_model(model, 8)
        onnx_ir.save(export_graph(model, {}), tmp_path / name)
        assert compare(tmp_path / name, model) < 1e-4


def test_bad_input_is_one_line(
    exported: Path, small_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    baseline = tmp_path / "llama"
    baseline.mkdir()
    (baseline / "config.json").write_text('{"model_type": "llama"}')
    for name in ("model.safetensors", "tokenizer.json"):
        (baseline / name).write_text("x")
    for arguments, why in (
        ([str(small_folder), str(exported)], "is already there"),
        ([str(small_folder)], "is already there: give MODEL OUT, or OUT alone for a new folder"),
        ([str(tmp_path / "nowhere"), str(tmp_path / "out")], "no model folder at"),
        ([str(baseline), str(tmp_path / "out")], "holds a model of type 'llama'"),
        ([str(small_folder), str(tmp_path / "out"), "--to", "int2"], "int2"),
        ([str(small_folder), str(tmp_path / "out"), "--to", "int8", "--text", "nowhere.txt"], "nowhere.txt"),
    ):
        with pytest.raises(SystemExit) as ended:
            cli.main(["export", "onnx", *arguments])
        out, err = capsys.readouterr()
        assert ended.value.code == 2 and out == "" and why in err.splitlines()[-1], err
        assert not (tmp_path / "out").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["llama"]


def test_the_model_of_the_package_needs_no_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(folder, "write_graph", lambda *given: float(given[2].write_bytes(b"graph") < 0))
    with pytest.raises(SystemExit) as ended:
        cli.main(["export", "onnx", "--json", str(tmp_path / "out")])
    said = capsys.readouterr()
    assert ended.value.code == 0 and "export: sioconv-ja-en-7m, the small model of the package" in said.err
    assert list(json.loads(said.out)["files"]) == ["onnx/model_quantized.onnx"]
    for name in ("config.json", "tokenizer.json", "NOTICE"):
        assert (tmp_path / "out" / name).read_bytes() == (packaged_model() / name).read_bytes()
    assert "\nlicense: cc-by-sa-4.0\n" in (tmp_path / "out/README.md").read_text(encoding="utf-8")
    assert "README.md" in (tmp_path / "out/SHA256SUMS").read_text() and "warning" not in said.err


def test_matrices_of_few_bits(small_folder: Path, model: SioConvForCausalLM, tmp_path: Path) -> None:
    from sioconv.model.folder import write_model_folder

    tokenizer = load_model_folder(small_folder)[1]
    eight = copy.deepcopy(model)
    quantise_model(eight, 8)
    write_model_folder(eight, tokenizer, tmp_path / "eight")
    with pytest.raises(UserError, match="have 8 bits: give --to int8"):
        export_onnx(tmp_path / "eight", tmp_path / "out", ["fp32"])
    four = varied_model(384, intermediate_size=32)
    quantise_model(four, 4)
    write_model_folder(four, tokenizer, tmp_path / "four")
    with pytest.raises(UserError, match="have 4 bits"):
        export_onnx(tmp_path / "four", tmp_path / "out", ["int8"])
    assert not (tmp_path / "out").exists()
