"""What the licences of the text say about the licence of the weights.

Whether a model's weights are a work derived from its text is not settled by law. The check takes the cautious reading:
they are. It knows families of licences by their words and is no legal advice; what it doesn't know it names.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

# The identifiers of https://huggingface.co/docs/hub/repositories-licenses but `unknown` and `other`.
HUB_LICENCES = frozenset((
    "afl-3.0", "agpl-3.0", "apache-2.0", "apple-amlr", "apple-ascl", "artistic-2.0", "bigcode-openrail-m",
    "bigscience-bloom-rail-1.0", "bigscience-openrail-m", "bsd", "bsd-2-clause", "bsd-3-clause",
    "bsd-3-clause-clear", "bsl-1.0", "c-uda", "cc", "cc-by-2.0", "cc-by-2.5", "cc-by-3.0", "cc-by-4.0",
    "cc-by-nc-2.0", "cc-by-nc-3.0", "cc-by-nc-4.0", "cc-by-nc-nd-3.0", "cc-by-nc-nd-4.0", "cc-by-nc-sa-2.0",
    "cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0", "cc-by-nd-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0", "cc0-1.0",
    "cdla-permissive-1.0", "cdla-permissive-2.0", "cdla-sharing-1.0", "creativeml-openrail-m",
    "deepfloyd-if-license", "ecl-2.0", "epl-1.0", "epl-2.0", "etalab-2.0", "eupl-1.1", "eupl-1.2",
    "fair-noncommercial-research-license", "gemma", "gfdl", "gpl", "gpl-2.0", "gpl-3.0", "grok2-community",
    "h-research", "intel-research", "isc", "lgpl", "lgpl-2.1", "lgpl-3.0", "lgpl-lr", "llama2", "llama3",
    "llama3.1", "llama3.2", "llama3.3", "llama4", "lppl-1.3c", "mit", "mpl-2.0", "ms-pl", "ncsa", "odbl", "odc-by",
    "ofl-1.1", "openmdw-1.0", "openrail", "openrail++", "osl-3.0", "pddl", "postgresql", "unlicense", "wtfpl",
    "zlib",
))  # fmt: skip
# Text of the package, by its name: what NOTICE says at length.
BUNDLED = {
    "chat_places_ja": "public domain",
    "chat_smalltalk_en": "BSD-3-Clause and Apache-2.0",
    "chat_smalltalk_ja": "BSD-3-Clause and Apache-2.0",
    "chat_translation": "CC-BY-2.0-FR",
    "gazetteer_ja": "public domain",
    "identity.jsonl": "Apache-2.0",
}
UNKNOWN = ("", "unknown", "other", "none", "n-a", "tbd")
RESERVED = re.compile(r"proprietary|reserved|confidential|copyrighted|no-licen[cs]e")
OWN_TERMS = re.compile(
    r"community(-licen[cs]e|$)|llama|gemma|openrail|(^|-)rail(-|$)|acceptable-use|deepfloyd|apple-a|(h|intel)-research"
)
# Of such terms that have versions, name and version: `Llama 3.2 Community License` and `llama3.2` are the same.
FAMILY = re.compile(r"(llama|gemma|grok)-?(\d+(?:\.\d+)?)?")
NON_COMMERCIAL = re.compile(r"(^|-)nc(-|$)|non-?commercial|research-only|academic")
NO_DERIVATIVES = re.compile(r"(^|-)nd(-|$)|no-?deriv")
# Families whose text must stay under the same licence; the first that matches.
SHARE_ALIKE = {
    "CC BY-NC-SA": re.compile(r"(^|-)by-nc-sa(-|$)|non-?commercial-share-?alike"),
    "CC BY-SA": re.compile(r"(^|-)by-sa(-|$)|share-?alike"),
    "GFDL": re.compile(r"gfdl|gnu-free-doc"),
    "AGPL": re.compile(r"agpl"),
    "LGPL": re.compile(r"lgpl"),
    "GPL": re.compile(r"(?<![al])gpl"),
    "ODbL": re.compile(r"odbl"),
    "CDLA-Sharing": re.compile(r"cdla-sharing"),
    "OSL": re.compile(r"(^|-)osl(-|$)"),
    "EUPL": re.compile(r"eupl"),
}
FREE = re.compile(
    r"^((apache|mit|bsd|cc0|cc-pdm|isc|zlib|unlicense|0bsd|odc-by|pddl|wordnet|public-domain|cdla-permissive|etalab|mpl|"
    r"python|psf|wtfpl|us-gov|ncsa|artistic|postgresql|unicode)(?![a-z])|cc-by(-\d|-intl|$)|(pd|free)$)"
)
THIS_VERSION = re.compile(r"-only(-|$)")
OR_LATER = re.compile(r"[\s,(]+or\s+(any\s+)?later(\s+version)?\)?", re.IGNORECASE)


@dataclass(frozen=True)
class TextLicence:
    """The licence of one source of text."""

    source: str
    licence: str


def plain(licence: str) -> str:
    """A licence's name in small letters with single hyphens: `CC BY-SA 4.0` → `cc-by-sa-4.0`."""
    return re.sub(r"[^a-z0-9.+]+", "-", licence.lower()).strip("-")


def is_unknown(licence: str) -> bool:
    """Whether a licence's name says nothing."""
    return plain(licence) in UNKNOWN


def conflicts(weights: str, texts: Iterable[TextLicence]) -> list[str]:
    """What in the licences of the text speaks against `weights` as the licence of the model, one sentence each."""
    found = []
    for text in texts:
        named = re.split(r"\s+or\s+", OR_LATER.sub("-or-later", text.licence), flags=re.IGNORECASE)
        choices = [_against(plain(weights), each) for each in named]
        if all(choices):
            found.append(f"{text.source} is {text.licence}: {choices[0]}")
    return found


def unfamiliar(texts: Iterable[TextLicence]) -> list[str]:
    """Sources with a licence that the check doesn't know, as `source (licence)`."""
    return [f"{text.source} ({text.licence})" for text in texts if not all(map(_is_familiar, _parts(text.licence)))]


def _parts(licence: str) -> list[str]:
    """The licences that a text names, each as `plain` makes it; `cc-by-sa4.0` is read as `cc-by-sa-4.0`."""
    found = re.split(r"\s+(?:and|or|&)\s+|[,;/]", OR_LATER.sub("-or-later", licence), flags=re.IGNORECASE)
    return [re.sub(r"(?<=[a-z])(?=\d+\.\d)", "-", plain(part)) for part in found if plain(part)]


def _is_familiar(licence: str) -> bool:
    return bool(FREE.search(licence) or NON_COMMERCIAL.search(licence) or NO_DERIVATIVES.search(licence)) or any(
        pattern.search(licence) for pattern in (RESERVED, OWN_TERMS, *SHARE_ALIKE.values())
    )


def _against(weights: str, text: str) -> str:
    """What one text's licence has against the weights' one; empty where nothing."""
    parts = _parts(text)
    if any(SHARE_ALIKE["CC BY-SA"].search(part) for part in parts):  # as Wikipedia's text: whoever uses it chooses
        parts = [part for part in parts if not SHARE_ALIKE["GFDL"].search(part)]
    for part in parts:
        if RESERVED.search(part):
            return "it gives no right to pass on what is made from it"
        if NO_DERIVATIVES.search(part):
            return "it forbids to pass on what is made from it"
        if OWN_TERMS.search(part) and _terms(weights) != _terms(part):
            return f"it sets terms of its own, which {weights} doesn't pass on"
        if NON_COMMERCIAL.search(part) and not NON_COMMERCIAL.search(weights):
            return f"it forbids commercial use, {weights} allows it"
        family = next((name for name, pattern in SHARE_ALIKE.items() if pattern.search(part)), None)
        if family is None:
            continue
        if not SHARE_ALIKE[family].search(weights):
            return f"it demands a licence of its own kind ({family}), {weights} is another"
        if 0 < _version(weights) < _version(part):
            return f"it demands the same or a later version, {weights} is an older one"
        if THIS_VERSION.search(part) and _version(weights) != _version(part):
            return f"it demands this very version, {weights} is another"
    return ""


def _terms(licence: str) -> tuple[str | None, ...]:
    """What tells terms of their own apart: name and version of a family, else the whole name."""
    found = FAMILY.search(licence)
    return found.groups() if found else (licence,)


def _version(licence: str) -> float:
    match = re.search(r"\d+\.\d+", licence)
    return float(match[0]) if match else 0.0
