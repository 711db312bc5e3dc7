"""What stands in the place of text: pointers, links, encodings in seven bits, and what is behind a compressed file."""

import bz2
import lzma
from collections.abc import Callable
from pathlib import Path

import pytest

from sioconv.data.config import SourceConfig
from sioconv.data.documents import BadInput
from sioconv.data.encodings import not_utf8
from sioconv.data.sources.compressed import open_bytes
from sioconv.data.sources.readers import Share, read_json

ANNEX = "/annex/objects/SHA256E-s1048576--4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393.txt"
TEXT = "第1の川は、山から海へ流れる。\n" * 20
ROW = '{"text": "川は海へ流れる。"}\n'


def read(file: Path) -> bytes:
    with open_bytes(file) as stream:
        return stream.read()


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        ("version https://git-lfs.github.com/spec/v1\r\noid sha256:4d7a\r\nsize 9\r\n", "Git LFS pointer"),
        ("\ufeffversion https://git-lfs.github.com/spec/v1\noid sha256:4d7a\n", "Git LFS pointer"),
        ("version https://hawser.github.com/spec/v1\noid sha256:4d7a\nsize 9\n", "Git LFS pointer"),
        (ANNEX + "\n", "pointer of git-annex"),
        ("../.git" + ANNEX, "pointer of git-annex"),
        ("../data/川.txt", "symbolic link that git has written as text"),
        ("./a.jsonl", "symbolic link"),
    ],
)
def test_what_stands_in_the_place_of_a_file_is_named(tmp_path: Path, content: str, kind: str) -> None:
    (tmp_path / "a.txt").write_bytes(content.encode())
    with pytest.raises(BadInput, match=kind):
        read(tmp_path / "a.txt")


@pytest.mark.parametrize(
    "content",
    [
        "../data/a.txt and more\n",
        "../a\n../b\n",
        "./a\n",
        "/annex/objects/ is a folder of git-annex\n",
        "..",
        "../" + "a" * 600,
    ],
)
def test_text_that_is_like_a_pointer_is_text(tmp_path: Path, content: str) -> None:
    (tmp_path / "a.txt").write_text(content)
    assert read(tmp_path / "a.txt") == content.encode()


def test_encodings_in_seven_bits_are_no_text() -> None:
    assert not_utf8(TEXT.encode("utf-7")) == "it looks like UTF-7"
    assert not_utf8("河流从山上流向大海。\n".encode("hz") * 5) == "it looks like HZ"
    for text in ("a+b-c = d+efgh-i; base64+ABCDEF+GHIJ-\n" * 9, "~{ab~}", "if (~{abcd~}) x += yyyy;\n", TEXT, "+++---"):
        assert not_utf8(text.encode()) is None


@pytest.mark.parametrize(("ending", "compress"), [(".bz2", bz2.compress), (".xz", lzma.compress)])
def test_nothing_behind_a_compressed_frame_is_left_out_in_silence(
    tmp_path: Path, ending: str, compress: Callable[[bytes], bytes]
) -> None:
    file, frame = tmp_path / f"a.jsonl{ending}", compress(TEXT.encode())
    file.write_bytes(frame + frame)
    assert read(file) == 2 * TEXT.encode()
    file.write_bytes(frame + b"\0" * (1 << 19) + frame + b"\0" * 8)  # padding
    assert read(file) == 2 * TEXT.encode()
    for rest in (b"garbage", b"X" + frame[1:], frame[:-5], frame[:30]):
        file.write_bytes(frame + rest)
        with pytest.raises(BadInput, match="broken"):
            read(file)


def test_a_line_of_wide_blanks_is_a_blank_line(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text(f"{ROW}\u3000\n\u00a0\u3000\r\n{ROW}x\n", encoding="utf-8")
    found = [(number, type(record)) for number, record in read_json(file, SourceConfig(str(file)), Share())]
    assert found == [(1, dict), (4, dict), (5, BadInput)]
