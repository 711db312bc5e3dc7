"""A tokenizer alone for the Hub: its files, a card, where it comes from, checksums."""

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCardData
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from sioconv import __version__
from sioconv.checksums import read_sealed, write_sums
from sioconv.data.tokenizer.report import JSON_FILE
from sioconv.data.tokenizer.tokenizer import TOKENIZER_FILE, TOKENIZER_FILES, encode_texts, load_tokenizer
from sioconv.errors import UserError
from sioconv.files import atomic_folder, refuse_existing, sha256_file, shown
from sioconv.model.folder import vocabulary_fingerprint
from sioconv.progress import say
from sioconv.publish.card import render
from sioconv.publish.config import PublishConfig
from sioconv.publish.facts import (
    Origin,
    Source,
    check_licences,
    is_on_hub,
    languages_of,
    last_part,
    licence_of,
    run_of,
    sources_of,
)
from sioconv.publish.folder import CARD, LICENCE, NOTICE, PROVENANCE, notices
from sioconv.publish.licences import is_unknown
from sioconv.recipe.schema import load_recipe
from sioconv.run.folder import RECIPE

OF_MODELS = ("base_model", "benchmark", "state", "variant")  # options
SAMPLE = "こんにちは。The year 2024: 1,234 rivers 🌊\n\n  <|user|>"


@dataclass(frozen=True)
class TokenizerFacts(Origin):
    """What the card of a tokenizer is made from; without sources where it was adopted, or no recipe says them.

    Args:
        adopted: what it was adopted from; None for one that was trained here, or of which nothing is known.
        tokens: size of the vocabulary.
        report: what `write_tokenizer_report` has measured; empty where nothing was.
    """

    adopted: str | None
    tokens: int
    report: dict[str, Any]


def is_tokenizer(folder: Path) -> bool:
    """Whether a folder holds a tokenizer, be it whole or not, and no model."""
    return any((folder / name).is_file() for name in TOKENIZER_FILES[:2]) and not (
        (folder / "config.json").exists() or any(folder.glob("*.safetensors*"))
    )


def publish_tokenizer(place: Path, out: Path, options: PublishConfig, repo: str | None = None) -> TokenizerFacts:
    """Writes the folder `out` for a tokenizer, whole or not at all, after AutoTokenizer of transformers has loaded it.

    Two calls with the same tokenizer and facts write the same bytes.

    Args:
        place: a tokenizer's folder, such as that of a run.
        out: the folder; must not be there yet.
        options: facts that no file knows; those of models alone must be left out.
        repo: OWNER/NAME on the Hub, for the card's example; without it that loads `out`.

    Returns:
        The facts that stand in it.

    Raises:
        UserError: no whole tokenizer of this project, a fact is missing, an option is of models, a licence speaks
            against it, or `out` is there already.
    """
    refuse_existing(out)
    for option in OF_MODELS:
        if getattr(options, option):
            raise UserError(
                f"--{option.replace('_', '-')} is of models, and {shown(place)} is a tokenizer: leave it out"
            )
    tokenizer = load_tokenizer(place)
    facts = _gather(place, options, len(tokenizer))
    with atomic_folder(out) as folder:
        for name in TOKENIZER_FILES:
            if (place / name).is_file():
                shutil.copyfile(place / name, folder / name)
        if options.license_file is not None:
            shutil.copyfile(options.license_file, folder / LICENCE)
        if facts.sources:
            _write(folder / NOTICE, notices(f"{facts.name}, a tokenizer", facts.author, facts.sources))
        origin = _provenance(facts, sha256_file(folder / TOKENIZER_FILE))
        _write(folder / PROVENANCE, json.dumps(origin, ensure_ascii=False, indent=1) + "\n")
        _write(folder / CARD, _card(facts, repo or out.name, options.license_file is not None))
        write_sums(folder)
        check_loaded(folder, tokenizer)
    return facts


def check_loaded(folder: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    """Raises UserError where transformers makes another tokenizer of a folder than `tokenizer`, or cuts otherwise."""
    other: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    ids = other(SAMPLE, split_special_tokens=True, add_special_tokens=False)["input_ids"]
    same = vocabulary_fingerprint(other) == vocabulary_fingerprint(tokenizer)
    if not same or ids != encode_texts(tokenizer, [SAMPLE])[0]:
        raise UserError(f"transformers makes another tokenizer of {shown(folder)}: copy it again, or train it anew")


def _gather(place: Path, options: PublishConfig, tokens: int) -> TokenizerFacts:
    if is_unknown(options.license or ""):
        raise UserError("the licence of the tokenizer isn't known: give --license, such as apache-2.0 or cc-by-sa-4.0")
    author = (options.author or "").strip()
    if not author:
        raise UserError("who publishes the tokenizer isn't known: give --author NAME, a person or an organisation")
    run = run_of(place, options)
    recipe = load_recipe([str(run / RECIPE) if run else str(options.recipe)]) if run or options.recipe else None
    adopted = None if recipe is None else recipe.tokenizer.path or recipe.finetune.base
    sources: list[Source] = []
    if recipe is not None and adopted is None:
        sources = list(sources_of(recipe, run, not recipe.data.sources, options))
    licence, licence_name = licence_of(options)
    against = check_licences(licence_name, sources, options)
    if adopted is not None:
        adopted = adopted if is_on_hub(adopted, run) else last_part(adopted)
        say(f"warning: the tokenizer was adopted from {adopted}: its licence decides which --license it may have")
    report = place / JSON_FILE
    try:
        measured = read_sealed(report) if report.is_file() else {}
    except (OSError, ValueError) as error:
        raise UserError(f"{shown(report)} can't be read ({error}): make it again with sioconv tokenizer") from error
    return TokenizerFacts(
        name=options.name or (place.resolve().name if recipe is None else f"{recipe.name}-tokenizer"),
        author=author, licence=licence, licence_name=licence_name, against=against,
        languages=languages_of(sources), sources=sources, adopted=adopted, tokens=tokens, report=measured,
    )  # fmt: skip


def _card(facts: TokenizerFacts, repo: str, has_licence_file: bool) -> str:
    """The text of README.md."""
    other = facts.licence == "other"
    metadata = ModelCardData(
        language=facts.languages or None,
        license=facts.licence,
        license_name=facts.licence_name.lower().replace(" ", "-") if other else None,
        license_link="LICENSE" if other and has_licence_file else None,
        library_name="transformers",
        tags=["sioconv", "tokenizer"],
    )
    sizes = {name: values["bytes_per_token"] for name, values in (facts.report.get("sources") or {}).items()}
    values = {"facts": facts, "repo": repo, "has_licence_file": has_licence_file, "sizes": sizes}
    return render("tokenizer.md", metadata, facts.languages, values)


def _provenance(facts: TokenizerFacts, sha256: str) -> dict[str, Any]:
    return {
        "format": "sioconv-published",
        "version": 1,
        "kind": "tokenizer",
        "name": facts.name,
        "author": facts.author,
        "license": facts.licence_name,
        "license_confirmed_against": facts.against,
        "tokens": facts.tokens,
        "tokenizer_sha256": sha256,
        "adopted": facts.adopted,
        "sources": [asdict(source) for source in facts.sources],
        "published_with": {"sioconv": __version__},
    }


def _write(file: Path, text: str) -> None:
    file.write_text(text, encoding="utf-8", newline="\n")
