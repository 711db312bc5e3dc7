"""Chats that WhatsApp has exported, from Android and iOS, with the dates of many countries.

Android writes `2024/01/05 12:34 - 花子: …` or `1/5/24, 12:34 PM - Hanako: …`, iOS `[05.01.24, 12:34:56] Hanako: …`.
Lines without such a beginning go on with the message before them.
"""

import re
from collections.abc import Iterator
from itertools import islice

from sioconv.importing.inputs import Input
from sioconv.importing.items import CALLS, DELETED, EMPTY, MEDIA, OTHERS, STICKERS, SYSTEM, Items, Left, Message, Note
from sioconv.importing.times import HALF, MARKS, clock, day_first, day_of, seconds

DATE = r"(?P<a>\d{1,4})[./年-]\s?(?P<b>\d{1,2})[./月-]\s?(?P<c>\d{1,4})日?\.?"
CLOCK = rf"(?P<before>{HALF})?\s?(?P<h>\d{{1,2}})[:.](?P<m>\d{{2}})(?:[:.](?P<s>\d{{2}}))?(?:\s?(?P<after>{HALF}))?"
BEGIN = re.compile(
    rf"^(?:\[{DATE},?\s{CLOCK}\]\s|{DATE.replace('?P<', '?P<x')},?\s{CLOCK.replace('?P<', '?P<x')}\s[-–]\s)"
)
LOOKED_AT = 20_000  # lines that tell how dates are written

LEFT_OUT = r"omitted|は含まれていません|が省略されました"
MEDIUM = re.compile(
    r"^(<Media omitted>|<メディア(は|が)(含まれていません|省略されました|除外されました)>|<Medien ausgeschlossen>|"
    r"<Multimedia omitido>|<Médias omis>|<Mídia oculta>|<Media omessi>|"
    rf"(image|video|audio|GIF|document|画像|動画|音声|ビデオ|書類|ドキュメント) ?({LEFT_OUT}).*|"
    r"<(attached|添付ファイル|Anhang|adjunto|pièce jointe)\s?[:：].*>|"
    r".*\.\w{2,4} \((file attached|ファイルが添付されました|Datei angehängt|archivo adjunto)\))$",
    re.DOTALL,
)
STICKER = re.compile(rf"^((sticker|スタンプ|ステッカー) ?({LEFT_OUT})|.*STK-.*\.webp.*)$", re.IGNORECASE)
OTHER = re.compile(
    rf"^((Contact card|連絡先) ?({LEFT_OUT})|(location|位置情報)\s?[:：]\s?https?://.*|(POLL|投票)[:：].*)$", re.DOTALL
)
CALL = re.compile(
    r"^((Missed|Silenced) (group )?(voice|video) call.*|(Voice|Video) call[,.].*|"
    r"(不在着信|音声通話|ビデオ通話)([、。 ].*)?)$",
    re.DOTALL,
)
GONE = re.compile(
    r"^(This message was deleted|You deleted this message|このメッセージ(は削除されました|を削除しました)|"
    r"Diese Nachricht wurde gelöscht|Se eliminó este mensaje|null)\.?。?$"
)
NEWS = re.compile(
    r"(end-to-end encrypted|エンドツーエンドで?暗号化|Ende-zu-Ende-verschlüsselt|cifrados de extremo a extremo)"
)
EDITED = re.compile(r"\s?<(This message was edited|(この)?メッセージは編集されました)>$")


def looks_like_whatsapp(head: str) -> bool:
    """Whether the beginning of a file is WhatsApp's."""
    return any(_begin(line) for line in head.splitlines()[:5])


def read_whatsapp(input: Input, day_before_month: bool | None = None) -> Items:
    """The messages of a chat.

    Args:
        input: the file.
        day_before_month: whether 1/2/2024 is in February; None asks the file's other dates.
    """
    order = day_before_month
    if order is None:
        heads = list(islice((each[1] for each in input.lines() if not isinstance(each, Left)), LOOKED_AT))
        begun = [found for text in heads if (found := _begin(text))]
        order = day_first(_numbers(found) for found in begun)
        if order is None:
            order = not any(found["h"] and (found["before"] or found["after"]) for found in map(_Groups, begun))
            if begun and _numbers(begun[0])[0] <= 31:
                first = "the day" if order else "the month"
                yield Note(f"its dates don't tell whether day or month comes first: {first} is taken; --dates decides")
    held: list[str] = []
    where, speaker, time = 0, "", 0.0

    def finished() -> Iterator[Message | Left]:
        if held:
            yield _message(speaker, "\n".join(held), time, where)
            held.clear()

    for each in input.lines():
        if isinstance(each, Left):
            yield each
            continue
        number, line = each
        found = _begin(line)
        moment = _moment(found, order) if found else None
        if found is None or moment is None:
            if held:
                held.append(MARKS.sub("", line))
            elif line.strip():
                yield Left(SYSTEM, number)
            continue
        yield from finished()
        rest = MARKS.sub("", MARKS.sub("", line)[found.end() :])
        speaker, colon, text = rest.partition(": ")
        if not colon and rest.endswith(":"):
            speaker, colon, text = rest[:-1], ":", ""
        where, time = number, moment
        if colon and not NEWS.search(rest):
            held.append(text)
        else:
            yield Left(CALLS if CALL.match(rest) else SYSTEM, number)
    yield from finished()


def _message(speaker: str, text: str, time: float, where: int) -> Message | Left:
    text = EDITED.sub("", text.rstrip("\n"))
    stripped = text.strip()
    for pattern, reason in ((STICKER, STICKERS), (MEDIUM, MEDIA), (OTHER, OTHERS), (CALL, CALLS), (GONE, DELETED)):
        if pattern.match(stripped):
            return Left(reason, where)
    return Message(speaker.strip("~ \u00a0"), text, time, line=where) if stripped else Left(EMPTY, where)


class _Groups:
    """The named parts of a beginning, whichever of the two forms it has."""

    def __init__(self, found: re.Match[str]) -> None:
        self._found, self._x = found, "" if found["a"] else "x"

    def __getitem__(self, name: str) -> str | None:
        return self._found[self._x + name]


def _begin(line: str) -> re.Match[str] | None:
    return BEGIN.match(MARKS.sub("", line))


def _numbers(found: re.Match[str]) -> tuple[int, int, int]:
    parts = _Groups(found)
    first, second, third = (int(parts[name] or 0) for name in "abc")
    return first, second, third


def _moment(found: re.Match[str], order: bool) -> float | None:
    parts = _Groups(found)
    day = day_of(_numbers(found), order)
    time = clock(parts["h"] or "0", parts["m"] or "0", parts["s"], parts["before"] or parts["after"])
    return seconds(day + time) if day and time is not None else None
