"""Checksums of what was written, compared when it is read."""

import json
import subprocess
from pathlib import Path
from shutil import which

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sioconv.checksums import (
    SUMS,
    check_sums,
    read_sealed,
    read_sums,
    sealed,
    set_sum,
    summed,
    write_sealed,
    write_sums,
)
from sioconv.errors import UserError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with checksums."""
    for name, text in (("a.txt", "river"), ("川.bin", "sea"), (".hidden", "x")):
        (tmp_path / name).write_text(text, encoding="utf-8")
    (tmp_path / "below").mkdir()
    write_sums(tmp_path)
    return tmp_path


def test_all_visible_files_of_a_folder_are_summed(folder: Path) -> None:
    assert set(read_sums(folder)) == {"a.txt", "川.bin"}
    check_sums(folder)
    (folder / "new").write_text("one more is no damage", encoding="utf-8")
    check_sums(folder)


@pytest.mark.skipif(which("sha256sum") is None, reason="needs sha256sum")
def test_the_command_of_that_name_reads_them(folder: Path) -> None:
    subprocess.run(["sha256sum", "--check", "--strict", SUMS], cwd=folder, check=True, capture_output=True)
    (folder / "a.txt").write_text("changed on purpose", encoding="utf-8")
    found = subprocess.run(["sha256sum", "a.txt"], cwd=folder, check=True, capture_output=True).stdout
    (folder / SUMS).write_bytes(found)
    check_sums(folder)


def test_a_folder_without_them_is_taken_as_it_is(folder: Path) -> None:
    (folder / SUMS).unlink()
    (folder / "a.txt").unlink()
    check_sums(folder)


def test_what_is_not_as_written_is_named_with_the_way_to_accept_it(folder: Path) -> None:
    (folder / "a.txt").write_text("River", encoding="utf-8")
    with pytest.raises(UserError, match=rf"a\.txt isn't what was written: restore .* on purpose, remove .*{SUMS}$"):
        check_sums(folder)
    check_sums(folder, "川.bin")
    (folder / "a.txt").unlink()
    with pytest.raises(UserError, match=r"a\.txt can't be read or is missing"):
        check_sums(folder)


@pytest.mark.parametrize("content", [b"", b"\n", b"x", b"0" * 64 + b"  a.txt", b"0" * 64 + b"  ../a.txt\n", b"\xff\n"])
def test_broken_sums_are_refused(folder: Path, content: bytes) -> None:
    (folder / SUMS).write_bytes(content)
    with pytest.raises(UserError, match=f"{SUMS} is damaged: restore it from a copy, or remove it"):
        check_sums(folder)


def test_a_file_that_is_being_written_has_none(folder: Path) -> None:
    """So that a crash never leaves the sum of something older."""
    with summed(folder / "a.txt"):
        assert "a.txt" not in read_sums(folder)
        (folder / "a.txt").write_text("new", encoding="utf-8")
    check_sums(folder)
    for name in ("a.txt", "川.bin"):
        set_sum(folder / name, None)
    assert not (folder / SUMS).exists()


values = st.dictionaries(
    st.text(max_size=5).filter(lambda key: key != "checksum"),
    st.recursive(st.integers() | st.floats(allow_nan=False) | st.text(max_size=5) | st.none(), st.lists, max_leaves=4),
    max_size=4,
)


@given(values, st.data())
def test_a_sealed_object_comes_back_or_is_refused(
    tmp_path_factory: pytest.TempPathFactory, written: dict[str, object], data: st.DataObject
) -> None:
    path = tmp_path_factory.getbasetemp() / "sealed.json"
    path.write_text(sealed(written), encoding="utf-8", errors="surrogatepass")
    if any("\ud800" <= letter <= "\udfff" for letter in path.read_text(encoding="utf-8", errors="surrogatepass")):
        return
    assert read_sealed(path) == json.loads(json.dumps(written))
    whole = bytearray(path.read_bytes())
    whole[data.draw(st.integers(0, len(whole) - 1))] ^= 1 << data.draw(st.integers(0, 6))
    path.write_bytes(whole)
    try:
        found = read_sealed(path)
    except ValueError:
        return
    # A flip in the name of the key leaves the values as they are, and a stranger beside them.
    assert {key: found.get(key) for key in written} == json.loads(json.dumps(written))


def test_an_object_without_a_checksum_is_read(tmp_path: Path) -> None:
    write_sealed(tmp_path / "a.json", {"b": 1, 2: [3.5]})
    assert read_sealed(tmp_path / "a.json") == {"b": 1, "2": [3.5]}
    (tmp_path / "a.json").write_text('{"b": 1}', encoding="utf-8")
    assert read_sealed(tmp_path / "a.json") == {"b": 1}
    (tmp_path / "a.json").write_text("[1]", encoding="utf-8")
    with pytest.raises(ValueError, match="isn't a JSON object"):
        read_sealed(tmp_path / "a.json")


def test_a_flipped_bit_anywhere_in_a_sealed_file_is_noticed(tmp_path: Path) -> None:
    """Also in the name of the checksum: without it the file would be taken for one of an older version."""
    file = tmp_path / "a.json"
    write_sealed(file, {"name": "川", "rows": [1, 2], "part": {"a": None}})
    data = file.read_bytes()
    for place in range(len(data) - 1):  # the last is the end of the line
        for bit in range(8):
            file.write_bytes(data[:place] + bytes([data[place] ^ 1 << bit]) + data[place + 1 :])
            try:
                found = read_sealed(file)
            except ValueError:
                continue
            assert found == {"name": "川", "rows": [1, 2], "part": {"a": None}}, (place, bit)  # a blank for a blank
