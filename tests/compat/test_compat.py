"""The table of tools: a model that is broken on purpose is told from one that works, and the exit code says so."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from sioconv.model import SioConvCache, SioConvModel, causal_lm, layers
from tests.compat import rows
from tests.compat.__main__ import main
from tests.compat.rows import ROWS
from tests.compat.subject import Subject, random_folder

Patch = pytest.MonkeyPatch


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model folder."""
    return random_folder(tmp_path_factory.mktemp("compat"), conv_width=2)


def forget(patch: Patch, _: Path) -> None:
    """Every call starts from the initial state."""
    run = layers.NormedScan.forward

    def broken(self: Any, z: Any, log_a: Any, gate: Any, carried: Any, start: Any, *rest: Any) -> Any:
        return run(self, z, log_a, gate, start.expand_as(carried), start, *rest)

    patch.setattr(layers.NormedScan, "forward", broken)


def unmask(patch: Patch, _: Path) -> None:
    """Padding is read as text."""
    run = SioConvModel.forward
    patch.setattr(SioConvModel, "forward", lambda self, *a, **k: run(self, *a, **{**k, "attention_mask": None}))


def merge(patch: Patch, _: Path) -> None:
    """Packed documents run into one another."""
    patch.setattr(causal_lm, "document_starts", lambda *_, **__: None)


def round_gates(patch: Patch, _: Path) -> None:
    """The forget gates are loaded in half precision."""
    for name in ("_keep_in_fp32_modules_strict", "_keep_in_fp32_modules"):
        patch.setattr(causal_lm.SioConvPreTrainedModel, name, set())
    patch.setattr(torch, "promote_types", lambda one, _: one)  # by which the layer makes them in fp32


def share(patch: Patch, _: Path) -> None:
    """A copy of a cache is the cache itself."""
    patch.setattr(SioConvCache, "__deepcopy__", lambda self, _: self, raising=False)


def mix_rows(patch: Patch, _: Path) -> None:
    """Beams keep the states of other beams."""
    patch.setattr(SioConvCache, "reorder_cache", lambda *_: None)


def count_wrong(patch: Patch, _: Path) -> None:
    """The cache says it has seen one token more than it has."""
    patch.setattr(SioConvCache, "get_seq_length", lambda self, *_: int(self.tokens_seen + self.tokens_seen.sign()))


def learn_questions(_: Patch, folder: Path) -> None:
    """The chat template marks the user's turns as the assistant's."""
    file = folder / "chat_template.jinja"
    file.write_text(file.read_text().replace("== 'assistant' %}", "== 'user' %}"))


MUTANTS: dict[Callable[[Patch, Path], None], list[str]] = {
    forget: ["greedy", "beam search", "goes on with several tokens", "prefill in chunks", "deep copies"],
    unmask: ["left padding", "right padding"],
    merge: ["SFTTrainer, packing (bfd)"],
    round_gates: ["bf16, fp16, fp32"],
    share: ["deep copies"],
    mix_rows: ["beam search"],
    count_wrong: ["goes on with several tokens", "deep copies"],
    learn_questions: ["SFTTrainer, assistant_only_loss"],
}
CASES = [
    pytest.param(break_it, name, id=f"{break_it.__name__}, {name}")
    for break_it in MUTANTS
    for name in MUTANTS[break_it]
]


@pytest.mark.parametrize(("break_it", "name"), CASES)
def test_a_broken_model_is_told(
    break_it: Callable[[Patch, Path], None], name: str, tmp_path: Path, monkeypatch: Patch
) -> None:
    [row] = [row for row in ROWS if row.name == name]
    if row.missing:
        pytest.skip(f"not installed: {', '.join(row.missing)}")
    folder = random_folder(tmp_path / "folder", conv_width=2)
    break_it(monkeypatch, folder)
    (tmp_path / "scratch").mkdir()
    reasons = r"differs by|expected|the cache has seen|not those|size|has shape"
    with pytest.raises((AssertionError, RuntimeError, ValueError), match=reasons):
        row.run(Subject(folder, tmp_path / "scratch"))


def run(capfd: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    """The exit code and what stands on both streams."""
    code = main([str(word) for word in words])
    out, err = capfd.readouterr()
    return code, out, err


def test_a_model_that_works(folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "compat.json"
    code, table, err = run(capfd, "--model", folder, "--only", "greedy", "padding", "--json", out)
    assert code == 0 and len(re.findall(r"│ yes +│", table)) == 3 and "transformers 5." in table
    assert re.search(r"^1/3 generate, greedy: yes", err, re.MULTILINE)
    found = json.loads(out.read_text())
    assert found["model"] == str(folder) and found["versions"]["torch"] and found["machine"]["cores"]
    assert [line["result"] for line in found["rows"]] == ["yes"] * 3
    assert found["rows"][0]["detail"] == "36 tokens equal those of the plain loop"


def test_a_model_that_does_not(
    folder: Path, tmp_path: Path, monkeypatch: Patch, capfd: pytest.CaptureFixture[str]
) -> None:
    forget(monkeypatch, folder)
    out = tmp_path / "compat.json"
    code, table, err = run(capfd, "--model", folder, "--only", "greedy", "--json", out)
    assert code == 1 and re.search(r"│ no +│ AssertionError: with a cache: differs", table)
    assert "Traceback" in err and json.loads(out.read_text())["rows"][0]["result"] == "no"


def test_a_package_that_is_not_installed(folder: Path, monkeypatch: Patch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(rows.EXTRAS, "eval", ("lm_eval_of_another_world",))
    code, table, _ = run(capfd, "--model", folder, "--only", "greedy", "generate_until")
    assert code == 2 and "not installed" in table and "pip install 'sioconv[eval]'" in table


def test_bad_arguments(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["--model", str(tmp_path)])
    assert f"--model is {tmp_path}: no config.json there" in capfd.readouterr().err
    code, _, err = run(capfd, "--only", "nothing like it")
    assert code == 2 and "no row has one of these words" in err


def test_every_row_has_a_check_of_its_own() -> None:
    assert len({row.check for row in ROWS}) == len(ROWS) == len({(row.group, row.name) for row in ROWS})
    for row in ROWS:
        module, function = row.check.split(".")
        source = (Path(rows.__file__).parent / f"{module}.py").read_text()
        assert f"def {function}(subject: Subject) -> str:" in source, row.check
