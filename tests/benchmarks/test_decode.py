"""The benchmark of decoding runs whole at a tiny size, and says what it leaves out."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import decode_models
from benchmarks.decode import prepare
from benchmarks.decode_models import random_ids, random_model, transformers_peer
from sioconv.generate.native import why_not_native

ROOT = Path(__file__).parents[2]


def test_it_writes_what_it_measured(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    command = [sys.executable, "-m", "benchmarks.decode", "--sizes", "tiny", "--only", "sioconv fp32", "llama fp32"]
    command += ["mamba2 fp32", "--batches", "1", "2", "--contexts", "16", "--prompts", "5", "--rounds", "2"]
    command += ["--seconds", "0.001", "--json", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    results = json.loads(out.read_text())["results"]
    assert set(results) == {"tiny/batch 1/context 16", "tiny/batch 2/context 16", "tiny/prompt 5"}
    for part, candidates in results.items():
        assert set(candidates) == {"sioconv fp32", "llama fp32", "mamba2 fp32"}
        for figures in candidates.values():
            assert figures["tokens_per_second"] > 0
            if "prompt" not in part:
                rows = int(part.split()[1].split("/")[0])
                assert figures["tokens_per_second"] == pytest.approx(rows / figures["seconds"])
                assert figures["of_limit"] > 0
    one, two = (results[f"tiny/batch {rows}/context 16"] for rows in (1, 2))
    for name in one:
        assert one[name]["memory_bytes"] > 0
        assert two[name]["memory_bytes"] == pytest.approx(2 * one[name]["memory_bytes"], rel=0.1)


@pytest.mark.parametrize("kind", ["fp32", "bf16", "int8", "int4"])
def test_random_models_are_the_kernel_s(kind: str) -> None:
    model = random_model("tiny", kind)
    assert why_not_native(model) is None
    with torch.no_grad():
        logits = model.float()(torch.tensor(random_ids(2, 5, 96))).logits
    assert bool(logits.isfinite().all()) and float(logits.std()) > 0.1


def test_a_context_is_in_llama_s_memory() -> None:
    model = transformers_peer("llama", "tiny")
    short, long = model.memories(1, 10), model.memories(1, 30)
    assert model.size(long) == 3 * model.size(short)
    model.step(long, [[1]])
    assert long.get_seq_length() == 31


def test_llama_cpp_runs_the_same_llama(tmp_path: Path) -> None:
    pytest.importorskip("llama_cpp")
    pytest.importorskip("gguf")
    import llama_cpp

    from benchmarks.gguf_files import write_gguf

    model: Any = decode_models.build_baseline("llama", decode_models.architecture("tiny")[0], 96).eval()
    with torch.no_grad():
        for value in model.parameters():
            value.add_(torch.randn(value.shape, generator=torch.Generator().manual_seed(value.numel())) / 8)
    ids = random_ids(1, 40, 96)[0]
    with torch.no_grad():
        expected = model(torch.tensor([ids])).logits[0]
    peer = llama_cpp.Llama(
        str(write_gguf(model, tmp_path / "model.gguf")), n_ctx=256, logits_all=True, verbose=False, n_threads=1
    )
    peer.eval(ids)
    found = torch.from_numpy(peer.scores[: len(ids)])
    assert float(expected.std()) > 0.3
    torch.testing.assert_close(found, expected, rtol=0.02, atol=0.02)  # its keys and values are fp16


@pytest.mark.parametrize("kind", ["F32", "Q8_0", "Q4_0"])
def test_a_context_is_in_llama_cpp_s_memory(kind: str) -> None:
    pytest.importorskip("llama_cpp")
    pytest.importorskip("gguf")
    from benchmarks.decode_llama_cpp import llama_cpp_peer

    peer = llama_cpp_peer("tiny", kind)
    short, long, several = peer.memories(1, 100), peer.memories(1, 1300), peer.memories(3, 100)
    assert peer.size(long) == pytest.approx(13 * peer.size(short), rel=0.1)
    assert peer.size(several) == pytest.approx(3 * peer.size(short), rel=0.1)
    again = [peer.step(long, [[5]]) for _ in range(2)]  # one token is forgotten: the length stays
    assert again[0] == again[1]
    assert len(set(peer.step(several, [[5]] * 3))) == 1


def test_rwkv_is_as_large_as_ours_and_reads_in_pieces() -> None:
    pytest.importorskip("rwkv")
    from benchmarks.decode_rwkv import random_weights, rwkv_peer

    for size in ("5M", "25M"):
        ours = random_model(size, "fp32").num_parameters()
        assert sum(value.numel() for value in random_weights(size).values()) == pytest.approx(ours, rel=0.01)
    peer = rwkv_peer("tiny")
    whole, split = peer.memories(2, 0), peer.memories(2, 0)
    ids = random_ids(2, 6, 96)
    expected = peer.step(whole, ids)
    peer.step(split, [some[:4] for some in ids])
    peer.step(split, [some[4:5] for some in ids])
    assert list(peer.step(split, [some[5:] for some in ids])) == list(expected)
    assert peer.size(whole) == 2 * peer.size(peer.memories(1, 0))


def test_what_is_too_large_is_left_out_and_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(decode_models, "LARGEST", 1000)
    assert prepare("tiny", ["sioconv fp32", "llama fp32"]) == {}
    assert "tiny: llama fp32 is left out: it needs" in capsys.readouterr().err
