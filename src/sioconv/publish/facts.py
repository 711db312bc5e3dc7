"""What is known about a model: from its folder, its run, and what is said on the command line."""

import importlib
import json
import re
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from sioconv import __version__
from sioconv.checksums import read_sealed
from sioconv.data.bundled import stem_of
from sioconv.data.config import ClusterConfig, DataConfig, SourceConfig
from sioconv.data.shards.shard_set import MANIFEST
from sioconv.errors import UserError
from sioconv.files import shown
from sioconv.progress import say
from sioconv.publish.config import PublishConfig
from sioconv.publish.licences import BUNDLED, HUB_LICENCES, TextLicence, conflicts, is_unknown, plain, unfamiliar
from sioconv.recipe.schema import Recipe, as_values, load_recipe
from sioconv.run.folder import BASE, DATA, RECIPE, REPORT, made_by, why_no_run
from sioconv.train.config import TrainConfig

SUMMARY = "summary.json"
KEPT = ("tokens", "step", "seconds", "versions")  # of a checkpoint's progress
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
NAME = re.compile(r"[^\s/\\\x00-\x1f]+")  # of a variant: a folder's name
LANGUAGE = re.compile(r"[a-z]{2,3}")
OWN_LICENCES = {"identity": "Apache-2.0"}  # turns that the package itself makes


@dataclass(frozen=True)
class Source:
    """One source of text, and how much of it there was.

    Args:
        name: in the recipe.
        stage: pretrain or finetune.
        path: as the recipe says it; of a path on the machine only the last part.
        share: of the stage's tokens.
        tokens, documents, bytes: of its training part; None where no manifest says it.
        inputs: file name and SHA-256 of what was read.
    """

    name: str
    stage: str
    path: str
    hub: str | None
    kind: str
    language: str
    licence: str
    share: float
    tokens: int | None = None
    documents: int | None = None
    bytes: int | None = None
    inputs: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Origin:
    """Whose it is and what it was made from, of a model or a tokenizer.

    Args:
        licence: identifier of the Hub, or `other`.
        licence_name: as it was given.
        against: what the texts' licences say against it; the author has confirmed it.
        sources: text that it was trained on.
    """

    name: str
    author: str
    licence: str
    licence_name: str
    against: list[str]
    languages: list[str]
    sources: list[Source]


@dataclass(frozen=True)
class Facts(Origin):
    """Everything that the card and provenance.json of a model are made from.

    Args:
        tuned: whether the model was tuned on conversations.
        base: name of the model that another one was tuned from; None for one that began from nothing.
        base_model: its identifier on the Hub.
        recipe: the recipe's values without paths of the machine; None without a recipe.
        counted: whether it has tokens that were trained on where the run's has minutes.
        summary: the report's figures; None where the model comes from no run.
        run: the run's folder.
        progress: how training ended, by stage: tokens, steps, seconds, versions.
    """

    tuned: bool
    base: str | None
    base_model: str | None
    recipe: dict[str, Any] | None
    counted: bool
    summary: dict[str, Any] | None
    run: Path | None
    progress: dict[str, dict[str, Any]]
    config: dict[str, Any]
    parameters: int
    versions: dict[str, str]
    commit: str | None

    @property
    def datasets(self) -> list[str]:
        """Datasets of the Hub among the sources."""
        return sorted({source.hub for source in self.sources if source.hub})

    @property
    def timed(self) -> bool:
        """Whether the recipe gives a stage of this model minutes, which are other tokens on another machine."""
        assert self.recipe is not None
        stages = [self.recipe["finetune"]["train"]] if self.tuned else []
        if not (self.tuned and self.recipe["finetune"]["from"]):
            stages.append(self.recipe["train"])
        return any(train["minutes"] is not None for train in stages)

    @property
    def bits(self) -> dict[str, float]:
        """Bits per byte of this model: by language, then by source; empty where nothing was measured."""
        if self.summary is None:
            return {}
        values = self.summary.get("bpb_tuned" if self.tuned else "bpb") or {}
        languages = {key: value for key, value in values.items() if isinstance(value, float)}
        return languages | dict(values.get("sources") or {})


def gather(model: Path, options: PublishConfig, parameters: int, weights: str) -> Facts:
    """The facts about a model. Raises UserError, naming the option, where one is missing or speaks against another.

    Args:
        model: its folder.
        options: what no file knows.
        parameters: how many it has.
        weights: their fingerprint; the report's figures must be of these.
    """
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    run = run_of(model, options)
    if run is None and options.recipe is None:
        raise UserError(
            f"{shown(model)} is in no run: say what text it has read with --run RUN or --recipe RECIPE.yaml"
        )
    recipe = load_recipe([str(run / RECIPE) if run else str(options.recipe)])
    tuned = is_tuned(model, run, recipe)
    progress = _progress(run, tuned)
    counted = _with_tokens(recipe, progress)
    base, base_model = _base_of(recipe, run, tuned, options)
    sources = list(sources_of(recipe, run, tuned, options))
    licence, licence_name = licence_of(options)
    against = check_licences(licence_name, sources, options)
    summary = None if run is None else _summary(run, parameters, weights, "tuned" if tuned else "base")
    if not options.author or not options.author.strip():
        raise UserError("who publishes the model isn't known: give --author NAME, a person or an organisation")
    return Facts(
        name=options.name or recipe.name, author=options.author.strip(), licence=licence, licence_name=licence_name,
        against=against, languages=languages_of(sources), sources=sources, tuned=tuned, base=base,
        base_model=base_model, recipe=_without_places(counted, run), counted=counted != recipe, summary=summary,
        run=run, progress=progress, config=config, parameters=parameters,
        versions={"sioconv": __version__} | _library_versions(), commit=_commit(),
    )  # fmt: skip


def named(values: Iterable[str], option: str) -> dict[str, str]:
    """`NAME=VALUE` as a dictionary. Raises UserError for another form, or a name that comes twice."""
    found: dict[str, str] = {}
    for text in values:
        name, equals, value = text.partition("=")
        if not equals or not value or not NAME.fullmatch(name) or name.startswith(".") or name in found:
            why = "that name came before" if name in found else "give NAME=VALUE"
            raise UserError(f"--{option} {text!r}: {why}")
        found[name] = value
    return found


def run_of(model: Path, options: PublishConfig) -> Path | None:
    """The run's folder of a model or a tokenizer; None where it is in none. Raises UserError where --run names none."""
    if options.run is not None:
        run = Path(options.run)
        if not (run / RECIPE).is_file():
            raise UserError(why_no_run(run))
        return run
    parent = model.absolute().parent
    return parent if options.recipe is None and (parent / RECIPE).is_file() else None


def is_tuned(model: Path, run: Path | None, recipe: Recipe) -> bool:
    """Whether tuning was the model's last stage: as the run noted it, else as the recipe and the folder's name say."""
    noted = made_by(run).get(model.name) if run else None
    if noted is not None:
        return bool(noted["stage"] == "finetune")
    return bool(recipe.finetune.data.sources) and model.name != BASE


def _base_of(recipe: Recipe, run: Path | None, tuned: bool, options: PublishConfig) -> tuple[str | None, str | None]:
    """Name and identifier on the Hub of the model that this one was tuned from, where that isn't the run's own."""
    given, start = options.base_model, recipe.finetune.base if tuned else None
    if given is not None and not HUB_ID.fullmatch(given):
        raise UserError(f"--base-model {given!r} is no identifier of the Hub: give OWNER/NAME")
    if start is None:
        return (given, given)
    if given is None and not (HUB_ID.fullmatch(start) and is_on_hub(start, run)):
        raise UserError(
            f"the model was tuned from {shown(start)}, a folder of this machine: give its --base-model OWNER/NAME"
        )
    return (given or start, given or start)


def sources_of(recipe: Recipe, run: Path | None, tuned: bool, options: PublishConfig) -> Iterable[Source]:
    """The sources of all stages that the model went through. Raises UserError where a licence isn't known."""
    said = named(options.source_license, "source-license")
    stages: dict[str, DataConfig] = {}
    if not (tuned and recipe.finetune.base):
        stages["pretrain"] = recipe.data
    if tuned:
        stages["finetune"] = recipe.finetune.data
    names = {name for data in stages.values() for name in data.sources}
    if strange := sorted(said.keys() - names):
        raise UserError(f"--source-license {strange[0]}: no such source: there are {', '.join(sorted(names))}")
    for stage, data in stages.items():
        sizes = {name: _manifest(run, name).get("tokens") or 0 for name in data.sources}
        if data.by_size and not all(sizes.values()):
            raise UserError(
                "the recipe's data.by_size makes shares follow the sources' sizes, and the run's shards aren't there: "
                "publish it from its run"
            )
        shares = data.shares(sizes)
        total = sum(shares.values()) or 1.0
        for name, source in data.sources.items():
            manifest = _manifest(run, name)
            licence = source.licence or manifest.get("licence") or _own_licence(source)
            if name in said and not is_unknown(licence) and plain(said[name]) != plain(licence):
                raise UserError(
                    f"--source-license {name}={said[name]}: the recipe says {licence}: leave the option out, or, if "
                    "the recipe is wrong, correct it there"
                )
            licence = said.get(name, licence)
            if is_unknown(licence):
                raise UserError(
                    f"the licence of the text {name} ({_place(source)}) isn't known: "
                    f"give --source-license {name}=LICENCE"
                )
            yield Source(
                name=name, stage=stage, path=_place(source), hub=source.name if source.origin == "hub" else None,
                kind=source.kind, language=source.language, licence=licence, share=shares[name] / total,
                tokens=manifest.get("tokens"), documents=manifest.get("documents"), bytes=manifest.get("bytes"),
                inputs=list(manifest.get("inputs") or []),
            )  # fmt: skip


def _own_licence(source: SourceConfig) -> str:
    if source.origin == "bundled":
        return BUNDLED.get(stem_of(source.name), "")
    return OWN_LICENCES.get(source.origin, "")


def _manifest(run: Path | None, name: str) -> dict[str, Any]:
    file = None if run is None else run / DATA / name / "train" / MANIFEST
    if file is None or not file.is_file():
        return {}
    try:
        return read_sealed(file)
    except (OSError, ValueError) as error:
        raise UserError(f"{shown(file)} can't be read ({error}): make it again with sioconv data") from error


def _place(source: SourceConfig) -> str:
    """Where a text comes from, without the folders of a machine: what the card, NOTICE and the recipe say."""
    return last_part(source.path) if source.origin == "files" else source.path


def licence_of(options: PublishConfig) -> tuple[str, str]:
    """The Hub's identifier and the name of the weights' licence."""
    given = (options.license or "").strip()
    if not given or is_unknown(given):
        raise UserError("the licence of the weights isn't known: give --license, such as apache-2.0 or cc-by-sa-4.0")
    if options.license_file is not None and not Path(options.license_file).is_file():
        raise UserError(f"no licence file at {options.license_file}: give --license-file the text of the licence")
    if plain(given) in HUB_LICENCES:
        return plain(given), plain(given)
    if options.license_file is None:
        raise UserError(
            f"{given} is no licence that the Hub knows: give its identifier (apache-2.0, cc-by-sa-4.0, …), "
            "or the text with --license-file"
        )
    return "other", given


def check_licences(licence: str, sources: Iterable[Source], options: PublishConfig) -> list[str]:
    """What the texts' licences say against `licence`. Raises UserError where that isn't confirmed."""
    texts = list(dict.fromkeys(TextLicence(source.name, source.licence) for source in sources))
    against = conflicts(licence, texts)
    if against and not options.license_confirmed:
        more = f" (and {len(against) - 1} more)" if len(against) > 1 else ""
        raise UserError(
            f"the licence of a text speaks against {licence} for the weights: {against[0]}{more}: "
            "choose another --license, or give --license-confirmed if you have the right"
        )
    for what in against:
        say(f"warning: {what}; confirmed by --license-confirmed")
    if strange := unfamiliar(texts):
        say(f"warning: read the licences of {', '.join(strange)} yourself: this command doesn't know them")
    return against


def _summary(run: Path, parameters: int, weights: str, stage: str) -> dict[str, Any]:
    file = run / REPORT / SUMMARY
    if not file.is_file():
        raise UserError(f"{shown(run)} has no report: run sioconv report {shown(run)} first")
    try:
        summary = json.loads(file.read_text(encoding="utf-8"))
        measured = summary["parameters"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{shown(file)} can't be read: run sioconv report {shown(run)} again") from error
    if measured != parameters:
        raise UserError(
            f"the report of {shown(run)} measured {measured:,} parameters, the model has {parameters:,}: "
            f"run sioconv report {shown(run)} again"
        )
    measured = (summary.get("weights") or {}).get(stage)
    if measured is None:
        say(
            f"warning: the report of {shown(run)} doesn't say which weights it measured, so that its figures can't be "
            f"checked: sioconv report {shown(run)} makes it anew"
        )
    elif measured != weights:
        raise UserError(
            f"the report of {shown(run)} measured other weights than the model has: run sioconv report {shown(run)} "
            "again"
        )
    return dict(summary)


def languages_of(sources: Iterable[Source]) -> list[str]:
    """The sources' languages, each once. Raises UserError for one that the Hub doesn't know."""
    languages = list(dict.fromkeys(source.language.split("-")[0].lower() for source in sources))
    for language in languages:
        if not LANGUAGE.fullmatch(language):
            raise UserError(f"{language!r} is no language that the Hub knows: set the source's language to ja, en, …")
    return languages


def _progress(run: Path | None, tuned: bool) -> dict[str, dict[str, Any]]:
    """Tokens, steps, seconds and versions of each stage's last checkpoint; without a stage that is at work still."""
    found: dict[str, dict[str, Any]] = {}
    for stage in ("pretrain", *(["finetune"] if tuned else [])):
        files = sorted(run.glob(f"checkpoints/{stage}/step-*/progress.json")) if run else []
        if files:
            values = read_sealed(files[-1])
            if values.get("step", 0) >= values.get("plan", {}).get("steps", 0):
                found[stage] = {key: values[key] for key in KEPT if key in values}
    return found


def _with_tokens(recipe: Recipe, progress: Mapping[str, Mapping[str, Any]]) -> Recipe:
    """A recipe that trains on any machine as long as the run did: where it gives minutes, the tokens read in them."""

    def counted(train: TrainConfig, stage: str) -> TrainConfig:
        tokens = progress.get(stage, {}).get("tokens")
        return train if train.minutes is None or not tokens else replace(train, minutes=None, tokens=tokens)

    tuning = replace(recipe.finetune, train=counted(recipe.finetune.train, "finetune"))
    return replace(recipe, train=counted(recipe.train, "pretrain"), finetune=tuning)


def _without_places(recipe: Recipe, run: Path | None) -> dict[str, Any]:
    """A recipe's values; of paths, relative ones too, only the last part, and nothing of a cluster's tasks."""

    def shorten(name: str) -> str:
        return name if is_on_hub(name, run) else last_part(name)

    def without(data: DataConfig) -> DataConfig:
        sources = {name: replace(source, path=_place(source)) for name, source in data.sources.items()}
        return replace(data, sources=sources, executor="local", cluster=ClusterConfig())

    cutting, tuning = recipe.tokenizer, recipe.finetune
    path, base = cutting.path and shorten(cutting.path), tuning.base and shorten(tuning.base)
    compare = [shorten(name) for name in cutting.compare]
    return as_values(
        replace(
            recipe,
            data=without(recipe.data),
            tokenizer=replace(cutting, path=path, compare=compare),
            finetune=replace(tuning, base=base, data=without(tuning.data)),
        )
    )


def is_on_hub(name: str, run: Path | None) -> bool:
    """Whether a name is an identifier on the Hub, OWNER/NAME or OWNER/NAME@REVISION, and no path of this machine.

    A folder OWNER makes it a path: in the current folder, or in the one that the run was made from.
    """
    owner = name.partition("/")[0]
    places = [Path(), *([] if run is None else [run.absolute().parent.parent])]
    return HUB_ID.fullmatch(name.partition("@")[0]) is not None and not any((at / owner).is_dir() for at in places)


def last_part(path: str) -> str:
    """What of a path is published; of the current folder it is its dot."""
    return Path(path).name or "."


def _library_versions() -> dict[str, str]:
    names = ("torch", "transformers", "tokenizers", "safetensors")
    return {name: str(importlib.import_module(name).__version__) for name in names}


def _commit() -> str | None:
    """The commit of the program, where it runs from a checkout without changes of its own."""
    root = Path(__file__).parents[3]
    if not (root / ".git").exists():
        return None
    try:
        git = ["git", "-C", str(root)]
        done = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True, timeout=20)
        dirty = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True, check=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() + ("-dirty" if dirty.stdout.strip() else "")


def provenance(facts: Facts, weights: Mapping[str, str]) -> dict[str, Any]:
    """The content of provenance.json.

    Args:
        facts: about the model.
        weights: SHA-256 of each file of weights.
    """
    summary = facts.summary or {}
    machine = {key: value for key, value in summary.get("machine", {}).items() if key != "system"}
    return {
        "format": "sioconv-published",
        "version": 1,
        "name": facts.name,
        "author": facts.author,
        "license": facts.licence_name,
        "license_confirmed_against": facts.against,
        "parameters": facts.parameters,
        "weights_sha256": dict(weights),
        "base_model": facts.base_model,
        "sources": [asdict(source) for source in facts.sources],
        "training": facts.progress,
        "trained_on": machine,
        "trained_with": summary.get("versions", {}),
        "published_with": facts.versions,
        "commit": facts.commit,
        "bits_per_byte": facts.bits,
    }
