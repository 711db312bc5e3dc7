"""What the licences of text say about the licence of weights."""

import pytest

from sioconv.publish.licences import HUB_LICENCES, TextLicence, conflicts, is_unknown, plain, unfamiliar

ALLOWED = [
    ("apache-2.0", "CC-BY-2.0-FR"), ("apache-2.0", "MIT and Apache-2.0"), ("mit", "public domain"),
    ("cc-by-sa-4.0", "CC BY-SA 3.0"), ("cc-by-sa-4.0", "CC-BY-SA-3.0 and GFDL"), ("gpl-3.0", "GPL-2.0"),
    ("cc-by-nc-4.0", "CC-BY-NC-3.0"), ("cc-by-nc-sa-4.0", "CC-BY-NC-SA-4.0"), ("apache-2.0", "GPL-3.0 or MIT"),
    ("odbl", "ODbL 1.0"), ("apache-2.0", "WordNet-3.0"), ("llama-2-community-license", "Llama 2 Community License"),
    ("gpl-3.0", "GPL-2.0-or-later"), ("gpl-3.0", "GPL-2.0 (or any later version)"), ("gpl-2.0", "GPL-2.0-only"),
    ("mit", "cc-by4.0"),
    ("llama3.2", "Llama 3.2 Community License"), ("gemma", "Gemma Terms of Use"), ("llama2", "llama2"),
]  # fmt: skip
FORBIDDEN = [
    ("apache-2.0", "CC-BY-SA-4.0", "CC BY-SA"), ("mit", "CC-BY-SA-3.0 and GFDL", "CC BY-SA"),
    ("cc-by-sa-3.0", "CC-BY-SA-4.0", "later version"), ("apache-2.0", "CC-BY-NC-4.0", "commercial"),
    ("cc-by-4.0", "for research only, non-commercial", "commercial"), ("cc-by-4.0", "CC-BY-ND-4.0", "forbids"),
    ("apache-2.0", "All rights reserved", "no right"), ("mit", "MIT and AGPL-3.0", "AGPL"),
    ("apache-2.0", "Llama 2 Community License", "terms of its own"), ("cc-by-sa-4.0", "CC-BY-NC-SA-4.0", "commercial"),
    ("llama3.1", "Llama 3.2 Community License", "terms of its own"), ("apache-2.0", "gemma", "terms of its own"),
    ("mit", "cc-by-sa4.0", "CC BY-SA"), ("mit", "CC BY-NC4.0", "commercial"), ("lgpl-3.0", "GPL-3.0", "(GPL)"),
    ("agpl-3.0", "GPL-3.0", "(GPL)"), ("cc-by-nc-sa-4.0", "CC-BY-SA-4.0", "(CC BY-SA)"),
    ("gpl-3.0", "GPL-2.0-only", "this very version"), ("mit", "GPL-2.0 or later", "(GPL)"),
    ("llama3", "Foo Community License", "terms of its own"), ("mit", "grok2-community", "terms of its own"),
]  # fmt: skip


@pytest.mark.parametrize(("weights", "text"), ALLOWED)
def test_what_a_text_allows(weights: str, text: str) -> None:
    assert conflicts(weights, [TextLicence("books", text)]) == []


@pytest.mark.parametrize(("weights", "text", "why"), FORBIDDEN)
def test_what_a_text_forbids(weights: str, text: str, why: str) -> None:
    (said,) = conflicts(weights, [TextLicence("books", text), TextLicence("free", "CC0-1.0")])
    assert said.startswith(f"books is {text}: ") and why in said


def test_licences_that_say_nothing_and_that_nobody_knows() -> None:
    assert all(map(is_unknown, ("", "unknown", "N/A", " Other "))) and not is_unknown("MIT")
    texts = [TextLicence("a", "MIT and Apache-2.0"), TextLicence("b", "Foo-1.0"), TextLicence("c", "CC-BY-SA-3.0")]
    assert unfamiliar(texts) == ["b (Foo-1.0)"]
    near = [TextLicence("d", name) for name in ("CC-BY-X", "MITRE", "BSD-3-Clause", "CC BY 4.0 International", "psf2")]
    assert unfamiliar(near) == ["d (CC-BY-X)", "d (MITRE)"]
    assert unfamiliar([TextLicence("e", name) for name in ("GPL-2.0 or later", "apache2.0", "Public Domain")]) == []
    assert {"gemma", "llama3.2", "llama4", "openmdw-1.0", "ofl-1.1"} <= HUB_LICENCES
    assert {plain(name) for name in HUB_LICENCES} <= HUB_LICENCES | {"openrail++".replace("+", "")} | {"openrail++"}
