"""The stages of a run, each a function of the recipe: tokenizer → data → pretrain → finetune → report.

A stage makes those before it if they are missing, and does nothing where its result is already there, so running the
same line again goes on where it stopped.
"""

import math
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from sioconv.checksums import check_sums, read_sums, renew_sums, summed
from sioconv.data import chat
from sioconv.data.batches.lanes import Lanes
from sioconv.data.batches.loader import Mixture
from sioconv.data.batches.repeats import times_read, warning
from sioconv.data.config import FREE, DataConfig
from sioconv.data.shards.pipeline import prepare_source
from sioconv.data.shards.shard_set import MANIFEST, ShardSet
from sioconv.data.sources.source import open_source
from sioconv.data.tokenizer.prepare import prepare_tokenizer
from sioconv.data.tokenizer.tokenizer import load_tokenizer, tokenizer_sha256
from sioconv.errors import UserError
from sioconv.evaluate.bits import bits_per_byte
from sioconv.evaluate.figures import Minutes, ReportFigures
from sioconv.evaluate.heldout import assistant_loss, heldout_conversations, heldout_texts
from sioconv.files import Whereabouts, atomic_folder
from sioconv.generate import SamplingConfig, continue_text, generate_text
from sioconv.generate.quantise import widened_model
from sioconv.hardware import describe_device, matrix_speed, memory_of, pick_device, pick_precision
from sioconv.model.architecture import parameter_count
from sioconv.model.baselines.architectures import NOTES, build_baseline, describe_baseline
from sioconv.model.cache import new_cache
from sioconv.model.causal_lm import SioConvForCausalLM
from sioconv.model.configuration import SioConvConfig
from sioconv.model.folder import load_model_folder, save_model_folder, vocabulary_fingerprint, weights_sum
from sioconv.model.initial_state import INITIAL_STATE_FILE, save_initial_state
from sioconv.plan.costs import check_memory, costs_of, on_this_machine
from sioconv.progress import say
from sioconv.recipe.files import first_difference
from sioconv.recipe.schema import Recipe, as_values, not_from_size, save_recipe, saved_values, with_defaults
from sioconv.run.folder import (
    BASE,
    CHECKPOINTS,
    DATA,
    MODEL,
    RECIPE,
    TOKENIZER,
    UNFINISHED,
    at_work,
    made_by,
    note_made,
)
from sioconv.run.longer import More, go_on
from sioconv.train.checkpoint import newest_good
from sioconv.train.config import TrainConfig, set_threads
from sioconv.train.distributed import World, join_world
from sioconv.train.loop import Trainer
from sioconv.train.metrics import check_wandb
from sioconv.train.start import begin_with, count_start
from sioconv.train.validation import Validate, Validation

VALIDATION_CONVERSATIONS = 100
PARTS = {  # the parts of a recipe that a stage depends on, beside its data
    "pretrain": ("seed", "size", "architecture", "model", "train"),
    "finetune": ("seed", "finetune"),
}
FIXED_BY = {  # what a run has made: the parts of the recipe that it was made from
    TOKENIZER: ("tokenizer", "data"),
    f"{CHECKPOINTS}/pretrain": PARTS["pretrain"],
    BASE: PARTS["pretrain"],
    f"{CHECKPOINTS}/finetune": PARTS["finetune"],
    INITIAL_STATE_FILE: PARTS["finetune"],
}


def open_run(recipe: Recipe) -> Path:
    """The run's folder with the resolved recipe in it.

    Raises UserError when something in the folder was made with another recipe: it would no longer fit.
    """
    run, path = recipe.folder, recipe.folder / RECIPE
    if path.exists():
        check_sums(run, RECIPE)
        fixed = [key for made, keys in FIXED_BY.items() if (run / made).exists() for key in keys]
        _refuse_another(recipe, saved_values(path), fixed)
    elif RECIPE in read_sums(run):
        raise UserError(f"{path} is missing, and {run} was made with it: put it back or choose another --name")
    for made in made_by(run).values():
        _refuse_another(recipe, with_defaults(made["recipe"]), list(made["recipe"]))
    if not path.exists() or saved_values(path) != as_values(recipe) or RECIPE not in read_sums(run):
        run.mkdir(parents=True, exist_ok=True)
        with summed(path):
            save_recipe(recipe, path)
    return run


def _refuse_another(recipe: Recipe, saved: dict[str, Any], fixed: list[str]) -> None:
    """Raises UserError where the parts `fixed` of a saved recipe are others now."""
    old, new = _lasting(saved), _lasting(as_values(recipe))
    difference = first_difference({key: old.get(key) for key in fixed}, {key: new[key] for key in fixed})
    if difference:
        raise UserError(
            f"{recipe.folder} was made with another recipe: {difference}: choose another --name or remove the folder"
        )


def _lasting(values: dict[str, Any]) -> dict[str, Any]:
    """A recipe's values without keys that don't affect results."""
    # Runs that were begun before there were others don't say their architecture.
    kept = {"architecture": Recipe.architecture, **values, "finetune": {**values.get("finetune", {})}}
    kept["tokenizer"] = {key: value for key, value in values.get("tokenizer", {}).items() if key != "compare"}
    for part in (kept, kept["finetune"]):
        part["data"] = {key: value for key, value in part.get("data", {}).items() if key not in FREE}
    return kept


def make_tokenizer(recipe: Recipe) -> PreTrainedTokenizerFast:
    """Trains the run's tokenizer on a sample of the training split of its sources, or adopts one, and reports on it.

    The one that the recipe names is adopted, or that of the model that fine-tuning starts from.
    """
    with at_work(recipe.folder):
        return _make_tokenizer(recipe)


def _make_tokenizer(recipe: Recipe) -> PreTrainedTokenizerFast:
    run = open_run(recipe)
    data = recipe.data if recipe.data.sources else recipe.finetune.data
    if not data.sources:
        raise UserError("recipe: data.sources is empty: name at least one source of text")
    return prepare_tokenizer(recipe.tokenizer, recipe.tokenizer.path or recipe.finetune.base, data, run / TOKENIZER)


def make_data(recipe: Recipe) -> None:
    """Turns every source of both stages into token shards under the run's `data/`."""
    with at_work(recipe.folder):
        _make_data(recipe)


def _make_data(recipe: Recipe) -> None:
    for data in (recipe.data, recipe.finetune.data):
        for source in data.sources.values():
            open_source(source).found()  # before the first is worked on: a file that isn't there is told at once
    _make_tokenizer(recipe)
    run = recipe.folder
    for data in (recipe.data, recipe.finetune.data):
        for name, source in data.sources.items():
            prepare_source(name, source, data, run / TOKENIZER, run / DATA / name)


def open_windows(recipe: Recipe, data: DataConfig, train: TrainConfig) -> tuple[Mixture | Lanes, float | None]:
    """The windows of a stage, from the shards that `make_data` wrote; and the mean bytes of a token, for text alone."""
    sets, weights = _open_sources(recipe, data)
    windows: Mixture | Lanes
    if train.carry_state:
        windows = Lanes(sets, weights, train.sequence_length, recipe.seed, train.batch_size)
    else:
        windows = Mixture(sets, weights, train.sequence_length, recipe.seed, train.whole_documents)
        for note in windows.notes():
            say(note)
    if any(shards.masked for shards in sets.values()):
        return windows, None
    share = {name: weight / sum(weights.values()) for name, weight in weights.items() if weight}
    return windows, sum(part * sets[name].bytes_total / sets[name].tokens_total for name, part in share.items())


def _open_sources(recipe: Recipe, data: DataConfig) -> tuple[dict[str, ShardSet], dict[str, float]]:
    """The shards of each source that a stage trains on, and its share."""
    sha256 = tokenizer_sha256(recipe.folder / TOKENIZER)
    sets = {name: ShardSet.open(recipe.folder / DATA / name / "train", sha256) for name in data.sources}
    return sets, data.shares({name: shards.tokens_total for name, shards in sets.items()})


def _times_read(recipe: Recipe, tokens: int) -> dict[str, float]:
    """How often pretraining reads each source, by the run's shards; nothing where they aren't made yet."""
    folders = {name: recipe.folder / DATA / name / "train" for name in recipe.data.sources}
    if not all((folder / MANIFEST).is_file() for folder in folders.values()):
        return {}
    sizes = {name: ShardSet.open(folder).tokens_total for name, folder in folders.items()}
    return times_read(sizes, recipe.data.shares(sizes), tokens)


def _check_machine(recipe: Recipe, config: TrainConfig, world: World) -> None:
    """Raises UserError where the stage `config`, or one before it, can't be trained on this machine."""
    tuning = config is recipe.finetune.train
    if tuning and not recipe.finetune.base and not (recipe.folder / BASE).exists():
        _check_machine(recipe, recipe.train, world)
    model = recipe.model
    if tuning and recipe.finetune.base:  # its sizes are in its folder: the batch alone counts
        model = replace(model, hidden_size=1, num_heads=1, num_hidden_layers=1, intermediate_size=1)
        model = replace(model, norm_groups=None, bigram_rows=0)
    device = world.device if world.size > 1 else pick_device(config.device)
    check_memory(model, config, recipe.tokenizer.vocab_size, world.size, memory_of(device))
    if config.wandb and world.leads:
        check_wandb()


@contextmanager
def _at_work(recipe: Recipe, config: TrainConfig) -> Iterator[World]:
    """The processes that train together, and the lock on the run's folder, which the first of them holds.

    Raises UserError, before anything is made, for a device that isn't there, too little memory, or Weights & Biases
    without a key.
    """
    with join_world(config.device, config.timeout) as world:
        _check_machine(recipe, config, world)
        with at_work(recipe.folder) if world.leads else nullcontext():
            yield world


def pretrain(recipe: Recipe, more: More | None = None) -> Path:
    """Trains from random weights, or goes on with a run that is done; returns the model folder `base/`."""
    with _at_work(recipe, recipe.train) as world:
        if more is not None:
            recipe = world.leader(lambda: go_on(recipe, "pretrain", more, BASE))
        world.leader(lambda: _make_data(recipe))
        base = _pretrain(recipe, world)
        if not recipe.finetune.data.sources:
            world.leader(lambda: _copy_base(recipe))
        return base


def say_what_size_leaves(recipe: Recipe) -> None:
    """Says where the model isn't of the recipe's `size`, because the recipe gives its shape."""
    if said := not_from_size(recipe):
        say(f"size {recipe.size} doesn't decide {', '.join(said)}: the recipe does")


def _pretrain(recipe: Recipe, world: World) -> Path:
    run = recipe.folder
    inputs = world.leader(lambda: _inputs(recipe, recipe.data))
    if world.leader(lambda: _is_done(recipe, "pretrain", run / BASE, inputs)):
        return run / BASE
    tokenizer = load_tokenizer(run / TOKENIZER)
    model = build_model(recipe, tokenizer)
    if recipe.train.start == "counts" and newest_good(run / CHECKPOINTS / "pretrain", world) is None:
        set_threads(recipe.train.threads)  # sums by another number of threads are rounded otherwise
        begin_with(model, world.leader(lambda: count_start(model, *_open_sources(recipe, recipe.data), recipe.seed)))
    if recipe.size:
        shape, train = recipe.model, recipe.train
        say(
            f"size {recipe.size}: hidden_size {shape.hidden_size}, {shape.num_hidden_layers} layers, {shape.num_heads} "
            f"heads, intermediate_size {shape.intermediate_size}; lr {train.lr:g}, batch_size {train.batch_size} in "
            f"{train.accumulation} micro-batches, "
            + (f"{train.tokens:,} tokens" if train.tokens else f"{train.minutes:g} minutes")
        )
        say_what_size_leaves(recipe)
    if recipe.architecture != "sioconv":
        alike = parameter_count(recipe.model, len(tokenizer))
        say(f"architecture {recipe.architecture}: {describe_baseline(model)}, SioConv of this recipe: {alike:,}")
    _run_stage(recipe, "pretrain", model, tokenizer, world, run / BASE, inputs)
    return run / BASE


def _made_in(run: Path, name: str) -> str | None:
    """The stage that has made a result; None where that isn't known."""
    stage: str | None = made_by(run).get(name, {}).get("stage")
    return stage


def _copy_base(recipe: Recipe) -> None:
    """Makes `model/` of what was pretrained, where nothing is tuned: it is always the latest stage's."""
    base, model = recipe.folder / BASE, recipe.folder / MODEL
    if model.exists() and _made_in(recipe.folder, MODEL) != "pretrain" + UNFINISHED:
        return
    check_sums(base)
    with atomic_folder(model) as folder:
        shutil.copytree(base, folder, dirs_exist_ok=True)
    made = made_by(recipe.folder).get(BASE, {"recipe": {}, "inputs": {}})
    note_made(recipe.folder, MODEL, "pretrain", made["recipe"], made["inputs"])


def _inputs(recipe: Recipe, data: DataConfig, base: Path | None = None) -> dict[str, str]:
    """What a stage is made from, by name, as checksums: the text of its sources, and the model that it starts from."""
    folder = recipe.folder / DATA
    inputs = {f"the text of {name}": ShardSet.open(folder / name / "train").fingerprint for name in data.sources}
    if base is not None and base.is_dir():
        inputs["the base model"] = weights_sum(base)
    return inputs


def _is_done(recipe: Recipe, stage: str, target: Path, inputs: Mapping[str, str]) -> bool:
    """Whether a stage has made `target`; says so, and what of its inputs is another now.

    That it was made with this recipe's part, `open_run` has seen to. A folder whose checksums are gone gets new ones.
    """
    run = recipe.folder
    if not target.exists():
        return False
    made = made_by(run).get(target.name)
    if made is None:  # a run of an older version: what equals the base was put there by pretraining
        copied = stage == "finetune" and target.name == MODEL and (run / BASE).is_dir()
        if copied and weights_sum(target) == weights_sum(run / BASE):
            return False
    elif made["stage"] != stage:
        return False
    before = {} if made is None else made["inputs"]
    changed = [name for name, now in inputs.items() if before.get(name, now) != now]
    say(f"{stage}: {target} is there already" + (f"; since then {', '.join(changed)} has changed" if changed else ""))
    if target.is_dir():
        renew_sums(target)
    return True


def build_model(recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
    """A model of the recipe's architecture with fresh weights drawn from its seed."""
    torch.manual_seed(recipe.seed)
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    if recipe.architecture != "sioconv":
        return build_baseline(recipe.architecture, recipe.model, len(tokenizer), **ids)
    return SioConvForCausalLM(SioConvConfig(**as_values(recipe)["model"], vocab_size=len(tokenizer), **ids))


def finetune(recipe: Recipe, more: More | None = None) -> Path:
    """Trains the pretrained model on conversations, or goes on with one that is done; returns the folder `model/`.

    Where only the initial states are trained, it is the file `state.safetensors` instead.
    """
    if not recipe.finetune.data.sources:
        raise UserError("recipe: finetune.data.sources is empty: name at least one source of conversations")
    with _at_work(recipe, recipe.finetune.train) as world:
        if more is not None:
            recipe = world.leader(lambda: go_on(recipe, "finetune", more, tuned_path(recipe).name))
        world.leader(lambda: _make_data(recipe))
        start = Path(recipe.finetune.base) if recipe.finetune.base else _pretrain(recipe, world)
        run, tuning, target = recipe.folder, recipe.finetune, tuned_path(recipe)
        inputs = world.leader(lambda: _inputs(recipe, tuning.data, start))
        if world.leader(lambda: _is_done(recipe, "finetune", target, inputs)):
            return target
        model, tokenizer = load_model_folder(start, baselines=True)
        if getattr(model, "is_quantized", False):
            if tuning.train.only != "all":
                raise UserError(
                    f"{start} is quantised: its initial states alone can't be trained: start from the model that it "
                    "was made from"
                )
            say(f"finetune: {start} is quantised: its weights are widened to fp32, and trained so")
            model = widened_model(model)
        if vocabulary_fingerprint(tokenizer) != vocabulary_fingerprint(load_tokenizer(run / TOKENIZER)):
            raise UserError(
                f"{run} has another tokenizer than the model in {start}: choose another --name for its tuning"
            )
        _run_stage(recipe, "finetune", model, tokenizer, world, target, inputs)
        return target


def tuned_path(recipe: Recipe) -> Path:
    """What `finetune` makes: a model folder, or a file of initial states."""
    return recipe.folder / (MODEL if recipe.finetune.train.only == "all" else INITIAL_STATE_FILE)


def _save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, base_fingerprint: str | None, path: Path) -> None:
    """A model folder that ends texts and turns, and that transformers loads where this package isn't installed.

    Except an LSTM, whose code isn't in it. Where only the initial states were trained, a file of them.
    """
    if base_fingerprint is not None:
        assert isinstance(model, SioConvForCausalLM)
        save_initial_state(path, model, base_fingerprint)
        return
    stop_ids = [tokenizer.eos_token_id, chat.end_of_turn_id(tokenizer)]
    save_model_folder(model, tokenizer, path, stop_ids, SamplingConfig().for_transformers())


def _write_on(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, prompt: str, sampling: SamplingConfig) -> str:
    """What the model writes after the prompt."""
    if isinstance(model, SioConvForCausalLM):
        written: str = generate_text(model, tokenizer, prompt, sampling).text
    else:
        written = continue_text(model, tokenizer, prompt, sampling)
    return written


def _run_stage(
    recipe: Recipe,
    stage: str,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    world: World,
    target: Path,
    inputs: Mapping[str, str],
) -> None:
    """Trains the model and writes what was trained to `target`."""
    data, config = (recipe.data, recipe.train) if stage == "pretrain" else (recipe.finetune.data, recipe.finetune.train)
    sampling = SamplingConfig(temperature=0.7, top_p=0.9, max_new_tokens=config.sample_tokens, seed=recipe.seed)
    if note := NOTES.get(model.config.model_type):
        say(note)
    if new_cache(model) is None:
        model.config.training_length = config.sequence_length  # how far it looks back when it is measured
    windows, bytes_per_token = open_windows(recipe, data, config)
    trainer = Trainer(
        recipe.folder,
        stage,
        model,
        windows,
        config,
        validate=_validation(tokenizer, data, config.validate_bytes),
        sample=lambda model, prompt: _write_on(model, tokenizer, prompt, sampling),
        world=world if world.size > 1 else World(pick_device(config.device)),
        seed=recipe.seed,
        bytes_per_token=bytes_per_token,
        inputs=inputs,
    )
    if stage == "pretrain":  # tuning reads its few conversations often on purpose
        trainer.warn = lambda tokens: warning(_times_read(recipe, tokens))
    place = Whereabouts(recipe.folder)
    trainer.train()
    parts = {key: value for key, value in _lasting(as_values(recipe)).items() if key in PARTS[stage]}

    def keep(whole: PreTrainedModel) -> None:
        place.check()
        _save(whole, tokenizer, trainer.stepper.base_fingerprint, target)
        note_made(recipe.folder, target.name, stage, parts, inputs)

    with trainer.stepper.whole_model() as whole:
        world.leader(partial(keep, whole))
    say(f"{stage}: → {target}")


def _validation(tokenizer: PreTrainedTokenizerFast, data: DataConfig, max_bytes: int) -> Validate:
    """Held-out losses per source: for text of all tokens, with bits per byte; for conversations of the assistant's."""
    texts = heldout_texts(data, max_bytes)
    conversations = {
        name: heldout_conversations(replace(data, sources={name: source}), VALIDATION_CONVERSATIONS)
        for name, source in data.sources.items()
    }

    def validate(model: PreTrainedModel) -> Iterator[Validation]:
        for name, documents in texts.items():
            measured = bits_per_byte(model, tokenizer, documents)
            if measured.tokens:
                yield Validation(name, measured.bits * math.log(2) / measured.tokens, measured.value)
        for name, turns in conversations.items():
            loss = assistant_loss(model, tokenizer, turns)
            if loss is not None:
                yield Validation(name, loss, None)

    return validate


def only_sioconv(recipe: Recipe, verb: str, instead: str) -> None:
    """Refuses another architecture, with what to do instead."""
    if recipe.architecture != "sioconv":
        raise UserError(f"{verb} knows the architecture sioconv, not {recipe.architecture}: {instead}")


def plan_costs(recipe: Recipe) -> dict[str, Any]:
    """What pretraining with this recipe costs, as `costs_of` and `on_this_machine` give it; nothing is trained.

    The vocabulary is that of the run's tokenizer or of the adopted one where either is on this machine; otherwise what
    the recipe says.

    Raises UserError for another architecture than sioconv.
    """
    only_sioconv(recipe, "plan", "leave --architecture out: the other would have about as many parameters")
    vocabulary = recipe.tokenizer.vocab_size
    folders = [recipe.folder / TOKENIZER]
    if adopted := recipe.tokenizer.path or recipe.finetune.base:
        folders.append(Path(adopted))
    for folder in folders:
        if (folder / "tokenizer.json").is_file():
            vocabulary = len(load_tokenizer(folder))
            break
    device = pick_device()  # not the recipe's: it may be meant for another machine
    dtype = pick_precision("auto", device)
    name = f"{describe_device(device)}, {str(dtype).removeprefix('torch.')}"
    here = on_this_machine(recipe.model, recipe.train, vocabulary, name, matrix_speed(device, dtype))
    costs = costs_of(recipe.model, recipe.train, vocabulary)
    times = _times_read(recipe, costs["tokens"] or here["tokens"] or 0)
    return costs | {"this_machine": here, "times_read": times}


def report(recipe: Recipe, run: Path, minutes: Minutes | None = None) -> ReportFigures:
    """Measures the run, as far as it has come, and writes its `report/`.

    Raises UserError for another architecture than sioconv, and as `evaluate_run` does.
    """
    only_sioconv(recipe, "report", f"take `sioconv evaluate {run / BASE}`")
    from sioconv.evaluate.run import evaluate_run  # brings matplotlib, which training doesn't need

    check_sums(run, RECIPE)
    with at_work(run):
        tuned = any(
            (run / name).exists() and not (_made_in(run, name) or "").startswith("pretrain")
            for name in (MODEL, INITIAL_STATE_FILE)
        )
        chats = recipe.finetune.data if recipe.finetune.data.sources and tuned else None
        return evaluate_run(
            run, recipe.name, recipe.data, chats, recipe.evaluate, minutes, recipe.train.device, recipe.finetune.base,
            recipe.train.sequence_length if recipe.data.sources else None,
        )  # fmt: skip
