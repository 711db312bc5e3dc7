"""What people keep beside a run: saved conversations and states, stores, small models, published folders, own texts.

`make_kept` makes one of each; `commands_for` says which commands read a file of them.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tests.faults.workplace import RUN, Answer, Server, copy, result

PUBLISH = (
    "--license", "mit", "--author", "a", "--license-confirmed", "--source_license", "[rivers=mit,talks=mit]",
)  # fmt: skip
KEPT = (
    "talk.state", "text.state", "states.db", "server.db", "small8", "hub", "runs/old/sources", "runs/old/answers.json",
)  # fmt: skip
MODEL, BASE = f"{RUN}/model", f"{RUN}/base"
LONG = "川は山から海へ流れる。" * 60  # over 256 tokens: a store keeps the state there
SETTINGS = ("--seed", "1", "--max_new_tokens", "4", "--json")
TALK = ("chat", MODEL, "--load", "talk.state", "-p", "海は？", *SETTINGS)
TEXT = ("generate", BASE, "海", "--state", "text.state", *SETTINGS)
STORE = ("generate", BASE, f"{LONG}海", "--store", "states.db", *SETTINGS)
TUNE = (
    "tune", "own.csv", "--name", "old", "--base", str(RUN), "--persona", "わしは川の番人じゃ。", "--questions", "1",
    "--set", "finetune.train.tokens=64", "--set", "finetune.train.sequence_length=16",
    "--set", "finetune.train.batch_size=4", "--set", "finetune.train.validate_bytes=200",
    "--set", "finetune.train.threads=1", "--set", "finetune.train.precision=fp32",
)  # fmt: skip
# Each by itself, in a workplace with a finished run: what it writes is below runs/, where faults strike.
VERBS: tuple[tuple[str, ...], ...] = (
    ("import", "own.csv", "runs/own.jsonl", "--yes"),
    ("chat", MODEL, "-p", "川は？", "--save", "runs/talk.state", *SETTINGS),
    ("generate", BASE, "川は", "--save_state", "runs/text.state", *SETTINGS),
    ("quantize", MODEL, "runs/small8", "--text", "rivers.jsonl"),
    ("publish", MODEL, "runs/hub", *PUBLISH),
    ("export", "onnx", MODEL, "runs/onnx"),
    ("compare", str(RUN), "runs/other", "--out", "runs/comparison", "--bytes", "200", "--pairs", "1"),
    ("serve", "key", "runs/keys.txt", "alice"),
    TUNE,
)
OWN = "question,answer\n" + "".join(f"第{n}の海は？,青いのう。\n" for n in range(30))


def asked(text: str, **more: Any) -> list[Any]:
    """A request for a response."""
    body = {"model": "small", "input": text, "max_output_tokens": 4, "seed": 1, **more}
    return ["POST", "/v1/responses", body]


def make_kept(server: Server, finished: Path, folder: Path) -> Path:
    """A workplace with a finished run and one of everything beside it."""
    copy(finished, folder)
    (folder / "own.csv").write_text(OWN, encoding="utf-8")
    for command in (
        ("report", str(RUN)),
        ("chat", MODEL, "-p", "川は？", "--save", "talk.state", *SETTINGS),
        ("generate", BASE, "川は", "--save_state", "text.state", *SETTINGS),
        STORE,
        ("quantize", MODEL, "small8", "--text", "rivers.jsonl"),
        ("publish", MODEL, "hub", *PUBLISH),
        TUNE,
    ):
        answer = server.run(folder, *command)
        assert answer.code == 0, (command, answer.said)
    first = json.dumps([asked("川は？"), ["POST", "/v1/conversations", {}]])
    response, conversation = (each["id"] for _, each in _answers(server.run(folder, "ask", MODEL, "server.db", first)))
    second = json.dumps([asked("山は？", conversation=conversation)])
    assert server.run(folder, "ask", MODEL, "server.db", second).code == 0
    later = [
        asked("海は？", previous_response_id=response),
        asked("空は？", conversation=conversation),
        ["GET", f"/v1/responses/{response}", None],
        ["GET", f"/v1/conversations/{conversation}", None],
    ]
    (folder / "later.json").write_text(json.dumps(later), encoding="utf-8")
    return folder


def commands_for(folder: Path) -> Callable[[str], tuple[tuple[str, ...], ...]]:
    """Which commands read a file of a workplace."""
    later = (folder / "later.json").read_text(encoding="utf-8")
    readers = (
        ("talk.state", TALK),
        ("text.state", TEXT),
        ("states.db", STORE),
        ("server.db", ("ask", MODEL, "server.db", later)),
        ("small8", ("generate", "small8", "川", *SETTINGS)),
        ("hub", ("generate", "hub", "川", *SETTINGS)),
        ("runs/old", TUNE),
    )
    return lambda name: next((command,) for start, command in readers if name.startswith(start))


def said_of(folder: Path, answers: Sequence[Answer]) -> list[Any]:
    """What was answered: texts, or an error and its code; of a tuning, the model and what it answers."""
    found: list[Any] = []
    for row in (row for answer in answers for row in _answers(answer)):
        if not isinstance(row, list):
            found.append([200, row.get("text", row.get("reply"))])
        elif row[0] != 200:
            found.append([row[0], row[1]["error"]["message"]])
        else:
            found.append([200, [item.get("content") for item in row[1].get("output", row[1].get("data", []))]])
    if not found:
        made = json.loads((folder / "runs/old/answers.json").read_text(encoding="utf-8"))
        found = [[200, result(folder / "runs/old", ("model",)), made]]
    return found


def _answers(answer: Answer) -> list[Any]:
    """The JSON of each line that was printed."""
    return [json.loads(line) for line in answer.out.splitlines() if line.startswith(('{"', "[2", "[4", "[5"))]


def told(found: list[Any], right: list[Any], said: bool, case: str) -> str:
    """`refused` where some answer is an error that says why, `mended`, `harmless`; fails where it is another one."""
    assert len(found) == len(right), (case, found)
    for (code, mine, *more), (_, its, *others) in zip(found, right, strict=True):
        assert code == 200 or (400 <= code < 600 and code != 500 and mine), (case, found)
        assert code != 200 or (mine, more) == (its, others), f"{case}: another result in silence: {mine} for {its}"
    return "refused" if any(each[0] != 200 for each in found) else "mended" if said else "harmless"
