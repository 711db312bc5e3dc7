"""Every file that a run writes, with flipped bits, cut, empty or missing: mended, refused in one line, or harmless.

The slow suite tries every file; `python -m tests.faults.corruption` does so by itself and prints what it finds.
"""

from pathlib import Path

import pytest

from tests.faults.corruption import STATES, State, make_states, rounds, verdict
from tests.faults.workplace import RUN, Server

TRIED = 20  # places in each file, in the slow suite
FAST = [  # what is tried in the fast one: one of each kind of file, each damaged in another way
    ("going on", "recipe.yaml", "flip"),
    ("going on", "SHA256SUMS", "cut"),
    ("going on", "tokenizer/SHA256SUMS", "missing"),
    ("finished", "base/SHA256SUMS", "missing"),
    ("going on", "tokenizer/chat_template.jinja", "flip"),
    ("going on", "data/talks/train/00000.ds.mask", "flip"),
    ("going on", "base/model.safetensors", "flip"),
    ("going on", "checkpoints/finetune/plan.json", "empty"),
    ("going on", "checkpoints/finetune/step-00000002/progress.json", "flip"),
    ("finished", "metrics.jsonl", "flip"),
    ("finished", "model/model.safetensors", "flip"),
    ("kept", "talk.state", "flip"),
    ("kept", "states.db", "flip"),
    ("kept", "server.db", "flip"),
    ("kept", "small8/model.safetensors", "flip"),
    ("kept", "hub/config.json", "cut"),
    ("kept", "runs/old/sources/own1.jsonl", "flip"),
]


@pytest.fixture(scope="module")
def states(server: Server, tmp_path_factory: pytest.TempPathFactory) -> dict[str, State]:
    return make_states(server, tmp_path_factory.mktemp("states"))


@pytest.mark.parametrize(("state", "name", "kind"), FAST, ids=lambda value: str(value))
def test_a_damaged_file_is_never_another_result_in_silence(
    server: Server, states: dict[str, State], tmp_path: Path, state: str, name: str, kind: str
) -> None:
    file = name if state == "kept" else str(RUN / name)
    size = (states[state].folder / file).stat().st_size
    verdict(server, states[state], tmp_path, file, kind, size // 2)


@pytest.mark.slow
@pytest.mark.parametrize("state", STATES)
def test_every_file_in_every_way(server: Server, states: dict[str, State], tmp_path: Path, state: str) -> None:
    tries = [each for part in rounds(states[state], TRIED) for each in part]
    assert len(tries) > 500
    for name, kind, place in tries:
        verdict(server, states[state], tmp_path, name, kind, place)
