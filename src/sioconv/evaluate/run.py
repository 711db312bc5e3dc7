"""The evaluation of a run, which ends in its report, and of a model on any text."""

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from sioconv.data.amounts import at_most
from sioconv.data.cleaning.splits import account_of_source
from sioconv.data.config import DataConfig, SourceConfig
from sioconv.data.report import why_nothing_is_left
from sioconv.data.sources.source import open_source, read_rows
from sioconv.data.tally import Tally, examples_of
from sioconv.errors import UserError
from sioconv.evaluate.config import EvaluateConfig
from sioconv.evaluate.figures import Chat, Minutes, ReportFigures, Sizes, finite
from sioconv.evaluate.heldout import (
    Texts,
    assistant_loss,
    heldout_conversations,
    heldout_texts,
    language_totals,
    measure_language_yardsticks,
    measure_text,
    some_of_each,
    with_tuned,
)
from sioconv.evaluate.parts.measure import measure
from sioconv.evaluate.parts.prompts import prompts_of_a_run
from sioconv.evaluate.parts.settings import Settings
from sioconv.evaluate.probes import answer_questions
from sioconv.evaluate.questions import build_questions
from sioconv.evaluate.report import write_report
from sioconv.evaluate.subject import Subject
from sioconv.evaluate.timescales import timescales
from sioconv.files import shown
from sioconv.generate import SamplingConfig, generate_text
from sioconv.hardware import describe_machine, describe_versions, pick_device
from sioconv.model import SioConvForCausalLM, load_model_folder
from sioconv.model.cache import new_cache
from sioconv.model.fingerprint import weights_fingerprint
from sioconv.model.initial_state import INITIAL_STATE_FILE
from sioconv.progress import say
from sioconv.train.metrics import read_jsonl

LOOKED_AT = 2**20  # bytes of a text, for its line ends
SEED = 1  # of the continuations


def evaluate_run(
    run: Path,
    name: str,
    data: DataConfig,
    chat: DataConfig | None,
    config: EvaluateConfig,
    minutes: Minutes | None = None,
    device: str = "auto",
    base: str | None = None,
    window: int | None = None,
) -> ReportFigures:
    """Measures what a run has made and writes its `report/`.

    Args:
        run: the run's folder, with `base/`, and `model/` or `state.safetensors` where it was tuned; metrics.jsonl and
            samples.jsonl are read.
        name: the run's name.
        data: the text that it was pretrained on; the held-out part is read.
        chat: what it was tuned on, conversations and text; None where it wasn't tuned.
        config: how it is measured.
        minutes: time spent before; `total` grows by the time of this evaluation, `train` is taken from the metrics.
        device: where to compute.
        base: the model folder that tuning started from, where it isn't the run's own `base/`.
        window: tokens in a window of pretraining.

    Returns:
        The figures that the report shows; `figures.summarise` makes the content of summary.json of them.

    Raises:
        UserError: a model folder or a source can't be read, there is nothing to measure on, or the disk is full.
    """
    start = time.monotonic()
    where = pick_device(device)
    texts = heldout_texts(data, config.heldout_bytes)
    if not any(texts.values()) and chat is None:
        raise UserError(f"no held-out text: the sources of {name}: {_why_nothing_is_held_out(data)}")
    start_folder = base or run / "base"
    model, tokenizer = load_model_folder(start_folder, where)
    weights = {"base": weights_fingerprint(model)}
    sources = measure_text(model, tokenizer, data, texts, "pretrained")
    talk = None
    if chat is not None:
        conversations = heldout_conversations(chat, config.conversations)
        loss_before = assistant_loss(model, tokenizer, conversations)
        if (state := run / INITIAL_STATE_FILE).exists():
            model, tokenizer = load_model_folder(start_folder, where, state=state)
        else:
            model, tokenizer = load_model_folder(run / "model", where)
        weights["tuned"] = weights_fingerprint(model)
        sources = with_tuned(sources, measure_text(model, tokenizer, data, texts, "tuned"))
        loss_after = assistant_loss(model, tokenizer, conversations)
        talk = replace(ask(model, tokenizer, chat, config), loss_before=loss_before, loss_after=loss_after)
    figures = ReportFigures(
        name=name,
        sizes=Sizes(model.num_parameters(), state_bytes(model) or 0),
        sources=sources,
        languages=language_totals(sources),
        yardsticks=measure_language_yardsticks(data, texts, config.yardstick_bytes) if config.yardsticks else {},
        chat=talk,
        continuations=continuations(model, tokenizer, config, prompts_of_a_run(config.prompts, data, texts, chat)),
        timescales=timescales(model, tokenizer, some_of_each(texts)),
        evaluation=measure(
            Subject(name, model, tokenizer), data, texts, config.settings(with_text=any(texts.values()))
        ),
        metrics=read_jsonl(run / "metrics.jsonl"),
        samples=read_jsonl(run / "samples.jsonl"),
        machine=describe_machine(),
        versions=describe_versions(),
        window=window,
        weights=weights,
    )
    figures = replace(figures, minutes=_add_up(figures, minutes or Minutes(), time.monotonic() - start))
    write_report(run, figures)
    return figures


def evaluate_model(
    subject: Subject, text: str | None, data: DataConfig, settings: Settings, max_bytes: int | None = None
) -> dict[str, Any]:
    """Measures a model: any causal language model of transformers, in the same way.

    Args:
        subject: the model.
        text: a file, folder or glob, all of which is read; None reads the held-out part of `data` instead.
        data: sources of text.
        settings: what is measured.
        max_bytes: most bytes read from one source.

    Returns:
        What `parts.measure` finds; for the part `text` `{"sources": {NAME: {"bpb", "bytes", …}}, "languages": {…}}`,
        where a text that is given is one source that has its path as a name, and no language. Besides `model`,
        `parameters`, `state_bytes` (None for a model that isn't read with a state carried along), `window`, `seed`,
        `precision`, `machine` and `versions`.

    Raises:
        UserError: a source can't be read, there is no text, or a part can't be measured.
    """
    texts: Texts = {}
    if settings.needs_text:
        data, texts = texts_to_measure(text, data, max_bytes)
        texts = {source: at_most(documents, max_bytes) for source, documents in texts.items()}
    found = measure(subject, data, texts, settings)
    values: dict[str, Any] = finite({
        "model": subject.name,
        **found,
        "parameters": subject.model.num_parameters(),
        "state_bytes": state_bytes(subject.model),
        "window": subject.window,
        "seed": settings.seed,
        "precision": str(subject.model.dtype).removeprefix("torch."),
        "machine": describe_machine(),
        "versions": describe_versions(),
    })  # fmt: skip
    return values


def texts_to_measure(text: str | None, data: DataConfig, max_bytes: int | None) -> tuple[DataConfig, Texts]:
    """The documents of the file, folder or glob `text`, as one source, or the held-out part of `data`.

    Raises:
        UserError: a source can't be read, or there is no text.
    """
    if text is not None:
        data = DataConfig({text: SourceConfig(text)})
        texts = {text: _given_text(data.sources[text])}
        if Path(text).is_file():
            with Path(text).open("rb") as file:
                if b"\r\n" in file.read(LOOKED_AT):
                    say(f"{shown(text)}: its line ends are CR LF, which are read as LF")
    else:
        texts = heldout_texts(data, max_bytes)
    if not any(texts.values()):
        raise UserError(f"no text to evaluate on: {_why_nothing_is_held_out(data)}, or give --text FILE")
    return data, texts


def _why_nothing_is_held_out(data: DataConfig) -> str:
    """What became of the rows of each source of text, and what to do."""
    reasons = []
    for name, source in data.sources.items():
        if source.kind == "text":
            statistics = account_of_source(name, source, data.heldout)
            train = statistics["documents"]["train"]
            why = f"{train:,} documents, all for training" if train else why_nothing_is_left(statistics)
            reasons.append(f"{name}: {why}")
    return f"{'; '.join(reasons) or 'there are none'}: raise data.heldout or name sources with more documents"


def _given_text(source: SourceConfig) -> list[str]:
    """The documents of a source that somebody named; says what of it isn't read.

    Raises UserError for what can't be read, the first row that can't be used, and where nothing is left.
    """
    reading = Tally("read", strict=True)
    texts = [row.text or "" for row in read_rows(source, tally=reading)]
    left_out = open_source(source).found().left_out.left_out | reading.left_out
    if not texts:
        raise UserError(f"no text to evaluate on: {source.path}: {examples_of(left_out)}: name other text")
    if left_out:
        say(f"evaluate {source.path}: left out: {examples_of(left_out)}")
    return texts


def ask(
    model: SioConvForCausalLM, tokenizer: PreTrainedTokenizerFast, chat: DataConfig, config: EvaluateConfig
) -> Chat:
    """The answers to questions on what the conversations of `chat` are about; nothing but the answers is filled in."""
    sources = {name: source for name, source in chat.sources.items() if source.kind == "chat"}
    names = [source.name for source in sources.values() if source.origin == "identity"]
    questions = build_questions(sources, chat.heldout, names[0] if names else "", config.questions)
    seen, unseen = (
        answer_questions(
            model, tokenizer, [q for q in questions if q.kind == kind], config.max_new_tokens, f"{kind} questions"
        )
        for kind in ("seen", "unseen")
    )
    return Chat(seen=seen, unseen=unseen)


def continuations(
    model: SioConvForCausalLM, tokenizer: PreTrainedTokenizerFast, config: EvaluateConfig, prompts: Sequence[str]
) -> dict[str, str]:
    """What the model writes after each prompt, with the settings of `sioconv generate` and a fixed seed."""
    sampling = SamplingConfig(max_new_tokens=config.max_new_tokens, seed=SEED)
    return {prompt: generate_text(model, tokenizer, prompt, sampling).text for prompt in prompts}


@torch.inference_mode()
def state_bytes(model: PreTrainedModel) -> int | None:
    """Bytes of the state of one text as it is kept between two tokens; None where the model isn't read with one."""
    cache = new_cache(model)
    if cache is None:
        return None
    model(input_ids=torch.zeros(1, 1, dtype=torch.int64, device=model.device), cache=cache, use_cache=True)
    return sum(tensor.nbytes for tensor in cache.state_dict().values())


def _add_up(figures: ReportFigures, before: Minutes, seconds: float) -> Minutes:
    stages = dict.fromkeys(row["stage"] for row in figures.metrics)
    training = [figures.last(stage, "seconds") or 0.0 for stage in stages]
    total = None if before.total is None else before.total + seconds / 60
    return Minutes(before.install, sum(training) / 60 if training else before.train, total)
