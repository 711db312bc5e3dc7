"""sioconv.data.sources.files: what is behind a path is read or named, never left out in silence."""

import gzip
import os
import socket
from pathlib import Path

import pytest

from sioconv.data.config import DataConfig, SourceConfig
from sioconv.data.report import REPORT
from sioconv.data.shards.pipeline import prepare_source
from sioconv.data.sources.files import find
from sioconv.errors import UserError


def write(path: Path, text: str = "川は海へ流れます。\n") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def names(path: Path | str, below: Path) -> list[str]:
    return [file.relative_to(below).as_posix() for file in find(str(path)).files]


def left_out(path: Path | str, below: Path) -> dict[str, str]:
    """What isn't read, and why."""
    tally = find(str(path)).left_out
    return {
        str(Path(where).relative_to(below)): reason
        for reason, counted in tally.left_out.items()
        for where, _ in counted.examples
    }


def test_capital_endings_and_compressed_json_are_read(tmp_path: Path) -> None:
    for name in ("1.TXT", "2.Jsonl", "3.txt", "deep/er/4.txt"):
        write(tmp_path / name)
    (tmp_path / "5.JSON.GZ").write_bytes(gzip.compress(b'[{"text": "x"}]'))
    assert names(tmp_path, tmp_path) == ["1.TXT", "2.Jsonl", "3.txt", "5.JSON.GZ", "deep/er/4.txt"]
    assert left_out(tmp_path, tmp_path) == {}


def test_what_a_folder_holds_besides_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "d"
    for name in ("a.txt", "b.md", "c", ".hidden.txt", ".git/config.txt", "page.html"):
        write(folder / name)
    os.mkfifo(folder / "pipe.txt")
    (folder / "lost.txt").symlink_to(tmp_path / "nowhere.txt")
    (folder / "round.txt").symlink_to("round.txt")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(folder / "s.txt"))
    assert names(folder, folder) == ["a.txt"]
    reasons = left_out(folder, folder)
    assert reasons.pop("round.txt").startswith("can't be read")
    assert reasons == {
        "b.md": "another kind of file (.md)",
        "c": "another kind of file (no ending)",
        ".hidden.txt": "hidden",
        ".git": "hidden",
        "page.html": "another kind of file (.html)",
        "pipe.txt": "a pipe, which can be read only once",
        "lost.txt": "a link that leads nowhere",
        "s.txt": "a socket",
    }


def test_links_are_followed_but_nothing_is_read_twice(tmp_path: Path) -> None:
    folder = tmp_path / "d"
    write(folder / "z" / "1.txt")
    write(tmp_path / "elsewhere" / "2.txt")
    (folder / "a").symlink_to(folder / "z")
    (folder / "b").symlink_to(tmp_path / "elsewhere")
    (folder / "up").symlink_to("..")
    (folder / "0.txt").symlink_to(folder / "z" / "1.txt")
    (folder / "3.txt").symlink_to(write(tmp_path / "more.txt"))
    assert names(folder, folder) == ["3.txt", "b/2.txt", "z/1.txt"]
    assert left_out(folder, folder) == {
        "a": "a link to a folder that is read already",
        "up": "a link to a folder around it",
        "0.txt": "a link to a file that is read already",
    }
    [file] = find(str(folder / "3.txt")).files
    assert file == folder / "3.txt"


@pytest.mark.parametrize("path", ["", "/**", "/**/*.txt", "/**/*.jsonl"])
def test_what_a_run_has_made_is_not_learned(tmp_path: Path, path: str) -> None:
    write(tmp_path / "mine.txt")
    write(tmp_path / "mine.jsonl")
    for name in ("recipe.yaml", "metrics.jsonl", "samples.jsonl", "tokenizer/tokenizer.json", "notes.txt"):
        write(tmp_path / "runs" / "mine" / name)
    for name in ("config.json", "model.safetensors", "vocab.txt", "more.jsonl"):
        write(tmp_path / "model" / name)
    for name in ("00000.ds", "00000.ds.index", "manifest.json", "x.txt", "x.jsonl"):
        write(tmp_path / "shards" / name)
    found = names(f"{tmp_path}{path}", tmp_path)
    assert found == [name for name in ("mine.jsonl", "mine.txt") if name.endswith(Path(path).suffix)]
    reasons = set(left_out(f"{tmp_path}{path}", tmp_path).values())
    assert reasons == {"a run's own folder", "a model folder", "a folder of token shards"}
    for name, kind in (("runs/mine", "a run's own folder"), ("model", "a model folder")):
        with pytest.raises(UserError, match=f"it is {kind}: name a folder of text"):
            find(str(tmp_path / name))


def test_folders_that_a_glob_matches_are_named(tmp_path: Path) -> None:
    write(tmp_path / "a.txt")
    write(tmp_path / "sub" / "b.txt")
    assert names(tmp_path / "*", tmp_path) == ["a.txt"]
    assert left_out(tmp_path / "*", tmp_path) == {"sub": "a folder: name it, or end the glob with **"}
    assert names(tmp_path / "**", tmp_path) == ["a.txt", "sub/b.txt"]


def test_a_path_that_is_not_there_says_where_it_was_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "letters" / "a.txt")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as caught:
        find("leters/a.txt")
    assert f"no leters in {tmp_path}, where relative paths begin; did you mean letters?" in str(caught.value)
    with pytest.raises(UserError, match=r"no b\.txt in .*letters; did you mean a\.txt\?"):
        find("letters/b.txt")
    with pytest.raises(UserError, match=r"no text found: letters/\*\.json: "):
        find("letters/*.json")


@pytest.mark.parametrize("path", ["", " ", "a\0b", "~nobody-here/a.txt", "x" * 5000])
def test_what_is_no_path_is_refused(path: str) -> None:
    with pytest.raises(UserError):
        find(path)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.txt")
    with pytest.raises(UserError, match=r"a pipe, which can be read only once: save its text in a file first"):
        find(str(tmp_path / "a.txt"))
    with pytest.raises(UserError, match="a device"):
        find("/dev/null")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="nothing is in it"):
        find(str(tmp_path / "empty"))


def test_names_that_are_not_unicode_are_read_and_shown_safely(tmp_path: Path, tokenizer_folder: Path) -> None:
    folder = tmp_path / "d"
    folder.mkdir()
    for name in (b"\xff\xfe.txt", b"two\nlines \x1b[31m.txt", b"\xff.md"):
        (folder / os.fsdecode(name)).write_text("川は海へ。")
    (folder / os.fsdecode(b"\x80\n.txt")).write_bytes(b"\xff")
    data = DataConfig(heldout=0, max_bad_rows=0.5)
    prepare_source("x", SourceConfig(str(folder)), data, tokenizer_folder, tmp_path / "out")
    report = (tmp_path / "out" / REPORT).read_text(encoding="utf-8")
    assert r"\udcff.md" in report and r"\udc80\n.txt:1" in report and "\x1b" not in report


def test_what_is_left_out_is_said_and_reported(
    tmp_path: Path, tokenizer_folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for number in range(5):
        write(tmp_path / "d" / f"{number}.txt")
    write(tmp_path / "d" / "settings.json", '{"name": "x"}')
    write(tmp_path / "d" / "notes.md")
    source = SourceConfig(str(tmp_path / "d"))
    prepare_source("x", source, DataConfig(heldout=0), tokenizer_folder, tmp_path / "out")
    said = capfd.readouterr().err
    assert "notes.md: another kind of file (.md)" in said
    report = (tmp_path / "out" / REPORT).read_text(encoding="utf-8")
    assert "notes.md" in report and "settings.json:1" in report and "one object that is no row" in report


def test_a_source_of_which_nothing_is_held_out_is_named(
    tmp_path: Path, tokenizer_folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    source = SourceConfig(str(write(tmp_path / "a.txt")))
    prepare_source("x", source, DataConfig(heldout=0.001), tokenizer_folder, tmp_path / "out")
    assert "none of its 1 documents is held out (data.heldout is 0.001)" in capfd.readouterr().err
