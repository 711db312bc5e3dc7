"""What people see of it: tables that fit, colours on terminals only, and a picture with the tokens' letters."""

import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.cells import cell_len
from rich.console import Console

from sioconv.errors import UserError
from sioconv.inspect import picture, view
from sioconv.inspect.measure import Inspection, Layer

WORDS = ["川", "は", " ", "\x1b[31m", "\t", "long" * 20, "$x_1", "\u202e"]


def seen_of(words: int, heads: int = 8, first: int = 0) -> Inspection:
    """Random figures of three layers for a text of so many tokens, one of them half a character."""
    chance = np.random.default_rng(1)
    pieces = [b"" if first == 0 else b"a", b"\xe5\xb7", *(WORDS[i % len(WORDS)].encode() for i in range(words - 2))]
    layers = []
    for _ in range(3):
        shares = chance.dirichlet(np.ones(1 + words), heads)
        half = 10 ** chance.uniform(-1, 6, heads)
        reach = np.minimum(1 + (np.cumsum(shares[:, ::-1], 1) < 0.9).sum(1), words + 1)
        layers.append(Layer(half, np.exp2(-1 / half), half / 1e9, half / 1e7, shares, reach))
    surprise = chance.uniform(0, 18, words)
    surprise[0] = np.nan if first == 0 else 1
    return Inspection(words + first - 1, 3 * words, float(np.nansum(surprise)), first, pieces, surprise, layers)


@pytest.mark.parametrize("width", [60, 80, 120])
@pytest.mark.parametrize("seen", [seen_of(12), seen_of(200, 32, 700)], ids=["short", "long"])
@pytest.mark.parametrize("terminal", [False, True])
def test_tables_fit_and_command_nothing(
    monkeypatch: pytest.MonkeyPatch, width: int, seen: Inspection, terminal: bool
) -> None:
    stream = io.StringIO()
    place = {"file": stream, "width": width, "force_terminal": terminal, "color_system": "256" if terminal else None}
    monkeypatch.setattr(view, "Console", lambda **options: Console(**options | place))
    text = view.describe(seen)
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text)
    assert "\x1b" not in plain and "\u202e" not in plain and "\t" not in plain
    assert ("\x1b" in text) == terminal
    assert max(map(cell_len, plain.splitlines())) <= width
    for layer in range(1, 4):
        assert len(re.findall(rf"^layer {layer} ", plain, re.MULTILINE)) == 2
    numbers = re.findall(r"(?:[0-9.]+[kM]?)", plain.split("forgotten half")[1].split("The last")[0])
    assert len(numbers) >= 3 * len(seen.layers[0].half)
    if len(seen.pieces) <= view.SHORT:
        assert all(re.search(rf"^ *{i} ", plain, re.MULTILINE) for i in range(12))
        assert "the initial state" in plain and "\\xe5\\xb7" in plain
    else:
        assert "what came before" in plain
        assert plain.count(" L") >= view.LISTED


def test_numbers_of_steps_are_short() -> None:
    steps = (0.04, 1, 9.96, 999.4, 999.7, 12_345, 999_700, 4.2e8, 1e9)
    assert [view.short(each) for each in steps] == ["0.0", "1.0", "10", "999", "1.0k", "12k", "1.0M", "420M", "ever"]


@pytest.mark.parametrize("kind", ["png", "svg", "pdf"])
def test_a_picture_is_drawn_with_the_letters_that_there_are(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"memory.{kind}"
    letters = "".join(view.token_text(data, i) for i, data in enumerate(seen_of(12).pieces))
    assert picture.draw(seen_of(12), path) == (picture.font_for(letters) is not None)
    assert path.stat().st_size > 5000
    if kind == "png":
        assert Image.open(path).size[0] > 800
    assert not picture.draw(seen_of(200), path)  # numbered


def test_a_font_has_all_letters_or_is_none() -> None:
    assert picture.font_for("river") is not None
    assert picture.font_for("\U0010ffff") is None


def test_a_picture_needs_a_name_that_says_its_kind_and_a_place(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"give a name that ends in \.png"):
        picture.draw(seen_of(3), tmp_path / "memory.gif")
    with pytest.raises(UserError, match="file"):
        picture.draw(seen_of(3), tmp_path / "file" / "memory.png")
    assert [*tmp_path.iterdir()] == [tmp_path / "file"]
