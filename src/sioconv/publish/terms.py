"""What goes along with an exported model: the licence of its weights, and the notices of the text it has read."""

import json
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from sioconv.errors import UserError
from sioconv.evaluate.report import escape_markdown
from sioconv.files import shown
from sioconv.progress import say
from sioconv.publish.config import OF_TEXT, PublishConfig
from sioconv.publish.facts import Source, check_licences, is_tuned, licence_of, run_of, sources_of
from sioconv.publish.folder import CARD, LICENCE, NOTICE, PROVENANCE, is_published, notices
from sioconv.publish.licences import plain
from sioconv.recipe.schema import load_recipe
from sioconv.run.folder import BASE, MODEL, RECIPE


@dataclass(frozen=True)
class Terms:
    """Under which terms an exported model stands.

    Args:
        licence: of the weights, as the Hub calls it or `other`; None where nobody has said it.
        name: of a licence that is `other`.
        file: the licence's text, where it comes along.
        against: what speaks against the licence; `author` has confirmed it.
        author: who has; empty for whoever exports.
        notice: the notices of the text; None where they can't be made, which was warned of.
    """

    licence: str | None
    name: str | None
    file: Path | None
    against: list[str]
    author: str
    notice: str | None

    def write(self, folder: Path, beside: Path) -> None:
        """Puts the licence's text into `folder`, and the notices into `beside`, where the weights are."""
        if self.file is not None:
            shutil.copyfile(self.file, folder / LICENCE)
        if self.notice is not None:
            (beside / NOTICE).write_text(self.notice, encoding="utf-8", newline="\n")

    def metadata(self) -> dict[str, str]:
        """What the metadata of a card say of the licence."""
        values = {"license": self.licence, "license_name": self.name, "license_link": LICENCE if self.file else None}
        return {key: value for key, value in values.items() if value is not None}

    def confirmed(self) -> str:
        """Lines of a card, in English and Japanese, on what was confirmed; empty where nothing was."""
        lines = []
        en, ja = (self.author, self.author) if self.author else ("Who made this", "これを作った人")
        for what in map(escape_markdown, self.against):
            lines.append(f"{en} has confirmed the right to publish under this licence although {what}.")
            lines.append(f"{ja} は、このライセンスで公開する権利があることを確認しています（{what}）。")
        return "".join(f"{line}\n\n" for line in lines)


def front(card: Path) -> dict[str, Any]:
    """The metadata that a card begins with; empty where there are none."""
    try:
        before, text, _ = card.read_text(encoding="utf-8").split("---\n", 2)
        values = yaml.safe_load(text) if not before else None
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return values if isinstance(values, dict) else {}


def name_of(model: Path) -> str:
    """What a model is called where nobody says it: as its run, else as its folder."""
    place = model.resolve()
    return place.parent.name if place.name in (MODEL, BASE) and place.parent.name else place.name


def terms_of(model: Path, options: PublishConfig) -> Terms:
    """The terms of a model: what was said, else what its own card says.

    Args:
        model: its folder; what was published is found there or, of a quantised form, in the folder around it.
        options: those in `sioconv.publish.config.OPTIONS` count.

    Raises:
        UserError: a licence that isn't the model's own, or that a text speaks against, isn't confirmed; or there is no
            such licence.
    """
    published = _published(model)
    if published is not None:
        for option in OF_TEXT:
            if getattr(options, option):
                raise UserError(
                    f"{shown(published)} is published already, with its facts: leave --{option.replace('_', '-')} out"
                )
    place = published or model
    card = front(place / CARD)
    own = {key: value for key, value in card.items() if key.startswith("license") and isinstance(value, str)}
    sources = _sources(model, published, options)
    notice = None
    if (place / NOTICE).is_file():
        notice = (place / NOTICE).read_text(encoding="utf-8")
    elif sources is not None:
        notice = notices(f"{options.name or name_of(model)}, a language model", "", sources)
    if options.license is None and options.license_file is None:
        values = _provenance(published) if published is not None else {}
        file = place / LICENCE
        return Terms(
            licence=own.get("license"), name=own.get("license_name"), file=file if file.is_file() else None,
            against=list(values.get("license_confirmed_against") or []), author=str(values.get("author") or ""),
            notice=notice,
        )  # fmt: skip
    licence, name = licence_of(options)
    against = _against_own(name, own, options) + check_licences(name, sources or [], options)
    return Terms(
        licence=licence, name=name.lower().replace(" ", "-") if licence == "other" else None,
        file=Path(options.license_file) if options.license_file is not None else None, against=against, author="",
        notice=notice,
    )  # fmt: skip


def _against_own(given: str, own: dict[str, str], options: PublishConfig) -> list[str]:
    """What the model's own card has against a licence. Raises UserError where that isn't confirmed."""
    names = [own[key] for key in ("license_name", "license") if key in own]
    if not names or plain(given) in map(plain, names):
        return []
    if not options.license_confirmed:
        raise UserError(
            f"the model's own card says {names[0]}, not {given}: leave --license out, "
            "or give --license-confirmed if you have the right"
        )
    say(f"warning: the model's own card says {names[0]}, not {given}; confirmed by --license-confirmed")
    return [f"its own card says {names[0]}"]


def _published(model: Path) -> Path | None:
    return next((place for place in (model, model.absolute().parent) if is_published(place)), None)


def _provenance(published: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((published / PROVENANCE).read_text(encoding="utf-8"))
    return values


def _sources(model: Path, published: Path | None, options: PublishConfig) -> list[Source] | None:
    """The text that a model has read, with that of the model it was tuned from; None, and a warning, where unknown.

    Raises UserError where something was said of the text or the licence, and the text's own licence isn't known.
    """
    if published is not None:
        try:
            return [Source(**source) for source in _provenance(published)["sources"]]
        except (KeyError, TypeError) as error:
            raise UserError(f"{shown(published / PROVENANCE)} can't be read: publish the model again") from error
    run = run_of(model, options)
    if run is None and options.recipe is None:
        if options.license is not None or not (model / NOTICE).is_file():
            say(
                f"warning: {shown(model)} is in no run, so that the licences of its text aren't known: no NOTICE is "
                "made of them, and no --license compared: give --run RUN or --recipe RECIPE.yaml"
            )
        return None
    try:
        recipe = load_recipe([str(run / RECIPE) if run else str(options.recipe)])
        tuned = is_tuned(model, run, recipe)
        sources = list(sources_of(recipe, run, tuned, options))
    except UserError as error:
        if options.license is not None or any(getattr(options, option) for option in OF_TEXT):
            raise
        say(f"warning: no NOTICE of the text's licences is made: {error}")
        return None
    return [*_of_base(recipe.finetune.base), *sources] if tuned and recipe.finetune.base else sources


def _of_base(base: str) -> Iterable[Source]:
    """The model that another one was tuned from, where it is published, and what it has read."""
    published = _published(Path(base))
    if published is not None:
        values = _provenance(published)
        yield Source(
            name=str(values.get("name")), stage="base", path=f"a model by {values.get('author')}", hub=None,
            kind="model", language="", licence=str(values.get("license")), share=1.0,
        )  # fmt: skip
    yield from _sources(Path(base), published, PublishConfig()) or []
