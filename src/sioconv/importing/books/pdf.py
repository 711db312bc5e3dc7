"""Text of PDF documents, by pypdf, with its lines joined to paragraphs."""

import io
import logging
import re
from collections.abc import Iterator
from itertools import zip_longest

from sioconv.errors import UserError
from sioconv.importing.inputs import Input
from sioconv.importing.items import Document, Items, Left
from sioconv.progress import track

ENDS = "。．.！？!?」』）)：:"
FULL = 0.8  # share of a page's longest line from which on a line that doesn't end a sentence goes on
EMPTY_PAGES = "pages without text (pictures)"


def read_pdf(input: Input) -> Items:
    """A document's text.

    Raises UserError where pypdf isn't installed, the file is damaged or locked, or has pictures only.
    """
    try:
        import pypdf
    except ImportError as error:
        raise UserError(f"can't read: {input.name}: pip install 'sioconv[import]' first") from error
    logging.getLogger("pypdf").setLevel(logging.ERROR)
    try:
        reader = pypdf.PdfReader(io.BytesIO(input.whole()))
        if reader.is_encrypted and not reader.decrypt(""):
            raise UserError(f"encrypted: {input.name}: it needs a password: save it without one")
        count = len(reader.pages)
        pages = [page.extract_text() or "" for page in track(reader.pages, f"pages of {input.name}", count)]
        title = str((reader.metadata.title if reader.metadata else "") or "")
    except UserError:
        raise
    except Exception as error:  # pypdf raises many kinds for damaged files
        problem = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise UserError(f"can't read: {input.name}: {problem}: save it as a new PDF") from error
    texts = [text for page in pages if (text := joined(page))]
    if not texts:
        raise UserError(
            f"no text: {input.name}: its {count:,} pages are pictures: run a text recognition (OCR) over it first"
        )
    if len(texts) < count:
        yield Left(EMPTY_PAGES, count=count - len(texts))
    yield Document("\n".join(texts).encode("utf-8", "replace").decode(), title)


def joined(page: str) -> str:
    """A page's lines as paragraphs: one that is about full and ends no sentence goes on in the next."""
    lines = [line.strip() for line in page.splitlines() if line.strip()]
    return "".join(_parts(lines)).strip()


def _parts(lines: list[str]) -> Iterator[str]:
    longest = max(map(len, lines), default=0)
    for line, following in zip_longest(lines, lines[1:], fillvalue=""):
        if not following or line[-1] in ENDS or len(line) < FULL * longest:
            yield line + "\n"
        elif re.search(r"[a-z]-$", line) and following[0].islower():
            yield line[:-1]
        else:
            yield line + " " * (line[-1].isascii() and following[0].isascii())
