"""A page as a static Space: its card, and what is checked before it is pushed."""

import json
from pathlib import Path

import yaml

from sioconv.checksums import SUMS, check_sums, unlike
from sioconv.errors import UserError
from sioconv.files import sha256_file, shown
from sioconv.progress import say
from sioconv.publish.licences import HUB_LICENCES
from sioconv.publish.terms import Terms, front

MODEL, MANIFEST, CARD, WORKER = "model", "model.json", "README.md", "sw.js"
LIST = "const SIOCONV_FILES = "  # begins the worker of a page, which `export_page` has written
AGAIN = "make it again with sioconv export page"
ADDED = 3  # files in a message


def is_page(folder: Path) -> bool:
    """Whether `export_page` has written a folder, be it whole or not: by its worker, or the model's manifest."""
    return _listed(folder) is not None or (folder / MODEL / MANIFEST).is_file()


def check_page(folder: Path) -> None:
    """Checks a page before it is pushed: checksums, every file that its worker keeps, the model's parts, the card.

    Args:
        folder: of which `is_page` holds. Where it has no `SHA256SUMS`, the files are taken as they are.

    Raises:
        UserError: naming the file that is missing, isn't what was written, or is no card of a static Space.
    """
    listed = _listed(folder)
    if listed is None:
        raise UserError(f"{shown(folder)} is a page without its {WORKER}: {AGAIN}")
    needed = {name for name in listed if name != "./"} | {CARD, f"{MODEL}/{MANIFEST}"}
    if gone := sorted(name for name in needed if not (folder / name).is_file()):
        more = f" (and {len(gone) - 1} more)" if len(gone) > 1 else ""
        raise UserError(f"{shown(folder)} is a page without its {gone[0]}{more}: {AGAIN}")
    check_sums(folder)
    check_sums(folder / MODEL)
    for name, value in _parts(folder / MODEL / MANIFEST).items():
        if not (folder / MODEL / name).is_file() or sha256_file(folder / MODEL / name) != value:
            raise unlike(folder / MODEL / name)
    facts = front(folder / CARD)
    if facts.get("sdk") != "static" or not isinstance(facts.get("title"), str) or not facts["title"].strip():
        raise UserError(f"{shown(folder / CARD)} is no card of a static Space: it needs a title, and sdk: static")
    licence = facts.get("license")
    if licence is None:
        say("warning: the page's card names no licence of the weights: sioconv export page --license writes it")
    elif licence not in (*HUB_LICENCES, "other"):
        raise UserError(
            f"{licence} is no licence that the Hub knows: write its identifier (apache-2.0, cc-by-sa-4.0, …) "
            f"into {shown(folder / CARD)}"
        )
    known = needed | {WORKER, SUMS, f"{MODEL}/{SUMS}"}
    names = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    if added := sorted(name for name in names if name not in known):
        more = " …" if len(added) > ADDED else ""
        say(f"warning: sioconv export page didn't write {', '.join(map(shown, added[:ADDED]))}{more}: it goes along")


def space_card(name: str, terms: Terms) -> str:
    """The README.md of a static Space, with the licence of the weights."""
    facts = {"title": name, "emoji": "🌊", "colorFrom": "green", "colorTo": "blue", "sdk": "static", "pinned": False}
    facts |= {"app_file": "index.html"} | terms.metadata()
    return (
        f"---\n{yaml.safe_dump(facts, sort_keys=False, allow_unicode=True)}---\n\n# {name}\n\n"
        "A language model with a page to talk on. It runs in the browser: what is written stays there.\n\n"
        "ページで話せる言語モデルです。ブラウザの中で動き、書いたことはどこにも送られません。\n\n"
        f"{terms.confirmed()}"
        "Made by `sioconv export page`. To try it here: `python -m http.server` in this folder.\n"
    )


def _listed(folder: Path) -> list[str] | None:
    """The files that the page's worker keeps in the browser; None where there is no such worker."""
    try:
        line = (folder / WORKER).read_text(encoding="utf-8").split("\n", 1)[0]
        names = json.loads(line.removeprefix(LIST).removesuffix(";")) if line.startswith(LIST) else None
    except (OSError, ValueError):
        return None
    return names if isinstance(names, list) and all(isinstance(name, str) for name in names) else None


def _parts(manifest: Path) -> dict[str, str]:
    """File → SHA-256 of the graph's parts."""
    try:
        return {part["file"]: part["sha256"] for part in json.loads(manifest.read_text(encoding="utf-8"))["parts"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise unlike(manifest) from error
