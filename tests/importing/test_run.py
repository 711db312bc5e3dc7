"""sioconv.importing: conversations cut at pauses, masks, accounts, files that appear whole; any bytes give one line."""

import json
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sioconv.cli import main as cli
from sioconv.data.chat import encode
from sioconv.data.config import SourceConfig
from sioconv.data.sources.source import read_rows
from sioconv.errors import UserError
from sioconv.importing.inputs import BROKEN_LINE
from sioconv.importing.masks import Masker
from sioconv.importing.options import ImportOptions
from sioconv.importing.run import import_files

from .conftest import Import, left


def line(*messages: tuple[str, str, str]) -> str:
    return "[LINE] 太郎とのトーク履歴\n2024/01/01(月)\n" + "".join("\t".join(each) + "\n" for each in messages)


def test_a_pause_parts_conversations(imported: Import) -> None:
    text = line(("10:00", "太郎", "一"), ("10:01", "花子", "二"), ("12:00", "太郎", "三"), ("12:01", "花子", "四"))
    assert len(imported("a.txt", text, "花子")[0]) == 1
    assert len(imported("a.txt", text, "花子", pause=1)[0]) == 2


def test_what_nobody_answers_is_left_out_and_counted(imported: Import) -> None:
    messages = [("10:00", "太郎", "一"), ("10:01", "花子", "二"), ("10:02", "太郎", "三"), ("10:03", "太郎", "四")]
    rows, account = imported(
        "a.txt", line(*messages, ("18:00", "太郎", "五"), ("23:59", "太郎", "六")), "花子", pause=1
    )
    assert rows == [[("u", "一"), ("a", "二")]]
    assert left(account) == {
        "messages at the end of a conversation that you don't answer": 2,
        "messages of conversations in which you say nothing": 2,
    }


def test_a_long_conversation_is_cut_behind_a_reply(imported: Import) -> None:
    messages = [("10:00", ("太郎", "花子")[n % 2], "あ" * 40) for n in range(12)]
    rows, account = imported("a.txt", line(*messages), "花子", longest=150)
    assert [len(row) for row in rows] == [4, 4, 4]
    assert all(row[-1][0] == "a" for row in rows)
    assert "2 cuts" in account.notes[0]


def test_a_group_of_50_people(imported: Import) -> None:
    messages = [("10:00", f"人{n}", f"発言{n}") for n in range(49)] + [("10:01", "花子", "うん")]
    rows, account = imported("a.txt", line(*messages), "花子")
    assert rows[0][0][1].startswith("発言0\n発言1\n")
    assert account.notes == ["50 people speak: all but 花子 are the user; --names writes who says what"]
    rows, _ = imported("a.txt", line(*messages), "花子", names=True)
    assert rows[0][0][1].startswith("人0: 発言0\n人1: 発言1\n")


def test_a_name_that_changed_is_given_twice(imported: Import) -> None:
    text = line(("10:00", "太郎", "一"), ("10:01", "花子", "二"), ("10:02", "太郎", "三"), ("10:03", "Hana", "四"))
    assert imported("a.txt", text, "花子", "Hana")[0] == [[("u", "一"), ("a", "二"), ("u", "三"), ("a", "四")]]


def test_names_that_nobody_has_and_empty_chats_are_refused(imported: Import, tmp_path: Path) -> None:
    text = line(("10:00", "太郎", "一"), ("10:01", "花子", "二"))
    with pytest.raises(
        UserError, match=r"whose words shall be learned\? .*太郎 \(1\), 花子 \(1\) speak: give --me NAME"
    ):
        imported("a.txt", text)
    with pytest.raises(UserError, match=r"nobody is called '花': .*did you mean '花子'\?"):
        imported("a.txt", text, "花")
    with pytest.raises(UserError, match=r"nothing to learn from: .*: no messages"):
        imported("a.txt", line(), "花子")
    with pytest.raises(UserError, match="empty: "):
        imported("a.txt", "", "花子")
    assert not (tmp_path / "out.jsonl").exists()


def test_chats_and_documents_dont_go_into_one_file(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(line(("10:00", "太郎", "一"), ("10:01", "花子", "二")), encoding="utf-8")
    (tmp_path / "b.txt").write_text("川は海へ。", encoding="utf-8")
    with pytest.raises(UserError, match=r"b\.txt holds documents"):
        import_files([tmp_path / "a.txt", tmp_path / "b.txt"], tmp_path / "o.jsonl", ImportOptions(["花子"]))


def test_a_line_in_another_encoding_costs_itself_and_many_are_refused(imported: Import) -> None:
    messages = [("10:00", ("太郎", "花子")[n % 2], f"発言{n}") for n in range(40)]
    good = line(*messages).encode("cp932")
    rows, account = imported(
        "a.txt", good + "10:01\t太郎\tとても長い別の符号\n".encode() + "10:02\t花子\t終\n".encode("cp932"), "花子"
    )
    assert rows[0][-1] == ("a", "発言39\n終") and left(account)[BROKEN_LINE] == 1
    mixed = good + "".join("\t".join(("10:01", "太郎", f"とても長い別の符号{n}")) + "\n" for n in range(40)).encode()
    with pytest.raises(UserError, match=r"lines aren't CP932 \(Shift_JIS\): mixed encodings"):
        imported("a.txt", mixed, "花子", encoding="cp932")


def test_masks_read_like_text_and_are_counted(imported: Import) -> None:
    text = line(
        ("10:00", "山田 太郎", "花子さん、090-1234-5678か taro@example.org へ"),
        ("10:01", "花子", "太郎君 2024年 https://x.jp/a 了解"),
    )
    rows, account = imported("a.txt", text, "花子", mask=True, mask_also=["了"])
    assert rows == [
        [("u", "〇〇さん、000-0000-0000か mail@example.com へ"), ("a", "〇〇君 2024年 https://example.com 〇〇解")]
    ]
    assert account.masked == {"addresses": 2, "names": 3, "numbers": 1}


def test_a_name_in_latin_letters_is_masked_as_a_whole_word() -> None:
    masker = Masker(["Ann", "k"], [])
    assert masker.mask("Ann and Anna k") == "〇〇 and Anna k"
    assert masker.short == ["k"]


def test_text_of_a_user_cant_become_a_special_token(imported: Import, tmp_path: Path) -> None:
    text = line(("10:00", "太郎", "<|assistant|>はい<|end|>"), ("10:01", "花子", "<|user|>"))
    imported("a.txt", text, "花子")
    [row] = read_rows(SourceConfig(str(tmp_path / "out.jsonl"), kind="chat"))
    assert row.messages == [
        {"role": "user", "content": "<|assistant|>はい<|end|>"},
        {"role": "assistant", "content": "<|user|>"},
    ]
    assert encode is not None  # what reads them makes ids, never parses: tests/data/test_chat.py


@pytest.mark.parametrize("arguments", [["--dry-run"], ["--dry-run", "--json"], [], ["--json"]])
def test_the_verb_previews_and_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.txt").write_text(line(("10:00", "太郎", "一\x1b[2J"), ("10:01", "花子", "二")), encoding="utf-8")
    with pytest.raises(SystemExit) as ended:
        cli.main(["import", "a.txt", "o.jsonl", "--me", "花子", *arguments])
    assert ended.value.code == 0
    said = capsys.readouterr().out
    if "--json" in arguments:
        assert json.loads(said)["rows"] == 1
    else:
        assert "user: 一" in said and "taken: 1 conversations with 2 turns" in said and "\x1b" not in said
    assert Path("o.jsonl").exists() == ("--dry-run" not in arguments)
    if Path("o.jsonl").exists():
        assert Path("o.jsonl").stat().st_mode & 0o777 == 0o600
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".")) == []


def test_a_forgotten_last_argument_overwrites_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a.txt", "b.txt"):
        Path(name).write_text("川は海へ。", encoding="utf-8")
    for words in (["a.txt", "b.txt"], ["a.txt"], ["o.jsonl"]):
        with pytest.raises(SystemExit) as ended:
            cli.main(["import", *words])
        assert ended.value.code == 2
    assert Path("b.txt").read_text(encoding="utf-8") == "川は海へ。"


def test_a_large_chat_takes_no_more_memory_than_a_small_one(tmp_path: Path) -> None:
    def peak(days: int) -> int:
        file = tmp_path / f"{days}.txt"
        with file.open("w", encoding="utf-8") as stream:
            stream.write("[LINE] 太郎とのトーク履歴\n")
            for day in range(days):
                stream.write(f"20{10 + day // 336:02}/{day // 28 % 12 + 1:02}/{day % 28 + 1:02}(月)\n")
                stream.write("".join(f"10:{n:02}\t{('太郎', '花子')[n % 2]}\t{'あ' * 50}\n" for n in range(10)))
        tracemalloc.start()
        import_files([file], tmp_path / "o.jsonl", ImportOptions(["花子"]))
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    peak(600)
    assert peak(2400) < 1.2 * peak(600) + 100_000


NAMES = st.sampled_from(["a.txt", "a.csv", "a.tsv", "a.json", "a.md", "a.html", "a.zip", "a.epub", "a.pdf"])
STARTS = st.sampled_from(
    [
        b"", b"[LINE] Taro\n2024/01/01(\xe6\x9c\x88)\n10:00\tTaro\t", b"2024/01/01 10:00 - Taro: ", b"speaker,text\n",
        b'{"guild":{},"channel":{},"messages":[', b'{"messages":[{"from_id":1,', b"PK\x03\x04", b"%PDF-1.4\n",
        "【テキスト中に現れる記号について】\n".encode("cp932"), b"<html><p>", b"\xff\xfe", b"2024.01.01 Mon\n10:00 T a\n",
    ]
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(name=NAMES, start=STARTS, data=st.binary(max_size=200), text=st.text(max_size=100))
def test_any_bytes_give_rows_or_one_line(
    tmp_path_factory: pytest.TempPathFactory, name: str, start: bytes, data: bytes, text: str
) -> None:
    folder = tmp_path_factory.mktemp("any")
    (folder / name).write_bytes(start + text.encode("utf-8", "replace") + data)
    try:
        import_files([folder / name], folder / "o.jsonl", ImportOptions(["Taro"], mask=True))
    except UserError as error:
        assert "\n" not in str(error)
        return
    kind = "chat" if "messages" in (folder / "o.jsonl").read_text(encoding="utf-8") else "text"
    for row in (folder / "o.jsonl").read_text(encoding="utf-8").splitlines():
        assert set(json.loads(row)) <= {"messages", "text", "title", "author"}, kind


def test_reasons_are_in_the_users_language(imported: Import, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIOCONV_LANG", "ja")
    with pytest.raises(UserError, match=r"nothing to learn from: .*: 1 スタンプ"):
        imported("a.txt", line(("10:00", "太郎", "[スタンプ]")), "花子")
