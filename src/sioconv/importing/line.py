"""Chats that LINE has exported: from Android, iOS and the PC, in Japanese and English.

A day stands on a line of its own, `2024/01/05(金)`, `2024.01.05 金曜日` or `Fri, 1/5/2024`. A message is time, name and
text with tabs between them, or on the PC with spaces. Text of several lines stands in quotation marks on the phone.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from itertools import islice

from sioconv.importing.inputs import Input
from sioconv.importing.items import CALLS, DELETED, EMPTY, MEDIA, OTHERS, STICKERS, SYSTEM, Items, Left, Message, Note
from sioconv.importing.times import HALF, WEEKDAYS, clock, day_first, day_of, seconds

HEADER = re.compile(
    r"^(?:\ufeff)?\[LINE\] ?(?P<ja>.+?)(?:との?トーク|のトーク)(?:履歴)?$"
    r"|^(?:\ufeff)?\[LINE\] ?(?:Chat history (?:with|in)|Chat history:?) ?\"?(?P<en>.+?)\"?$"
)
SAVED = re.compile(r"^(保存日時|Saved on)\s?[:：]")
WEEKDAY = r"[月火水木金土日](?:曜日?)?|(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)[a-z]*"
DAY = re.compile(
    rf"^(?:(?P<before>{WEEKDAY}),? )?(?P<a>\d{{1,4}})[./年-](?P<b>\d{{1,2}})[./月-](?P<c>\d{{1,4}})日?"
    rf"(?:[ ,]*\(?(?P<after>{WEEKDAY})\)?)?$"
)
TIME = re.compile(
    rf"^(?P<before>{HALF})?\s?(?P<h>\d{{1,2}}):(?P<m>\d{{2}})(?:\s?(?P<after>{HALF}))?(?P<gap>[\t ])(?P<rest>.*)$"
)
NAMES_SEEN = 5000  # lines of a PC's export that tell which names have spaces

STICKER = re.compile(r"^\[?(スタンプ|Sticker)\]?$")
MEDIUM = re.compile(
    r"^\[(写真|画像|動画|ファイル|ボイスメッセージ|音声|Photos?|Images?|Videos?|Files?|Voice messages?)\].*$"
)
PC_MEDIUM = re.compile(r"^(写真|画像|動画|ファイル|ボイスメッセージ|Photo|Image|Video|File|Voice message)$")
OTHER = re.compile(
    r"^\[(アルバム|ノート|位置情報|連絡先|投票|イベント|プレゼント|ギフト|日程調整|"
    r"Albums?|Notes?|Location|Contact|Poll|Event|Gift)\].*$"
)
CALL = re.compile(r"^☎ ?")
UNSENT = re.compile(r"(がメッセージの送信を取り消しました|unsent a message)。?\.?$")
NEWS = re.compile(
    r"(が.*(グループに参加しました|を招待しました|を退会させました|を退会しました|が退出しました|に変更しました|アルバムを作成しました|"
    r"を削除しました|画像を変更しました)|joined the (group|chat)|left the (group|chat)|invited .+ to the (group|chat)|"
    r"changed the (group|chat|album)|Auto-?[Rr]eply)。?\.?$"
)


def looks_like_line(head: str) -> bool:
    """Whether the beginning of a file is LINE's."""
    lines = head.splitlines()[:40]
    if any(HEADER.match(line) or SAVED.match(line) for line in lines[:3]):
        return True
    days = [number for number, line in enumerate(lines) if _is_day(line)]
    return any(TIME.match(line) for number in days for line in lines[number + 1 : number + 3])


def read_line(input: Input, me: Iterable[str]) -> Items:
    """The messages of a chat. `me` helps to find names with spaces in a PC's export."""
    lines = [each for each in islice(input.lines(), NAMES_SEEN) if not isinstance(each, Left)]
    first = [text for _, text in lines]
    dates = (_numbers(found) for text in first if (found := _is_day(text)))
    order = _told_by_weekday(first)
    if order is None:
        order = day_first(dates)
    tabs = any((found := TIME.match(text)) and found["gap"] == "\t" for text in first)
    names = [] if tabs else _names_with_spaces(first, me)
    if not tabs and names:
        yield Note("a PC's export, where spaces part names from text; speakers: " + ", ".join(names[:5]))
    yield from _messages(input, bool(order), tabs, names)


def _messages(input: Input, days_first: bool, tabs: bool, names: list[str]) -> Items:
    day: datetime | None = None
    held: list[str] = []  # the lines of the message that is being read
    where, speaker, time = 0, "", 0.0

    def finished() -> Iterator[Message | Left]:
        if held:
            yield _message(speaker, "\n".join(held), time, where, tabs)
            held.clear()

    for each in input.lines():
        if isinstance(each, Left):
            yield each
            continue
        number, text = each
        found = _is_day(text)
        if found and (new := day_of(_numbers(found), days_first)):
            yield from finished()
            day = new
            continue
        begun = TIME.match(text) if day else None
        if begun and (begun["gap"] == "\t") == tabs and (moment := _clock(begun)) is not None and day:
            yield from finished()
            speaker, said = _parted(begun["rest"], tabs, names)
            where, time = number, seconds(day + moment)
            if speaker and not (not tabs and (UNSENT.search(begun["rest"]) or NEWS.search(begun["rest"]))):
                held.append(said)
            else:
                yield Left(_reason(begun["rest"].strip(), tabs) or SYSTEM, number)
        elif held:
            held.append(text)
        elif text.strip() and not HEADER.match(text) and not SAVED.match(text):
            yield Left(SYSTEM, number)
    yield from finished()


def _message(speaker: str, text: str, time: float, where: int, tabs: bool) -> Message | Left:
    if "\n" in text:
        text = text.rstrip("\n")
        if tabs and len(text) > 1 and text.startswith('"') and text.endswith('"'):
            text = text[1:-1].replace('""', '"')
    reason = _reason(text.strip(), tabs)
    return Left(reason, where) if reason else Message(speaker, text, time, line=where)


def _reason(text: str, tabs: bool) -> str | None:
    """Why a message is none that was written; None where it is."""
    for pattern, reason in ((CALL, CALLS), (MEDIUM, MEDIA), (OTHER, OTHERS)):
        if pattern.match(text):
            return reason
    if STICKER.match(text) and (text.startswith("[") or not tabs):
        return STICKERS
    if not tabs and PC_MEDIUM.match(text):
        return MEDIA
    if UNSENT.search(text) and len(text) < 80:
        return DELETED
    return None if text else EMPTY


def _parted(rest: str, tabs: bool, names: list[str]) -> tuple[str, str]:
    """Who speaks and what; nobody where the app itself does."""
    if tabs:
        name, tab, text = rest.partition("\t")
        return (name.strip(), text) if tab else ("", rest)
    known = next((name for name in names if rest == name or rest.startswith(name + " ")), None)
    if known:
        return known, rest[len(known) + 1 :]
    name, space, text = rest.partition(" ")
    return (name, text) if space else ("", rest)


def _names_with_spaces(lines: list[str], me: Iterable[str]) -> list[str]:
    """Names that a PC's export parts from the text by a space as well, the longest first.

    Known are one's own and that of the chat; else a name goes on where all that begins with it goes on alike.
    """
    known_whole = set(me)
    known = {name for name in known_whole if " " in name}
    heads = [found["ja"] or found["en"] for text in lines[:3] if (found := HEADER.match(text))]
    known |= {name for name in heads if " " in name}
    begun = [found["rest"].split(" ") for text in lines if (found := TIME.match(text))]
    groups: dict[str, list[list[str]]] = defaultdict(list)
    for words in begun:
        groups[words[0]].append(words)
    for first, group in groups.items():
        length = 1
        while first not in known_whole and len(group) >= 3 and all(len(words) > length + 1 for words in group):
            next_words = Counter(words[length] for words in group)
            if len(next_words) > 1:
                break
            length += 1
        if length > 1:
            known.add(" ".join([first, *group[0][1:length]]))
    return sorted(known, key=len, reverse=True)


def _is_day(text: str) -> re.Match[str] | None:
    found = DAY.match(text.strip())
    return found if found and (found["before"] or found["after"]) else None


def _numbers(day: re.Match[str]) -> tuple[int, int, int]:
    return int(day["a"]), int(day["b"]), int(day["c"])


def _told_by_weekday(lines: list[str]) -> bool | None:
    """Whether days come before months, as the weekdays beside the dates say; None where they fit both or none."""
    fits = Counter[bool]()
    for text in lines:
        if found := _is_day(text):
            weekday = WEEKDAYS.get(
                (found["before"] or found["after"]).lower()[
                    : 1 if found["after"] and not found["after"].isascii() else 3
                ]
            )
            for first in (True, False):
                day = day_of(_numbers(found), first)
                fits[first] += day is not None and day.weekday() == weekday
    return None if fits[True] == fits[False] else fits[True] > fits[False]


def _clock(found: re.Match[str]) -> timedelta | None:
    return clock(found["h"], found["m"], None, found["before"] or found["after"])
