"""The pages of the documentation, taken apart: sections with their code, tables, figures and links."""

import re
from collections import Counter
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]

FENCE = re.compile(r"^( *)(```+)(\w*)")
HEADING = re.compile(r"^(#{1,6}) +(.+?) *#*$")
LINK = re.compile(r"\]\(([^)\s]+)\)")
CODE = re.compile(r"(?<!`)(`+)(?!`)(.+?)(?<!`)\1(?!`)", re.DOTALL)
JAPANESE = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]")
NUMBER = r"\d+(?:,\d{3})*(?:\.\d+)?(?:e[-−]?\d+)?"
# A number that isn't part of a name such as bf16, UTF-8 or c_1, with the word or letter that scales it.
FIGURE = re.compile(
    rf"(?<![A-Za-z0-9_.+])(?<![A-Za-z]-)(\d{{4}}-\d\d-\d\d|{NUMBER})"
    r"(?: ?(thousand|million|billion|千|万|億|[kMGB](?![A-Za-z])))?"
)
RANGE = re.compile(rf"({NUMBER})( to | and |–)({NUMBER}) (million|billion|M\b)")
SCALE = {"k": 3, "thousand": 3, "千": 3, "万": 4, "M": 6, "million": 6, "億": 8, "G": 9, "B": 9, "billion": 9}
# What a page may write in place of a small number; `1 割` is a tenth.
WORDS = {
    "0": "zero|零", "1": "one|once|single|an?|each|every|first|tenth|january|一",
    "2": "two|twice|second|both|half|pair|square|quadratic|february|二|両|半",
    "3": "three|third|march|三", "4": "four|quarter|april|四", "5": "five|fifth|may|五", "6": "six|june|六",
    "7": "seven|july|七", "8": "eight|august|八", "9": "nine|september|九", "10": "ten|tenth|october|十",
    "11": "eleven|november", "12": "twelve|december", "13": "thirteen", "14": "fourteen", "15": "fifteen",
    "16": "sixteen", "17": "seventeen", "18": "eighteen", "19": "nineteen", "20": "twenty",
}  # fmt: skip


@dataclass
class Section:
    """A heading and what stands below it, up to the next heading of any level."""

    level: int
    title: str
    code: list[tuple[str, str]] = field(default_factory=list)  # (language, text without its indent)
    prose: list[str] = field(default_factory=list)

    @property
    def tables(self) -> list[list[str]]:
        """Every row of every table, as its cells."""
        rows = [line.strip() for line in self.prose if line.lstrip().startswith("|")]
        return [[cell.strip() for cell in re.split(r"(?<!\\)\|", row[1:-1])] for row in rows]

    @property
    def links(self) -> list[str]:
        return LINK.findall(CODE.sub("", "\n".join(self.prose)))

    @property
    def inline_code(self) -> set[str]:
        return {" ".join(code.split()) for _, code in CODE.findall("\n".join(self.prose))}

    @property
    def text(self) -> str:
        """All but the blocks of code and the targets of links."""
        return LINK.sub("]", "\n".join(self.prose))

    @property
    def figures(self) -> "Counter[str]":
        """How often each number stands in the text: 5.1 million, 5.1 M and 510 万 are the same."""
        text = RANGE.sub(r"\1 \4\2\3 \4", self.text)
        return Counter(value(number, scale) for number, scale in FIGURE.findall(text))

    def words(self, number: str) -> int:
        """How often the text may say a small number in a word; 0 for numbers above 20."""
        latin = re.compile(rf"\b(?:{WORDS[number]})\b" if number in WORDS else r"(?!)", re.IGNORECASE | re.ASCII)
        kanji = [sign for sign in WORDS.get(number, "") if JAPANESE.match(sign)]
        return len(latin.findall(self.text)) + sum(self.text.count(sign) for sign in kanji)


def value(number: str, scale: str) -> str:
    """A number in one spelling; a date stays as it is."""
    if number.count("-") == 2:
        return number
    scaled = Decimal(number.replace(",", "").replace("−", "-")).scaleb(SCALE.get(scale, 0))
    return format(scaled.normalize(), "f")


def sections(page: Path) -> list[Section]:
    """A page's sections in order; what stands before the first heading has level 0."""
    found = [Section(0, "")]
    fence, indent, body = None, "", []
    for line in page.read_text(encoding="utf-8").splitlines():
        mark = FENCE.match(line)
        if fence is None and mark:
            indent, fence, language = mark.groups()
            body = []
        elif fence is not None and line.strip() == fence:
            found[-1].code.append((language, "\n".join(body)))
            fence = None
        elif fence is not None:
            body.append(line.removeprefix(indent))
        elif heading := HEADING.match(line):
            found.append(Section(len(heading[1]), heading[2]))
        else:
            found[-1].prose.append(line)
    assert fence is None, f"{page}: a block of code has no end"
    return found


def anchor(title: str) -> str:
    """The name that GitHub gives to a heading, for links to it."""
    kept = re.sub(r"[^\w\- ]", "", re.sub(r"[`*]|\]\([^)]*\)", "", title).lower())
    return kept.replace(" ", "-")
