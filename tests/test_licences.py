"""Every package that this project needs has a licence that is known, and stands on the page of licences."""

import json
from email.message import Message

import pytest

from scripts import licences
from scripts.licences import Package, allowed

HINT = "bring it in step: python scripts/licences.py"


def test_the_page_names_every_package_in_its_version() -> None:
    named = {package.name: package.version for package in licences.listed()}
    for package in licences.of_the_page():
        assert named.pop(package.name) == package.version, HINT
    assert named == licences.constraints(), HINT
    assert licences.page(licences.listed()) == licences.PAGE.read_text(encoding="utf-8"), HINT


def test_every_licence_is_one_that_may_be_taken() -> None:
    assert [package for package in licences.listed() if not allowed(package)] == []


def test_packages_that_are_installed_here_say_what_the_page_says() -> None:
    """Of what is installed in another version, or not at all, the page is believed."""
    found = {package.name: package for package in licences.listed()}
    for name, version in licences.constraints().items():
        facts = licences.installed(name, version)
        assert facts is None or licences.licence_of(facts) == found[name].licence, HINT


def test_the_notice_of_the_page_names_what_is_in_its_javascript() -> None:
    wanted = json.loads((licences.ROOT / "page" / "package.json").read_text(encoding="utf-8"))["dependencies"]
    notice = (licences.ROOT / "page" / "NOTICE").read_text(encoding="utf-8")
    assert [name for name in wanted if f"    {name}" not in notice] == []


@pytest.mark.parametrize(
    ("licence", "taken"),
    [
        ("MIT", True), ("Apache-2.0 OR GPL-3.0", True), ("(MPL-2.0 OR Apache-2.0)", True), ("MIT AND GPL-3.0", False),
        ("GPL-3.0", False), ("LGPL-2.0-or-later", False), ("", False), ("Proprietary", False),
    ],
)  # fmt: skip
def test_a_licence_is_taken_or_not(licence: str, taken: bool) -> None:
    assert allowed(Package("some", "1", licence, "always")) is taken


def test_older_metadata_are_read_too() -> None:
    facts = Message()
    facts["License"] = "MIT License\n\nCopyright somebody"
    assert licences.licence_of(facts) == "MIT"
    facts["Classifier"] = "License :: OSI Approved :: BSD License"
    assert licences.licence_of(facts) == "BSD"
    facts["License-Expression"] = "ISC"
    assert licences.licence_of(facts) == "ISC"
