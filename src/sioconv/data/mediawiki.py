"""The articles of a MediaWiki XML dump as plain text, page by page, in the memory that one page takes."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO
from xml.etree.ElementTree import Element, ParseError, iterparse

from sioconv.data.compressed import broken
from sioconv.data.rows import BadInput, LeftOut, bad_row
from sioconv.errors import UserError

FILE, CATEGORY = "6", "14"  # keys of namespaces, the same in every wiki
PREFIXES = {FILE: {"file", "image"}, CATEGORY: {"category"}}  # their English names are understood everywhere
UNREAD_TAGS = {"table", "ref", "references", "gallery", "math", "timeline", "score", "syntaxhighlight", "source", "pre"}
LANGUAGE = re.compile(r"[a-z]{2,3}(-[a-z]+)*:")
LEFTOVERS = re.compile(r"__[A-Z]+__|<!--.*?-->|</?[a-z]+[^<>]*>", re.DOTALL)

Page = dict[str, Any] | BadInput | LeftOut


def read_pages(stream: BinaryIO, file: Path, takes: Callable[[int], bool]) -> Iterator[tuple[int, Page]]:
    """Number and content of the pages that `takes` wants: id, title and text of articles.

    Redirects and pages that aren't articles (talk, templates, …) come as `LeftOut`.

    Raises:
        BadInput: the XML is damaged or breaks off.
        UserError: what reads wikitext isn't installed.
    """
    to_text = _converter()
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
                    yield number, _page(element, f"{file}:page {number}", set().union(*prefixes.values()), to_text)
                root.clear()
    except ParseError as error:
        raise broken(file, f"{error} (after page {number})") from error


def plain_text(wikitext: str, unread: set[str] | None = None) -> str:
    """What a reader of a page reads: no templates, tables, references, files, categories or markup.

    Args:
        wikitext: the page's source.
        unread: names, in lower case, of the namespaces whose links aren't read.
    """
    return _converter()(wikitext, set().union(*PREFIXES.values()) if unread is None else unread)


def _page(page: Element, where: str, unread: set[str], to_text: Callable[[str, set[str]], str]) -> Page:
    parts = {_name(element): element for element in page.iter()}
    if "redirect" in parts:
        return LeftOut(where, "redirect")
    if parts["ns"].text != "0" if "ns" in parts else False:
        return LeftOut(where, "not an article")
    if "text" not in parts or "title" not in parts:
        return bad_row(where, "a page without title or text", "text")
    first_id = next((element.text for element in page if _name(element) == "id"), None)
    text = to_text(parts["text"].text or "", unread)
    if not text:
        return LeftOut(where, "nothing but markup")
    return {"id": first_id, "title": parts["title"].text, "text": text}


def _name(element: Element) -> str:
    return element.tag.rpartition("}")[2]


def _converter() -> Callable[[str, set[str]], str]:
    try:
        import mwparserfromhell
        from mwparserfromhell.nodes import Tag, Template, Wikilink
    except ImportError as error:
        raise UserError("can't read wikitext: MediaWiki dumps: pip install mwparserfromhell first") from error

    def is_unread(node: Any, unread: set[str]) -> bool:
        if isinstance(node, Tag):
            return str(node.tag).strip().lower() in UNREAD_TAGS
        if isinstance(node, Wikilink):
            title = str(node.title).strip()
            return title.partition(":")[0].strip().casefold() in unread or bool(LANGUAGE.match(title))
        return isinstance(node, Template)

    def convert(wikitext: str, unread: set[str]) -> str:
        code = mwparserfromhell.parse(wikitext, skip_style_tags=False)
        for node in code.filter(recursive=True, matches=lambda node: is_unread(node, unread)):
            try:
                code.remove(node)
            except ValueError:  # it was inside one that has been removed
                continue
        text = LEFTOVERS.sub("", str(code.strip_code(normalize=True, collapse=False)))
        lines = [line.strip(" \t*#:;") for line in text.splitlines()]
        return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()

    return convert
