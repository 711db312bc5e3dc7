"""Text of HTML pages, of EPUB books and of Markdown: what a reader reads, no scripts, styles, ruby or pictures."""

import posixpath
import re
from collections.abc import Iterator
from html import unescape
from html.parser import HTMLParser
from typing import Literal
from urllib.parse import unquote
from xml.etree import ElementTree

from markdown_it import MarkdownIt
from markdown_it.token import Token

from sioconv.errors import UserError
from sioconv.importing.inputs import Archive, Input
from sioconv.importing.items import Document, Items, Left

PICTURES, SCRIPTS = "pictures", "scripts"
UNREAD = {"script", "style", "head", "template", "noscript", "svg", "math", "iframe", "object", "audio", "video"}
BLOCKS = {
    "p", "div", "br", "li", "tr", "h1", "h2", "h3", "h4", "h5", "h6", "section", "article", "blockquote", "pre", "ul",
    "ol", "dl", "dt", "dd", "table", "hr", "figure", "figcaption", "header", "footer", "body",
}  # fmt: skip
PAGES = ("application/xhtml+xml", "text/html")
MOST_DEPTH = 1000
FRONT_MATTER = re.compile(r"\A---\n.*?\n(---|\.\.\.)\n", re.DOTALL)


class _Text(HTMLParser):
    """Collects a page's text; what is left out is counted."""

    def __init__(self, ruby: Literal["drop", "keep"]) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self.left: dict[str, int] = {}
        self._ruby, self._unread, self._in_ruby = ruby, list[str](), 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:  # noqa: ARG002
        """A tag begins."""
        if tag in ("script", "img", "image"):
            reason = SCRIPTS if tag == "script" else PICTURES
            self.left[reason] = self.left.get(reason, 0) + 1
        if tag in UNREAD or (tag in ("rt", "rp") and self._ruby == "drop"):
            if len(self._unread) < MOST_DEPTH:
                self._unread.append(tag)
        elif tag == "rt":
            self.parts.append("(")
        elif tag in BLOCKS:
            self.parts.append("\n")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """A tag that holds nothing, as XHTML has it."""
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        """A tag ends; those that were left open in it end as well."""
        if tag in self._unread:
            while self._unread.pop() != tag:
                pass
        elif tag == "rt" and self._ruby == "keep":
            self.parts.append(")")
        elif tag in BLOCKS and tag != "br":
            self.parts.append("\n")

    def handle_data(self, data: str) -> None:
        """Text between tags."""
        if not self._unread and not (self._in_ruby and data in "()（）"):
            self.parts.append(re.sub(r"\s+", " ", data))


def page_text(page: str, ruby: Literal["drop", "keep"] = "drop") -> tuple[str, dict[str, int]]:
    """The text of an HTML page, and what of it is left out, by kind."""
    reader = _Text(ruby)
    # A head that XHTML closes in itself would hide the whole page.
    reader.feed(re.sub(r"<(rp)\b[^>]*>.*?</\1>", "", page, flags=re.DOTALL | re.IGNORECASE))
    reader.close()
    lines = [line.strip() for line in "".join(reader.parts).split("\n")]
    return re.sub(r"\n{2,}", "\n", "\n".join(lines)).strip(), reader.left


def read_html(input: Input, ruby: Literal["drop", "keep"] = "drop") -> Items:
    """The text of a page. Raises UserError where it has none."""
    page = input.text()
    text, left = page_text(page, ruby)
    if not text:
        raise UserError(f"empty: {input.name}: the page has no text: save it from the browser")
    yield from (Left(reason, count=count) for reason, count in left.items())
    title = re.search(r"<title[^>]*>(.*?)</title>", page, re.DOTALL | re.IGNORECASE)
    yield Document(text, " ".join(unescape(title[1]).split()) if title else "")


def read_epub(input: Input, ruby: Literal["drop", "keep"] = "drop") -> Items:
    """A book as one document, its pages in the order in which they are read.

    Raises UserError for what is no book, is encrypted, or has no text.
    """
    archive = Archive(input)
    yield from archive.left
    root = _xml(archive, "META-INF/container.xml", input.name)
    package = next((each.get("full-path", "") for each in root.iter() if each.tag.endswith("}rootfile")), "")
    book = _xml(archive, package, input.name)
    items = {each.get("id"): each for each in book.iter() if each.tag.endswith("}item")}
    order = [items.get(each.get("idref")) for each in book.iter() if each.tag.endswith("}itemref")]
    pages = [
        posixpath.normpath(posixpath.join(posixpath.dirname(package), unquote(item.get("href", ""))))
        for item in order
        if item is not None and item.get("media-type") in PAGES
    ]
    _refuse_encrypted(archive, pages, input.name)
    texts, left = list[str](), dict[str, int]()
    for page in pages:
        if page not in archive.names:
            left["pages that the book lacks"] = left.get("pages that the book lacks", 0) + 1
            continue
        text, of_page = page_text(archive.member(page).text(), ruby)
        for reason, count in of_page.items():
            left[reason] = left.get(reason, 0) + count
        texts.append(text)
    whole = "\n\n".join(text for text in texts if text)
    if not whole:
        raise UserError(f"no text: {input.name}: the book's {len(pages)} pages hold none: pictures can't be learned")
    yield from (Left(reason, count=count) for reason, count in left.items())
    named = {
        tag: next((each.text or "" for each in book.iter() if each.tag.endswith("}" + tag)), "")
        for tag in ("title", "creator")
    }
    yield Document(whole, named["title"].strip(), named["creator"].strip())


def _xml(archive: Archive, name: str, book: str) -> ElementTree.Element:
    """The root of an XML member; entities, which could grow without end, are refused."""
    try:
        data = archive.member(name).whole()
        if b"<!ENTITY" in data:
            raise ValueError("it declares entities")
        return ElementTree.fromstring(data)
    except (KeyError, ValueError, ElementTree.ParseError) as error:
        why = f"it lacks {name or 'a package file'}" if isinstance(error, KeyError) else f"{name}: {error}"
        raise UserError(f"no EPUB: {book}: {why}: download it again") from error


def _refuse_encrypted(archive: Archive, pages: list[str], book: str) -> None:
    """Refuses a book whose pages are encrypted; fonts may be."""
    if "META-INF/encryption.xml" in archive.names:
        root = _xml(archive, "META-INF/encryption.xml", book)
        encrypted = {unquote(each.get("URI", "")) for each in root.iter() if each.tag.endswith("}CipherReference")}
        if encrypted & set(pages):
            raise UserError(f"encrypted: {book}: its pages are locked (DRM): take a book that isn't")


def read_markdown(input: Input) -> Items:
    """Markdown as the text that its reader sees; code stays as it is.

    Raises UserError where nothing is left.
    """
    source = FRONT_MATTER.sub("", input.text().lstrip("\ufeff"), count=1)
    tokens = MarkdownIt("commonmark", {"html": True, "maxNesting": 100}).enable("table").parse(source)
    parts, pictures = list[str](), 0
    for token in tokens:
        if token.type == "inline":
            pictures += sum(child.type == "image" for child in token.children or [])
            parts.append("".join(_inline(token.children or [])))
            parts.append("\n" if token.level > 1 else "\n\n")
        elif token.type in ("fence", "code_block"):
            parts.append(token.content + "\n")
        elif token.type == "html_block":
            text, left = page_text(token.content)
            pictures += left.get(PICTURES, 0)
            parts.append(text + "\n\n" * bool(text))
    text = re.sub(r"\n{3,}", "\n\n", "".join(parts)).strip()
    if not text:
        raise UserError(f"empty: {input.name}: nothing stands in it: put text in it")
    if pictures:
        yield Left(PICTURES, count=pictures)
    title = next((tokens[n + 1].content for n, token in enumerate(tokens) if token.type == "heading_open"), "")
    yield Document(text, title)


def _inline(tokens: list[Token]) -> Iterator[str]:
    for token in tokens:
        if token.type in ("text", "code_inline"):
            yield token.content
        elif token.type in ("softbreak", "hardbreak"):
            yield "\n"
