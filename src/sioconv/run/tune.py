"""`sioconv tune`: a user's own conversations and text on top of a model that is there, by a recipe that it writes.

It imports what isn't JSON lines yet, mixes some of the base's own text in, lets `stages.finetune` do the work, and puts
questions from held-out conversations to the model before and after.
"""

import filecmp
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

from sioconv.data.amounts import at_most
from sioconv.data.cleaning.splits import read_split
from sioconv.data.config import WHO, SourceConfig
from sioconv.data.sources.identity import check_name
from sioconv.data.sources.readers import is_known
from sioconv.data.sources.source import read_rows
from sioconv.data.tokenizer.tokenizer import encode_texts, load_tokenizer
from sioconv.errors import UserError
from sioconv.evaluate.heldout import assistant_loss
from sioconv.files import atomic_write, missing, shown, work_folder
from sioconv.generate import SamplingConfig, generate_text
from sioconv.generate.conversation import Conversation
from sioconv.importing.options import ImportOptions
from sioconv.importing.run import Account, import_files
from sioconv.model.folder import keep_generation, load_model_folder
from sioconv.model.in_package import NAME as PACKAGED
from sioconv.model.in_package import place_of
from sioconv.progress import say, track
from sioconv.recipe.files import merge, parse_overrides
from sioconv.recipe.schema import Recipe, build, load_recipe
from sioconv.run import stages
from sioconv.run.demo import set_aside
from sioconv.run.folder import BASE, MODEL, RECIPE, TUNING
from sioconv.run.persona import as_lines, read_persona

SOURCES, ANSWERS = "sources", "answers.json"
AS_THEY_ARE = (".jsonl", ".ndjson", ".parquet", ".gz", ".bz2", ".xz", ".zst")  # what sources read without importing
CHATS_SHARE = 2 / 3  # of one's own part, where there is text as well
IDENTITY, PERSONA = 0.06, 0.04  # shares of what the model says of itself
WANTED_HELDOUT = 14  # conversations to ask from
LEAST_HELDOUT, MOST_HELDOUT = 0.02, 0.15  # shares of one's own that they are
LEAST_TOKENS, MOST_TOKENS = 40_000, 20_000_000
STEP = {"sequence_length": 256, "batch_size": 8}
SAMPLE = 1 << 20  # bytes that tell how many tokens a text has
CONTINUED, BEGINNING = 3, 30  # held-out documents that are continued, and characters of each


@dataclass(frozen=True)
class TuneOptions:
    """How a model is tuned on one's own files.

    Args:
        name: what the model is called; the run goes to runs/NAME.
        base: the run or model folder that it starts from; null takes runs/demo, else the newest run that isn't
            tuned so itself, else the model of the package, sioconv-ja-en-7m.
        persona: a description of a few lines, as the persona would say them, or a file with them.
        minutes: how long to train; null goes through your files `passes` times.
        passes: how often your files are read.
        replay: share of the base's own text and conversations that is mixed in, so that it isn't forgotten.
        lr: highest learning rate.
        questions: how many held-out questions are asked before and after.
        temperature: how freely the tuned model answers where nobody says how; kept in its folder. A small model that
            has read little talks nonsense at 0.8.
    """

    name: str
    base: str | None = None
    persona: str | None = None
    minutes: float | None = None
    passes: float = 20.0
    replay: float = 0.3
    lr: float = 2e-3
    questions: int = 10
    temperature: float = 0.5

    def check(self) -> None:
        """Raises UserError for values that can't work."""
        check_name(self.name)
        if not 0 <= self.replay <= 0.9:
            raise UserError(f"--replay: {self.replay} is not from 0 to 0.9")
        if not 0 < self.passes <= 10_000:
            raise UserError(f"--passes: {self.passes} is not over 0 and up to 10,000")
        SamplingConfig(temperature=self.temperature)
        if not 0 <= self.questions <= 1000:
            raise UserError(f"--questions: {self.questions} is not from 0 to 1,000")


@dataclass
class Answer:
    """A held-out question, or the beginning of a held-out document.

    Args:
        question: what is asked.
        own: what stands in the held-out file.
        before: what the base says.
        after: what the tuned model says.
    """

    question: str
    own: str
    before: str = ""
    after: str = ""


@dataclass
class Tuned:
    """What came out.

    Args:
        run: the run's folder.
        model: the tuned model's.
        base: the one that it started from.
        answers: held-out questions, answered before and after.
        loss: mean loss in nats of a token of what the assistant says in held-out conversations, before and after.
    """

    run: str
    model: str
    base: str
    answers: list[Answer] = field(default_factory=list)
    loss: list[float | None] = field(default_factory=list)


def tune(files: Sequence[str], options: TuneOptions, importing: ImportOptions, settings: Sequence[str] = ()) -> Tuned:
    """Tunes a model on files, or by a recipe.

    Args:
        files: own conversations and text, of any form that `import_files` or a source reads; or recipes (.yaml).
        options: how.
        importing: how files are imported that aren't JSON lines.
        settings: keys of the recipe that are set, as `finetune.train.lr=1e-4`.

    Raises:
        UserError: a file, base, name or setting that can't be used.
    """
    options.check()
    if all(file.endswith((".yaml", ".yml")) for file in files):
        recipe = load_recipe(files, [f"--name={options.name}", *(f"--{each}" for each in settings)])
        start = Path(recipe.finetune.base or recipe.folder / BASE)
    else:
        start, base = find_base(options.base, options.name)
        recipe = _with_files(files, options, importing, start, base, settings)
    stages.only_sioconv(recipe, "tune", "take a base of the architecture sioconv")
    own = {name: source for name, source in recipe.finetune.data.sources.items() if source.origin == "files"}
    asked = _questions(own, recipe.finetune.data.heldout, options.questions)
    held = [row.messages or [] for row in _heldout(own, recipe.finetune.data.heldout, "chat")][:100]
    tuned = Tuned(str(recipe.folder), str(stages.tuned_path(recipe)), str(start), asked)
    if start.is_dir():
        tuned.loss.append(_answer(tuned, start, held, "before"))
    stages.finetune(recipe)
    if recipe.finetune.train.only == "all":
        keep_generation(Path(tuned.model), SamplingConfig(temperature=options.temperature).for_transformers())
    if not tuned.loss:
        tuned.loss.append(_answer(tuned, start, held, "before"))
    state = None if recipe.finetune.train.only == "all" else tuned.model
    tuned.loss.append(_answer(tuned, start if state else Path(tuned.model), held, "after", state))
    with atomic_write(recipe.folder / ANSWERS, private=True) as temporary:
        temporary.write_text(json.dumps(asdict(tuned), ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    return tuned


def find_base(given: str | None, name: str) -> tuple[Path, Recipe | None]:
    """The model folder to start from, and the recipe that it was made by, where that is known.

    Raises UserError where there is none.
    """
    if given is None:
        runs = [path.parent.parent for path in Path("runs").glob(f"*/{MODEL}/config.json") if path.parts[1] != name]
        runs = [run for run in runs if not (run / ANSWERS).exists()]  # a persona is no base for another one
        runs.sort(key=lambda run: (run.name != "demo", -(run / MODEL / "config.json").stat().st_mtime))
        given = str(runs[0]) if runs else PACKAGED
        say(
            f"tune: starts from {given}; --base takes another"
            if runs
            else f"tune: starts from {given}, the model of the package, as there is no run here; --base takes another"
        )
    place = Path(place_of(given))
    if place != Path(given):
        recipe = load_recipe([str(place / RECIPE)])
        for data in (recipe.data, recipe.finetune.data):  # files of its maker aren't here, the package's are
            data.sources = {key: source for key, source in data.sources.items() if source.origin != "files"}
        return place, recipe
    if place == Path("runs") / name:
        raise UserError(f"{place} can't be tuned into itself: choose another --name")
    if (place / RECIPE).is_file():
        start = next((place / made for made in (MODEL, BASE) if (place / made / "config.json").is_file()), None)
        if start is None:
            raise UserError(f"no model in {place} yet: run sioconv pretrain for it first, or give another --base")
        return start, load_recipe([str(place / RECIPE)])
    if not (place / "config.json").is_file():
        why = "it holds no model and no run" if place.exists() else missing(place)
        raise UserError(f"no base at {given}: {why}: give --base a run or a model folder")
    beside = place.parent / RECIPE
    return place, load_recipe([str(beside)]) if beside.is_file() else None


def _with_files(
    files: Sequence[str],
    options: TuneOptions,
    importing: ImportOptions,
    start: Path,
    base: Recipe | None,
    settings: Sequence[str],
) -> Recipe:
    """The recipe for the files; what was imported lies in the run's folder. An older run of that name is set aside."""
    with work_folder(Path("runs") / TUNING) as made:
        own = {f"own{number}": _own_source(Path(file), made / f"own{number}.jsonl", importing)
               for number, file in enumerate(files, start=1)}  # fmt: skip
        if options.persona is not None:
            (made / "persona.jsonl").write_text(as_lines(read_persona(options.persona)), encoding="utf-8")
        place = Path("runs") / options.name / SOURCES
        for source in own.values():
            if Path(source.path).parent == made:
                source.path = str(place / Path(source.path).name)
        recipe = _recipe(own, made, options, start, base, settings)
        kept = sorted(file.name for file in made.iterdir())
        same = all((place / name).is_file() and filecmp.cmp(made / name, place / name, False) for name in kept)
        set_aside(recipe, "tune", changed=not same)
        for name in kept:
            if not (place / name).is_file():
                with atomic_write(place / name, private=True) as temporary:
                    temporary.write_bytes((made / name).read_bytes())
    return recipe


def _own_source(file: Path, out: Path, importing: ImportOptions) -> SourceConfig:
    """A file as a source: as it is where sources read it, else imported to `out`."""
    if file.suffix.lower() in AS_THEY_ARE and is_known(file):
        for kind in ("chat", "text"):
            source = SourceConfig(str(file), kind=kind)
            try:
                next(read_rows(source), None)
            except UserError as error:
                problem = error
                continue
            return source
        raise problem
    account = import_files([file], out, importing)
    _say_imported(file, account)
    return SourceConfig(str(out), kind="chat" if account.kind == "chat" else "text")


def _say_imported(file: Path, account: Account) -> None:
    left = sum(counted.count for counted in account.left_out.values())
    what = "conversations" if account.kind == "chat" else "documents"
    form = "; ".join([account.files[0].form, *account.files[0].notes])
    say(f"tune: {shown(file)}: {form}: {account.rows:,} {what}"
        + (f", {left:,} messages and parts left out (sioconv import says which)" if left else ""))  # fmt: skip
    for note in account.notes:
        say(f"tune: {note}")


def _recipe(
    own: dict[str, SourceConfig],
    made: Path,
    options: TuneOptions,
    start: Path,
    base: Recipe | None,
    settings: Sequence[str],
) -> Recipe:
    """The recipe: shares of the sources, the budget in tokens, what is held out."""
    replayed = _replayed(base, options.replay)
    who = SourceConfig(f"identity:{options.name}", kind="chat", config=WHO, weight=IDENTITY, heldout=0.0)
    about = {"identity": who}
    if options.persona is not None:
        path = str(Path("runs") / options.name / SOURCES / "persona.jsonl")
        about["persona"] = SourceConfig(path, kind="chat", weight=PERSONA, heldout=0.0)
    share = 1 - sum(source.weight for source in (*replayed.values(), *about.values()))
    tokens = _weigh(own, share, made, start)
    budget = min(MOST_TOKENS, max(LEAST_TOKENS, round(options.passes * tokens / share)))
    train: dict[str, Any] = {
        **STEP, "whole_documents": True, "lr": options.lr, "warmup": 0.1, "decay": 0.5, "sample_prompts": [],
        "validate_every": 0, "validate_bytes": 20_000,
        **({"tokens": budget} if options.minutes is None else {"minutes": options.minutes}),
    }  # fmt: skip
    sources = {name: asdict(source) for name, source in (own | about | replayed).items()}
    heldout = base.finetune.data.heldout if base is not None and base.finetune.data.sources else 0.03
    values = {
        "name": options.name,
        "finetune": {"from": str(start), "data": {"heldout": heldout, "sources": sources}, "train": train},
    }
    merge(values, parse_overrides([f"--{each}" for each in settings], Recipe))
    return build(values)


def _replayed(base: Recipe | None, share: float) -> dict[str, SourceConfig]:
    """The base's own sources, which together get that share: conversations a half of it, where it has both."""
    if base is None or not share:
        if share:
            say("tune: the base is in no run, so its text isn't known and nothing of it is mixed in")
        return {}
    if base.data.by_size or base.finetune.data.by_size:
        say("tune: the base's shares follow its sources' sizes; what is mixed in of them follows their weights alone")
    texts = {f"base_{name}": source for name, source in base.data.sources.items() if source.weight}
    chats = {
        f"base_{name}": source
        for name, source in base.finetune.data.sources.items()
        if source.kind == "chat" and source.origin != "identity" and source.weight
    }
    groups = [group for group in (texts, chats) if group]
    found = {}
    for group in groups:
        whole = sum(source.weight for source in group.values())
        for name, source in group.items():
            found[name] = replace(source, weight=share / len(groups) * source.weight / whole)
    return found


def _weigh(own: dict[str, SourceConfig], share: float, made: Path, start: Path) -> int:
    """Sets the weights and held-out shares of one's own sources; returns about how many tokens they have."""
    tokenizer = load_tokenizer(start)
    sizes, tokens = dict[str, int](), 0
    for name, source in own.items():
        copy = made / Path(source.path).name
        rows, characters, sample = 0, 0, list[str]()
        for row in read_rows(replace(source, path=str(copy)) if copy.is_file() else source):
            rows += 1
            characters += sum(map(len, row.texts))
            if characters < SAMPLE:
                sample += row.texts
        counted = sum(map(len, sample)) or 1
        sizes[name] = round(sum(map(len, encode_texts(tokenizer, sample))) * max(1.0, characters / counted))
        tokens += sizes[name]
        wanted = WANTED_HELDOUT if source.kind == "chat" else CONTINUED + 1
        source.heldout = min(MOST_HELDOUT, max(LEAST_HELDOUT, wanted / rows)) if rows > 1 else 0.0
    for kind, part in (("chat", CHATS_SHARE), ("text", 1 - CHATS_SHARE)):
        names = [name for name, source in own.items() if source.kind == kind]
        alone = len(names) == len(own)
        for name in names:
            own[name].weight = share * (1 if alone else part) * sizes[name] / sum(sizes[each] for each in names)
    return tokens


def _heldout(own: dict[str, SourceConfig], share: float, kind: str) -> Iterator[Any]:
    for source in own.values():
        if source.kind == kind and "persona" not in Path(source.path).name:
            yield from read_split(source, "heldout", source.heldout_or(share))


def _questions(own: dict[str, SourceConfig], share: float, count: int) -> list[Answer]:
    """First questions of held-out conversations with their answers; without conversations, beginnings of documents."""
    found: dict[str, Answer] = {}
    for row in _heldout(own, share, "chat"):
        first = next((turn for turn in row.messages if turn["role"] != "system"), None)
        replies = [turn["content"] for turn in row.messages if turn["role"] == "assistant"]
        if first is not None and first["role"] == "user" and replies:
            found.setdefault(first["content"], Answer(first["content"], replies[0]))
    if not found:
        for row in islice(_heldout(own, share, "text"), CONTINUED):
            beginning = row.text[:BEGINNING]
            found.setdefault(beginning, Answer(beginning, at_most([row.text[BEGINNING:]], 200)[0][:100]))
    if len(found) < count and any(source.kind == "chat" for source in own.values()):
        say(f"tune: {len(found)} held-out questions are there; more conversations would give {count}")
    return list(found.values())[:count]


def _answer(tuned: Tuned, model_folder: Path, held: list[Any], when: str, state: str | None = None) -> float | None:
    """Fills in what a model answers; returns its loss on the held-out conversations."""
    model, tokenizer = load_model_folder(str(model_folder), state=state)
    sampling = SamplingConfig(temperature=0.3, max_new_tokens=60, seed=0)
    conversation = Conversation(model, tokenizer, seed=0)
    for answer in track(tuned.answers, f"questions {when} tuning"):
        if held:
            conversation.reset()
            text = "".join(conversation.reply(answer.question, sampling))
        else:
            text = generate_text(model, tokenizer, answer.question, sampling).text
        setattr(answer, when, text.strip())
    return assistant_loss(model, tokenizer, held) if held else None
