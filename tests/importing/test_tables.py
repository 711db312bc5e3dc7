"""sioconv.importing.tables: CSV and TSV with named or guessed columns, and what is broken in them."""

import pytest

from sioconv.errors import UserError
from sioconv.importing.tables import BROKEN, OTHER_WIDTH

from .conftest import Import, left

CHAT = '日時,送信者,本文\n2024/01/01 10:00,太郎,"やあ\n""元気""？"\n2024/01/01 10:01,花子,うん\n2024/01/02 10:00,太郎,朝\n2024/01/02 10:01,花子,昼\n'
EXPECTED = [[("u", 'やあ\n"元気"？'), ("a", "うん")], [("u", "朝"), ("a", "昼")]]


@pytest.mark.parametrize("encoding", ["utf-8", "cp932", "utf-16"])
def test_columns_of_a_chat_are_guessed_and_shown(imported: Import, encoding: str) -> None:
    rows, account = imported("a.csv", CHAT.encode(encoding), "花子")
    assert rows == EXPECTED
    assert account.files[0].notes == ["columns: speaker = 送信者, text = 本文, time = 日時"]


def test_tabs_and_semicolons_part_columns_too(imported: Import) -> None:
    rows, _ = imported("a.tsv", "question\tanswer\n川は？\t海へ\n", "花子")
    assert rows == [[("u", "川は？"), ("a", "海へ")]]
    rows, _ = imported("a.csv", "質問;回答\n川は？;海へ\n")
    assert rows == [[("u", "川は？"), ("a", "海へ")]]


def test_columns_are_named_or_numbered(imported: Import) -> None:
    rows, _ = imported("a.csv", "x,y\n川は？,海へ\n", columns="question=x,answer=y")
    assert rows == [[("u", "川は？"), ("a", "海へ")]]
    rows, _ = imported("a.csv", "川は？,海へ\n山は？,空へ\n", columns="question=1,answer=2")
    assert rows == [[("u", "川は？"), ("a", "海へ")], [("u", "山は？"), ("a", "空へ")]]
    rows, account = imported("a.csv", "題名,本文\n川,海へ流れる。\n")
    assert rows == ["海へ流れる。"] and account.kind == "text" and account.preview[0]["title"] == "川"


def test_columns_that_cant_be_told_are_asked_for(imported: Import) -> None:
    with pytest.raises(UserError, match=r"which columns\? .*a\.csv has x, y: give --columns speaker=NAME,text=NAME"):
        imported("a.csv", "x,y\n1,2\n")
    for columns, problem in (("text=z", "no column 'z'"), ("who=x", "'who' is no kind"), ("x", "can't be read")):
        with pytest.raises(UserError, match=problem):
            imported("a.csv", "x,y\n1,2\n", columns=columns)


def test_broken_quotation_marks_cost_their_row_only(imported: Import) -> None:
    text = (
        'speaker,text\nTaro,Hi\nTaro,"open\nHana,one\nTaro,a"b\nHana,"two"x\nHana,three,four\nTaro,last?\nHana,last\n'
    )
    rows, account = imported("a.csv", text, "Hana")
    assert rows[0][-1] == ("a", "last")
    assert left(account)[BROKEN] >= 1 and left(account)[OTHER_WIDTH] == 1


def test_a_mark_that_is_never_closed_swallows_nothing(imported: Import) -> None:
    lines = "".join(f"Taro,question {n}\nHana,answer {n}\n" for n in range(300))
    rows, account = imported("a.csv", 'speaker,text\nTaro,"open\n' + lines, "Hana")
    assert len(rows[0]) == 600
    assert left(account) == {BROKEN: 1}


def test_a_table_without_rows_is_refused(imported: Import) -> None:
    for text in ("\n\n", "speaker,text\n"):
        with pytest.raises(UserError, match=r"empty|nothing to learn from"):
            imported("a.csv", text, "Hana")
