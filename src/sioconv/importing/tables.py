"""Tables of text, comma- or tab-separated: a message a row, a question and an answer a row, or a document a row.

Columns are named (`speaker=送信者,text=本文`) or guessed from their headings, and shown.
"""

import csv
import io
import re
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from itertools import islice

from sioconv.errors import UserError
from sioconv.importing.inputs import Input
from sioconv.importing.items import EMPTY, Document, Exchange, Items, Left, Message, Note
from sioconv.importing.times import HALF, clock, day_first, day_of, order_taken, seconds

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
        "投稿者",
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
        "datetime",
        "timestamp",
        "time",
        "sent",
        "created_at",
        "日時",
        "送信日時",
        "投稿日時",
        "時刻",
        "送信時刻",
        "時間",
    ),
    "date": ("date", "day", "日付", "送信日", "投稿日", "年月日"),
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
    "input": ("input", "context", "入力", "補足"),
    "title": ("title", "題名", "タイトル", "件名"),
}
SEPARATORS = ",\t;"
MOST_LINES = 200  # of one record; a quotation mark that isn't closed would swallow the rest of the file
MOST_ABOVE = 10  # rows that may stand above the heading, as in exports of LINE's official accounts
TOLD = 5000  # rows that tell how dates are written
BROKEN = "rows with broken quotation marks"
OTHER_WIDTH = "rows with another number of columns than the heading"
NOBODY = "rows without a speaker"
INSTRUCTIONS = "system messages"
ABOVE = "rows above the heading"
DATE = re.compile(
    rf"^\s*(\d{{1,4}})[./年-]\s?(\d{{1,2}})[./月-]\s?(\d{{1,4}})日?(?:\s?[(（][^)）]*[)）])?[T ,]*"
    rf"(?:(?P<before>{HALF})?\s?(\d{{1,2}})[:時](\d{{2}})分?(?::?(\d{{2}})秒?)?(?:\s?(?P<after>{HALF}))?)?"
)
SECONDS = re.compile(r"^\s*(\d{9,10})(?:\.\d+)?\s*$|^\s*(\d{12,13})\s*$")  # since 1970; or thousandths


@dataclass
class _Table:
    """What a table's columns are.

    Args:
        heading: their names.
        places: the place of each kind of column.
        days_first: whether the day stands before the month in its dates.
        unread: times that couldn't be read so far.
    """

    heading: list[str]
    places: dict[str, int]
    days_first: bool = False
    unread: int = 0


def read_table(input: Input, columns: str = "", day_before_month: bool | None = None) -> Items:
    """The rows of a table.

    Args:
        input: the file.
        columns: names them, as `speaker=NAME,text=NAME`; or by their number from 1.
        day_before_month: whether 1/2/2024 is in February; None asks the file's other dates.

    Raises:
        UserError: the columns can't be told, with what there is.
    """
    first = [each for each in islice(_records(input), TOLD) if not isinstance(each, Left)]
    if not first:
        raise UserError(f"empty: {input.name}: it has no rows: export it again")
    above, table = _heading(first, columns, input.name)
    places = table.places
    if day_before_month is None:
        stamps = [_stamp(cells, table) for _, cells in first[above:] if len(cells) == len(table.heading)]
        dates = [found for stamp in stamps if (found := DATE.match(stamp))]
        day_before_month = day_first((int(each[1]), int(each[2]), int(each[3])) for each in dates)
        if day_before_month is None and dates:
            day_before_month = "." in dates[0][0][:3]  # as 5.1.2024 is written where the day comes first
            yield order_taken(day_before_month)
    table.days_first = bool(day_before_month)
    by_number = bool(columns) and all(
        value.isdigit() and value not in table.heading for value in _pairs(columns).values()
    )
    yield Note("columns: " + ", ".join(f"{what} = {table.heading[place]}" for what, place in places.items()))
    if unused := [cell for place, cell in enumerate(table.heading) if place not in places.values() and cell]:
        names = ", ".join(unused[:8]) + "…" * (len(unused) > 8)
        yield Note(f"columns that aren't read: {names}")
    number = -1
    for record in _records(input):
        number += not isinstance(record, Left)
        if isinstance(record, Left):
            yield record
        elif number < above:
            yield Left(ABOVE, record[0])
        elif number == above and not by_number:
            continue
        elif len(record[1]) != len(table.heading):
            yield Left(OTHER_WIDTH, record[0])
        else:
            yield _row(record[1], table, record[0])
    if table.unread:
        yield Note(f"{table.unread:,} times can't be read: no pause is seen there")


def _heading(first: list[tuple[int, list[str]]], columns: str, name: str) -> tuple[int, _Table]:
    """How many rows stand above the heading, and the table. Raises UserError where the columns can't be told."""
    headings = [[cell.strip().strip("\ufeff") for cell in cells] for _, cells in first[:MOST_ABOVE]]
    if columns:
        wanted = [value for value in _pairs(columns).values() if not value.isdigit()]
        row = next((n for n, cells in enumerate(headings) if wanted and set(wanted) <= set(cells)), 0)
        places = _named(columns, headings[row], name)
    else:
        guesses = [_guessed(heading) for heading in headings]
        row = next((n for n, places in enumerate(guesses) if _is_enough(places)), 0)
        places = guesses[row]
    if not _is_enough(places):
        raise UserError(
            f"which columns? {name} has {', '.join(headings[0][:12])}: give --columns speaker=NAME,text=NAME, or "
            "question=NAME,answer=NAME, or text=NAME for documents; a number counts columns from 1"
        )
    return row, _Table(headings[row], places)


def _is_enough(places: dict[str, int]) -> bool:
    return {"question", "answer"} <= places.keys() or "text" in places


def _row(cells: list[str], table: _Table, number: int) -> Message | Exchange | Document | Left:
    value = {what: cells[place] for what, place in table.places.items()}
    if "answer" in value and "question" in value:
        if not value["question"].strip() or not value["answer"].strip():
            return Left(EMPTY, number)
        more = value.get("input", "")
        return Exchange(value["question"] + "\n" * bool(more.strip()) + more, value["answer"])
    if not value["text"].strip():
        return Left(EMPTY, number)
    if "speaker" not in value:
        return Document(value["text"], value.get("title", ""))
    speaker = value["speaker"].strip()
    if not speaker:
        return Left(NOBODY, number)
    if speaker.lower() == "system" and table.heading[table.places["speaker"]].lower() == "role":
        return Left(INSTRUCTIONS, number)
    stamp = _stamp(cells, table)
    time = _time(stamp, table.days_first)
    table.unread += bool(stamp.strip()) and time is None
    return Message(speaker, value["text"], time, thread=value.get("conversation", ""), line=number)


def _stamp(cells: list[str], table: _Table) -> str:
    """Date and time of a row."""
    return " ".join(cells[table.places[what]].strip() for what in ("date", "time") if what in table.places)


def _guessed(heading: list[str]) -> dict[str, int]:
    """The place of each kind of column that is there, as its heading says."""
    lower = [cell.lower().replace(" ", "_") for cell in heading]
    places: dict[str, int] = {}
    for what, names in HEADINGS.items():
        place = next((lower.index(name) for name in names if name in lower), None)
        if place is not None and place not in places.values():
            places[what] = place
    if {"question", "answer"} <= places.keys():
        return {what: places[what] for what in ("question", "answer", "input") if what in places}
    return {what: place for what, place in places.items() if what not in ("question", "answer", "input")}


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
    separator = ""
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
            if len(waiting) > 1 and '"' not in each[1] and len(waiting) < MOST_LINES:
                continue  # the mark that is open can't end here
        text = "\n".join(line for _, line in waiting)
        separator = separator or max(SEPARATORS, key=text.count)
        cells = _cells(text, separator)
        if cells is None and each is not None and len(waiting) < MOST_LINES:
            continue
        number = waiting[0][0]
        if not cells:
            again.extendleft(reversed(waiting[1:]))
        waiting = []
        yield (number, cells) if cells else Left(BROKEN, number)


def _cells(record: str, separator: str) -> list[str] | None:
    """The cells of a record; [] where its quotation marks are broken; None where one is open and may end later."""
    try:
        [cells] = csv.reader(io.StringIO(record, newline=""), delimiter=separator, strict=True)
    except csv.Error as error:
        return None if "unexpected end of data" in str(error) else []
    except ValueError:
        return []
    return cells


def _time(text: str, days_first: bool) -> float | None:
    """Seconds of a date and time as tables write them; None for what can't be read."""
    try:
        return seconds(datetime.fromisoformat(text.strip()))
    except ValueError:
        pass
    if since := SECONDS.match(text):
        return float(since[1]) if since[1] else int(since[2]) / 1000
    found = DATE.match(text)
    if not found:
        return None
    day = day_of((int(found[1]), int(found[2]), int(found[3])), days_first)
    time = clock(found[5] or "0", found[6] or "0", found[7], found["before"] or found["after"])
    return seconds(day + time) if day and time is not None else None
