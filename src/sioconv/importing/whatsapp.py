"""Chats that WhatsApp has exported, from Android and iOS, with the dates of many countries.

Android writes `2024/01/05 12:34 - 花子: …` or `1/5/24, 12:34 PM - Hanako: …`, iOS `[05.01.24, 12:34:56] Hanako: …`.
Lines without such a beginning go on with the message before them.
"""

import re
from collections.abc import Iterable
from itertools import islice

from sioconv.importing.inputs import Input
from sioconv.importing.items import CALLS, DELETED, EMPTY, MEDIA, OTHERS, STICKERS, SYSTEM, Items, Left, Message
from sioconv.importing.names import Names
from sioconv.importing.times import HALF, MARKS, clock, day_first, day_of, order_taken, seconds

DATE = r"(?P<a>\d{1,4})[./年-]\s?(?P<b>\d{1,2})[./月-]\s?(?P<c>\d{1,4})日?\.?"
CLOCK = rf"(?P<before>{HALF})?\s?(?P<h>\d{{1,2}})[:.](?P<m>\d{{2}})(?:[:.](?P<s>\d{{2}}))?(?:\s?(?P<after>{HALF}))?"
BEGIN = re.compile(
    rf"^(?:\[{DATE},?\s{CLOCK}\]\s|{DATE.replace('?P<', '?P<x')},?\s{CLOCK.replace('?P<', '?P<x')}\s[-–]\s)"
)
LOOKED_AT = 20_000  # lines that tell how dates are written

APP = "\u200e"  # on iOS in front of what the app writes itself, in any language
LEFT_OUT = r"omitted|は含まれていません|が省略されました"
FILE = (
    r"[^\n<>:]*\.\w{2,4} \((?:file attached|ファイルが添付されました|Datei angehängt|archivo adjunto|fichier joint|"
    r"arquivo anexado|file allegato)\)"
)
# A picture or file; a caption may stand before or behind it.
ATTACHED = re.compile(
    rf"^{FILE}(?:\n|$)|(?:^|\s)<(?:attached|添付ファイル|Anhang|adjunto|pièce jointe|anexado|allegato)\s?[:：][^<>\n]*>"
)
MEDIUM = re.compile(
    rf"^(<(?![^>]*://)[^<>\n]{{4,40}}>|"  # <Media omitted>, in the words of each language
    rf"(image|video|audio|GIF|document|画像|動画|音声|ビデオ|書類|ドキュメント) ?({LEFT_OUT}).*|"
    rf"[^\n]* document omitted)$",
    re.DOTALL,
)
STICKER = re.compile(rf"^((sticker|スタンプ|ステッカー) ?({LEFT_OUT})|.*STK-.*\.webp.*)$", re.IGNORECASE)
OTHER = re.compile(
    rf"^((Contact card|連絡先) ?({LEFT_OUT})|(location|位置情報)\s?[:：]\s?https?://.*|(POLL|投票|アンケート)[:：].*|"
    r"[^\n]*\.vcf \([^\n()]+\))$",
    re.DOTALL | re.IGNORECASE,
)
CALL = re.compile(
    r"^((Missed|Silenced) (group )?(voice|video) call.*|(Voice|Video) call[,.].*|"
    r"(不在着信|音声通話|ビデオ通話)([、。 ].*)?)$",
    re.DOTALL,
)
GONE = re.compile(
    r"^(This message was deleted( by admin .*)?|You deleted this message|"
    r"このメッセージ(は削除されました|を削除しました)|"
    r"(Diese Nachricht wurde|Du hast diese Nachricht) gelöscht|(Se eliminó|Eliminaste) este mensaje|"
    r"(Ce message a été|Vous avez) supprimé( ce message)?|(Mensagem apagada|Você apagou esta mensagem)|"
    r"(Questo messaggio è stato eliminato|Hai eliminato questo messaggio)|null|"
    r"Waiting for this message.*|このメッセージを待っています.*)\.?。?$"
)
NEWS = re.compile(
    r"(end-to-end encrypted|エンドツーエンドで?暗号化|Ende-zu-Ende-verschlüsselt|cifrados de extremo a extremo|"
    r"chiffrés de bout en bout|criptografia de ponta a ponta|crittografati end-to-end)|"
    r"^[^:]{1,80}( changed (the|this) (subject|group|settings)| created (the )?group |"
    r"さんがグループ名を|さんがグループ「)"
)
EDITED = re.compile(r"\s?<(This message was edited|(この)?メッセージは編集されました)>$")
BY_APP = re.compile(rf"\s*{APP}<[^<>\n]{{4,80}}>\s*$")  # behind a text on iOS: it was edited, or something is attached


def looks_like_whatsapp(head: str) -> bool:
    """Whether the beginning of a file is WhatsApp's."""
    return any(_begin(line) for line in head.splitlines()[:5])


def read_whatsapp(input: Input, me: Iterable[str] = (), day_before_month: bool | None = None) -> Items:
    """The messages of a chat.

    Args:
        input: the file.
        me: one's own names; they help where a name has a colon in it.
        day_before_month: whether 1/2/2024 is in February; None asks the file's other dates.
    """
    heads = list(islice((each[1] for each in input.lines() if not isinstance(each, Left)), LOOKED_AT))
    begun = [(found, line) for line in heads if (found := _begin(line))]
    order = day_before_month
    if order is None:
        order = day_first(_numbers(found) for found, _ in begun)
        if order is None:
            order = not any(found["before"] or found["after"] for found in (_Groups(found) for found, _ in begun))
            if begun and _numbers(begun[0][0])[0] <= 31:
                yield order_taken(order)
    names = Names(me, ": ")
    for found, line in begun:
        if (rest := _rest(line, found)) and ": " in rest and not NEWS.search(rest):
            names.add(rest)
    yield from _messages(input, order, names.found()[0])


def _messages(input: Input, order: bool, names: list[str]) -> Items:
    held: list[str] = []
    where, speaker, time = 0, "", 0.0

    def finished() -> Items:
        if held:
            yield from _message(speaker, "\n".join(held), time, where)
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
                held.append(line)
            elif line.strip():
                yield Left(SYSTEM, number)
            continue
        yield from finished()
        rest = _rest(line, found)
        speaker, said = _parted(rest, names)
        where, time = number, moment
        if speaker and not NEWS.search(rest):
            held.append(said)
        else:
            yield Left(CALLS if CALL.match(MARKS.sub("", rest)) else SYSTEM, number)
    yield from finished()


def _parted(rest: str, names: list[str]) -> tuple[str, str]:
    """Who speaks and what; nobody where the app itself does."""
    if rest.startswith(APP):
        return "", rest
    known = next((name for name in names if rest.startswith(name + ":")), None)
    if known:
        return known, rest[len(known) + 1 :].removeprefix(" ")
    speaker, colon, text = rest.partition(": ")
    if not colon and rest.rstrip().endswith(":"):
        speaker, colon = rest.rstrip()[:-1], ":"
    return (speaker, text) if colon else ("", rest)


def _message(speaker: str, raw: str, time: float, where: int) -> Items:
    by_app = BY_APP.search(raw)
    if by_app and not raw.startswith(APP):
        if ATTACHED.search(MARKS.sub("", by_app[0])):
            yield Left(MEDIA, where)
        raw = raw[: by_app.start()]
    text = EDITED.sub("", MARKS.sub("", raw).rstrip("\n"))
    if reason := _reason(text.strip()):
        yield Left(reason, where)
        return
    if ATTACHED.search(text):
        yield Left(MEDIA, where)
        text = ATTACHED.sub("", text)
        if not text.strip():
            return
    elif raw.startswith(APP):  # in another language than those above
        yield Left(SYSTEM, where)
        return
    name = MARKS.sub("", speaker).strip("~ \u00a0\u202f")
    yield Message(name, text, time, line=where) if text.strip() else Left(EMPTY, where)


def _reason(text: str) -> str | None:
    """Why a message is none that was written; None where it is."""
    for pattern, reason in ((STICKER, STICKERS), (MEDIUM, MEDIA), (OTHER, OTHERS), (CALL, CALLS), (GONE, DELETED)):
        if pattern.match(text):
            return reason
    return None


class _Groups:
    """The named parts of a beginning, whichever of the two forms it has."""

    def __init__(self, found: re.Match[str]) -> None:
        self._found, self._x = found, "" if found["a"] else "x"

    def __getitem__(self, name: str) -> str | None:
        return self._found[self._x + name]


def _begin(line: str) -> re.Match[str] | None:
    return BEGIN.match(MARKS.sub("", line))


def _rest(line: str, found: re.Match[str]) -> str:
    """What stands behind a message's time, with its marks, though not those in and before the time."""
    if not MARKS.search(line):
        return line[found.end() :]
    plain = 0
    for place, character in enumerate(line):
        if plain == found.end():
            return line[place:]
        plain += not MARKS.match(character)
    return ""


def _numbers(found: re.Match[str]) -> tuple[int, int, int]:
    parts = _Groups(found)
    first, second, third = (int(parts[name] or 0) for name in "abc")
    return first, second, third


def _moment(found: re.Match[str], order: bool) -> float | None:
    parts = _Groups(found)
    day = day_of(_numbers(found), order)
    time = clock(parts["h"] or "0", parts["m"] or "0", parts["s"], parts["before"] or parts["after"])
    return seconds(day + time) if day and time is not None else None
