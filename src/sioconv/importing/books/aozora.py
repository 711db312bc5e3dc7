"""Texts of Aozora Bunko: without the head's legend and the foot, with ruby and notes read.

Their rules (https://www.aozora.gr.jp/annotation/): ruby in 《》 behind the kanji that it reads, or behind ｜ and any
text; notes in ［＃…］; letters with accents as 〔Cafe'〕; characters that Shift_JIS lacks as ※［＃…］ with their place
in JIS X 0213 or their Unicode number.
"""

import re
import unicodedata
from typing import Literal

from sioconv.errors import UserError
from sioconv.importing.inputs import Input
from sioconv.importing.items import Document, Items, Left

RULE = re.compile(r"^-{20,}$", re.MULTILINE)
LEGEND = "【テキスト中に現れる記号について】"
FOOT = re.compile(r"^(底本|親本|初出)[：:]", re.MULTILINE)
BASE = r"[々〆〇ヶ㐀-鿿豈-﫿\U00020000-\U0003ffff]+"  # what ruby without ｜ reads
RUBY = re.compile(
    rf"(?:｜(?P<marked>[^｜《》\n]+)|(?P<base>{BASE}|[Ａ-Ｚａ-ｚA-Za-z]+|[ァ-ヺー]+|[ぁ-ゖ]+)?)《(?P<ruby>[^《》\n]*)》"
)
MISSING = re.compile(r"※［＃(?P<note>[^］]*)］")
UNICODE = re.compile(r"U\+([0-9A-Fa-f]{4,6})")
PLACE = re.compile(r"(?:^|[、水準])\s?([12])-(\d{1,2})-(\d{1,2})")
NOTE = re.compile(r"［＃[^］]*］")
PICTURE = re.compile(r"［＃[^］]*(挿絵|の図|写真|図)[^］]*入る］")
# Letters with accents stand in 〔〕, each sign behind its letter; those that end words elsewhere need a letter behind.
ACCENTED = re.compile(r"〔([ -~]*)〕")
ACCENT = re.compile(r"([A-Za-z])([`'^~&]|[:,_](?=[A-Za-z]))")
ACCENTS = dict(zip("`'^~&:,_", "\u0300\u0301\u0302\u0303\u030a\u0308\u0327\u0304", strict=True))
LIGATURES = {"ae&": "æ", "AE&": "Æ", "oe&": "œ", "OE&": "Œ", "s&": "ß", "o/": "ø", "O/": "Ø", "!@": "¡", "?@": "¿"}
REPEATED = {"／″＼": "〲", "／＼": "〱"}
UNKNOWN = "〓"


def looks_like_aozora(head: str) -> bool:
    """Whether a text is Aozora Bunko's."""
    return (
        LEGEND in head
        or ("［＃" in head and "《" in head)
        or bool(re.search(r"^青空文庫作成ファイル", head, re.MULTILINE))
    )


def read_aozora(input: Input, ruby: Literal["drop", "keep"] = "drop") -> Items:
    """The text. `ruby` keeps readings behind what they read, 漢字(かんじ), or drops them.

    Raises UserError where nothing is left.
    """
    text = input.text().lstrip("\ufeff")
    head, body = _parted(text)
    foot = FOOT.search(body)
    if foot:
        body = body[: foot.start()]
    lines = [NOTE.sub("", _with_characters(line)[0]).strip() for line in head.strip().splitlines() if line.strip()]
    pictures = len(PICTURE.findall(body))
    plain, unknown = plain_text(body, ruby)
    if not plain:
        raise UserError(f"empty: {input.name}: nothing stands between head and foot: download it again")
    if pictures:
        yield Left("pictures", count=pictures)
    if unknown:
        yield Left(f"characters that no code names, now {UNKNOWN}", count=unknown)
    title, author = (lines[0] if lines else ""), (lines[-1] if len(lines) > 1 else "")
    yield Document(plain, RUBY.sub(_without_ruby, title), RUBY.sub(_without_ruby, author))


def plain_text(text: str, ruby: Literal["drop", "keep"] = "drop") -> tuple[str, int]:
    """Text without Aozora's signs, and how many characters in it no code names."""
    text, unknown = _with_characters(text)
    text = NOTE.sub("", text)
    for sign, character in REPEATED.items():
        text = text.replace(sign, character)
    text = ACCENTED.sub(_with_accents, text)
    text = RUBY.sub(_with_ruby if ruby == "keep" else _without_ruby, text).replace("｜", "")
    return re.sub(r"\n{3,}", "\n\n", text).strip("\n \u3000"), unknown


def _parted(text: str) -> tuple[str, str]:
    """Head (title and author) and body; the legend between two rules is neither."""
    rules = list(RULE.finditer(text))
    if len(rules) >= 2 and LEGEND in text[rules[0].end() : rules[1].start()]:
        return text[: rules[0].start()], text[rules[1].end() :]
    head, blank, body = text.partition("\n\n")
    return (head, body) if blank and len(head) < 200 and body.strip() else ("", text)


def _with_characters(text: str) -> tuple[str, int]:
    """Text with the characters that Shift_JIS lacks, and the number of those that nothing names."""
    unknown = 0

    def character(found: re.Match[str]) -> str:
        nonlocal unknown
        note = found["note"]
        if (number := UNICODE.search(note)) and 0x20 <= (code := int(number[1], 16)) <= 0x10FFFF:
            if not 0xD800 <= code <= 0xDFFF:
                return chr(code)
        elif place := PLACE.search(note):
            plane, row, cell = (int(part) for part in place.groups())
            if 1 <= row <= 94 and 1 <= cell <= 94:
                code_bytes = bytes([0x8F] * (plane == 2) + [0xA0 + row, 0xA0 + cell])
                decoded = code_bytes.decode("euc_jis_2004", "ignore")
                if decoded:
                    return decoded
        unknown += 1
        return UNKNOWN

    return MISSING.sub(character, text), unknown


def _with_accents(found: re.Match[str]) -> str:
    """The letters of a bracket with their accents and without the bracket; the same where there are none."""
    text = found[1]
    for letters, one in LIGATURES.items():
        text = text.replace(letters, one)

    def letter(each: re.Match[str]) -> str:
        whole = unicodedata.normalize("NFC", each[1] + ACCENTS[each[2]])
        return whole if len(whole) == 1 else each[0]

    text = ACCENT.sub(letter, text)
    return found[0] if text == found[1] else text


def _without_ruby(found: re.Match[str]) -> str:
    return found["marked"] or found["base"] or ""


def _with_ruby(found: re.Match[str]) -> str:
    read = _without_ruby(found)
    return f"{read}({found['ruby']})" if read else ""
