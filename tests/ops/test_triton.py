"""The triton backend: its kernels by Triton's interpreter (or on a GPU), compiled for one, and what chooses it."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from sioconv.ops import backends, scan
from sioconv.ops.triton.scan import STEPS, plan

needs_triton = pytest.mark.skipif(find_spec("triton") is None, reason="the triton package isn't installed")
interpreted = os.environ.get("TRITON_INTERPRET") == "1"
needs_compiler = pytest.mark.skipif(
    interpreted or find_spec("triton") is None, reason="the triton package isn't installed, or interprets its kernels"
)
CASES = Path(__file__).with_name("triton_cases.py")


@needs_triton
@pytest.mark.parametrize(
    ("tests", "marks"),
    [
        ("test_gates or test_dtypes or operator", "not slow"),
        ("not (test_gates or test_dtypes or operator)", "not slow"),
        pytest.param("test", "slow", marks=pytest.mark.slow),
    ],
)
def test_the_kernels_equal_the_reference(tests: str, marks: str) -> None:
    """In a process of its own: Triton looks at TRITON_INTERPRET as soon as something imports it."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    if not torch.cuda.is_available():
        environment["TRITON_INTERPRET"] = "1"
    options = ["-q", "-p", "no:cacheprovider", "--noconftest", "-k", tests, "-m", marks]
    run = subprocess.run(
        [sys.executable, "-m", "pytest", *options, str(CASES)],
        cwd=CASES.parents[2], env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout + run.stderr


def compile_for_gpu(name: str, dtype: str, gates: int, marked: bool, **constants: object) -> str:
    """The PTX of a kernel for compute capability 9.0, which takes no GPU; 8 heads of 64 channels."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from sioconv.ops.triton import kernels as triton_kernels

    kernel, state = getattr(triton_kernels, name), "*fp64" if dtype == "fp64" else "*fp32"
    width = 32 if dtype == "fp64" else 64
    values = {"HEADS": 8, "CHANNELS": 64, "GATES": gates, "WIDTH": width, "STEPS": STEPS, **constants}
    types = dict.fromkeys(kernel.arg_names, state)
    types |= dict.fromkeys(types.keys() & {"z", "c", "grad_c", "grad_z"}, f"*{dtype}")
    types |= dict.fromkeys(types.keys() & {"steps", "chunks", "chunk_steps", "sequences"}, "i32")
    types |= dict.fromkeys(types.keys() & {"source", "ends"}, "*i32")
    if not marked:
        values |= dict.fromkeys(types.keys() & {"source", "ends", "table", "grad_table", "grad_reset"})
    values = {argument: value for argument, value in values.items() if argument in types}
    types |= dict.fromkeys(values, "constexpr")
    aligned = {(at,): [["tt.divisibility", 16]] for at, type in enumerate(types.values()) if type.startswith("*")}
    source = ASTSource(kernel, types, values, aligned)
    return str(triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": 1}).asm["ptx"])


@needs_compiler
@pytest.mark.parametrize(
    ("dtype", "gates", "marked"),
    [
        ("bf16", 1, True),
        pytest.param("fp16", 64, False, marks=pytest.mark.slow),
        pytest.param("fp64", 64, True, marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("kernel", ["chunk_ends", "chunk_starts", "forward", "backward"])
def test_the_kernels_compile_for_a_gpu(
    kernel: str, dtype: str, gates: int, marked: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    constants = {"REVERSE": marked} if kernel == "chunk_ends" else {}
    ptx = compile_for_gpu(kernel, dtype, gates, marked, **constants)
    assert f".entry {kernel}(" in ptx


@needs_compiler
def test_the_compiler_keeps_the_compensation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An exact sum takes two additions and four subtractions a step for each of a thread's two channels."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    ptx = compile_for_gpu("forward", "fp32", 1, False)
    assert ptx.count("sub.f32") >= 4 * 2 * STEPS
    assert ptx.count("add.f32") >= 2 * 2 * STEPS
    assert ptx.count("fma.rn.f32") >= 2 * 2 * STEPS


@needs_compiler
def test_no_length_causes_a_compilation() -> None:
    from sioconv.ops.triton import kernels

    for kernel in (kernels.chunk_ends, kernels.chunk_starts, kernels.forward, kernels.backward):
        varying = [one for one in kernel.params if one.name in ("steps", "chunks", "chunk_steps", "sequences")]
        assert varying
        assert all(one.do_not_specialize and not one.is_constexpr for one in varying)


@pytest.mark.parametrize("steps", [1, 15, 16, 17, 127, 129, 1000, 16384, 1_000_000])
@pytest.mark.parametrize("rows", [1, 8, 16, 1000])
@pytest.mark.parametrize("multiprocessors", [1, 20, 132])
def test_the_cut_covers_the_sequence_and_fills_the_device(steps: int, rows: int, multiprocessors: int) -> None:
    width, chunk_steps, chunks = plan((rows, steps, 8, 100), torch.bfloat16, multiprocessors)
    assert (width, chunk_steps % STEPS) == (64, 0)
    assert (chunks - 1) * chunk_steps < steps <= chunks * chunk_steps
    programs = rows * 8 * 2
    if programs >= 6 * multiprocessors:
        assert chunks == 1
    elif steps >= 16384:
        assert 0.9 * 16 * multiprocessors <= programs * chunks <= 2 * 16 * multiprocessors + programs
    if chunks > 1:
        assert chunk_steps >= 128


@pytest.mark.parametrize(("channels", "width"), [(1, 1), (3, 4), (32, 32), (60, 64), (64, 64), (128, 64)])
def test_tiles_hold_a_head_or_64_channels_of_it(channels: int, width: int) -> None:
    assert plan((1, 1, 1, channels), torch.float32, 132).width == width
    assert plan((1, 1, 1, channels), torch.float64, 132).width == min(width, 32)


def test_a_gpu_takes_triton_where_it_is_installed(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu = torch.device("cuda")
    monkeypatch.setattr(backends, "_said", set())
    with caplog.at_level("INFO", logger="sioconv"):
        for missing, name in ((frozenset(), "triton"), (frozenset({"triton"}), "chunked")):
            monkeypatch.setattr(backends, "_MISSING", missing)
            for _ in range(2):
                assert backends.pick_backend("auto", gpu) is backends.BACKENDS[name]
    assert [record.message.split()[-2] for record in caplog.records] == ["triton", "chunked"]
    with pytest.raises(ValueError, match=r"triton.*installed"):
        backends.pick_backend("triton", gpu)


@pytest.mark.skipif(interpreted, reason="the interpreter does run on the processor")
def test_triton_refuses_tensors_on_the_processor() -> None:
    with pytest.raises(ValueError, match=r"triton.*cuda.*cpu"):
        scan(torch.zeros(1, 2, 1, 1), torch.zeros(1, 2, 1), backend="triton")


def test_the_package_is_imported_without_triton() -> None:
    code = (
        "import sys, torch; before = set(sys.modules); import sioconv.ops; print('triton' in set(sys.modules) - before)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"
