"""A published folder as it goes into a repository: with its code, under the repository's name, and tried."""

import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sioconv.checksums import SUMS, check_sums, checksums, read_sums, write_sums
from sioconv.data.tokenizer.tokenizer import load_tokenizer
from sioconv.errors import UserError
from sioconv.files import atomic_folder, atomic_write, shown
from sioconv.model.folder_code import FILE, write_code
from sioconv.progress import say
from sioconv.publish.folder import CARD, CODE_LICENCE, PROVENANCE, RESULTS, package_text
from sioconv.publish.states import PERSONAS, STATES
from sioconv.publish.tokenizer import check_loaded, is_tokenizer
from sioconv.publish.verify import verify_folders

THIS_COPY = "\n## This copy\n"  # the last part of the card of the package's model
QUANTISED = """
Its matrices have 8 or 4 bits: what the recipe makes gets them by `sioconv quantize`. What is measured above was
measured before that, in fp32. Bits per byte before and after stand in `config.json` (`quantization_config`).

この写しの行列は 8 か 4 ビットです。レシピで作ったモデルを `sioconv quantize` でこの形にします。上の測定はその前の
fp32 のものです。前後の 1 バイトあたりのビット数は `config.json`(`quantization_config`)にあります。
"""
ADDED = 3  # files in a message
EXAMPLE = re.compile(r'^name = "[^"\n]*"$', re.MULTILINE)
PICTURE = re.compile(r"(?:Each dot is a head:[^\n]*\n\n)?!\[[^\]\n]*\]\((?P<file>[\w.-]+\.svg)\)\n\n?")


def copy_published(published: Path, out: Path, repo: str | None = None, links: bool = False) -> None:
    """Writes a copy of what `publish_folder` or `publish_tokenizer` has written, after loading it as a stranger does.

    The example in its card loads `repo`. Code and its licence are added where they are missing, as in the model of the
    package; what is hidden but `.eval_results` stays behind.

    Args:
        published: the folder.
        out: the copy; must not be there yet.
        repo: OWNER/NAME on the Hub; without it the example loads `out` from the folder it is in.
        links: make links to the files that stay as they are, where the system has them.

    Raises:
        UserError: a file isn't what was written, the weights aren't those that its provenance names, `out` is there
            already or inside of `published`, or it can't be loaded without the package.
    """
    if os.path.lexists(out):
        raise UserError(f"{out} is there already: choose another folder or remove it")
    if published.resolve() in out.resolve().parents:
        raise UserError(f"{out} is inside {shown(published)}, whose next copy would hold it: choose a folder outside")
    _check_files(published)
    with _in_place(out) if links else atomic_folder(out) as folder:
        copy = _link if links else shutil.copyfile
        shutil.copytree(published, folder, copy_function=copy, ignore=_left_out, dirs_exist_ok=True)
        alone = is_tokenizer(folder)
        models = [] if alone else [folder, *sorted(file.parent for file in folder.glob("*/config.json"))]
        _check_provenance(folder, published)
        for place in models:
            if not (place / FILE).exists():
                write_code(place)
        if not alone and not (folder / CODE_LICENCE).exists():
            _write(folder / CODE_LICENCE, package_text("LICENSE"))
        card = folder / CARD
        if not card.is_file():
            raise UserError(f"{shown(published)} has no {CARD}: publish the model again")
        _write(card, _card_of(card.read_text(encoding="utf-8"), repo or out.name, folder))
        for place in (*(models or [folder]), *folder.glob(RESULTS)):
            write_sums(place)
        if alone:
            check_loaded(folder, load_tokenizer(published))
        else:
            verify_folders(models)


def _check_files(published: Path) -> None:
    """Compares every file with the checksums of its folder, and says which ones no such checksums name."""
    added = []
    for place in _folders(published):
        check_sums(place)
        known = {SUMS, *read_sums(place)} if _is_part(place, published) else set()
        files = (file for file in place.iterdir() if file.is_file() and file.name[0] != ".")
        added += [file.relative_to(published).as_posix() for file in files if file.name not in known]
    if added:
        more = " …" if len(added) > ADDED else ""
        names = ", ".join(map(shown, sorted(added)[:ADDED]))
        say(f"warning: no {SUMS} that sioconv publish has written names {names}{more}: it goes along as it is")


def _is_part(place: Path, published: Path) -> bool:
    """Whether a folder is one that `publish_folder` makes: not a published one inside of another."""
    if place == published:
        return True
    alone = (place / "config.json").is_file() and not (place / PROVENANCE).exists()  # a quantised form
    return place.parent == published and (place.name in (PERSONAS, STATES, RESULTS) or alone)


def _folders(published: Path) -> Iterator[Path]:
    """A published folder and those in it that go along, each before what is in it."""
    for place, names, _ in os.walk(published, followlinks=True):
        names[:] = sorted(set(names) - _left_out(place, names))
        yield Path(place)


def _card_of(text: str, repo: str, folder: Path) -> str:
    """A card whose example loads `repo`, that shows no picture that isn't there, and says that code is."""
    text = EXAMPLE.sub(lambda _: f'name = "{repo}"', text, count=1)
    before, here, _ = text.partition(THIS_COPY)
    return without_missing_pictures(before, folder) + (here + QUANTISED if here else "")


def without_missing_pictures(card: str, folder: Path) -> str:
    """A card without the pictures, and what is said of them, that `folder` doesn't have."""
    return PICTURE.sub(lambda found: found[0] if (folder / found["file"]).is_file() else "", card)


def _check_provenance(folder: Path, published: Path) -> None:
    """Refuses other weights than the provenance's; of a quantised form it is said what it was made from."""
    values = json.loads((folder / PROVENANCE).read_text(encoding="utf-8"))
    weights = sorted(folder.glob("*.safetensors"))
    found = dict(zip((file.name for file in weights), checksums(weights), strict=True))
    said = values.get("weights_sha256")
    if said in (None, found):
        return
    if "quantization_config" not in json.loads((folder / "config.json").read_text(encoding="utf-8")):
        raise UserError(
            f"{shown(published)} holds other weights than its {PROVENANCE} names: publish the model that they are from"
        )
    values |= {"weights_sha256": found, "quantised_from_sha256": said}
    _write(folder / PROVENANCE, json.dumps(values, ensure_ascii=False, indent=1) + "\n")


def _left_out(_: str, names: list[str]) -> set[str]:
    return {name for name in names if name.startswith(".") and name != RESULTS}


def _link(source: str, target: str) -> None:
    try:
        Path(target).symlink_to(Path(source).absolute())
    except OSError:  # a system or a disk without links
        shutil.copyfile(source, target)


@contextmanager
def _in_place(out: Path) -> Iterator[Path]:
    out.mkdir()
    yield out


def _write(file: Path, text: str) -> None:
    """In the place of a link, too: what it leads to stays."""
    with atomic_write(file) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")
