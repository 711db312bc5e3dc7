"""Chats that LINE has exported: from Android, iOS and the PC, in Japanese and English.

A day stands on a line of its own, `2024/01/05(金)`, `2024.01.05 金曜日` or `Fri, 1/5/2024`. A message is time, name and
text with tabs between them, or on the PC with spaces. Text of several lines stands in quotation marks on the phone.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import chain, islice, pairwise

from sioconv.importing.inputs import Input
from sioconv.importing.items import CALLS, DELETED, EMPTY, MEDIA, OTHERS, STICKERS, SYSTEM, Items, Left, Message, Note
from sioconv.importing.names import Names
from sioconv.importing.times import HALF, WEEKDAYS, clock, day_first, day_of, seconds

HEADER = re.compile(
    r"^(?:\ufeff)?\[LINE\] ?(?P<ja>.+?)(?:との?トーク|のトーク)(?:履歴)?$"
    r"|^(?:\ufeff)?\[LINE\] ?(?:Chat history (?:with|in)|Chat history:?) ?\"?(?P<en>.+?)\"?$"
)
SAVED = re.compile(r"^(保存日時|Saved on)\s?[:：]")
WEEKDAY = (
    r"[月火水木金土日](?:曜日?)?|(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)[a-z]*|"
    r"(?:週|周|星期)?[一二三四五六日]|[월화수목금토일](?:요일)?"
)
DAY = re.compile(
    rf"^(?:(?P<before>{WEEKDAY}),? )?(?P<a>\d{{1,4}})[./年년-] ?(?P<b>\d{{1,2}})[./月월-] ?(?P<c>\d{{1,4}})[日일]?\.?"
    rf"(?:[ ,]*[(（]?(?P<after>{WEEKDAY})[)）]?)?$"
)
TIME = re.compile(
    rf"^(?P<before>{HALF})?\s?(?P<h>\d{{1,2}}):(?P<m>\d{{2}})(?:\s?(?P<after>{HALF}))?(?P<gap>[\t ])(?P<rest>.*)$"
)
TOLD = 5000  # lines that tell how days are written
Line = tuple[int, str]

STICKER = re.compile(r"^\[?(スタンプ|Sticker|貼圖|스티커)\]?$")
MEDIUM = re.compile(
    r"^\[(写真|画像|動画|ファイル|ボイスメッセージ|音声|Photos?|Images?|Videos?|Files?|Voice messages?|"
    r"照片|圖片|影片|檔案|語音訊息|사진|동영상|파일|음성메시지)\].*$"
)
PC_MEDIUM = re.compile(r"^(写真|画像|動画|ファイル|ボイスメッセージ|Photo|Image|Video|File|Voice message)$")
OTHER = re.compile(
    r"^\[(アルバム|ノート|位置情報|連絡先|投票|イベント|プレゼント|ギフト|日程調整|"
    r"Albums?|Notes?|Location|Contact|Poll|Event|Gift)\].*$"
)
CALL = re.compile(r"^☎ ?")
# What the app says of a person, in Japanese without a space behind the name.
UNSENT = re.compile(r"(メッセージの送信を取り消しました|unsent a message|已收回訊息)。?\.?$")
NEWS_JA = re.compile(
    r"が.*(メッセージの送信を取り消しました|グループに参加しました|を招待しました|を退会させました|を退会しました|が退出しました|"
    r"に変更しました|アルバムを作成しました|を削除しました|画像を変更しました)。?$"
)
NEWS_EN = re.compile(
    r"(unsent a message|joined the (group|chat)|left the (group|chat)|invited .+ to the (group|chat)|"
    r"changed the (group|chat|album).*|Auto-?[Rr]eply)\.?$"
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
    first = [each[1] for each in islice(input.lines(), TOLD) if not isinstance(each, Left)]
    order = _told_by_weekday(first)
    if order is None:
        order = day_first(_numbers(found) for text in first if (found := _is_day(text)))
    gaps = Counter(found["gap"] for text in first if (found := TIME.match(text)))
    form = _Form(gaps["\t"] >= gaps[" "], bool(order))
    if not form.tabs:
        _find_names(input, me, first, form)
        if form.spaced:
            yield Note("a PC's export, where spaces part names from text; speakers: " + ", ".join(form.spaced[:5]))
    yield from _Reader(input, form).messages()


@dataclass
class _Form:
    """How an export is written.

    Args:
        tabs: whether tabs part time, name and text, as on phones; else spaces do.
        days_first: whether the day stands before the month.
        spaced: names with spaces in them, the longest first.
        single: names without, and how many messages they have.
    """

    tabs: bool
    days_first: bool
    spaced: list[str] = field(default_factory=list)
    single: dict[str, int] = field(default_factory=dict)

    def begun(self, text: str) -> "re.Match[str] | None":
        """The beginning of a message, or None."""
        found = TIME.match(text)
        fits = found is not None and (found["gap"] == "\t") == self.tabs and _clock(found) is not None
        return found if fits else None

    def parted(self, rest: str) -> tuple[str, str]:
        """Who speaks and what; nobody where the app itself does."""
        if self.tabs:
            name, tab, text = rest.partition("\t")
            return (name.strip(), text) if tab else ("", rest)
        spaced = next((name for name in self.spaced if rest == name or rest.startswith(name + " ")), None)
        if spaced:
            return spaced, rest[len(spaced) + 1 :]
        name, space, text = rest.partition(" ")
        if not space or NEWS_EN.search(rest) or (NEWS_JA.search(rest) and name not in self.single):
            return "", rest
        return name, text


class _Reader:
    """Goes through the lines of an export, holding the message that is being read."""

    def __init__(self, input: Input, form: _Form) -> None:
        self._input, self._form = input, form
        self._day: datetime | None = None
        self._held: list[str] = []
        self._where, self._speaker, self._time = 0, "", 0.0

    def messages(self) -> Items:
        """The messages and what is none."""
        for each, after in pairwise(chain(self._input.lines(), (None,))):
            if isinstance(each, Left):
                yield each
                continue
            assert each is not None
            number, text = each
            if day := self._day_in(text, after):
                yield from self._finished()
                self._day = day
            elif self._day and (begun := self._form.begun(text)) and not self._is_text(begun):
                yield from self._finished()
                yield from self._begin(begun, number)
            elif self._held:
                self._held.append(text)
            elif text.strip() and not HEADER.match(text) and not SAVED.match(text):
                yield Left(SYSTEM, number)
        yield from self._finished()

    def _day_in(self, text: str, after: Line | Left | None) -> datetime | None:
        """The day that a line says, where it isn't text: a message comes next, or the one before is complete."""
        found = _is_day(text)
        if found is None:
            return None
        if self._held and isinstance(after, tuple) and not self._form.begun(after[1]) and self._goes_on():
            return None
        return day_of(_numbers(found), self._form.days_first)

    def _goes_on(self) -> bool:
        """Whether the message that is held may have more lines: on phones those of several stand in quotation marks."""
        is_open = self._held[0].startswith('"') and sum(line.count('"') for line in self._held) % 2
        return not self._form.tabs or bool(is_open)

    def _is_text(self, begun: re.Match[str]) -> bool:
        """Whether what looks like a message is a line of the one before: time doesn't go back within a day."""
        if self._form.tabs or not self._held or self._day is None:
            return False
        name = self._form.parted(begun["rest"])[0]
        known = not name or name in self._form.spaced or self._form.single.get(name, 0) > 1
        return not known and self._moment(begun) < self._time

    def _moment(self, begun: re.Match[str]) -> float:
        moment = _clock(begun)
        assert self._day is not None and moment is not None
        return seconds(self._day + moment)

    def _begin(self, begun: re.Match[str], number: int) -> Items:
        self._speaker, said = self._form.parted(begun["rest"])
        self._where, self._time = number, self._moment(begun)
        if self._speaker:
            self._held.append(said)
        else:
            yield Left(_reason(begun["rest"].strip(), self._form.tabs) or SYSTEM, number)

    def _finished(self) -> Iterator[Message | Left]:
        if self._held:
            text, tabs = "\n".join(self._held), self._form.tabs
            self._held.clear()
            if "\n" in text:
                text = text.rstrip("\n")
                if tabs and len(text) > 1 and text.startswith('"') and text.endswith('"'):
                    text = text[1:-1].replace('""', '"')
            reason = _reason(text.strip(), tabs)
            yield Left(reason, self._where) if reason else Message(self._speaker, text, self._time, line=self._where)


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


def _find_names(input: Input, me: Iterable[str], first: list[str], form: _Form) -> None:
    """Names in a PC's export: one's own, that of the chat, and what the messages of the whole file show."""
    heads = [found["ja"] or found["en"] for text in first[:3] if (found := HEADER.match(text))]
    names = Names([*me, *(name for name in heads if " " in name)])
    for each in input.lines():
        if not isinstance(each, Left) and (found := form.begun(each[1])):
            rest = found["rest"]
            if not NEWS_JA.search(rest) and not NEWS_EN.search(rest):
                names.add(rest)
    form.spaced, form.single = names.found()


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
