"""Telling text in UTF-8 from other encodings and from what is no text, so that none of it is learned as text.

Japanese is what matters here. Libraries that tell encodings name short pieces in EUC-JP wrongly (docs/decisions.md), so
what a file is likely to be comes from the few lines below. They word a message; they change what is read only where
a source says `encoding: auto`, or a file is imported, and the guess is then shown.
"""

import codecs
import re
from collections.abc import Iterable

from sioconv.files import pointer_of

UTF8_MARK = b"\xef\xbb\xbf"
UTF8, AUTO = "utf-8", "auto"  # what a source says of its encoding, beside names of codecs
# The longer marks come first: that of UTF-32 begins with that of UTF-16.
MARKS = {
    b"\xff\xfe\x00\x00": "utf-32",
    b"\x00\x00\xfe\xff": "utf-32",
    b"\xff\xfe": "utf-16",
    b"\xfe\xff": "utf-16",
    UTF8_MARK: "utf-8-sig",
}
# How files of other kinds begin: what they are, and the ending that their name should have to be read.
MAGIC = (
    (re.compile(rb"\x1f\x8b"), "gzip data", ".gz"),
    (re.compile(rb"BZh[1-9]1AY&SY"), "bzip2 data", ".bz2"),
    (re.compile(rb"\x28\xb5\x2f\xfd"), "zstd data", ".zst"),
    (re.compile(rb"\xfd7zXZ\x00"), "xz data", ".xz"),
    (re.compile(rb"PAR1\x15"), "a Parquet table", ".parquet"),
    (re.compile(rb"PK\x03\x04"), "a ZIP archive or an office document", ""),
    (re.compile(rb"%PDF-"), "a PDF document", ""),
    (re.compile(rb"\{\\rtf"), "an RTF document", ""),
    (re.compile(rb"\x89PNG|\xff\xd8\xff|GIF8[79]a"), "a picture", ""),
    (re.compile(rb"SQLite format 3\x00"), "a database", ""),
)
NAMES = {
    "utf_32_le": "UTF-32LE",
    "utf_32_be": "UTF-32BE",
    "utf_16_le": "UTF-16LE",
    "utf_16_be": "UTF-16BE",
    "cp932": "CP932 (Shift_JIS)",
    "euc_jp": "EUC-JP",
}
CODECS = {name: codec for codec, name in NAMES.items()} | {
    "ISO-2022-JP": "iso2022_jp_ext",
    "Latin-1 or Windows-1252": "cp1252",
}
# Encodings that write other characters in ASCII, between marks.
SEVEN_BITS = (
    ("HZ", "hz", re.compile(rb"~\{(?:[!-w][!-~])+~\}")),
    ("UTF-7", "utf-7", re.compile(rb"\+[A-Za-z0-9+/]{3,}-?")),
)
NOT_ASCII = re.compile(r"[^\x00-\x7f]")
LOOKED_AT = 1 << 16  # bytes that are enough to tell an encoding
JIS = re.compile(r"\x1b\$(?:[@AB]|\([CDOPQ])")  # where ISO-2022-JP and its siblings leave ASCII
# Without the escapes of terminals, and without what parts lines, pages and records: U+000A to U+000D, U+001C to U+001F.
CONTROLS = re.compile("[\x00-\x08\x0e-\x1a\x7f-\x84\x86-\x9f\ufffd-\uffff]")
MOST_CONTROLS = 0.02  # of a text's characters; one is no sign of anything, however short the text
# What text looks like that was read in another encoding and written again: characters that stand for its bytes, which
# together are more than a share of all that isn't ASCII. Kana, which no Japanese text lacks, begin with the same bytes.
_BEHIND = "\x80-\xbf€‚ƒ„…†‡ˆ‰Š‹ŒŽ‘’“”•–—˜™š›œžŸ"  # what Windows-1252 and Latin-1 make of the later bytes of UTF-8
MISREAD = (
    (f"[Â-ß][{_BEHIND}]|[à-ï][{_BEHIND}]{{2}}|[ð-ô][{_BEHIND}]{{3}}", 0.7, "UTF-8 that was taken for Latin-1"),
    ("[縺繧繝].", 0.3, "UTF-8 that was taken for CP932 (Shift_JIS)"),
    ("‚[Ÿ\xa0-ñ]", 0.3, "CP932 (Shift_JIS) that was taken for Latin-1"),
    ("[¤¥][¡-þ]", 0.4, "EUC-JP that was taken for Latin-1"),
)
MISREAD_PATTERNS = tuple((re.compile(pattern), share, what) for pattern, share, what in MISREAD)
MISREAD_BEGINS = re.compile("[Â-ô‚¤¥縺繧繝]")
# Characters that are written by their numbers, in e-mails, addresses, pages and programs.
ESCAPES = re.compile(r"(?:[=%][0-9A-Fa-f]{2})+|(?:\\u[0-9A-Fa-f]{4})+|(?:&#[xX]?[0-9A-Fa-f]{1,6};)+")
MOST_ESCAPES = 0.5  # of a text's characters
FEWEST_ESCAPES, FEWEST_MISREAD = 60, 8  # characters that are a sign: an answer may well be one word in escapes
JAPANESE = re.compile(r"[ぁ-ゖァ-ヺー、。「」一-鿿\n\r\t -~　-〿！-～]")
KANA = re.compile(r"[ぁ-ゖァ-ヺー、。]")
HALF_KANA = re.compile(r"[｡-ﾟ]")  # what EUC-JP looks like when it is read as CP932


def mark_of(head: bytes) -> str | None:
    """The encoding that a byte-order mark at the beginning of a file names; None where there is no mark."""
    return next((encoding for mark, encoding in MARKS.items() if head.startswith(mark)), None)


def other_kind(head: bytes, ending: str) -> tuple[str, str] | None:
    """What a file of another kind is and what to do, by how it begins; None for what may be text.

    Args:
        head: its first `POINTER_BYTES` bytes, as they are on the disk.
        ending: the last ending of its name.
    """
    if pointer := pointer_of(head):
        return pointer
    for magic, kind, proper in MAGIC:
        if magic.match(head) and not (proper and proper == ending):
            return kind, f"give its name the ending {proper}" if proper else "take the text out of it"
    return None


def not_utf8(data: bytes) -> str | None:
    """Why bytes without a mark can't be text in UTF-8 although they may be valid as such; None where nothing is wrong.

    Args:
        data: the beginning of a file, or all of it.
    """
    if b"\x00" in data:
        likely = likely_encoding(data)
        return f"it looks like {likely}" if likely else "it holds NUL bytes, which text doesn't"
    if JIS.search(data[:LOOKED_AT].decode("latin-1")):
        return "it looks like ISO-2022-JP"
    if name := _seven_bits(data[:LOOKED_AT]):
        return f"it looks like {name}"
    return None


def _seven_bits(data: bytes) -> str | None:
    """The encoding that writes other characters in ASCII, where most of the bytes are written so; None for ASCII."""
    for name, codec, pattern in SEVEN_BITS:
        runs = pattern.findall(data)
        if data.isascii() and sum(map(len, runs)) > max(16, len(data) / 3):
            try:
                text = b"\n".join(runs).decode(codec).replace("\n", "")
            except UnicodeDecodeError:
                continue
            if len(NOT_ASCII.findall(text)) > 0.9 * len(text):
                return name
    return None


def likely_encoding(data: bytes) -> str | None:
    """The name of the encoding that bytes which aren't UTF-8 are most likely in; None where none fits well."""
    data = data[:LOOKED_AT]
    if JIS.search(data.decode("latin-1")):
        return "ISO-2022-JP"
    foreign = sum(byte >= 0x80 for byte in data)
    scores = {codec: _japanese_score(data, codec, foreign) for codec in NAMES}
    best = max(scores, key=lambda codec: scores[codec])
    if scores[best] > 0.8:
        return NAMES[best]
    if b"\x00" not in data and re.search(rb"[A-Za-z][\xc0-\xff]|[\xc0-\xff][a-z]", data):
        return "Latin-1 or Windows-1252"
    return None


def guess_codec(chunks: Iterable[bytes]) -> str | None:
    """The codec that a file's bytes are to be decoded with: its mark's, UTF-8, or the likely one; None for none.

    Args:
        chunks: the file's bytes, taken until enough of them say something: a long beginning in ASCII doesn't.
    """
    decoder, is_utf8, seen, telling = codecs.getincrementaldecoder("utf-8")(), True, b"", b""
    for chunk in chunks:
        if not seen and (codec := mark_of(chunk)):
            return codec
        seen = seen or chunk
        if b"\x00" in chunk:
            is_utf8 = False
        try:
            decoder.decode(chunk)
        except UnicodeDecodeError:
            is_utf8 = False
        if not is_utf8 or b"\x1b" in chunk or not chunk.isascii():
            telling += chunk
        if len(telling) >= LOOKED_AT:
            break
    else:
        is_utf8 = is_utf8 and not decoder.getstate()[0]  # no character is cut off by the end
    if is_utf8 and not JIS.search(telling.decode("latin-1")):
        return "utf-8-sig"
    if b"\x00" not in telling:  # where encodings are mixed, that of most lines; the others are then named
        foreign = [line for line in telling.split(b"\n") if not line.isascii()]
        others = [line for line in foreign if not _is_utf8(line)]
        if len(others) < len(foreign) - len(others):
            return "utf-8-sig"
        if len(others) < len(foreign):
            telling = b"\n".join(others)
    return CODECS.get(likely_encoding(telling or seen) or "")


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def is_codec(name: str) -> bool:
    """Whether Python has a codec of that name that makes text of bytes."""
    try:
        return bool(codecs.lookup(name)._is_text_encoding) and name.isascii()
    except (LookupError, ValueError, UnicodeError):
        return False


def name_of(codec: str) -> str:
    """What people call a codec."""
    return NAMES.get(codec.replace("-", "_"), codec.removesuffix("-sig").upper())


def _japanese_score(data: bytes, codec: str, foreign: int) -> float:
    """How much of what `codec` makes of the bytes is Japanese or ASCII, in [0, 1.5]; kana count more."""
    width = {"utf_32": 4, "utf_16": 2}.get(codec[:6], 1)
    try:
        text = data[: len(data) - len(data) % width].decode(codec)
    except UnicodeDecodeError as error:
        if len(data) < LOOKED_AT or len(data) - error.start > 4:
            return 0.0
        text = data[: error.start].decode(codec)  # the last character was cut
    kana = len(KANA.findall(text))
    if width > 1 and data.count(0) < 0.2 * len(data) and kana < 0.1 * len(text):
        return 0.0  # Latin letters in pairs would do for kanji
    if not text or (width == 1 and not kana and foreign < 0.3 * len(data)):
        return 0.0
    return (len(JAPANESE.findall(text)) + 0.5 * kana - len(HALF_KANA.findall(text))) / len(text)


def why_no_text(text: str) -> str | None:
    """Why a string says nothing that a reader could read; None for text.

    Such are other encodings that were taken for UTF-8 or the other way, characters that are written by their numbers,
    and data with many control or replacement characters.
    """
    if "\x1b$" in text and JIS.search(text):
        return "it looks like ISO-2022-JP that was taken for UTF-8"
    beginning = text[:LOOKED_AT]
    marks = sum(map(beginning.count, "%=\\&"))  # far faster than the pattern, and few where there are no escapes
    if marks > FEWEST_ESCAPES / 8 and _share(ESCAPES, beginning, len(beginning), FEWEST_ESCAPES) > MOST_ESCAPES:
        return (
            "more than a half of it is characters that are written by their numbers, such as =E3, %E3, \\u3042, &#227;"
        )
    if MISREAD_BEGINS.search(beginning):
        foreign = len(NOT_ASCII.findall(beginning))
        for pattern, share, what in MISREAD_PATTERNS:
            if _share(pattern, beginning, foreign, FEWEST_MISREAD) > share:
                return f"it looks like {what}"
    count = len(CONTROLS.findall(text)) if CONTROLS.search(text) else 0
    if count == len(text) > 0 or count > max(1, MOST_CONTROLS * len(text)):
        return "more than a fiftieth of it is control or replacement characters: binary data, or a wrong encoding"
    return None


def _share(pattern: re.Pattern[str], text: str, count: int, fewest: int) -> float:
    """Which share of `count` characters the pattern's finds in a text are; 0 where they are fewer than `fewest`."""
    found = sum(map(len, pattern.findall(text))) if pattern.search(text) else 0
    return found / count if found >= fewest else 0.0
