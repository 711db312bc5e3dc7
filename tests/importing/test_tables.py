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


def test_a_mark_in_the_middle_of_a_cell_is_text(imported: Import) -> None:
    rows, account = imported("a.tsv", 'speaker\ttext\nTaro\t5" pipe\nHana\tsays "hi"\nTaro\t6" too\nHana\tok\n', "Hana")
    assert rows == [[("u", '5" pipe'), ("a", 'says "hi"'), ("u", '6" too'), ("a", "ok")]]
    assert left(account) == {}


@pytest.mark.parametrize(
    "times",
    [
        ("2024/01/05 午前11:59", "2024/01/05 午後0:01", "2024/01/05 午後9:00", "2024/01/05 午後9:01"),
        ("1704070000", "1704070060", "1704170000", "1704170001"),
        ("1704070000000", "1704070060000", "1704170000000", "1704170001000"),
        ("31.01.2024 10:00", "31.01.2024 10:01", "01.02.2024 10:00", "01.02.2024 10:01"),
        ("2024年1月5日(金) 10時00分", "2024年1月5日(金) 10時01分", "2024年1月6日(土) 10時00分", "2024年1月6日(土) 10時01分"),
        ("2024-01-05T10:00:00Z", "2024-01-05T10:01:00Z", "2024-01-06T10:00:00Z", "2024-01-06T10:01:00Z"),
    ],
)  # fmt: skip
def test_times_of_many_forms_part_conversations(imported: Import, times: tuple[str, ...]) -> None:
    said = zip(times, ("Taro,一", "Hana,二", "Taro,三", "Hana,四"), strict=True)
    text = "time,speaker,text\n" + "".join(f"{time},{what}\n" for time, what in said)
    rows, account = imported("a.csv", text, "Hana")
    assert rows == [[("u", "一"), ("a", "二")], [("u", "三"), ("a", "四")]]
    assert account.files[0].notes == ["columns: speaker = speaker, text = text, time = time"]


def test_times_that_cant_be_read_are_counted(imported: Import) -> None:
    _, account = imported("a.csv", "time,speaker,text\nlater,Taro,一\nsoon,Hana,二\n", "Hana")
    assert account.files[0].notes[-1] == "2 times can't be read: no pause is seen there"


def test_an_official_account_of_line_has_rows_above_its_heading(imported: Import) -> None:
    text = "アカウント名,店\nタイムゾーン,+09:00\n送信者タイプ,送信者名,送信日,送信時刻,内容\n"
    text += "User,太郎,2024/01/05,10:00:00,ありますか\nAccount,店,2024/01/05,10:01:00,あります\nUser,太郎,2024/01/06,10:00:00,朝\nAccount,店,2024/01/06,10:01:00,昼\n"
    rows, account = imported("a.csv", text, "店")
    assert rows == [[("u", "ありますか"), ("a", "あります")], [("u", "朝"), ("a", "昼")]]
    assert account.files[0].notes[-1] == "columns that aren't read: 送信者タイプ"
    assert left(account) == {"rows above the heading": 2}


def test_a_table_with_the_newest_first_is_read_from_the_end(imported: Import) -> None:
    text = "日時,送信者,本文\n2024/01/02 10:01,花子,昼\n2024/01/02 10:00,太郎,朝\n2024/01/01 10:01,花子,うん\n2024/01/01 10:00,太郎,やあ\n"
    rows, account = imported("a.csv", text, "花子")
    assert rows == [[("u", "やあ"), ("a", "うん")], [("u", "朝"), ("a", "昼")]]
    assert "its newest messages stand first: it is read from the end" in account.files[0].notes


def test_an_instruction_with_an_input_is_both(imported: Import) -> None:
    rows, _ = imported("a.csv", "instruction,input,output\n訳して,sea,海\n名は？,,花子\n")
    assert rows == [[("u", "訳して\nsea"), ("a", "海")], [("u", "名は？"), ("a", "花子")]]


def test_rows_of_a_system_or_of_nobody_are_nobodys_words(imported: Import) -> None:
    rows, account = imported("a.csv", "role,content\nsystem,be kind\nuser,やあ\n,独り言\nassistant,はい\n", "assistant")
    assert rows == [[("u", "やあ"), ("a", "はい")]]
    assert left(account) == {"system messages": 1, "rows without a speaker": 1}


def test_lines_that_end_as_on_old_macs(imported: Import) -> None:
    assert imported("a.csv", CHAT.replace("\n", "\r").replace('"やあ\r', '"やあ '), "花子")[0][1] == EXPECTED[1]
