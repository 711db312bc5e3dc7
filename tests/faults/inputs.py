"""Bad inputs of every verb that isn't given a recipe: `python -m tests.faults.inputs OUT COUNT [SEED]`.

A line that works gets one or two bad options, or a bad file; hypothesis chooses them. Each must end with code 0, or
with 2, one line that says why and nothing new in the folder. The suite takes a sample.
"""

import json
import shutil
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from sioconv.cli import main as cli
from tests.faults.kept import BASE, MODEL, OWN, PUBLISH, SETTINGS
from tests.faults.workplace import RUN, Server, copy, hidden, serving, write_workplace

LOGS = ("said.log", "out.log", "operations.log", "modules.log")
SECONDS = 60
# A line that works for each verb; OUT is made by it, FILE is a file of any content.
LINES: dict[str, list[str]] = {
    "import": ["own.csv", "OUT.jsonl", "--yes"],
    "tune": ["own.csv", "--name", "OUT", "--base", str(RUN), "--questions", "0", "--set", "finetune.train.tokens=16",
             "--set", "finetune.train.sequence_length=16", "--set", "finetune.train.batch_size=1"],
    "quantize": [MODEL, "OUT", "--text", "rivers.jsonl"],
    "publish": [MODEL, "OUT", *PUBLISH],
    "generate": [BASE, "川", *SETTINGS],
    "chat": [MODEL, "-p", "川は？", *SETTINGS],
    "inspect": [MODEL, "--text", "川は海へ。"],
    "serve": [MODEL, "--port", "0"],
    "serve key": ["OUT", "alice"],
    "data inspect": [str(RUN / "data")],
    "evaluate": [BASE, "--text", "rivers.jsonl"],
    "report": [str(RUN)],
    "export onnx": [MODEL, "OUT"],
    "export page": [MODEL, "OUT"],
    "compare": [str(RUN), "runs/other", "--out", "OUT", "--bytes", "200", "--pairs", "1"],
    "convert": ["FILE", "OUT"],
    "demo": ["--recipe", "recipe.yaml"],
}  # fmt: skip
EDGES = [
    "", " ", "\0", "nan", "inf", "-1", "0", "1", "2.5", "1e400", "9" * 5000, str(2**63), str(-(2**63) - 1), "1e18",
    "[", "{a: b}", "&a [*a]", "[null]", "{}", "null", "true", "on", "\ud800", "\udcff", "\x1b[2J", "\u202e", "a\nb",
    "あ" * 300, "a" * 5000, "..", ".", "/", "/dev/null", "/dev/full", "/proc/self/mem", "/nowhere/x", "FILE", MODEL,
    str(RUN), "own.csv", "cuda:99", "meta", "cp932", "utf-7", "rot13", "(", "(a+)+$", "\\", '{"type": "objekt"}',
    '{"$ref": "#"}', '{"type": "string"}', "a=b", "=", "a=", "=b", "川=川", "text=1,answer=2", "question=question",
]  # fmt: skip
CONTENTS = [
    b"", b"\n", b"\0", b"\xff\xfe", b"\xef\xbb\xbf", b"{}", b"[]", b"null", b"[" * 100_000, b'{"a": 1, "a": 2}',
    b'{"__metadata__": {}}', b"\x08\0\0\0\0\0\0\0{}      ", b"\xff" * 8 + b"{}", b"PK\3\4", b"PK\5\6" + b"\0" * 18,
    b"\x1f\x8b\x08\0", b"%PDF-1.4\n", b"<html>", b"SQLite format 3\0", "川,海\n".encode(), "川,海\n".encode("utf-16"),
    b"question,answer\n\"a", b"prompt\n", b'{"prompt": 1}\n', b"sk-x alice\n", b"1e999", b"a" * 100_000,
    b'[LINE] a\n2024/13/45\n25:61\tA\tB\n', b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 9\n",
]  # fmt: skip
VALUES = st.sampled_from(EDGES) | st.text(max_size=12) | st.integers().map(str) | st.floats().map(str)


@dataclass(frozen=True)
class Input:
    """A command line, and what stands in the file FILE."""

    arguments: tuple[str, ...]
    content: bytes


def options_of(verb: str) -> list[str]:
    """The long options of a verb."""
    actions = cli.VERBS[verb].parser()._actions
    return [name for action in actions for name in action.option_strings if name.startswith("--") and name != "--help"]


OPTIONS = {verb: options_of(verb) for verb in LINES}


@st.composite
def inputs(draw: st.DrawFn) -> Input:
    """A line that works with something bad in it."""
    verb = draw(st.sampled_from(sorted(LINES)))
    line = list(LINES[verb])
    if not OPTIONS[verb] or draw(st.integers(0, 4)) == 0:  # something that stands there is another
        line[draw(st.integers(0, len(line) - 1))] = draw(VALUES)
    if OPTIONS[verb]:
        more = st.tuples(st.sampled_from(OPTIONS[verb]), VALUES)
        line += [f"{name}={value}" for name, value in draw(st.lists(more, min_size=line == LINES[verb], max_size=2))]
    content = draw(st.sampled_from(CONTENTS) | st.binary(max_size=40) | st.text(max_size=40).map(_bytes))
    return Input((*verb.split(), *line), content)


def _bytes(text: str) -> bytes:
    return text.encode(errors="surrogatepass")


def make_place(server: Server, folder: Path) -> Path:
    """A workplace with a finished run that is measured, one that is only pretrained, and a table of one's own."""
    write_workplace(folder)
    (folder / "own.csv").write_text(OWN, encoding="utf-8")
    for command in (("finetune", "recipe.yaml"), ("report", str(RUN)), ("pretrain", "recipe.yaml", "--name", "other")):
        answer = server.run(folder, *command)
        assert answer.code == 0, answer.said
    return folder


def tree(folder: Path) -> dict[str, bytes | None]:
    """Everything in a folder, but for the logs."""
    found = {str(path.relative_to(folder)): path for path in folder.rglob("*")}
    return {name: path.read_bytes() if path.is_file() else None for name, path in found.items() if name not in LOGS}


def problems(server: Server, place: Path, work: Path, tried: Input) -> tuple[int, list[str]]:
    """The code that a line ends with, and what isn't as it must be."""
    copy(place, work)
    try:
        (work / "FILE").write_bytes(tried.content)
        before = tree(work)
        answer = server.run(work, *tried.arguments, seconds=SECONDS)
        found = []
        if answer.code not in (0, 2):
            found.append(f"code {answer.code}")
        if "Traceback" in answer.said or (answer.code == 2 and not answer.refused):
            found.append("no line that says why")
        if any(character in answer.said for character in "\x1b\u202e"):
            found.append("what commands a terminal")
        if answer.code == 2 and tree(work) != before:
            after = tree(work)
            found.append(f"left: {sorted(name for name in after if before.get(name, b'-') != after[name])[:5]}")
        if left := [*hidden(work / RUN), *(str(path) for path in work.glob(".*"))]:
            found.append(f"hidden: {left}")
        return answer.code, [f"{each}: {answer.said[-600:]!r}" for each in found]
    finally:
        shutil.rmtree(work)


def main() -> None:
    """See above."""
    folder, count = Path(sys.argv[1]), int(sys.argv[2])
    codes: Counter[str] = Counter()
    bad: list[Any] = []
    with serving() as server:
        place = make_place(server, folder / "place")

        @seed(int(sys.argv[3]) if len(sys.argv) > 3 else 0)
        @settings(max_examples=count, database=None, deadline=None, suppress_health_check=list(HealthCheck))
        @given(inputs())
        def one(tried: Input) -> None:
            code, found = problems(server, place, folder / "work", tried)
            codes[str(code)] += 1
            if found:
                bad.append(tried)
                print(json.dumps([tried.arguments, repr(tried.content)[:200], found]), flush=True)
            if codes.total() % 100 == 0:
                print(f"{codes.total()} tried, codes {dict(codes)}, {len(bad)} bad", flush=True)

        one()
    print(f"{codes.total()} tried, codes {dict(codes)}, {len(bad)} bad", flush=True)
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
