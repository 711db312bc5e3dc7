"""The files behind a source's path. Files beside them that aren't read are listed, never left out silently."""

import glob
import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from sioconv.checksums import SUMS
from sioconv.data.sources.compressed import unreadable
from sioconv.data.sources.readers import SUFFIXES, is_known
from sioconv.data.tally import Tally, examples_of
from sioconv.errors import UserError
from sioconv.files import missing, shown

WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".onnx")
NO_FILES = {
    stat.S_IFIFO: "a pipe, which can be read only once",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


@dataclass
class Found:
    """What is behind a path.

    Args:
        files: the files that are read, sorted.
        left_out: files and folders that aren't, by reason.
    """

    files: list[Path] = field(default_factory=list)
    left_out: Tally = field(default_factory=lambda: Tally("files"))

    def leave_out(self, reason: str, path: Path) -> None:
        """Notes a file or folder that isn't read."""
        self.left_out.seen += 1
        self.left_out.drop(reason, shown(path), "")

    def said(self) -> str:
        """How many are left out, and which are the first; an empty string where there are none."""
        if not self.left_out.seen:
            return ""
        return f"left out: {examples_of(self.left_out.left_out)}"


def find(path: str) -> Found:
    """The files behind a path, a folder or a glob.

    A folder stands for all files of a known kind in it and below, hidden ones left out. Links are followed where that
    reads nothing twice and nothing around the folder.

    Raises UserError when nothing can be read, or when a file that is named isn't of a known kind.
    """
    if not path.strip() or "\0" in path:
        raise UserError(f"no text found: {path.strip()!r} is no path: name a file, a folder or a glob")
    try:
        place = Path(path).expanduser()
        kind = stat.S_IFMT(place.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return _glob(path, Path(path).expanduser())
    except RuntimeError as error:  # of expanduser
        raise UserError(f"no text found: {path}: {error}: write the folder out") from error
    except OSError as error:
        raise unreadable(Path(path), error) from error
    if kind == stat.S_IFDIR:
        return _checked(_folder(place), path)
    if kind != stat.S_IFREG:
        raise UserError(
            f"can't read: {shown(place)}: it is {NO_FILES.get(kind, 'no file')}: save its text in a file first"
        )
    _check_kinds([place])
    return Found([place])


def _checked(found: Found, path: str) -> Found:
    """Raises UserError where there are no files."""
    if not found.files:
        kinds = ", ".join(SUFFIXES)
        place = Path(path).expanduser()
        what = found.said() or ("nothing is in it" if os.path.lexists(place) else missing(place))
        raise UserError(f"no text found: {shown(path)}: {what}: name a file, a folder or a glob of {kinds} files")
    return found


def _check_kinds(files: Iterable[Path]) -> None:
    for file in files:
        if not is_known(file):
            raise UserError(f"unknown kind of file: {shown(file)}: expected one of {', '.join(SUFFIXES)}")


# ------------------------------------------------------------------------------------------------------------ folders


def _folder(top: Path) -> Found:
    found = Found()
    files: list[Path] = []
    seen = {_identity(top)}
    around = {_identity(folder) for folder in top.resolve().parents}
    folders, links = [top], list[Path]()
    if reason := _made_here(top):
        raise UserError(f"no text found: {shown(top)}: it is {reason}: name a folder of text")
    while folders or links:
        # Links come last: what they lead to may lie in the folder itself, and is then read by its own name.
        folder = folders.pop() if folders else links.pop(0)
        identity = _identity(folder)
        if folder != top and identity in seen:
            found.leave_out("a link to a folder that is read already", folder)
        elif identity in around:
            found.leave_out("a link to a folder around it", folder)
        elif reason := _made_here(folder):
            found.leave_out(reason, folder)
        else:
            seen.add(identity)
            inside = _sort_out(folder, found, folder == top)
            files += inside.files
            folders += inside.folders
            links += inside.links
    return _without_repeats(files, found)


@dataclass
class _Inside:
    """What is in a folder: files that can be read, folders, and links to folders."""

    files: list[Path] = field(default_factory=list)
    folders: list[Path] = field(default_factory=list)
    links: list[Path] = field(default_factory=list)


def _sort_out(folder: Path, found: Found, is_top: bool) -> _Inside:
    inside = _Inside()
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        if is_top:
            raise unreadable(folder, error) from error
        found.leave_out(f"can't be read ({error.strerror})", folder)
        return inside
    for entry in entries:
        reason = "hidden" if entry.name.startswith(".") else _no_target(entry)
        if reason:
            found.leave_out(reason, entry)
        elif entry.is_dir():
            (inside.links if entry.is_symlink() else inside.folders).append(entry)
        elif is_known(entry):
            inside.files.append(entry)
        else:
            found.leave_out(f"another kind of file ({entry.suffix.lower() or 'no ending'})", entry)
    return inside


def _no_target(path: Path) -> str | None:
    """Why a name leads to no file or folder; None where it does."""
    try:
        kind = stat.S_IFMT(path.stat().st_mode)
    except FileNotFoundError:
        return "a link that leads nowhere"
    except OSError as error:
        return f"can't be read ({error.strerror})"
    return None if kind in (stat.S_IFREG, stat.S_IFDIR) else NO_FILES.get(kind, "no file")


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino


def _made_here(folder: Path) -> str | None:
    """What this project, or another that trains models, keeps in a folder that isn't text to learn from; else None."""
    try:
        names = {entry.name for entry in folder.iterdir()}
    except OSError:
        return None  # whoever lists it says so
    if "recipe.yaml" in names and names & {"metrics.jsonl", SUMS}:
        return "a run's own folder"
    if "config.json" in names and any(name.endswith(WEIGHTS) for name in names):
        return "a model folder"
    if {"tokenizer.json", "tokenizer_config.json"} <= names:
        return "a tokenizer's folder"
    return "a folder of token shards" if any(name.endswith(".ds.index") for name in names) else None


def _without_repeats(files: list[Path], found: Found) -> Found:
    """`found` with the files, sorted; of those that are the same only one, by its own name where it isn't a link."""
    seen: set[tuple[int, int]] = set()
    for file in sorted(files, key=lambda file: (file.is_symlink(), file.as_posix())):
        if file.is_symlink() and _identity(file) in seen:
            found.leave_out("a link to a file that is read already", file)
        else:
            seen.add(_identity(file))
            found.files.append(file)
    found.files.sort(key=lambda file: file.as_posix())
    return found


# -------------------------------------------------------------------------------------------------------------- globs


def _glob(path: str, place: Path) -> Found:
    found = Found()
    files: list[Path] = []
    named = _named_part(place)
    own: dict[Path, str | None] = {}
    for match in map(Path, sorted(glob.glob(str(place), recursive=True))):  # noqa: PTH207 (Path.glob: no absolute ones)
        between = [folder for folder in match.parents if folder not in (named, *named.parents)]
        for folder in between:
            if folder not in own:
                own[folder] = _made_here(folder)
        reason = next((own[folder] for folder in between if own[folder]), None) or _no_target(match)
        if reason:
            found.leave_out(reason, match)
        elif match.is_file():
            files.append(match)
        elif "**" not in place.parts:  # which gives what is in the folder as well
            found.leave_out("a folder: name it, or end the glob with **", match)
    _check_kinds(files)
    return _checked(_without_repeats(files, found), path)


def _named_part(place: Path) -> Path:
    """The folder that a glob names before its first pattern."""
    return next(folder for folder in (place, *place.parents) if not glob.has_magic(str(folder)))
