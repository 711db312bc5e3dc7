"""Words in pictures: in the user's language where this machine has a font with its letters."""

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import matplotlib as mpl
from matplotlib import font_manager
from matplotlib.ft2font import FT2Font

from sioconv.language import language, translated

CJK = re.compile("cjk|jp|japan|gothic|mincho|hiragino|meiryo|ipa|takao|vl-|unifont|droid|yu", re.IGNORECASE)
JAPANESE = "あア層文章忘驚状態"  # letters of the words in pictures


@contextmanager
def plot_words() -> Iterator[Callable[[str], str]]:
    """Sets the fonts of what is drawn meanwhile, and yields what gives a label in the user's language.

    Where no font here has Japanese letters, labels stay English.
    """
    font = font_for(JAPANESE) if language() == "ja" else None
    if font is None:
        yield str
        return
    font_manager.fontManager.addfont(font)
    name = font_manager.FontProperties(fname=font).get_name()
    with mpl.rc_context({"font.family": [name, "DejaVu Sans"]}):
        yield translated


def font_for(text: str) -> str | None:
    """The file of a font of this machine that has all letters of a text; None where none has."""
    letters = {ord(char) for char in text}
    own = os.path.join(mpl.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")  # noqa: PTH118  # a plain string
    found = sorted(font_manager.findSystemFonts(), key=_order)
    for name in (own, *found):
        try:
            if letters <= FT2Font(name).get_charmap().keys():
                return name
        except (RuntimeError, OSError):  # not a font, or one that can't be read
            continue
    return None


def _order(name: str) -> tuple[bool, bool, bool, str]:
    """Fonts that are likely to have Japanese letters first, upright sans-serif ones before others."""
    file = Path(name).name
    return CJK.search(file) is None, "Serif" in file, "Regular" not in file, name
