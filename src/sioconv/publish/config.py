"""The facts about a model that no file of a run knows."""

from dataclasses import dataclass, field

# Options that an export takes as well; what is in the first, a published folder says itself.
OF_TEXT = ("source_license", "run", "recipe")
OPTIONS = frozenset(("license", "license_file", "license_confirmed", *OF_TEXT))


@dataclass(frozen=True)
class PublishConfig:
    """What is said of a model that is published.

    Args:
        license: licence of the weights: an identifier of the Hub (apache-2.0, cc-by-sa-4.0), or a name of your own
            with --license-file.
        author: who publishes: a person or an organisation; stands in the card.
        name: what the model is called; by default the run's name.
        license_file: text of the licence, copied as LICENSE; needed where the Hub has no identifier for it.
        license_confirmed: publish although the licence of a text may forbid it; the card says so.
        source_license: SOURCE=LICENCE for a source whose licence the recipe doesn't name; may be given several times.
        run: the run's folder that the model comes from, where the model isn't in it.
        recipe: recipe whose sources the model has read, where there is no run.
        base_model: OWNER/NAME on the Hub, of the model that this one was tuned from.
        benchmark: OWNER/NAME of a benchmark on the Hub that holds the held-out text: its tasks are the sources.
        state: FILE or NAME=FILE, a persona of this model or a saved conversation; may be given several times.
        variant: NAME=FOLDER for a quantised form of this model; may be given several times.
    """

    license: str | None = None
    author: str | None = None
    name: str | None = None
    license_file: str | None = None
    license_confirmed: bool = False
    source_license: list[str] = field(default_factory=list)
    run: str | None = None
    recipe: str | None = None
    base_model: str | None = None
    benchmark: str | None = None
    state: list[str] = field(default_factory=list)
    variant: list[str] = field(default_factory=list)
