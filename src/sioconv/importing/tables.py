"""Tables of text, comma- or tab-separated: a message a row, a question and an answer a row, or a document a row.

Columns are named (`speaker=送信者,text=本文`) or guessed from their headings, and shown.
"""

import csv
import io
import re
from collections import deque
from collections.abc import Iterator
from datetime import datetime

from sioconv.errors import UserError
from sioconv.importing.inputs import Input
from sioconv.importing.items import EMPTY, Document, Exchange, Items, Left, Message, Note
from sioconv.importing.times import clock, day_of, seconds

HEADINGS = {  # what a column holds: the headings that it may have, in lower case
    "question": ("question", "prompt", "instruction", "input", "query", "user", "q", "質問", "問い", "入力", "問"),
    "answer": (
        "answer",
        "response",
        "output",
        "completion",
        "reply",
        "assistant",
        "a",
        "回答",
        "答え",
        "返答",
        "出力",
        "応答",
        "答",
    ),
    "speaker": (
        "speaker",
        "sender",
        "from",
        "name",
        "author",
        "username",
        "who",
        "role",
        "送信者",
        "送信者名",
        "名前",
        "発言者",
        "話者",
        "ユーザー",
        "ユーザー名",
    ),
    "text": (
        "text",
        "message",
        "content",
        "body",
        "utterance",
        "本文",
        "発言",
        "メッセージ",
        "内容",
        "トーク",
        "テキスト",
        "文章",
    ),
    "time": (
        "time",
        "date",
        "datetime",
        "timestamp",
        "sent",
        "created_at",
        "日時",
        "時刻",
        "日付",
        "送信日時",
        "投稿日時",
    ),
    "conversation": (
        "conversation",
        "conversation_id",
        "thread",
        "thread_id",
        "channel",
        "room",
        "chat",
        "会話",
        "会話id",
        "スレッド",
        "チャンネル",
        "部屋",
    ),
    "title": ("title", "題名", "タイトル", "件名"),
}
SEPARATORS = ",\t;"
MOST_LINES = 200  # of one record; a quotation mark that isn't closed would swallow the rest of the file
BROKEN = "rows with broken quotation marks"
OTHER_WIDTH = "rows with another number of columns than the heading"
DATE = re.compile(r"^\s*(\d{1,4})[./年-](\d{1,2})[./月-](\d{1,4})日?[T ]*(?:(\d{1,2}):(\d{2})(?::(\d{2}))?)?")


def read_table(input: Input, columns: str = "") -> Items:
    """The rows of a table. `columns` names them, as `speaker=NAME,text=NAME`; or by their number from 1.

    Raises UserError where the columns can't be told, with what there is.
    """
    records = _records(input)
    first = next((record for record in records if not isinstance(record, Left)), None)
    if first is None:
        raise UserError(f"empty: {input.name}: it has no rows: export it again")
    heading = [cell.strip().strip("\ufeff") for cell in first[1]]
    places = _named(columns, heading, input.name) if columns else _guessed(heading)
    if not {"question", "answer"} <= places.keys() and "text" not in places:
        raise UserError(
            f"which columns? {input.name} has {', '.join(heading[:12])}: give --columns speaker=NAME,text=NAME, or "
            "question=NAME,answer=NAME, or text=NAME for documents; a number counts columns from 1"
        )
    by_number = bool(columns) and all(value.isdigit() and value not in heading for value in _pairs(columns).values())
    yield Note("columns: " + ", ".join(f"{what} = {heading[place]}" for what, place in places.items()))
    if by_number:
        yield _row(first[1], places, first[0])
    for record in records:
        if isinstance(record, Left):
            yield record
        elif len(record[1]) != len(heading):
            yield Left(OTHER_WIDTH, record[0])
        else:
            yield _row(record[1], places, record[0])


def _row(cells: list[str], places: dict[str, int], number: int) -> Message | Exchange | Document | Left:
    value = {what: cells[place] for what, place in places.items()}
    if "answer" in value and "question" in value:
        if not value["question"].strip() or not value["answer"].strip():
            return Left(EMPTY, number)
        return Exchange(value["question"], value["answer"])
    if not value["text"].strip():
        return Left(EMPTY, number)
    if "speaker" not in value:
        return Document(value["text"], value.get("title", ""))
    time, thread = _time(value.get("time", "")), value.get("conversation", "")
    return Message(value["speaker"].strip(), value["text"], time, thread=thread, line=number)


def _guessed(heading: list[str]) -> dict[str, int]:
    """The place of each kind of column that is there, as its heading says."""
    lower = [cell.lower().replace(" ", "_") for cell in heading]
    places: dict[str, int] = {}
    for what, names in HEADINGS.items():
        place = next((lower.index(name) for name in names if name in lower), None)
        if place is not None and place not in places.values():
            places[what] = place
    if {"question", "answer"} <= places.keys():
        return {what: places[what] for what in ("question", "answer")}
    return {what: place for what, place in places.items() if what not in ("question", "answer")}


def _named(columns: str, heading: list[str], name: str) -> dict[str, int]:
    places: dict[str, int] = {}
    for what, column in _pairs(columns).items():
        if what not in HEADINGS:
            raise UserError(f"--columns: {what!r} is no kind of column: choose from {', '.join(HEADINGS)}")
        if column in heading:
            places[what] = heading.index(column)
        elif column.isdigit() and 1 <= int(column) <= len(heading):
            places[what] = int(column) - 1
        else:
            raise UserError(f"--columns: no column {column!r} in {name}: it has {', '.join(heading[:12])}")
    return places


def _pairs(columns: str) -> dict[str, str]:
    pairs = [part.partition("=") for part in columns.split(",") if part.strip()]
    if not pairs or not all(equals and value.strip() for _, equals, value in pairs):
        raise UserError(f"--columns: {columns!r} can't be read: write speaker=NAME,text=NAME")
    return {what.strip(): value.strip() for what, _, value in pairs}


def _records(input: Input) -> Iterator[tuple[int, list[str]] | Left]:
    """The records with the line that they begin on; one whose quotation marks are broken costs its first line only."""
    lines, again = input.lines(), deque[tuple[int, str]]()
    waiting: list[tuple[int, str]] = []  # the lines of the record that is being read
    separator, is_open = "", False
    while True:
        each = again.popleft() if again else next(lines, None)
        if isinstance(each, Left):
            yield each
            continue
        if each is None and not waiting:
            return
        if each is not None:
            if not waiting and not each[1].strip():
                continue
            waiting.append(each)
            is_open ^= bool(each[1].count('"') % 2)
            if is_open and len(waiting) < MOST_LINES:
                continue
            text = "\n".join(line for _, line in waiting)
            separator = separator or max(SEPARATORS, key=text.count)
        cells = None if is_open else _cells(text, separator)
        number = waiting[0][0]
        if cells is None:
            again.extendleft(reversed(waiting[1:]))
        waiting, is_open = [], False
        yield Left(BROKEN, number) if cells is None else (number, cells)


def _cells(record: str, separator: str) -> list[str] | None:
    """The cells of a record; None where its quotation marks are broken."""
    try:
        [cells] = csv.reader(io.StringIO(record, newline=""), delimiter=separator, strict=True)
    except (csv.Error, ValueError):
        return None
    return cells


def _time(text: str) -> float | None:
    """Seconds of a date and time as tables write them; None for what can't be read."""
    try:
        return seconds(datetime.fromisoformat(text.strip()))
    except ValueError:
        pass
    found = DATE.match(text)
    if not found:
        return None
    day = day_of((int(found[1]), int(found[2]), int(found[3])), day_first=False)
    time = clock(found[4] or "0", found[5] or "0", found[6], None)
    return seconds(day + time) if day and time is not None else None
