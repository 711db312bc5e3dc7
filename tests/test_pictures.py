"""The pages' pictures are what their script draws."""

import xml.etree.ElementTree as ElementTree

import pytest

from scripts.pictures import FOLDER, PICTURES


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_is_what_the_script_draws(name: str) -> None:
    for suffix, language in (("", 0), (".ja", 1)):
        text = PICTURES[name](lambda *words, language=language: words[language]).svg()
        assert (FOLDER / f"{name}{suffix}.svg").read_text(encoding="utf-8") == text, "python scripts/pictures.py"
        assert ElementTree.fromstring(text).findtext("{http://www.w3.org/2000/svg}title")
