"""sioconv.data.documents and sioconv.data.cleaning.splits: reading rows, and which side of the split they are on."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sioconv.data.cleaning.splits import read_split
from sioconv.data.config import SourceConfig
from sioconv.data.documents import Row, split_of
from sioconv.data.sources.source import open_source, read_rows
from sioconv.errors import UserError

unicode_text = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)
TURNS = [{"role": "user", "content": "こんにちは"}, {"role": "assistant", "content": "はい"}]


def jsonl(path: Path, *rows: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def texts(path: Path | str, **options: Any) -> list[str]:
    return [row.text or "" for row in read_rows(SourceConfig(str(path)), **options)]


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
def test_rows_come_in_order_with_their_extra_keys(tmp_path: Path, name: str) -> None:
    path = jsonl(tmp_path / name, {"text": "一", "source": "x"}, {"text": "二\r\n", "n": 2})
    rows = list(read_rows(SourceConfig(str(path))))
    assert [(row.text, row.extra) for row in rows] == [("一", {"source": "x"}), ("二\r\n", {"n": 2})]
    assert [row.id for row in rows] == [f"{path}:1", f"{path}:2"]


def test_conversations(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", {"messages": TURNS, "key": "はい"})
    [row] = read_rows(SourceConfig(str(path), kind="chat"))
    assert (
        row.messages == TURNS
        and row.text is None
        and row.extra == {"key": "はい"}
        and row.texts == ["こんにちは", "はい"]
    )


@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz"])
def test_a_plain_text_file_is_one_document(tmp_path: Path, name: str) -> None:
    data = "一行目\r\n二行目\n\n".encode()
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    assert texts(tmp_path / name) == ["一行目\n二行目\n\n"]


def test_the_mark_that_some_editors_put_first_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfabc")
    (tmp_path / "b.jsonl").write_bytes(b'\xef\xbb\xbf{"text": "def"}\n{"text": "\xef\xbb\xbfghi"}')
    assert texts(tmp_path) == ["abc", "def", "\ufeffghi"]


def test_folders_and_globs(tmp_path: Path) -> None:
    for name in ("b/2.jsonl", "a.jsonl", "b/1.jsonl.gz", ".hidden/3.jsonl", "b/.4.jsonl"):
        jsonl(tmp_path / name, {"text": name})
    (tmp_path / "README.md").write_text("not a source")
    assert texts(tmp_path) == ["a.jsonl", "b/1.jsonl.gz", "b/2.jsonl"]
    assert texts(tmp_path / "b" / "*.jsonl") == ["b/2.jsonl"]
    assert texts(tmp_path / "**" / "[12].jsonl*") == ["b/1.jsonl.gz", "b/2.jsonl"]
    assert texts(tmp_path / "b" / "2.jsonl") == ["b/2.jsonl"]


def test_a_file_whose_name_looks_like_a_glob(tmp_path: Path) -> None:
    assert texts(jsonl(tmp_path / "a[1].jsonl", {"text": "x"})) == ["x"]


def test_nothing_there(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("1,2")
    for path in (tmp_path / "missing.jsonl", tmp_path / "*.jsonl", tmp_path):
        with pytest.raises(UserError, match="no text found"):
            open_source(SourceConfig(str(path))).found()
    with pytest.raises(UserError, match=r"unknown kind of file.*a\.csv.*\.jsonl"):
        open_source(SourceConfig(str(tmp_path / "a.csv"))).found()
    with pytest.raises(UserError, match=r"no bundled text: nothing.*gazetteer_ja"):
        open_source(SourceConfig("bundled:nothing")).found()


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b'{"text": "abc"', "not JSON"),
        (b'{"text": "\xff"}', "invalid UTF-8 at byte 10"),
        (b'["text"]', "JSON list instead of an object"),
        (b'{"body": "abc"}', 'missing or empty "text"'),
        (b'{"text": ""}', 'missing or empty "text"'),
        (b'{"text": null}', 'missing or empty "text"'),
        (b'{"text": ["abc"]}', 'missing or empty "text"'),
        (rb'{"text": "\ud83d"}', "lone surrogate"),
        (b"[" * 100_000, "not JSON"),
        (b'{"text": "a", "n": ' + b"1" * 5000 + b"}", "not JSON"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: bytes, problem: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "good"}\n' + line + b"\n")
    with pytest.raises(UserError) as caught:
        texts(path)
    assert str(caught.value).startswith(f"bad row: {path}:2: ") and problem in str(caught.value)
    assert 'expected an object with a non-empty string "text"' in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("messages", "problem"),
    [
        (None, 'missing or empty "messages"'),
        ([], 'missing or empty "messages"'),
        ("text", '"messages" is a text that isn\'t JSON'),
        (["text"], "message 1 must have"),
        ([*TURNS, {"role": "user"}], "message 3 must have"),
        (
            [{"role": "user", "content": "x", "tool_calls": []}],
            "the assistant says nothing that is to be learned (roles: user)",
        ),
        ([{"role": "tool", "content": "x"}], "the assistant says nothing that is to be learned (roles: tool)"),
        ([{"role": "user", "content": ""}], '"content" of message 1'),
        ([{"role": "user", "content": 1}], '"content" of message 1'),
    ],
)
def test_a_bad_conversation_is_named(tmp_path: Path, messages: Any, problem: str) -> None:
    path = jsonl(tmp_path / "a.jsonl", {"messages": messages})
    with pytest.raises(UserError) as caught:
        list(read_rows(SourceConfig(str(path), kind="chat")))
    assert str(caught.value).startswith(f"bad row: {path}:1: ") and problem in str(caught.value)


def test_bad_files(tmp_path: Path) -> None:
    def failing(name: str, data: bytes, problem: str, kind: Any = "text") -> None:
        (tmp_path / name).write_bytes(data)
        with pytest.raises(UserError, match=problem):
            list(read_rows(SourceConfig(str(tmp_path / name), kind=kind)))

    failing("a.jsonl", b"", r"empty file.*a\.jsonl")
    failing("a.txt", b"", r"empty file.*a\.txt")
    failing("b.txt", b"abc\xff", r"bad row.*b\.txt:1.*invalid UTF-8 at byte 3 of the file")
    failing("c.txt", b"abc", "holds no conversations", kind="chat")
    whole = gzip.compress(b'{"text": "abc"}\n' * 9)
    failing("a.jsonl.gz", whole[:-9], r"broken gzip file.*a\.jsonl\.gz")
    failing("b.jsonl.gz", b"no gzip at all", r"broken gzip file.*b\.jsonl\.gz")
    failing("c.jsonl.gz", whole[:12] + b"\xff\xff" + whole[14:], r"broken gzip file.*c\.jsonl\.gz")


def test_a_kind_that_does_not_fit() -> None:
    with pytest.raises(UserError, match="kind must be chat"):
        list(read_rows(SourceConfig("identity:Shio", kind="text")))


@pytest.mark.parametrize("world_size", [1, 2, 3, 7, 40])
@pytest.mark.parametrize("path", [lambda p: str(p), lambda _: "identity:しお"])
def test_readers_together_read_every_row_once(tmp_path: Path, world_size: int, path: Callable[[Path], str]) -> None:
    for name, count in (("a.jsonl", 5), ("b.jsonl.gz", 9), ("c.jsonl", 1)):
        jsonl(tmp_path / name, *({"text": f"{name} {number}"} | {"messages": TURNS} for number in range(count)))
    source = SourceConfig(path(tmp_path), kind="chat")
    everything = [row.id for row in read_rows(source)]
    dealt = [[row.id for row in read_rows(source, rank=rank, world_size=world_size)] for rank in range(world_size)]
    assert sorted(id for part in dealt for id in part) == sorted(everything)
    assert all(part == [id for id in everything if id in part] for part in dealt)


def test_a_reader_that_can_not_be() -> None:
    with pytest.raises(ValueError, match="rank=2, world_size=2"):
        list(read_rows(SourceConfig("identity:Shio", kind="chat"), rank=2, world_size=2))


@given(unicode_text, st.floats(0, 1))
def test_the_split_looks_at_the_content_only(text: str, heldout: float) -> None:
    assert split_of(Row("a", text=text), heldout) == split_of(Row("b", text=text, extra={"x": 1}), heldout)
    assert split_of(Row("a", text=text), 0) == "train" and split_of(Row("a", text=text), 1) == "heldout"


def test_the_split_is_what_it_was() -> None:
    sides = [split_of(Row("a", text=f"文書{number}"), 0.3) for number in range(12)]
    assert "".join(side[0] for side in sides) == "ttthttthhtth"
    turned = [dict(reversed(message.items())) for message in TURNS]
    assert split_of(Row("a", messages=TURNS), 0.5) == split_of(Row("a", messages=turned), 0.5)


def test_about_the_asked_share_is_held_out() -> None:
    held = sum(split_of(Row("a", text=str(number)), 0.1) == "heldout" for number in range(5000))
    assert 400 < held < 600


def test_the_two_splits_are_the_whole_source(tmp_path: Path) -> None:
    source = SourceConfig(str(jsonl(tmp_path / "a.jsonl", *({"text": str(number)} for number in range(100)))))
    train, heldout = ([row.text for row in read_split(source, side, 0.2)] for side in ("train", "heldout"))
    assert sorted(train + heldout, key=lambda text: int(text or 0)) == [str(number) for number in range(100)]
    assert heldout and train and not set(train) & set(heldout)
