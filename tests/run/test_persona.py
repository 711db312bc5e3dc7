"""sioconv.run.persona: conversations from a description of a few lines."""

from pathlib import Path

import pytest

from sioconv.data.documents import row_of
from sioconv.errors import UserError
from sioconv.run.persona import ABOUT, persona_rows, read_persona

TEXT = "わしはゲンじいじゃ。\n# 覚え書き\n七十八になる。\n食べ物: 鯖じゃ\n元気？: おう、元気じゃ"


def test_lines_answer_and_keys_are_asked() -> None:
    rows = [row_of(row, "chat", "x").messages or [] for row in persona_rows(TEXT)]
    pairs = [(question["content"], answer["content"]) for question, answer in rows]
    assert ("食べ物は？", "鯖じゃ") in pairs and ("元気？", "おう、元気じゃ") in pairs
    answers = {answer for question, answer in pairs if question in ABOUT}
    assert answers == {"わしはゲンじいじゃ。", "七十八になる。", "わしはゲンじいじゃ。\n七十八になる。"}


def test_a_file_is_read_and_a_bad_description_refused(tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text(TEXT, encoding="utf-8")
    assert read_persona(str(tmp_path / "p.txt")) == persona_rows(TEXT) == read_persona(TEXT)
    (tmp_path / "p.txt").write_bytes("わし".encode("cp932"))
    for bad, problem in (
        ("", "nothing is described"),
        ("あ" * 30_000, "a few lines"),
        (str(tmp_path / "p.txt"), "UTF-8"),
    ):
        with pytest.raises(UserError, match=problem):
            read_persona(bad)
