"""Wikitext as the text that a reader of the page reads, in time that grows with its length alone.

One pass over the marks with a stack of what is open, as MediaWiki's own preprocessor works: what is closed becomes text
there and then, and a mark that is never closed stays the characters that it is. What isn't read as text is counted by
its name: tables, references, templates whose text the page doesn't hold, pictures drawn by a program.
"""

import html
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from sioconv.data.sources.wikitext_templates import template_text

FILE_OPTION = re.compile(
    r"(?:thumb|thumbnail|frame|framed|frameless|border|left|right|center|centre|none|upright|baseline|middle|sub|super"
    r"|top|bottom|text-top|text-bottom|サムネイル|フレーム|なし|左|右|中央|無し|境界|上端|下端|[\d\sx.]+(?:px|ピクセル)"
    r"|(?:alt|link|lang|page|class|upright|thumb|thumbnail|代替文|リンク|start|end|thumbtime)\s*=.*)\s*",
    re.IGNORECASE | re.DOTALL,
)
LANGUAGE = re.compile(r"(?!(?:doi|mw|hdl)\b)[a-z]{2,3}(-[a-z]+)*:")
DEPTH = 100  # marks open at once; MediaWiki itself takes 40 templates

OPENERS = {"{{": "template", "{{{": "parameter", "[[": "link", "-{": "variant"}
CLOSERS = {"}}": "template", "]]": "link", "}-": "variant"}
# Tags whose content MediaWiki doesn't read as wikitext: kept as it stands, on lines of its own or within them.
VERBATIM = {"nowiki", "math", "chem", "ce", "pre", "syntaxhighlight", "source"}
LISTINGS = {"pre", "syntaxhighlight", "source"}
UNREAD = {"ref", "references", "timeline", "score", "graph", "mapframe", "maplink", "imagemap", "hiero", "inputbox"}
UNREAD |= {"templatestyles", "indicator", "categorytree", "includeonly", "templatedata"}
BLOCKS = {
    "br", "p", "div", "li", "ul", "ol", "dl", "dt", "dd", "tr", "td", "th", "caption", "h1", "h2", "h3", "h4", "h5",
    "h6", "hr", "center", "blockquote", "poem", "section", "article",
}  # fmt: skip
HELD = {"sup", "sub", "rt", "rp", "table"}  # their content becomes text when they are closed
INLINE = {
    "b", "i", "u", "s", "em", "strong", "span", "small", "big", "font", "code", "tt", "var", "kbd", "samp", "cite",
    "q", "abbr", "bdi", "bdo", "del", "ins", "strike", "dfn", "mark", "time", "data", "ruby", "rb", "rtc", "wbr",
    "tbody", "thead", "tfoot", "col", "colgroup", "noinclude", "onlyinclude", "a", "img",
}  # fmt: skip
RAISED = dict(zip("0123456789+-−=()", "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁻⁼⁽⁾", strict=True))
LOWERED = dict(zip("0123456789+-−=()", "₀₁₂₃₄₅₆₇₈₉₊₋₋₌₍₎", strict=True))

TOKEN = re.compile(
    r"\n|<!--|</?[A-Za-z][A-Za-z0-9]*(?:[\s/][^<>]*)?>|'{2,}"
    r"|^[ \t:*#]*\{\||^[ \t]*\|\}(?!\})|^-{4,}|^[*#:;]+[ \t]*|^=+|=+[ \t]*(?=$|<!--)"
    r"|\{\{\{(?!\{)|\{\{|\}\}|\[\[|\]\]|\[(?=(?:https?:|ftp:)?//)|\]|-\{|\}-|\|"
    r"|__(?:(?:NO|FORCE)?TOC|(?:NO|NONEW|NEW)?(?:EDITSECTION|SECTIONLINK)|NOGALLERY|HIDDENCAT|(?:NO)?INDEX|DISAMBIG"
    r"|NO(?:TITLE|CONTENT)CONVERT|STATICREDIRECT|目次(?:非表示|強制)?|節編集非表示|新しい節リンク|インデックス)__",
    re.MULTILINE,
)
ENTITY = re.compile(r"&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")
KEPT = re.compile("\0(\\d+)\0")


@dataclass
class _Open:
    """A mark that is open.

    Args:
        kind: which.
        mark: its characters.
        parts: text pieces of each of its parts, which `|` separates.
    """

    kind: str
    mark: str
    parts: list[list[str]] = field(default_factory=lambda: [[]])

    def texts(self) -> list[str]:
        """The text of each part."""
        return ["".join(part) for part in self.parts]


def plain_text(wikitext: str, files: set[str], categories: set[str]) -> tuple[str, Counter[str]]:
    """What a reader of a page reads, and how often what was left out.

    Args:
        wikitext: the page's source.
        files: names, in lower case, of the namespace of files: their links show a caption.
        categories: of the namespace of categories, whose links show nothing.

    Returns:
        The text, and counts by name: table, reference, template, and the names of tags.
    """
    page = _Page(wikitext.replace("\0", ""), files, categories)
    lines = [line.strip(" \t") for line in page.text().split("\n")]
    text = re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()
    return KEPT.sub(lambda match: page.kept[int(match[1])], text), page.left_out


class _Page:
    """One pass over a page."""

    def __init__(self, source: str, files: set[str], categories: set[str]) -> None:
        self._source, self._files, self._categories = source, files, categories
        self._stack = [_Open("page", "")]
        self._never_closed: set[str] = set()
        self._heading = False
        self._shown: dict[str, Callable[[Sequence[str]], str | None]] = {
            "template": self._template,
            "parameter": self._parameter,
            "variant": self._variant,
            "link": self._link,
            "external": self._external,
            "grid": self._grid,
        }
        self.kept: list[str] = []
        self.left_out: Counter[str] = Counter()

    def text(self) -> str:
        """The text, with numbers between NULs where `kept` goes in."""
        place = 0
        while match := TOKEN.search(self._source, place):
            if match.start() > place:
                self._add(_unescaped(self._source[place : match.start()]))
            place = self._take(match[0], match.start(), match.end())
        self._add(_unescaped(self._source[place:]))
        while len(self._stack) > 1:
            self._give_up()
        return "".join(self._stack[0].parts[0])

    def _add(self, text: str) -> None:
        self._stack[-1].parts[-1].append(text)

    def _take(self, mark: str, start: int, end: int) -> int:
        """Takes one mark; returns the place behind what it took."""
        if mark == "\n":
            self._end_line()
        elif mark == "<!--" or (mark[0] == "<" and mark[-1] == ">"):
            return self._tag(mark, end)
        elif mark == "|":
            self._bar()
        elif mark in OPENERS:
            self._open(OPENERS[mark], mark)
        elif mark == "}}" and self._inner() == "parameter" and self._source.startswith("}", end):
            self._close("parameter", "}}}")
            return end + 1
        elif mark in CLOSERS:
            self._close(CLOSERS[mark], mark)
        elif mark == "[":
            self._open("external", mark)
        elif mark == "]":
            self._close("external", mark)
        elif mark[0] == "'":
            self._add("'" * max(len(mark) - 5, int(len(mark) == 4), 0))
        elif mark.endswith("{|"):
            self._open("grid", mark)
        elif mark.endswith("|}"):
            self._close("grid", mark)
        elif "=" in mark:
            return self._equals(mark, start, end)
        # What is left are marks of lists, lines across the page and words such as __TOC__: they show nothing.
        return end

    def _end_line(self) -> None:
        self._heading = False
        while self._stack[-1].kind == "external":
            self._give_up()
        self._add("\n")

    def _bar(self) -> None:
        self._loosen()
        top = self._stack[-1]
        if top.kind in ("template", "link", "parameter"):
            top.parts.append([])
        else:
            self._add("|")

    def _equals(self, mark: str, start: int, end: int) -> int:
        """A heading's marks show nothing; other signs of equality are text."""
        if start == 0 or self._source[start - 1] == "\n":
            stop = self._source.find("\n", end)
            line = self._source[end : len(self._source) if stop < 0 else stop].partition("<!--")[0].rstrip()
            self._heading = line.endswith("=")
            level = min(len(mark), 6, len(line) - len(line.rstrip("=")))
            self._add(mark.strip()[level:] if self._heading else mark)
        elif not self._heading:
            self._add(mark)
        return end

    # ------------------------------------------------------------------------------------------ open and closed

    def _open(self, kind: str, mark: str) -> None:
        if len(self._stack) > DEPTH:
            self._add(mark)
        else:
            self._stack.append(_Open(kind, mark))

    def _inner(self) -> str:
        """The innermost thing open that wikitext itself must close: neither a tag nor a link to another site."""
        return next(one.kind for one in reversed(self._stack) if one.kind not in (*HELD, "external"))

    def _loosen(self) -> None:
        """Gives up tags and links to other sites that are open within something else."""
        while self._stack[-1].kind in (*HELD, "external"):
            self._give_up()

    def _give_up(self) -> None:
        """The innermost mark isn't closed: it is text (a tag's shows nothing), and so is what followed it."""
        top = self._stack.pop()
        self._add("" if top.kind in HELD else top.mark.strip())
        for number, part in enumerate(top.parts):
            self._stack[-1].parts[-1] += ["|"] * (number > 0) + part

    def _close(self, kind: str, mark: str) -> None:
        if kind == "external":
            open_ = self._stack[-1].kind == kind
        else:
            open_ = self._inner() == kind
            if open_:
                self._loosen()
        if not open_:
            self._add(mark)
            return
        texts = self._stack[-1].texts()
        shown = self._shown[kind](texts)
        if shown is None:
            self._give_up()
            self._add(mark)
        else:
            self._stack.pop()
            self._add(shown)

    def _template(self, texts: Sequence[str]) -> str | None:
        name = texts[0].strip()
        if not name or any(mark in name for mark in "\n[]{}<>"):
            return None
        shown = template_text(name, texts[1:])
        if shown is None:
            self.left_out["template"] += 1
        return shown or ""

    def _parameter(self, texts: Sequence[str]) -> str:
        return "|".join(texts[1:])

    def _variant(self, texts: Sequence[str]) -> str:
        """Text in several scripts or spellings: the first of them, as a reader without a choice sees it."""
        flags, bar, rules = texts[0].rpartition("|")
        if bar and set("HT-") & set(flags.upper()):
            return ""
        first = rules.partition(";")[0]
        language, colon, said = first.partition(":")
        return said if colon and re.fullmatch(r"\s*[a-z]{2,3}(-[a-z]+)*\s*", language) else rules

    def _link(self, texts: Sequence[str]) -> str | None:
        title = texts[0].strip()
        if not title or any(mark in title for mark in "\n[]{}"):
            return None
        space = title.partition(":")[0].strip().casefold()
        if space in self._categories or LANGUAGE.match(title):
            return ""
        if space in self._files:
            captions = [text for text in texts[1:] if not FILE_OPTION.fullmatch(text)]
            return f"\n\n{captions[-1].strip()}\n\n" if captions else ""
        label = "|".join(texts[1:])
        return label if label.strip() else title.removeprefix(":")

    def _external(self, texts: Sequence[str]) -> str:
        return texts[0].partition(" ")[2].strip()

    def _grid(self, _: Sequence[str]) -> str:
        self.left_out["table"] += 1
        return "\n"

    # ----------------------------------------------------------------------------------------------------- tags

    def _tag(self, mark: str, end: int) -> int:
        if mark == "<!--":
            found = -1 if mark in self._never_closed else self._source.find("-->", end)
            if found < 0:
                self._never_closed.add(mark)
            return end if found < 0 else found + 3
        name = re.split(r"[\s/>]", mark.strip("</>"), maxsplit=1)[0].lower()
        if name in VERBATIM or name in UNREAD or name == "gallery":
            return self._extension(name, mark, end)
        if name in HELD:
            self._held(name, mark)
        elif name in BLOCKS:
            self._add(" " if name in ("td", "th") else "\n")
        elif name not in INLINE:
            self._add(_unescaped(mark))
        return end

    def _extension(self, name: str, mark: str, end: int) -> int:
        """A tag whose content isn't wikitext, up to its end; one that never ends shows nothing."""
        if mark.startswith("</") or mark.endswith("/>") or name in self._never_closed:
            return end
        close = re.compile(f"</{name}\\s*>", re.IGNORECASE).search(self._source, end)
        if not close:
            self._never_closed.add(name)
            return end
        content = self._source[end : close.start()]
        if name in VERBATIM:
            self._keep(name, content)
        elif name == "gallery":
            self._gallery(content)
        elif name != "references":
            self.left_out["reference" if name == "ref" else name] += 1
        return close.end()

    def _keep(self, name: str, content: str) -> None:
        content = content if name in LISTINGS - {"pre"} else _unescaped(content)
        self.kept.append(content.strip("\n") if name in LISTINGS else content.strip() if name != "nowiki" else content)
        line = "\n" if name in LISTINGS else ""
        self._add(f"{line}\0{len(self.kept) - 1}\0{line}")

    def _gallery(self, content: str) -> None:
        for line in content.splitlines():
            caption = line.partition("|")[2].strip()
            if caption:
                text, left_out = plain_text(caption, self._files, self._categories)
                self.left_out += left_out
                self._add(f"\n{text}\n")

    def _held(self, name: str, mark: str) -> None:
        if mark.endswith("/>"):
            return
        if not mark.startswith("</"):
            self._open(name, mark)
            return
        depth = len(self._stack) - 1
        while self._stack[depth].kind in (*HELD, "external") and self._stack[depth].kind != name:
            depth -= 1
        if self._stack[depth].kind != name:
            return
        while len(self._stack) - 1 > depth:
            self._give_up()
        text = "|".join(self._stack.pop().texts())
        if name == "table":
            self.left_out["table"] += 1
        self._add({"sup": _small(text, RAISED), "sub": _small(text, LOWERED), "rt": f"({text})"}.get(name, ""))


def _small(text: str, letters: dict[str, str]) -> str:
    """Digits and signs as Unicode raises or lowers them, so that 10⁶ isn't 106; other text as it is."""
    return "".join(letters[char] for char in text) if text and all(char in letters for char in text) else text


def _unescaped(text: str) -> str:
    return ENTITY.sub(lambda match: html.unescape(match[0]), text) if "&" in text else text
