"""Speed and memory of reading and writing, on this machine with these threads."""

import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from transformers import Cache, PreTrainedModel

from sioconv.evaluate.subject import Subject
from sioconv.generate import Engine
from sioconv.generate.engine import Request
from sioconv.hardware import describe_device, memory_used, synchronize
from sioconv.model import SioConvForCausalLM
from sioconv.model.cache import new_cache
from sioconv.progress import track

READ, WRITTEN, TIMES = 1024, 64, 5


def measure_speed(subject: Subject, seed: int) -> dict[str, Any]:
    """Tokens a second of one text, as medians of five times; the state's bytes; the most memory that was used.

    Reading is one forward pass of 1,024 tokens, or of a window where that is shorter; writing 64 tokens, the likeliest
    each time, after 32, or as many as a model has positions for. A memory that grows shows in the second of the two
    state sizes. Other work on the machine slows all of this down.
    """
    model = subject.model
    generator = torch.Generator().manual_seed(seed)
    length = min(READ, subject.window or READ)
    ids = torch.randint(0, len(subject.tokenizer), (1, length), generator=generator).to(model.device)  # [1, T]
    prompt = ids[:, : min(32, length // 2)]
    written = min(WRITTEN, (subject.positions or READ) - prompt.shape[1])
    reading = [_seconds(lambda: _read(model, ids), model) for _ in track(range(TIMES + 1), "speed of reading")]
    writing = [
        _seconds(lambda: _write(model, prompt, written), model) for _ in track(range(TIMES + 1), "speed of writing")
    ]
    return {
        "read_tokens": length,
        "read_per_second": length / statistics.median(reading[1:]),  # the first one warms up
        "written_tokens": written,
        "written_per_second": written / statistics.median(writing[1:]),
        "state_bytes": {str(n): cache_bytes(model, ids[:, :n]) for n in (1, length)},
        "peak_bytes": memory_used(model.device),
        "device": describe_device(model.device),
        "dtype": str(model.dtype).removeprefix("torch."),
    }


def _seconds(work: Callable[[], object], model: PreTrainedModel) -> float:
    synchronize(model.device)
    start = time.perf_counter()
    work()
    synchronize(model.device)
    return time.perf_counter() - start


@torch.inference_mode()
def _read(model: PreTrainedModel, ids: torch.Tensor) -> None:
    model(input_ids=ids, use_cache=False)


@torch.inference_mode()
def _write(model: PreTrainedModel, prompt: torch.Tensor, length: int) -> None:
    """`length` tokens after the prompt; no token ends the text."""
    if isinstance(model, SioConvForCausalLM):
        for _ in Engine(model).stream(Request(prompt[0].tolist(), max_new_tokens=length)):
            pass
        return
    whole: Any = model
    whole.generate(
        prompt, attention_mask=torch.ones_like(prompt), do_sample=False, min_new_tokens=length,
        max_new_tokens=length, pad_token_id=0,
    )  # fmt: skip


@torch.inference_mode()
def cache_bytes(model: PreTrainedModel, ids: torch.Tensor) -> int | None:
    """Bytes that are kept of a text of these ids [1, T] for the next token; None where that isn't known."""
    cache = new_cache(model)
    if cache is not None:
        model(input_ids=ids, cache=cache, use_cache=True)
        return sum(tensor.nbytes for tensor in cache.state_dict().values())
    output = model(input_ids=ids, use_cache=True)
    kept = next((value for key, value in output.items() if isinstance(value, Cache)), None)
    if kept is None:
        return None
    sizes = {id(tensor): tensor.nbytes for layer in kept.layers for tensor in _tensors(list(vars(layer).values()))}
    return sum(sizes.values()) or None


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    """The tensors in lists and mappings of them."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict | list | tuple):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _tensors(inner)
