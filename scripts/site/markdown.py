"""What the site's Markdown adds: formulas as MathML, and lines of Japanese joined without a space.

MathML is drawn by browsers themselves: no script, no font, nothing to load. Pages write a formula as GitHub shows it:
a block of code of the language `math`, or one in a line as $`c_t`$.
"""

import re
from typing import Any
from xml.etree.ElementTree import Element, fromstring

from latex2mathml.converter import convert
from markdown import Markdown
from markdown.extensions import Extension
from markdown.inlinepatterns import InlineProcessor
from markdown.util import AtomicString

NAMESPACE = "http://www.w3.org/1998/Math/MathML"  # HTML knows it by itself
JAPANESE = r"[\u3000-\u30ff\u3400-\u9fff\uff00-\uffef]"


class Formula(InlineProcessor):
    """$`…`$ as an element."""

    def handleMatch(self, m: "re.Match[str]", data: str) -> tuple[Element, int, int]:  # type: ignore[override]  # noqa: ARG002
        formula = fromstring(convert(m.group(1)).replace(f' xmlns="{NAMESPACE}"', ""))
        for part in formula.iter():
            part.text = AtomicString(part.text) if part.text else None
        return formula, m.start(0), m.end(0)


class LineEnd(InlineProcessor):
    """A line's end inside Japanese is nothing; a browser would show it as a space."""

    def handleMatch(self, m: "re.Match[str]", data: str) -> tuple[str, int, int]:  # type: ignore[override]  # noqa: ARG002
        return "", m.start(0), m.end(0)


class SiteMarkdown(Extension):
    """Registers both, the formulas before code takes them."""

    def extendMarkdown(self, md: Markdown) -> None:
        md.inlinePatterns.register(Formula(r"\$`([^`]+)`\$", md), "formula", 200)
        md.inlinePatterns.register(LineEnd(rf"(?<={JAPANESE})\n(?={JAPANESE})", md), "line end", 50)


def block(source: str, *_: Any, **__: Any) -> str:
    """A formula of its own, as pymdownx.superfences asks for it."""
    return f'<div class="formula">{convert(" ".join(source.split()), display="block")}</div>'


def makeExtension(**options: Any) -> SiteMarkdown:
    """What Markdown calls for the extension `scripts.site.markdown`."""
    return SiteMarkdown(**options)
