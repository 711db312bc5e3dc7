"""Exported programs of the model against the model itself: torch.export's, and ONNX's in its own runtime."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram

from sioconv.model import SioConvCache, SioConvConfig, SioConvForCausalLM

LENGTHS = [1, 2, 63, 64, 65, 200]  # none of them the example's
BATCH, LENGTH = Dim("batch", max=64), Dim("length", max=4096)


@pytest.fixture(scope="module")
def model() -> SioConvForCausalLM:
    """A small random model whose state has all parts, away from zeros, ones and tiny gains."""
    sizes = {"vocab_size": 60, "hidden_size": 16, "num_hidden_layers": 1, "num_heads": 2, "intermediate_size": 24}
    torch.manual_seed(0)
    model = SioConvForCausalLM(SioConvConfig(**sizes, z_gain=1.0, y_gain=1.0, conv_width=3, trapezoid=True)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return model


def ids_of(rows: int, length: int) -> Tensor:
    return torch.randint(60, (rows, length), generator=torch.Generator().manual_seed(length))


@torch.no_grad()
def exported(model: SioConvForCausalLM, example: dict[str, Any], shapes: dict[str, Any]) -> ExportedProgram:
    return torch.export.export(model, (), example, dynamic_shapes=shapes, strict=False)


@pytest.fixture(scope="module")
def prefill(model: SioConvForCausalLM) -> ExportedProgram:
    """From the start of a text."""
    shapes = {"input_ids": {0: BATCH, 1: LENGTH}, "use_cache": None}
    return exported(model, {"input_ids": ids_of(2, 9), "use_cache": True}, shapes)


def shapes_of(cache: SioConvCache) -> list[dict[int, Any] | None]:
    """Any number of rows in every tensor of a cache but the counter."""
    tensors = torch.utils._pytree.SUPPORTED_NODES[SioConvCache].flatten_fn(cache)[0]
    return [{0: BATCH} if isinstance(tensor, Tensor) and tensor.dim() else None for tensor in tensors]


def going_on(model: SioConvForCausalLM, length: int, dynamic: dict[int, Any]) -> Callable[..., Any]:
    """A program that reads `length` tokens from a given state on."""
    with torch.no_grad():
        cache = model(ids_of(2, 5), use_cache=True).cache
    example, shapes = (
        {"input_ids": ids_of(2, length), "cache": cache},
        {"input_ids": dynamic, "cache": shapes_of(cache)},
    )
    return exported(model, example, shapes).module()


def same(found: Any, expected: Any) -> None:
    torch.testing.assert_close(found.logits, expected.logits, atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(found.cache.state_dict(), expected.cache.state_dict(), atol=2e-5, rtol=1e-5)
    assert found.cache.get_seq_length() == expected.cache.get_seq_length()


@torch.no_grad()
def test_a_prompt_of_any_length(model: SioConvForCausalLM, prefill: ExportedProgram) -> None:
    program = prefill.module()
    for rows in (1, 3):
        for length in LENGTHS:
            ids = ids_of(rows, length)
            same(program(input_ids=ids, use_cache=True), model(ids, use_cache=True))


@torch.no_grad()
def test_reading_goes_on_from_a_state(model: SioConvForCausalLM) -> None:
    program = going_on(model, 9, {0: BATCH, 1: LENGTH})
    for rows in (1, 3):
        found = expected = model(ids_of(rows, 7), use_cache=True)
        for length in LENGTHS:
            ids = ids_of(rows, length)
            # The example's cache, and each that is given, stays as it was: the new one is a result.
            before = found.cache.state_dict()
            found, old = program(input_ids=ids, cache=found.cache), found.cache
            assert all(torch.equal(tensor, before[name]) for name, tensor in old.state_dict().items())
            expected = model(ids, cache=expected.cache)
            same(found, expected)


@torch.no_grad()
def test_one_token_after_the_other(model: SioConvForCausalLM) -> None:
    program = going_on(model, 1, {0: BATCH})
    for rows in (1, 3):
        found = expected = model(ids_of(rows, 7), use_cache=True)
        for _ in range(20):
            ids = expected.logits[:, -1:].argmax(-1)
            found, expected = program(input_ids=ids, cache=found.cache), model(ids, cache=expected.cache)
            same(found, expected)


@torch.no_grad()
def test_the_last_token_goes_in_and_comes_out() -> None:
    """A program of a model with bigrams; the caches of others stay what their programs take."""
    sizes = {"vocab_size": 60, "hidden_size": 16, "num_hidden_layers": 1, "num_heads": 2, "intermediate_size": 24}
    torch.manual_seed(0)
    model = SioConvForCausalLM(SioConvConfig(**sizes, z_gain=1.0, y_gain=1.0, bigram_rows=4, bigram_width=8)).eval()
    torch.nn.init.normal_(model.model.bigrams.out.weight)
    program = going_on(model, 9, {0: BATCH, 1: LENGTH})
    for rows in (1, 3):
        found = expected = model(ids_of(rows, 7), use_cache=True)
        for length in (1, 9, 65):
            ids = ids_of(rows, length)
            found, expected = program(input_ids=ids, cache=found.cache), model(ids, cache=expected.cache)
            same(found, expected)
            assert torch.equal(found.cache.last_token, ids[:, -1])


def test_documents_and_padding(model: SioConvForCausalLM) -> None:
    """`position_ids` and the mask are inputs like others."""
    ids, length = ids_of(2, 70), {0: BATCH, 1: LENGTH}
    position = torch.stack([torch.arange(70) % 33, torch.arange(70)])
    mask = (torch.arange(70) >= torch.tensor([[0], [4]])).long()
    example = {"input_ids": ids, "attention_mask": mask, "position_ids": position}
    example = {name: value[:, :9].contiguous() for name, value in example.items()}
    program = exported(model, example, dict.fromkeys(example, length)).module()
    with torch.no_grad():
        found = program(input_ids=ids, attention_mask=mask, position_ids=position).logits
        expected = model(ids, attention_mask=mask, position_ids=position).logits
    torch.testing.assert_close(found[0], expected[0], atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(found[1, 4:], expected[1, 4:], atol=2e-5, rtol=1e-5)


def test_programs_hold_torch_s_own_operators_only(prefill: ExportedProgram) -> None:
    """All of Core ATen after torch's decompositions, but for the norm of the bounded embedding."""
    nodes = [node for node in prefill.run_decompositions().graph.nodes if node.op == "call_function"]
    operators = {node.target for node in nodes if isinstance(node.target, torch._ops.OpOverload)}
    others = {str(each) for each in operators if torch.Tag.core not in each.tags}
    assert len(operators) > 10
    assert others <= {"aten.linalg_vector_norm.default", "aten._assert_tensor_metadata.default", "aten.sym_size.int"}


def test_onnx(model: SioConvForCausalLM, tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    shapes = {"input_ids": {0: BATCH, 1: LENGTH}, "use_cache": None}
    with torch.no_grad():
        program = torch.onnx.export(
            model, kwargs={"input_ids": ids_of(2, 9), "use_cache": False}, dynamic_shapes=shapes, dynamo=True
        )
    program.save(tmp_path / "model.onnx")
    session = runtime.InferenceSession(tmp_path / "model.onnx")
    for rows, length in ((1, 1), (3, 65), (2, 200)):
        ids = ids_of(rows, length)
        (logits,) = session.run(None, {"input_ids": ids.numpy()})
        with torch.no_grad():
            torch.testing.assert_close(torch.from_numpy(logits), model(ids).logits, atol=2e-5, rtol=1e-5)


@pytest.mark.slow
def test_onnx_with_padding(model: SioConvForCausalLM, tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    length = {0: BATCH, 1: LENGTH}
    mask = (torch.arange(70) >= torch.tensor([[0], [4]])).long()
    example = {"input_ids": ids_of(2, 9), "attention_mask": mask[:, :9].contiguous()}
    with torch.no_grad():
        program = torch.onnx.export(model, kwargs=example, dynamic_shapes=dict.fromkeys(example, length), dynamo=True)
    program.save(tmp_path / "model.onnx")
    session = runtime.InferenceSession(tmp_path / "model.onnx")
    ids = ids_of(2, 70)
    logits = torch.from_numpy(session.run(None, {"input_ids": ids.numpy(), "attention_mask": mask.numpy()})[0])
    with torch.no_grad():
        expected = model(ids, attention_mask=mask).logits
    torch.testing.assert_close(logits[0], expected[0], atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(logits[1, 4:], expected[1, 4:], atol=2e-5, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["dynamo", "onnx"])
def test_exporters_of_transformers(model: SioConvForCausalLM, kind: str) -> None:
    """They give the model a mask of no padding."""
    exporters = pytest.importorskip("transformers.exporters")
    if kind == "onnx":
        pytest.importorskip("onnxruntime")
        pytest.importorskip("onnxscript")
        exporter, config = exporters.OnnxExporter(), exporters.OnnxConfig(dynamic=True)
    else:
        exporter, config = exporters.DynamoExporter(), exporters.DynamoConfig(dynamic=True)
    inputs = {"input_ids": ids_of(2, 9), "attention_mask": torch.ones(2, 9, dtype=torch.long)}
    with torch.no_grad():
        expected = model(**inputs).logits
        torch.testing.assert_close(
            exporter.export(model, inputs, config)(**inputs).logits, expected, atol=2e-5, rtol=1e-5
        )
