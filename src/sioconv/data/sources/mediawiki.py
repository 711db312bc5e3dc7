"""The articles of a MediaWiki XML dump as plain text, page by page, in the memory that one page takes."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO
from xml.etree.ElementTree import Element, ParseError, iterparse

from sioconv.data.documents import PARTS_LEFT_OUT, BadInput, LeftOut, bad_row
from sioconv.data.sources.compressed import broken
from sioconv.data.sources.wikitext import plain_text

FILE, CATEGORY = "6", "14"  # keys of namespaces, the same in every wiki
# Names that are understood everywhere, and Japanese ones that a dump doesn't list.
PREFIXES = {FILE: {"file", "image", "画像"}, CATEGORY: {"category"}}

Page = dict[str, Any] | BadInput | LeftOut


def read_pages(stream: BinaryIO, file: Path, takes: Callable[[int], bool]) -> Iterator[tuple[int, Page]]:
    """Number and content of the pages that `takes` wants: id, title and text of articles.

    Redirects and pages that aren't articles (talk, templates, …) come as `LeftOut`.

    What of an article isn't read (tables, references, …) is counted by name under `PARTS_LEFT_OUT`.

    Raises BadInput when the XML is damaged or breaks off.
    """
    prefixes = {key: set(names) for key, names in PREFIXES.items()}
    number = 0
    try:
        events = iterparse(stream, ("start", "end"))
        _, root = next(events)
        for event, element in events:
            if event == "start":
                continue
            if _name(element) == "namespace" and element.get("key") in prefixes:
                prefixes[element.get("key", "")].add((element.text or "").casefold())
            if _name(element) == "page":
                number += 1
                if takes(number):
                    yield number, _page(element, f"{file}:page {number}", prefixes)
                root.clear()
    except ParseError as error:
        raise broken(file, f"{error} (after page {number})") from error


def _page(page: Element, where: str, prefixes: dict[str, set[str]]) -> Page:
    parts = {_name(element): element for element in page.iter()}
    if "redirect" in parts:
        return LeftOut(where, "redirect")
    if parts["ns"].text != "0" if "ns" in parts else False:
        return LeftOut(where, "not an article")
    if "text" not in parts or "title" not in parts:
        return bad_row(where, "a page without title or text", "text")
    first_id = next((element.text for element in page if _name(element) == "id"), None)
    text, left_out = plain_text(parts["text"].text or "", prefixes[FILE], prefixes[CATEGORY])
    if not text:
        return LeftOut(where, "nothing but markup")
    return {"id": first_id, "title": parts["title"].text, "text": text, PARTS_LEFT_OUT: left_out}


def _name(element: Element) -> str:
    return element.tag.rpartition("}")[2]
