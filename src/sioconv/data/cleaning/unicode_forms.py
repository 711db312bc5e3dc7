"""Unicode's normal forms in time that grows with the length of the text, whatever the text is.

`unicodedata.normalize` puts the marks that follow a character into their order by insertion: 64,000 marks in disorder
take 16 s, and ten times as many a hundred times as long.
"""

import re
import unicodedata
from itertools import groupby
from typing import Literal

Form = Literal["NFC", "NFKC"]
DECOMPOSED: dict[str, Literal["NFD", "NFKD"]] = {"NFC": "NFD", "NFKC": "NFKD"}
# Where many marks may be: none is a letter or ASCII, but for two voiced sound marks of half width, to NFKC.
MANY = re.compile("(?:[^\\w\x00-\x7f]|[\uff9e\uff9f]){64,}")


def normal_form(form: Form, text: str) -> str:
    """The text in that form, equal to `unicodedata.normalize(form, text)`."""

    def in_order(found: re.Match[str]) -> str:
        characters = "".join(unicodedata.normalize(DECOMPOSED[form], one) for one in found[0])
        runs = groupby(characters, key=lambda one: unicodedata.combining(one) > 0)
        return "".join("".join(sorted(run, key=unicodedata.combining) if marks else run) for marks, run in runs)

    return unicodedata.normalize(form, MANY.sub(in_order, text))
