"""How files are imported."""

import math
from dataclasses import dataclass, field
from typing import Literal

from sioconv.data.encodings import is_codec
from sioconv.errors import UserError

Form = Literal[
    "auto", "line", "whatsapp", "discord", "telegram", "slack", "table", "aozora", "epub", "html", "markdown", "pdf",
    "text",
]  # fmt: skip
Dates = Literal["auto", "day-first", "month-first"]
Ruby = Literal["drop", "keep"]


@dataclass(frozen=True)
class ImportOptions:
    """How files are imported.

    Args:
        me: the names, or ids, under which the one speaks whom the model shall learn to be; several where it changed.
        pause: a conversation ends where nobody writes for so many hours.
        longest: a conversation of more characters is cut behind a reply.
        names: write in front of others' messages who says them, for groups.
        mask: put signs in place of names, numbers, addresses of mail and of pages.
        mask_also: other words that are masked.
        columns: which column of a table is what: speaker=NAME,text=NAME,time=NAME,conversation=NAME;
            question=NAME,answer=NAME; or text=NAME,title=NAME for documents. A number counts columns from 1.
        form: what the files are, where it isn't told rightly.
        encoding: of text files: auto, or a codec that Python knows, such as cp932.
        ruby: readings above kanji: dropped, or kept behind them, 漢字(かんじ).
        dates: which comes first in the dates of WhatsApp and of tables, where the file doesn't tell.
    """

    me: list[str] = field(default_factory=list)
    pause: float = 6.0
    longest: int = 8000
    names: bool = False
    mask: bool = False
    mask_also: list[str] = field(default_factory=list)
    columns: str = ""
    form: Form = "auto"
    encoding: str = "auto"
    ruby: Ruby = "drop"
    dates: Dates = "auto"

    def check(self) -> None:
        """Raises UserError for values that can't work."""
        if not 0 < self.pause < math.inf:
            raise UserError(f"--pause: {self.pause} is not a positive number of hours")
        if self.longest < 100:
            raise UserError(f"--longest: {self.longest} is under 100 characters")
        if self.encoding != "auto" and not is_codec(self.encoding):
            raise UserError(
                f"--encoding: {self.encoding!r} is no encoding of text that Python knows: try auto or cp932"
            )
        if not all(name.strip() for name in (*self.me, *self.mask_also)):
            raise UserError("--me, --mask-also: a name is empty: leave it out")
