"""transformers' common suite, from the source distribution of the installed version, on SioConv's classes."""

import os
import subprocess
import sys
import tarfile
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from xml.etree import ElementTree

import pytest

DRIVER = Path(__file__).with_name("common_suite.py")

# Tests that fail because a SioConv model is what it is, and why.
BY_DESIGN = {
    "test_keep_in_fp32_modules": "dt_proj is in both lists: one holds for bf16 models, quantisers read the other",
    "test_keep_in_fp32_modules_exist": "mix_proj is in the list, and in models with the option trapezoid only",
}
FAST = [
    "test_base_model_prefix_loads_base_weights",
    "test_batching_equivalence",
    "test_can_be_initialized_on_meta",
    "test_correct_missing_keys",
    "test_hidden_states_output",
    "test_inputs_embeds_matches_input_ids",
    "test_load_save_without_tied_weights",
    "test_model_outputs_equivalence",
    "test_resize_embeddings_untied",
    "test_resize_tokens_embeddings",
    "test_save_load",
    "test_tied_weights_keys",
    "test_training",
]
RANK = ["passed", "skipped", "failed"]


@pytest.fixture(scope="session")
def suite(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unpacked source distribution, downloaded once; skips where it can't be had."""
    name = f"transformers-{version('transformers')}"
    cache = getattr(request.config, "cache", None)
    folder = (cache.mkdir("compat") if cache else tmp_path_factory.mktemp("compat")) / name
    if not folder.exists():
        with TemporaryDirectory(dir=folder.parent) as place:
            download(name.replace("-", "=="), Path(place))
            with tarfile.open(Path(place) / f"{name}.tar.gz") as archive:
                tests = [member for member in archive if member.name.startswith(f"{name}/tests/")]
                archive.extractall(place, tests, filter="data")
            try:
                (Path(place) / name).rename(folder)
            except OSError:  # another worker was first
                assert folder.exists()
    return folder


def download(requirement: str, place: Path) -> None:
    """The source distribution of `requirement`, unbuilt, in `place`; skips where it can't be had."""
    options = ["--no-deps", "--no-binary", ":all:", "--no-build-isolation", "--quiet", "--dest", str(place)]
    command = [sys.executable, "-m", "pip", "download", *options, requirement]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"pip couldn't download the source distribution of {requirement}: {done.stderr.strip()[-300:]}")


def outcomes(suite: Path, report: Path, names: Iterable[str] = ()) -> dict[str, str]:
    """passed, skipped or failed of each test, run in a process of its own; the worst of its parts if it has parts."""
    tests = [f"{DRIVER}::SioConvCommonTest::{name}" for name in names] or [str(DRIVER)]
    # Without our own configuration: the suite's marks aren't in it.
    options = [
        "-c",
        os.devnull,
        f"--rootdir={DRIVER.parent}",
        "--import-mode=importlib",
        "-p",
        "no:cacheprovider",
        "-q",
    ]
    command = [sys.executable, "-m", "pytest", *options, f"--junitxml={report}", *tests]
    environment = os.environ | {"COMMON_SUITE": str(suite), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode in (0, 1), done.stdout[-3000:] + done.stderr[-3000:]  # 1: some failed
    results: dict[str, str] = {}
    for case in ElementTree.parse(report).iter("testcase"):
        parts = {part.tag for part in case}
        outcome = "failed" if parts & {"failure", "error"} else "skipped" if "skipped" in parts else "passed"
        name = case.attrib["name"].split()[0]
        results[name] = max(outcome, results.get(name, "passed"), key=RANK.index)
    return results


def test_the_heart_of_the_common_suite_passes(suite: Path, tmp_path: Path) -> None:
    assert outcomes(suite, tmp_path / "report.xml", FAST) == dict.fromkeys(FAST, "passed")


@pytest.mark.slow
def test_the_common_suite_fails_where_it_is_known_to_and_nowhere_else(suite: Path, tmp_path: Path) -> None:
    results = outcomes(suite, tmp_path / "report.xml")
    print({outcome: list(results.values()).count(outcome) for outcome in RANK})
    assert len(results) > 100
    assert {name for name, outcome in results.items() if outcome == "failed"} == set(BY_DESIGN)
