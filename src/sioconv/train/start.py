"""A start from counts: before the first step, the embedding and the head are the best bigram model of their size.

Where the blocks' branches start at 0, the logits after the token i are head · norm(embedding_i): a matrix [V, V] of the
rank of the model's width. Here it starts as the best approximation of log(P(j | i) / P(j)), the pointwise mutual
information of neighbours in the training text, which word embeddings learn as well (Levy and Goldberg 2014, "Neural
Word Embedding as Implicit Matrix Factorization", equations 7 and 10). P(j | i) = (C_ij + κ P(j)) / (C_i + κ) is
smoothed by a Dirichlet prior (MacKay and Peto 1995, "A Hierarchical Dirichlet Language Model"), so that, but for a
summand of each row, which softmax doesn't see,

    log(P(j | i) / P(j)) = log(1 + C_ij / (κ P(j))):

0 where j never followed i, so that the matrix is sparse.
"""

import time
from collections.abc import Mapping
from typing import NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from sioconv.data.shards.shard_set import ShardSet
from sioconv.progress import say

MOST_TOKENS = 2**27  # that are counted, of all sources together
CHUNK = 2**22  # tokens that are counted at a time
PRIOR = 50.0  # κ, in tokens
EXTRA, ITERATIONS = 32, 1  # of the randomised decomposition: columns beyond those asked for, and passes
SHARPEST = 0.9  # quantile of the rows' sizes above which a row is shrunk
TEXT = 257  # tokens on which the start is compared with random weights


class Factors(NamedTuple):
    """log P(j | i) ≈ always_j + rows_i · columns_j, but for a summand of each row.

    Attributes:
        rows: [V, R] fp32, of mean 0 where the tokens come as often as they do.
        columns: [V, R] fp32, as well.
        always: what the row's token has no part in: log P(j), and the mean of the other summand; [V] fp32.
    """

    rows: Tensor
    columns: Tensor
    always: Tensor


def count_pairs(sources: Mapping[str, ShardSet], shares: Mapping[str, float], vocabulary: int) -> Tensor:
    """How often token j follows token i and is to be learned, in a text mixed by `shares`: [V, V] fp64, sparse.

    Each source is read from its beginning, up to its share of MOST_TOKENS; the counts are those of as many tokens as
    were read, each source weighed by its share.

    Args:
        sources: token shards.
        shares: of the training tokens, in any unit.
        vocabulary: V.
    """
    total = sum(shares.values())
    shares = {name: share / total for name, share in shares.items() if share > 0 and sources[name].tokens_total > 1}
    read = {name: min(sources[name].tokens_total, 1 + int(MOST_TOKENS * share)) for name, share in shares.items()}
    counts = _sparse(torch.empty(2, 0, dtype=torch.long), torch.empty(0).double(), vocabulary)
    for name, share in shares.items():
        weight = share * sum(read.values()) / read[name]
        for start in range(0, read[name] - 1, CHUNK):
            stop = min(read[name], start + CHUNK + 1)
            tokens = torch.from_numpy(sources[name].slice(start, stop).astype(np.int64))
            learned = torch.from_numpy(sources[name].mask_slice(start + 1, stop).astype(np.float64))
            pairs = torch.stack([tokens[:-1], tokens[1:]])
            counts = (counts + _sparse(pairs, learned * weight, vocabulary)).coalesce()
    return counts.coalesce()


def _sparse(places: Tensor, values: Tensor, size: int) -> Tensor:
    return torch.sparse_coo_tensor(places, values, (size, size), check_invariants=True)


def factorise(counts: Tensor, rank: int, seed: int) -> Factors:
    """The best approximation of rank R of how neighbours depend on each other.

    An error counts by √(P(i) P(j)): much for pairs of frequent tokens.

    Args:
        counts: as `count_pairs` gives them, [V, V], coalesced.
        rank: R, at most V.
        seed: of the random columns that the decomposition starts from.
    """
    (i, j), values = counts.indices(), counts.values()
    before = 1 + torch.zeros(len(counts), dtype=values.dtype).index_add_(0, i, values)
    after = 0.5 + torch.zeros_like(before).index_add_(0, j, values)  # no token is impossible
    p_before, p_after = before / before.sum(), after / after.sum()
    dependence = (torch.log1p(values / (PRIOR * p_after[j])) * (p_before[i] * p_after[j]).sqrt()).float()
    matrix = _sparse(counts.indices(), dependence, len(counts)).coalesce()
    torch.manual_seed(seed)
    left, sizes, right = torch.svd_lowrank(matrix, q=min(rank + EXTRA, len(counts)), niter=ITERATIONS)
    rows = left[:, :rank] * sizes[:rank].sqrt() / p_before.sqrt()[:, None]
    columns = right[:, :rank] * sizes[:rank].sqrt() / p_after.sqrt()[:, None]
    # Their means say nothing of a pair: that of the columns is a summand of each row, that of the rows of each column.
    columns = columns - p_after @ columns.double()
    mean = p_before @ rows.double()
    return Factors((rows - mean).float(), columns.float(), (p_after.log() + columns @ mean).float())


class Start(NamedTuple):
    """What a model starts with.

    Attributes:
        embedding: [V, D] fp32.
        head: [V, D] fp32.
        bias: of the head, [V] fp32; None where it has none.
    """

    embedding: Tensor
    head: Tensor
    bias: Tensor | None


def spread(factors: Factors, width: int, scale: float, with_bias: bool, seed: int) -> Start:
    """An embedding and a head of width D whose logits are those of the factors, after a norm with the weights 1.

    That norm makes all rows of the embedding equally long. So a row gets a further column, which the head doesn't read,
    with what it lacks of the length R; those that are longer than R, the sharpest tenth, are shrunk to it. Where the
    head has no bias, another column, the same in all rows, stands for it. A random rotation then spreads all of them
    over the width.

    Args:
        factors: of rank D − 1 at most, D − 2 without a bias.
        width: D.
        scale: root mean square of the embedding.
        with_bias: the head has a bias.
        seed: of the rotation.
    """
    sizes = factors.rows.norm(dim=1)
    largest = sizes.quantile(SHARPEST).clamp_min(1e-6)
    rows = factors.rows * (largest / sizes.clamp_min(largest))[:, None]
    lacking = (largest**2 - rows.square().sum(1)).clamp_min(0).sqrt()
    count, rank = rows.shape
    embedding, head = torch.zeros(count, width), torch.zeros(count, width)
    embedding[:, :rank], embedding[:, rank], head[:, :rank] = rows, lacking, factors.columns
    if not with_bias:
        embedding[:, rank + 1], head[:, rank + 1] = largest, factors.always / largest
    torch.manual_seed(seed)
    rotation = torch.linalg.qr(torch.randn(width, width))[0]
    length = embedding[0].norm() / width**0.5  # root mean square of every row, which the norm divides it by
    bias = factors.always if with_bias else None
    return Start(embedding @ rotation * (scale / length), head @ rotation * length, bias)


def count_start(
    model: PreTrainedModel, sources: Mapping[str, ShardSet], shares: Mapping[str, float], seed: int
) -> Start:
    """Counts the pairs of the training text; what the model is to start with, for `begin_with`.

    The embedding is as large as its random start. Where the branches drown it, because they don't start at 0, as an
    LSTM's, the random weights are kept: a larger embedding that isn't drowned trains worse (docs/experiments.md).

    Args:
        model: with random weights, and a head of its own; both are written over, to compare losses.
        sources: token shards.
        shares: of the training tokens, in any unit.
        seed: of what is drawn at random.
    """
    began = time.perf_counter()
    embedding, head = _ends(model)
    count, width = embedding.weight.shape
    counts = count_pairs(sources, shares, count)
    factors = factorise(counts, min(count, width - (2 if head.bias is None else 1)), seed)
    scale = float(embedding.weight.detach().square().mean().sqrt())
    start = spread(factors, width, scale, head.bias is not None, seed)
    tensors = (embedding.weight, head.weight, head.bias)
    drawn = Start(*(None if tensor is None else tensor.detach().clone() for tensor in tensors))
    largest = max(shares, key=lambda name: shares[name])
    text = torch.from_numpy(sources[largest].slice(0, TEXT).astype(np.int64))
    random = _loss(model, text)
    begin_with(model, start)
    if _loss(model, text) > random:
        say(
            "start from counts: the model's blocks drown it, because they don't start at 0: its random weights are kept"
        )
        return drawn
    pairs, rank = counts.values().numel(), factors.rows.shape[1]
    say(f"start from counts: {pairs:,} pairs of tokens, rank {rank} ({time.perf_counter() - began:.1f} s)")
    return start


@torch.no_grad()
def _loss(model: PreTrainedModel, tokens: Tensor) -> float:
    """Cross-entropy of the text [N] as one row, in nats a token; 0 where there is nothing to predict."""
    if len(tokens) < 2:
        return 0.0
    training = model.training
    logits = model.eval()(tokens[None, :-1], use_cache=False).logits[0]  # type: ignore[no-untyped-call]
    model.train(training)
    return float(nn.functional.cross_entropy(logits.float(), tokens[1:]))


@torch.no_grad()
def begin_with(model: PreTrainedModel, start: Start) -> None:
    """Writes it into the model."""
    embedding, head = _ends(model)
    embedding.weight.copy_(start.embedding)
    head.weight.copy_(start.head)
    if start.bias is not None:
        head.bias.copy_(start.bias)


def _ends(model: PreTrainedModel) -> tuple[nn.Embedding, nn.Linear]:
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()  # type: ignore[no-untyped-call]
    return cast(nn.Embedding, embedding), cast(nn.Linear, head)
