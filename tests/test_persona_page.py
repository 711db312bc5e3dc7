"""「自分の文章で話すモデル」 followed word for word: every command of the page in an empty environment, then a chat."""

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.test_docs_commands import ROOT, blocks

PAGE = ROOT / "docs" / "persona.ja.md"
# How the old fisherman of the package's made-up chat talks; nothing in the base's own text does.
MANNER = re.compile(r"じゃ|のう|わし|とる|とった|ええ|おくれ|ならん|いかん|んかの|ゲンじい")
NAME = "あなたの名前は？"
# Of these, none stands in the made-up chat.
SAID = (
    "こんばんは", "寒くなってきたね", "いま何してるの？", "魚は好き？", "海に行きたいな", "昔の話を聞かせて",
    "疲れたよ", "おすすめの料理は？", "明日は早いの？", "またね",
)  # fmt: skip
WANTED = 8


def in_manner(answers: Sequence[str]) -> int:
    """How many answers have the persona's words."""
    return sum(bool(MANNER.search(answer)) for answer in answers)


def test_the_words_tell_the_persona_from_the_base() -> None:
    said = ["今朝は冷えるのう。", "わしも海が好きじゃ。", "おお、起きとるよ。"]
    base = ["私はシオです。", "盛岡市は岩手県にあります。", "いいえ、私には体がありません。", "おつかれさまです。"]
    assert in_manner(said) == len(said)
    assert in_manner(base) == 0


def test_what_is_said_is_new_to_the_persona() -> None:
    chat = (ROOT / "src" / "sioconv" / "data" / "bundled" / "line_genjii.txt").read_text(encoding="utf-8")
    assert not [each for each in (NAME, *SAID) if f"\t{each}\n" in chat]


def empty_environment(folder: Path) -> dict[str, str]:
    """A new user's: nothing in the home, Japanese, and the command `sioconv`."""
    (folder / "home").mkdir()
    (folder / "bin").mkdir()
    command = folder / "bin" / "sioconv"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m sioconv "$@"\n', encoding="utf-8")
    command.chmod(0o755)
    kept = {key: os.environ[key] for key in ("OMP_NUM_THREADS", "NUMBA_CACHE_DIR") if key in os.environ}
    path = f"{folder / 'bin'}:/usr/bin:/bin"
    source = str(ROOT / "src")
    return {"HOME": str(folder / "home"), "PATH": path, "PYTHONPATH": source, "LANG": "ja_JP.UTF-8", **kept}


def shell(line: str, environment: dict[str, str], folder: Path, said: str = "") -> str:
    """What a line of the page prints; the test fails where the line does."""
    done = subprocess.run(
        ["/bin/sh", "-c", line], input=said, capture_output=True, text=True, cwd=folder, env=environment, check=False
    )
    assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.mark.slow
def test_the_page_ends_with_a_chat_in_the_personas_name_and_manner(tmp_path: Path) -> None:
    """The scaled-down form is in tests/test_docs_commands.py, as of every page."""
    environment, work = empty_environment(tmp_path), tmp_path / "work"
    work.mkdir()
    lines = [line for block in blocks(PAGE, "sh") for line in block.splitlines() if line.strip()]
    assert [line.split()[1] for line in lines] == ["import", "tune", "tune", "chat"]
    for line in lines[:-1]:
        shell(line, environment, work)
    chat = lines[-1]
    named = shell(f"{chat} -p {NAME}", environment, work)
    answers = [shell(f"{chat} --seed {n} -p {said}", environment, work).strip() for n, said in enumerate(SAID)]
    shown = "\n".join(f"{said} → {answer}" for said, answer in zip((NAME, *SAID), (named, *answers), strict=True))
    print(f"{in_manner(answers)} of {len(answers)} in the persona's manner\n{shown}")
    assert "ゲンじい" in named, shown
    assert in_manner(answers) >= WANTED, shown
    # The page's own way: lines on a terminal, or through a pipe.
    talk = shell(chat, environment, work, said=f"{NAME}\n{SAID[0]}\n/history\n")
    assert talk.count(NAME) == 2
