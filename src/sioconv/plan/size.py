"""One dial for a recipe: from a number of parameters to the model's shape, its learning rate, batch and horizon.

With N parameters, V tokens in the vocabulary, width D, depth L (docs/training.md shows what comes out):

- shape: N = 2·V·D + 10·L·D²: embedding and head, and per block 4·D² in the mixer and 6·D² in a feed-forward layer twice
  as wide; of all D that are multiples of 64, the one whose D / L is nearest to 64. Heads have 64 channels.
- horizon: 20·N tokens, unless it is given (Hoffmann et al. 2022, arXiv:2203.15556).
- learning rate 0.3118·C^-0.125 and batch 0.2920·C^0.3271 tokens for C = 6·N·tokens operations (DeepSeek-AI 2024,
  arXiv:2401.02954); the batch is rounded to a power of two of windows, computed 16,384 tokens at a time.
"""

import math
import re
from typing import Any

HEAD, RATIO = 64, 64
TOKENS_PER_PARAMETER = 20
MICRO_BATCH_TOKENS = 16_384
UNITS = {"k": 1e3, "m": 1e6, "b": 1e9}


def parse_size(text: str) -> int:
    """`25m` as 25,000,000; k, m and b are a thousand, a million, a billion.

    Raises ValueError for anything else, and where no model is that small or that large.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([kmb])", text.strip().lower())
    if match is None:
        raise ValueError(f"size: {text!r} is not a number of parameters: write 25m or 1.6b")
    size = round(float(match[1]) * UNITS[match[2]])
    if not 10**6 <= size <= 10**12:
        raise ValueError(f"size: {text!r} is not between 1m and 1000b")
    return size


def derive(size: int, vocabulary: int, sequence_length: int, tokens: int | None = None) -> dict[str, dict[str, Any]]:
    """What the dial stands for, as the parts `model` and `train` of a recipe.

    Args:
        size: parameters wanted.
        vocabulary: number of tokens.
        sequence_length: tokens in a window.
        tokens: that will be trained on, where that is known: 20 times the size otherwise.

    Raises:
        ValueError: the vocabulary alone is larger.
    """
    shapes = []
    for width in range(HEAD, 64 * 1024, HEAD):
        depth = round((size - 2 * vocabulary * width) / (10 * width**2))
        if depth >= 1:
            shapes.append((abs(math.log(width / depth / RATIO)), width, depth))
    if not shapes:
        raise ValueError(
            f"size: a vocabulary of {vocabulary:,} tokens leaves no room for a model of {size:,} parameters"
        )
    _, width, depth = min(shapes)
    tokens = tokens or TOKENS_PER_PARAMETER * size
    compute = 6.0 * size * tokens
    batch_size = 2 ** max(0, round(math.log2(0.2920 * compute**0.3271 / sequence_length)))
    micro_batches = 2 ** max(0, math.ceil(math.log2(batch_size * sequence_length / MICRO_BATCH_TOKENS)))
    model = {
        "hidden_size": width,
        "num_hidden_layers": depth,
        "num_heads": width // HEAD,
        "intermediate_size": 2 * width,
    }
    train = {
        "lr": float(f"{0.3118 * compute**-0.125:.2g}"),
        "batch_size": batch_size,
        "accumulation": min(batch_size, micro_batches),
        "tokens": tokens,
    }
    return {"model": model, "train": train}
