"""sioconv.data.encodings: text in other encodings and what is no text is refused by name, never learned."""

import json
import quopri
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sioconv.data.config import SourceConfig
from sioconv.data.encodings import guess_codec, likely_encoding, why_no_text
from sioconv.data.sources.source import guessed_encodings, read_rows
from sioconv.errors import UserError

JAPANESE = "川は海へ流れます。\nカタカナも、漢字もあります。\n"
NAMED = {
    "cp932": "CP932",
    "euc_jp": "EUC-JP",
    "iso2022_jp": "ISO-2022-JP",
    "utf_16_le": "UTF-16LE",
    "utf_16_be": "UTF-16BE",
    "utf_32_le": "UTF-32LE",
    "utf_32_be": "UTF-32BE",
}


def read(path: Path) -> list[str]:
    return [row.text or "" for row in read_rows(SourceConfig(str(path)))]


@pytest.mark.parametrize("codec", NAMED)
@pytest.mark.parametrize("text", [JAPANESE, "River 1 runs to the sea.\n川へ\n", "海へ\n"])
def test_text_in_another_encoding_is_refused_by_name(tmp_path: Path, codec: str, text: str) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(text.encode(codec))
    with pytest.raises(UserError, match=rf"a\.txt.*{NAMED[codec]}"):
        read(path)


@pytest.mark.parametrize("codec", NAMED)
def test_json_lines_in_another_encoding_are_refused_by_name(tmp_path: Path, codec: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes('{"text": "川は海へ流れます。"}\n{"text": "山"}\n'.encode(codec))
    with pytest.raises(UserError, match=rf"a\.jsonl.*{NAMED[codec]}"):
        read(path)


def test_ascii_in_wide_characters_without_a_mark_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    for codec in ("utf_16_le", "utf_16_be", "utf_32_le"):
        path.write_bytes("The river runs to the sea.\n".encode(codec))
        with pytest.raises(UserError, match=NAMED[codec]):
            read(path)


def test_latin_text_is_named() -> None:
    assert likely_encoding("Les rivières coulent, là où l'été".encode("latin-1")) == "Latin-1 or Windows-1252"
    assert likely_encoding(b"\xff\xfe\xfd\x80") is None


@pytest.mark.parametrize("codec", ["utf-8-sig", "utf-16", "utf-32"])
def test_a_byte_order_mark_tells_the_encoding(tmp_path: Path, codec: str) -> None:
    (tmp_path / "a.txt").write_bytes(JAPANESE.encode(codec))
    (tmp_path / "b.jsonl").write_bytes('{"text": "一\u2028"}\r\n\r\n{"text": "二"}'.encode(codec))
    (tmp_path / "c.json").write_bytes('[{"text": "三"},\r\n {"text": "四"}]'.encode(codec))
    assert read(tmp_path) == [JAPANESE, "一\u2028", "二", "三", "四"]


def test_text_behind_a_mark_that_is_damaged_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("川".encode("utf-16") + b"\x00\xd8")
    with pytest.raises(UserError, match=r"a\.txt:1: invalid UTF-16"):
        read(tmp_path)
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfabc\xff")
    with pytest.raises(UserError, match=r"a\.txt:1: invalid UTF-8 at byte 6 of the file"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 9\n", "Git LFS pointer.*git lfs pull"),
        (b"\x1f\x8b\x08rest", r"gzip data.*\.gz"),
        (b"PK\x03\x04rest", "ZIP archive"),
        (b"%PDF-1.7\nrest", "PDF document"),
        (b"PAR1\x15rest", r"Parquet table.*\.parquet"),
        (b"text and \x00 more", "NUL bytes"),
    ],
)
@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.json"])
def test_files_of_other_kinds_are_no_text(tmp_path: Path, content: bytes, problem: str, name: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=problem) as caught:
        read(tmp_path / name)
    assert name in str(caught.value)


@pytest.mark.parametrize("name", ["a.parquet", "a.jsonl.gz", "a.txt.zst", "a.xml"])
def test_pointers_are_named_whatever_they_stand_for(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 9\n")
    with pytest.raises(UserError, match=r"git lfs pull"):
        read(tmp_path / name)


def test_text_full_of_control_characters_is_refused_and_a_stray_one_is_not() -> None:
    assert why_no_text("line\n" * 100 + "\x00") is None
    assert why_no_text("\x1b[31mred\x1b[0m") is None
    assert why_no_text("はい\ufffd") is None
    assert why_no_text("one\x1ctwo\x1dthree\x1efour\x1ffive\x0bsix\x0cseven") is None
    assert why_no_text("") is None
    assert "control" in (why_no_text("\x00") or "")
    assert "control" in (why_no_text("a\x01b\x02c") or "")
    assert "control" in (why_no_text("\ufffd\ufffd文字\ufffd") or "")
    assert "ISO-2022-JP" in (why_no_text("\x1b$B@n\x1b(B") or "")


def test_a_sources_encoding_is_guessed_or_given(tmp_path: Path) -> None:
    for number, codec in enumerate(["cp932", "euc_jp", "iso2022_jp", "utf_16_le", "utf-8", "utf-8-sig", "utf-16"]):
        (tmp_path / f"{number}.txt").write_bytes(JAPANESE.replace("\n", "\r\n").encode(codec))
        (tmp_path / f"{number}.jsonl").write_bytes(f'{{"text": "第{number}の川は海へ。"}}\n'.encode(codec))
    rows = [row.text for row in read_rows(SourceConfig(str(tmp_path), encoding="auto"))]
    assert rows == [text for n in range(7) for text in (f"第{n}の川は海へ。", JAPANESE)]
    said = guessed_encodings(SourceConfig(str(tmp_path), encoding="auto"))
    assert "2 files as CP932 (Shift_JIS) (" in said and "2 files as EUC-JP (" in said
    [row] = read_rows(SourceConfig(str(tmp_path / "1.txt"), encoding="euc_jp"))
    assert row.text == JAPANESE


def test_a_guess_comes_from_behind_a_long_beginning_in_ascii(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"a line of ASCII\n" * 20_000 + JAPANESE.encode("euc_jp"))
    [row] = read_rows(SourceConfig(str(tmp_path / "a.txt"), encoding="auto"))
    assert row.text is not None and row.text.endswith(JAPANESE)


def test_where_encodings_are_mixed_most_lines_decide() -> None:
    lines = [f"第{number}の川は海へ流れます。\n" for number in range(20)]
    mixed = "".join(lines).encode("cp932") + "".join(lines[:3]).encode()
    assert guess_codec([mixed]) == "cp932"
    assert guess_codec(["".join(lines).encode() + lines[0].encode("cp932")]) == "utf-8-sig"


def test_an_encoding_that_isnt_one_is_refused(tmp_path: Path) -> None:
    for encoding in ("klingon", "zip", "rot13", ""):
        with pytest.raises(ValueError, match="encoding"):
            SourceConfig("a.txt", encoding=encoding).check()
    with pytest.raises(ValueError, match="only for files"):
        SourceConfig("bundled:prose_en", encoding="auto").check()
    (tmp_path / "a.txt").write_bytes(b"\xff\xfd\x81\x00\x03" * 9)
    with pytest.raises(UserError, match="encoding can't be told"):
        list(read_rows(SourceConfig(str(tmp_path / "a.txt"), encoding="auto")))


TOLD = "海の水は空へ昇り、雨になって山へ帰る。カタカナもある。" * 3
MISREAD = {
    "UTF-8 that was taken for Latin-1": [
        TOLD.encode().decode("latin-1"),
        "".join(bytes([byte]).decode("cp1252", "ignore") or chr(byte) for byte in TOLD.encode()),
        "Der Fluß fließt über die schöne Brücke.".encode().decode("cp1252"),
    ],
    "UTF-8 that was taken for CP932 (Shift_JIS)": [TOLD.encode().decode("cp932", "ignore")],
    "CP932 (Shift_JIS) that was taken for Latin-1": [TOLD.encode("cp932").decode("cp1252", "ignore")],
    "EUC-JP that was taken for Latin-1": [TOLD.encode("euc-jp").decode("latin-1")],
}
ESCAPED = {
    "quoted-printable": quopri.encodestring(TOLD.encode()).decode(),
    "an address": quote(TOLD),
    "JSON": json.dumps(TOLD),
    "HTML": "".join(f"&#{ord(letter)};" for letter in TOLD),
}
FINE = [
    TOLD, "Der Fluß fließt über die Brücke. ‚Meer‘", "L’été à la forêt, « Â » É… où ça, CAFÉ»", "AÇÃO É NÃO",
    "¥100¥200¥300¥400",
    "ƒ(x)=ƒ(y)+ƒ(z)·ƒ(w)", "縺れた糸を繕う。繧繝錦と書いて、うんげんにしき。", "Việt Nam đất nước mến yêu",
    "Река течёт к морю.",
    "%E5%B7%9D", "川は https://example.org/?q=%E5%B7%9D%E3%81%AF で、海は「\\u6d77」と書く。", "a==b && c%d", "",
]  # fmt: skip


def test_text_that_was_read_in_another_encoding_is_told() -> None:
    for what, texts in MISREAD.items():
        assert {why_no_text(text) for text in texts} == {f"it looks like {what}"}


@pytest.mark.parametrize("name", ESCAPED)
def test_text_that_is_written_by_numbers_is_told(name: str) -> None:
    assert "written by their numbers" in str(why_no_text(ESCAPED[name]))


@pytest.mark.parametrize("text", FINE)
def test_what_only_looks_like_it_is_text(text: str) -> None:
    assert why_no_text(text) is None


@given(st.text(st.sampled_from(TOLD + "abc ÀÉñüß"), max_size=50))
def test_no_text_of_these_letters_is_taken_for_misread(text: str) -> None:
    assert why_no_text(text) is None
