"""Text that ships with the package: JSON lines in bzip2, their licences in NOTICE; and a made-up chat to import."""

from importlib.resources import files
from pathlib import Path

from sioconv.errors import UserError

SUFFIX = ".jsonl.bz2"
OLDER = ".jsonl.gz"  # what recipes of before call the same text


def bundled_names() -> list[str]:
    """The names of the bundled files without their suffix, sorted."""
    entries = (entry.name for entry in files(__name__).iterdir())
    return sorted(name.removesuffix(SUFFIX) for name in entries if name.endswith(SUFFIX))


def bundled_sample(name: str) -> Path:
    """A made-up file of a user's own, such as an exported chat, to try `sioconv import` with.

    Raises `UserError` for a name that isn't one.
    """
    samples = sorted(entry.name for entry in files(__name__).iterdir() if entry.name.endswith(".txt"))
    if name not in samples:
        raise UserError(f"no bundled file to import: {name}: choose one of {', '.join(samples)}")
    return Path(str(files(__name__) / name))


def stem_of(name: str) -> str:
    """The name of a bundled file without a suffix."""
    return name.removesuffix(SUFFIX).removesuffix(OLDER)


def bundled_path(name: str) -> Path:
    """The bundled file of that name, with or without a suffix.

    Raises `UserError` for a name that isn't bundled.
    """
    stem = stem_of(name)
    if stem not in bundled_names():
        raise UserError(f"no bundled text: {name}: choose one of {', '.join(bundled_names())}")
    return Path(str(files(__name__) / (stem + SUFFIX)))
