"""Tasks of lm-evaluation-harness by name, local or from the Hub, with chance levels beside."""

import copy
import logging
import os
import statistics
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from tokenizers import processors
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from sioconv.errors import UserError
from sioconv.evaluate.subject import LETTERS, Subject

if TYPE_CHECKING:
    from lm_eval.models.huggingface import HFLM

# Shorter names of tasks that the harness calls otherwise.
ALIASES = {
    "jcommonsenseqa": "ja_leaderboard_jcommonsenseqa",
    "jnli": "ja_leaderboard_jnli",
    "jsquad": "ja_leaderboard_jsquad",
    "marc_ja": "ja_leaderboard_marc_ja",
    "arc": "ai2_arc",
    "lambada": "lambada_openai",
}
LONGEST = 8192  # tokens that a model with a state gets at once
BATCH = 8


def measure_tasks(
    subject: Subject, tasks: Sequence[str], include: str | None, limit: int | None, shots: int | None, seed: int
) -> dict[str, Any]:
    """The harness's own results of each task.

    Args:
        subject: the model.
        tasks: names of tasks or groups; those of `ALIASES` too.
        include: a folder of tasks as YAML, beside the harness's own.
        limit: most documents of each task; None takes all.
        shots: examples before a question; None takes what the task says.
        seed: of the choice of examples and of what is drawn.

    Returns:
        By task `{"metrics": {NAME: {"value", "stderr"}}, "chance", "documents", "shots"}`. `chance` is the share of
        right answers that guessing would have, None where a task isn't a choice among given answers.

    Raises:
        UserError: the harness isn't installed, a task isn't known, or its data can't be had.
    """
    import lm_eval

    with _quiet():
        manager = _manager(include)
        names = [_known(ALIASES.get(name, name), manager) for name in tasks]
        with _one_line(names):
            found: Any = lm_eval.simple_evaluate(
                _wrapped(subject), tasks=list(names), task_manager=manager, limit=limit, num_fewshot=shots,
                random_seed=seed, numpy_random_seed=seed, torch_random_seed=seed, fewshot_random_seed=seed,
            )  # fmt: skip
    return {name: _result(found, name) for name in found["samples"]}


def check_tasks(tasks: Sequence[str], include: str | None) -> None:
    """Raises UserError as `measure_tasks` does, without a model: to be called before what takes minutes.

    The tasks' data is fetched, so that `measure_tasks` finds it on this machine.
    """
    with _quiet():
        manager = _manager(include)
        names = [_known(ALIASES.get(name, name), manager) for name in tasks]
        with _one_line(names):
            manager.load(names)


def _manager(include: str | None) -> Any:
    try:
        from lm_eval.tasks import TaskManager
    except ImportError as error:
        raise UserError("--tasks needs lm-evaluation-harness: pip install 'sioconv[eval]'") from error
    return TaskManager(include_path=include)


@contextmanager
def _one_line(names: Sequence[str]) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # datasets and the Hub's client raise many types; the cause stays attached
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise UserError(
            f"can't evaluate on {', '.join(names)}: {reason}: is its data on this machine or within reach? "
            "--include FOLDER takes tasks with data of your own"
        ) from error


def _known(name: str, manager: Any) -> str:
    if name not in manager.all_tasks:
        near = get_close_matches(name, manager.all_tasks, n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else "see `lm_eval ls tasks`, or give your own by --include"
        raise UserError(f"--tasks: no task {name!r}: {hint}")
    return name


def _wrapped(subject: Subject) -> "HFLM":
    """The model as the harness takes it.

    What our tokenizer adds, bos, stands before a context; before a whole text the harness puts it itself, so that the
    tokenizer mustn't.
    """
    from lm_eval.models.huggingface import HFLM

    class Model(HFLM):  # type: ignore[misc]
        """The harness's model, with one bos before each text."""

        def loglikelihood_rolling(self, *args: Any, **kwargs: Any) -> list[float]:
            """−ln p of whole texts."""
            settings: Any = self
            before, settings.add_bos_token = settings.add_bos_token, False
            try:
                found: list[float] = super().loglikelihood_rolling(*args, **kwargs)
                return found
            finally:
                settings.add_bos_token = before

    # A tokenizer that has no bos, or doesn't add it, is left as its model was trained.
    return Model(
        subject.model, tokenizer=_without_ends(subject.tokenizer), batch_size=BATCH,
        max_length=subject.window or LONGEST, device=str(subject.model.device),
    )  # fmt: skip


def _without_ends(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """A tokenizer that adds nothing behind a text, else the same.

    The harness cuts an answer off a question's tokens by their number: behind an end that is added to both, all that
    is left of an answer is that end.

    Raises UserError where the tokenizer can't be changed.
    """
    plain, whole = tokenizer.encode(LETTERS, add_special_tokens=False), tokenizer.encode(LETTERS)
    start = next((i for i in range(len(whole)) if whole[i : i + len(plain)] == plain), None)
    if start is None or start + len(plain) == len(whole):
        return tokenizer
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise UserError("--tasks: the tokenizer ends each text by itself: set add_eos_token: false in its settings")
    before: list[Any] = [(str(tokenizer.convert_ids_to_tokens(i)), i) for i in whole[:start]]
    changed = copy.deepcopy(tokenizer)
    changed.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=[*(token for token, _ in before), "$A"], special_tokens=before
    )
    return changed


def _result(found: dict[str, Any], name: str) -> dict[str, Any]:
    values, samples = found["results"][name], found["samples"][name]
    metrics = {}
    for key, value in values.items():
        metric, _, kind = key.partition(",")
        if kind and not metric.endswith("_stderr") and isinstance(value, int | float):
            stderr = values.get(f"{metric}_stderr,{kind}")
            plain = metric if kind == "none" else f"{metric}, {kind}"
            metrics[plain] = {"value": value, "stderr": stderr if isinstance(stderr, float) else None}
    chance = None
    if found["configs"][name].get("output_type") == "multiple_choice":
        asked = 2 if "acc_mutual_info" in metrics else 1  # times that a choice is scored
        chance = statistics.fmean(asked / len(sample["resps"]) for sample in samples)
    documents = found["n-samples"][name]["effective"]
    return {"metrics": metrics, "chance": chance, "documents": documents, "shots": found["n-shot"][name]}


@contextmanager
def _quiet() -> Iterator[None]:
    """The harness logs its every step."""
    loggers = [logging.getLogger(name) for name in ("lm_eval", "lm-eval", "datasets", "huggingface_hub")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    level = os.environ.get("LMEVAL_LOG_LEVEL")
    os.environ["LMEVAL_LOG_LEVEL"] = "ERROR"
    try:
        yield
    finally:
        for logger, old in zip(loggers, before, strict=True):
            logger.setLevel(old)
        if level is None:
            del os.environ["LMEVAL_LOG_LEVEL"]
        else:
            os.environ["LMEVAL_LOG_LEVEL"] = level
