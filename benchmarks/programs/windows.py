"""−log2 p of a document under a model with a limited context. Imported by the peers' Python: torch and nothing of ours.

A document is read in windows of the length that the model was trained with, each overlapping the one before by half:
every token is counted once, and all but those of the first window have at least half a window in front of them.
"""

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


def windows(tokens: int, length: int) -> Iterator[tuple[int, int, int]]:
    """Windows over the positions 0 … tokens-1, of which the first is given and the others are predicted.

    Yields:
        (start, counted, end): the model reads start … end-2 and predicts the one behind each; those of counted … end-1
        are counted.
    """
    counted = 1
    while counted < tokens:
        start = 0 if counted == 1 else counted - 1 - length // 2
        end = min(start + length + 1, tokens)
        yield start, counted, end
        counted = end


@torch.no_grad()
def document_bits(
    logits_of: Callable[[Tensor], Tensor], ids: list[int], length: int, begin: int | None = None
) -> float:
    """−log2 p of all tokens but the first.

    Args:
        logits_of: from token ids [1, T] to logits [1, T, V]; T is at least 2 and at most `length`.
        ids: a document with its bos.
        length: of the windows.
        begin: a token that stands in the first place of every window, for a model that has seen no other there.
    """
    nats = 0.0
    for start, counted, end in windows(len(ids), length):
        given = list(ids[start : end - 1])
        if begin is not None:
            given[0] = begin
        given += given[-1:] * (len(given) == 1)  # a model may need two; a causal one doesn't see the second
        logits = logits_of(torch.tensor([given]))[0, counted - 1 - start : end - 1 - start].float()
        nats += float(F.cross_entropy(logits, torch.tensor(ids[counted:end]), reduction="none").double().sum())
    return nats / math.log(2)


def read_texts(path: Path) -> list[str]:
    """The texts of heldout.jsonl, as the script that starts this one has written them."""
    with path.open(encoding="utf-8") as stream:
        return [json.loads(line)["text"] for line in stream]


def write_answer(path: Path, **answer: Any) -> None:
    """What the script that starts this one reads."""
    path.write_text(json.dumps(answer | {"torch": torch.__version__}), encoding="utf-8")
