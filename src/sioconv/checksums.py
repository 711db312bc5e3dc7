"""Checksums are written with each file and compared when it is read, so that a flipped byte is an error.

A folder has a file `SHA256SUMS` in the format of the command sha256sum: `sha256sum --check SHA256SUMS` compares it too.
A JSON file that stands for itself carries its own, under the key `checksum`. What has none, as it was made elsewhere
or by an older version, is taken as it is.
"""

import hashlib
import json
import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from sioconv.errors import UserError
from sioconv.files import atomic_write, sha256_file

SUMS = "SHA256SUMS"
LINE = re.compile(r"([0-9a-f]{64})  ([^/\\\r\n]+)")
KEY = "checksum"


def checksums(files: Iterable[Path]) -> list[str]:
    """The SHA-256 of each file, by as many threads as there are cores."""
    with ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="checksum") as pool:
        return list(pool.map(sha256_file, files))


def write_sums(folder: Path, without: Collection[str] = ()) -> None:
    """Writes `SHA256SUMS` for all files of a folder but hidden ones, and those `without`.

    Raises UserError when it can't be written.
    """
    names = {path.name for path in folder.iterdir() if path.is_file() and path.name[0] != "."} - {SUMS, *without}
    files = [folder / name for name in sorted(names)]
    _write(folder, dict(zip((file.name for file in files), checksums(files), strict=True)))


def renew_sums(folder: Path, without: Collection[str] = ()) -> None:
    """Gives a folder of a run whose `SHA256SUMS` is gone a new one, and says so: the files are taken as they are."""
    if not (folder / SUMS).exists():
        from sioconv.progress import say  # imports rich, which those who only read a model don't need

        say(f"warning: {folder} has no {SUMS}: it is taken as it is, and gets the checksums of what is there now")
        with suppress(UserError):  # where it can't be written there is none
            write_sums(folder, without)


def read_sums(folder: Path) -> dict[str, str]:
    """File name → SHA-256 of a folder's `SHA256SUMS`; empty where there is none. Raises UserError for a broken one."""
    path = folder / SUMS
    try:
        text = path.read_bytes().decode()
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise _broken(path) from error
    lines = [LINE.fullmatch(line) for line in text.split("\n")[:-1]]
    if not lines or not text.endswith("\n"):
        raise _broken(path)
    sums = {}
    for line in lines:
        if line is None:
            raise _broken(path)
        sums[line[2]] = line[1]
    return sums


def check_sums(folder: Path, only: str | None = None) -> None:
    """Compares the files of a folder with its `SHA256SUMS`, where it has one.

    Args:
        folder: of the files.
        only: the one file that matters; all by default.

    Raises:
        UserError: a file is missing or isn't what was written, or `SHA256SUMS` is broken.
    """
    sums = {name: value for name, value in read_sums(folder).items() if only in (None, name)}
    try:
        found = checksums(folder / name for name in sums)
    except OSError as error:
        raise unlike(Path(error.filename), "can't be read or is missing") from error
    for (name, expected), value in zip(sums.items(), found, strict=True):
        if value != expected:
            raise unlike(folder / name)


def unlike(file: Path, problem: str = "isn't what was written") -> UserError:
    """What is said of a file that its folder's `SHA256SUMS` doesn't fit."""
    return UserError(
        f"{file} {problem}: restore it from a copy; if you have changed it on purpose, remove {file.with_name(SUMS)}"
    )


@contextmanager
def summed(file: Path) -> Iterator[None]:
    """Around the writing of one file: its line in `SHA256SUMS` is taken out before and written anew after it.

    A crash leaves it without one, and not with that of its older content.
    """
    set_sum(file, None)
    yield
    set_sum(file, sha256_file(file))


def set_sum(file: Path, value: str | None) -> None:
    """Puts a file's checksum into its folder's `SHA256SUMS`; None takes it out."""
    sums = read_sums(file.parent)
    if sums.get(file.name) != value:
        kept = {name: each for name, each in sums.items() if name != file.name}
        _write(file.parent, kept if value is None else kept | {file.name: value})


def _write(folder: Path, sums: Mapping[str, str]) -> None:
    if not sums:
        (folder / SUMS).unlink(missing_ok=True)
        return
    with atomic_write(folder / SUMS) as temporary:
        text = "".join(f"{value}  {name}\n" for name, value in sorted(sums.items()))
        temporary.write_text(text, encoding="utf-8", newline="\n")


def _broken(path: Path) -> UserError:
    return UserError(f"{path} is damaged: restore it from a copy, or remove it to take the folder's files as they are")


def write_sealed(path: Path, values: Mapping[str, Any], indent: int | None = None) -> None:
    """Writes a JSON object with its own checksum, whole or not at all. Raises UserError when it can't be written."""
    with atomic_write(path) as temporary:
        temporary.write_text(sealed(values, indent), encoding="utf-8")


def sealed(values: Mapping[str, Any], indent: int | None = None) -> str:
    """A JSON object's text with its checksum under the key `checksum`."""
    plain = {key: value for key, value in json.loads(json.dumps(values)).items() if key != KEY}
    return json.dumps({**plain, KEY: _seal(plain)}, ensure_ascii=False, indent=indent) + "\n"


def read_sealed(path: Path) -> dict[str, Any]:
    """The values of a file that `write_sealed` has written, or of one without a checksum.

    Raises ValueError for what isn't a JSON object or isn't what was written, and OSError.
    """
    values = json.loads(path.read_bytes())
    if not isinstance(values, dict):
        raise ValueError("it isn't a JSON object")
    seal = values.pop(KEY, None)
    if seal != _seal(values) if seal is not None else any(map(_is_broken_key, values)):
        raise ValueError("it isn't what was written")
    return values


def _is_broken_key(key: str) -> bool:
    """Whether a key is that of the checksum with one character flipped: a file of older versions has none alike."""
    return len(key) == len(KEY) and sum(one != other for one, other in zip(key, KEY, strict=True)) == 1


def _seal(values: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
