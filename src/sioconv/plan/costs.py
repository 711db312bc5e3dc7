"""The costs of a training before it starts: parameters, operations, memory, communication, time on named cards.

Names: M parameters in matrices, D width, F feed-forward width, V tokens in the vocabulary, n cards, b bytes of an
activation (2 under bf16 and fp16).
"""

import math
from dataclasses import asdict, dataclass, replace
from typing import Any

from sioconv.data.batches.repeats import warning
from sioconv.errors import UserError
from sioconv.language import columns, padded, translated
from sioconv.model.architecture import Architecture, ParameterSizes, parameter_count, parameter_sizes
from sioconv.plan.size import derive
from sioconv.train.config import TrainConfig

UTILISATION = 0.4  # assumed share of a card's published speed; recomputation counts as work
USABLE = 0.9  # of a card's memory: the rest goes to the driver's context and to gaps between tensors
SURE = 0.8  # of the memory that is counted, which a step needs at the least: the counts are within 10 %
CARDS_PER_MACHINE = 8
LOGIT_ROWS = 1024  # rows of `token_loss_gradient`
# Per channel and token: 6 forward (multiply, add, 4 of the compensated sum), 9 backward (the same, 3 for the gate).
RECURRENCE_OPERATIONS = 15


@dataclass(frozen=True)
class Card:
    """A kind of GPU.

    Args:
        name: as it is sold.
        speed: published dense matrix speed, operations a second: bf16 (T4: fp16) with sums in fp32.
        memory: bytes.
        bandwidth: bytes a second to its memory.
        link: bytes a second, in one direction, to the cards of the same machine (NVLink or PCIe).
        network: the same to other machines; assumed: 400 Gb/s a card for H100, 200 for A100, 25 for the others.
    """

    name: str
    speed: float
    memory: float
    bandwidth: float
    link: float
    network: float


CARDS = (
    Card("T4", 65e12, 16e9, 320e9, 16e9, 3.1e9),
    Card("RTX 3060 12 GB", 25.5e12, 12 * 2**30, 360e9, 32e9, 3.1e9),
    Card("RTX 4090", 165.2e12, 24 * 2**30, 1008e9, 32e9, 3.1e9),
    Card("A100 80 GB", 312e12, 80e9, 2039e9, 300e9, 25e9),
    Card("H100 SXM", 989e12, 80e9, 3350e9, 450e9, 50e9),
)


def operations_per_token(model: Architecture, vocabulary: int) -> tuple[int, int]:
    """Floating-point operations to train on a token: of the matrices, 6·M, and of the recurrence.

    Recomputation isn't counted. Element-wise work and normalisations aren't counted.
    """
    channels = model.num_hidden_layers * model.hidden_size
    return 6 * parameter_sizes(model, vocabulary).matrices, RECURRENCE_OPERATIONS * channels


@dataclass(frozen=True)
class Memory:
    """Bytes on one card at the fullest moment of a step, by part.

    Attributes:
        weights: fp32: they are the master weights, there are no others.
        gradients: fp32.
        moments: of the optimizer, fp32.
        half_copies: the matrices in 16 bits, where one card holds all of them.
        gathered: where they are shared out: what is whole at one moment: two blocks, embedding and head; gradients.
        activations: what the backward pass needs of one micro-batch.
        logits: one micro-batch of logits, with what their loss needs.
    """

    weights: int
    gradients: int
    moments: int
    half_copies: int
    gathered: int
    activations: int
    logits: int

    @property
    def total(self) -> int:
        """All of it."""
        return sum(asdict(self).values())


def moment_bytes(sizes: ParameterSizes, optimizer: str) -> int:
    """Bytes of the optimizers' moments: AdamW has two for a parameter, Muon one for a matrix that isn't the head."""
    single = sizes.hidden_linear if optimizer == "muon" else 0
    return 4 * (2 * sizes.all - single)


def activation_bytes(model: Architecture, tokens: int, element: int, recompute: bool) -> int:
    """Bytes that the backward pass of `tokens` tokens needs, logits aside.

    A block keeps per token 24·D bytes in fp32 (its input, the sum after the mixer, what norms and recurrence keep), and
    of b bytes 8·D in the mixer and 4·F in the feed-forward layer; and 16 bytes a gate. The counts are those of tensors
    that autograd saves on a CPU (tests/plan/test_costs.py); fused kernels of a GPU may save fewer. With `recompute`
    each block keeps its input, and one of them all the rest. Bigrams keep the row of their table. A convolution
    keeps its input and what stood before it, W·D numbers in all; the kernel of large ones only the input.
    """
    width, ffn = model.hidden_size, model.intermediate_size
    gates = model.num_heads if model.gate == "head" else width
    columns = 8 + model.conv_width + (model.input_scale != "none") - (model.output_gate == "normed")
    columns += 2 * model.trapezoid
    block = 24 * width + element * (columns * width + 4 * ffn) + 16 * gates
    block += 12 * model.num_heads + 4 * gates if model.trapezoid else 0
    if model.output_gate == "state":
        block += 8 * width
    elif model.groups != model.num_heads:  # scan and norm aren't one kernel
        block += (8 - element) * width
    bigrams = 8 + element * model.bigram_width if model.bigram_rows else 0  # the row's number, and the row
    kept = block + 4 * width * model.num_hidden_layers if recompute else block * model.num_hidden_layers
    return tokens * (kept + bigrams + 8 * width)  # besides: what the last norm keeps


def memory(model: Architecture, train: TrainConfig, vocabulary: int, cards: int, element: int = 2) -> Memory:
    """What a card holds where `cards` of them share the weights out.

    Args:
        model: the architecture.
        train: the stage.
        vocabulary: V.
        cards: n.
        element: bytes of an activation: 2 in 16 bits, 4 in fp32.
    """
    sizes = parameter_sizes(model, vocabulary)
    shared = -(-sizes.all // cards)
    block, matrices = sizes.blocks // model.num_hidden_layers, sizes.block_matrices // model.num_hidden_layers
    one = element * matrices + 4 * (block - matrices)  # a block as it is gathered
    rows = max(1, train.batch_size // (cards * micro_batches(train, cards)))
    return Memory(
        weights=4 * shared,
        gradients=4 * shared,
        moments=-(-moment_bytes(sizes, train.optimizer) // cards),
        half_copies=2 * sizes.matrices if cards == 1 and element == 2 else 0,
        gathered=2 * one + 4 * block + 8 * sizes.root if cards > 1 else 0,
        activations=activation_bytes(model, rows * train.sequence_length, element, train.activation_checkpointing),
        logits=LOGIT_ROWS * vocabulary * (12 if element == 4 else 16),
    )


def check_memory(model: Architecture, train: TrainConfig, vocabulary: int, cards: int, available: int | None) -> None:
    """Raises UserError where a step clearly needs more memory than there is, before anything of it is made.

    Args:
        model: the architecture.
        train: the stage.
        vocabulary: V.
        cards: how many processes share the weights and the batch.
        available: bytes of one of them; None where that isn't known.
    """
    rows = -(-train.batch_size // cards)
    batch = 32 * rows * train.sequence_length  # token, target, position and what is reset, as they are handed over
    needed = memory(model, train, vocabulary, cards, 4 if train.precision == "fp32" else 2).total + batch
    if available is not None and SURE * needed > available:
        raise UserError(
            f"not enough memory: a step needs about {needed / 2**30:,.1f} GiB, and there are {available / 2**30:,.1f}: "
            "take a smaller model, batch_size or sequence_length, or more accumulation (`sioconv plan` shows the parts)"
        )


def micro_batches(train: TrainConfig, cards: int) -> int:
    """Micro-batches that each card computes a step's windows in, one after the other."""
    return max(1, train.accumulation // cards)


def communication(model: Architecture, train: TrainConfig, vocabulary: int, cards: int, element: int = 2) -> int:
    """Bytes that a card receives in a step (FSDP2).

    Each micro-batch gathers every block twice, forward and backward, and embedding and head once, and scatters the sum
    of the gradients in fp32; of each, (n - 1) / n come from other cards.
    """
    sizes = parameter_sizes(model, vocabulary)
    gathered = 2 * (element * sizes.block_matrices + 4 * (sizes.blocks - sizes.block_matrices)) + 4 * sizes.root
    return (gathered + 4 * sizes.all) * micro_batches(train, cards) * (cards - 1) // cards


@dataclass(frozen=True)
class Estimate:
    """A recipe on `cards` cards of a kind.

    Attributes:
        card: its name.
        cards: how many.
        settings: what the recipe must say otherwise, so that it fits; empty where nothing.
        memory: bytes on each, with these settings.
        fits: whether a card holds that.
        step_seconds: compute or communication, whichever is longer: they overlap.
        communication_seconds: of that step.
        tokens_per_second: of all cards.
        seconds: the whole stage; None where its tokens aren't known or it doesn't fit.
        largest: parameters of the largest model of the dial's shape that fits, where this one doesn't.
    """

    card: str
    cards: int
    settings: dict[str, Any]
    memory: int
    fits: bool
    step_seconds: float
    communication_seconds: float
    tokens_per_second: float
    seconds: float | None
    largest: int | None


def estimate(model: Architecture, train: TrainConfig, vocabulary: int, card: Card, cards: int) -> Estimate | None:
    """Memory and time; None where the recipe's windows can't be shared out evenly to so many cards."""
    if train.batch_size % (cards * micro_batches(train, cards)):
        return None
    chosen, settings = _make_it_fit(model, train, vocabulary, card, cards)
    needed = memory(model, chosen, vocabulary, cards).total
    fits = needed <= USABLE * card.memory
    tokens = chosen.batch_size * chosen.sequence_length
    operations = sum(operations_per_token(model, vocabulary)) * (4 / 3 if chosen.activation_checkpointing else 1)
    compute = tokens * operations / (cards * card.speed * UTILISATION)
    link = card.link if cards <= CARDS_PER_MACHINE else card.network
    talk = communication(model, chosen, vocabulary, cards) / link
    step = max(compute, talk)
    return Estimate(
        card.name, cards, settings, needed, fits, step, talk, tokens / step,
        train.tokens / tokens * step if train.tokens and fits else None,
        None if fits else largest_that_fits(model, chosen, vocabulary, card, cards),
    )  # fmt: skip


def _make_it_fit(
    model: Architecture, train: TrainConfig, vocabulary: int, card: Card, cards: int
) -> tuple[TrainConfig, dict[str, Any]]:
    """The settings and those of them that are new: smaller micro-batches first, then recomputation.

    Neither changes the result.
    """
    ladder = [n for n in _divisors(train.batch_size) if n >= train.accumulation and _splits(train.batch_size, n, cards)]
    tries: list[dict[str, Any]] = [{"accumulation": n} for n in ladder]
    tries += [{"accumulation": n, "activation_checkpointing": True} for n in ladder]
    for changed in ({}, *tries):
        chosen = replace(train, **changed)
        if memory(model, chosen, vocabulary, cards).total <= USABLE * card.memory or changed is tries[-1]:
            return chosen, {name: value for name, value in changed.items() if getattr(train, name) != value}
    raise AssertionError("the last try is always taken")


def _divisors(number: int) -> list[int]:
    small = [n for n in range(1, math.isqrt(number) + 1) if number % n == 0]
    return sorted({*small, *(number // n for n in small)})


def _splits(batch: int, accumulation: int, cards: int) -> bool:
    return batch % accumulation == 0 and batch % (cards * max(1, accumulation // cards)) == 0


def largest_that_fits(model: Architecture, train: TrainConfig, vocabulary: int, card: Card, cards: int) -> int | None:
    """Parameters of the largest model of the dial's shape that fits with one window a micro-batch and recomputation.

    Found to 2 %; None where not even the smallest does.
    """
    best, size = None, 1e6
    while size <= 1e12:
        try:
            shape = derive(round(size), vocabulary, train.sequence_length)["model"]
        except ValueError:  # the vocabulary alone is larger
            shape = None
        if shape is not None:
            smaller = replace(model, **shape)
            if memory(smaller, train, vocabulary, cards).total > USABLE * card.memory:
                return best
            best = parameter_count(smaller, vocabulary)
        size *= 1.02
    return best


def costs_of(model: Architecture, train: TrainConfig, vocabulary: int) -> dict[str, Any]:
    """Everything that `sioconv plan` says, in plain values: bytes, operations, seconds."""
    matrices, recurrence = operations_per_token(model, vocabulary)
    apart = replace(train, activation_checkpointing=False), replace(train, activation_checkpointing=True)
    plain, recomputed = (memory(model, each, vocabulary, 1) for each in apart)
    return {
        "parameters": parameter_count(model, vocabulary),
        "vocabulary": vocabulary,
        "operations_per_token": {"matrices": matrices, "recurrence": recurrence},
        "tokens": train.tokens,
        "tokens_per_step": train.batch_size * train.sequence_length,
        "utilisation": UTILISATION,
        "memory": asdict(plain) | {"activations_recomputed": recomputed.activations},
        "communication_per_step": {
            str(n): communication(model, train, vocabulary, n) for n in (8, 64) if not train.batch_size % n
        },
        "estimates": [
            {"card": card.name, "cards": n} | ({} if found is None else asdict(found))
            for card in CARDS
            for n in (1, 8, 64)
            for found in [estimate(model, train, vocabulary, card, n)]
        ],
    }


def on_this_machine(
    model: Architecture, train: TrainConfig, vocabulary: int, name: str, speed: float
) -> dict[str, Any]:
    """Tokens a second and time on one device whose speed of matrix products was measured, at the same utilisation.

    Args:
        model: the architecture.
        train: the stage; of a budget in minutes it is said how many tokens that is.
        vocabulary: V.
        name: of the device and precision.
        speed: operations a second.
    """
    rate = speed * UTILISATION / sum(operations_per_token(model, vocabulary))
    rate *= 3 / 4 if train.activation_checkpointing else 1
    tokens = rate * 60 * train.minutes if train.minutes else train.tokens
    seconds = None if tokens is None else tokens / rate
    return {"name": name, "speed": speed, "tokens_per_second": rate, "seconds": seconds, "tokens": tokens}


def describe_costs(costs: dict[str, Any]) -> str:
    """The lines that `sioconv plan` prints, from what `costs_of` gives."""
    operations, here = costs["operations_per_token"], costs["this_machine"]
    whole = sum(operations.values())
    tokens = translated(f"{costs['tokens']:,} tokens" if costs["tokens"] else "a budget in minutes")
    share = operations["recurrence"] / whole
    facts = {
        "parameters": translated(f"{costs['parameters']:,} with a vocabulary of {costs['vocabulary']:,}"),
        "a token": translated(
            f"{whole / 1e9:.4g} G operations: 6 a matrix weight, and {share:.2%} of them in the recurrence"
        ),
        "training": translated(f"{tokens}, {costs['tokens_per_step']:,} a step"),
    }
    lines = [f"{padded(translated(name), 13)}{text}" for name, text in facts.items()]
    lines += ["", translated("memory on one card in 16 bits, before anything is shared out, GiB")]
    lines += [
        f"  {padded(translated(name.replace('_', ' ')), 24)}{value / 2**30:9.3f}"
        for name, value in costs["memory"].items()
    ]
    received = [translated(f"{n} cards {b / 2**30:.1f}") for n, b in costs["communication_per_step"].items()]
    lines += ["", translated(f"received by each card in a step, GiB: {', '.join(received) or '–'}"), ""]
    lines += [
        translated(
            f"time, at {costs['utilisation']:.0%} of a card's published speed (assumed) and {USABLE:.0%} of its memory"
        ),
        f"  {padded(translated('card'), 16)}"
        + "".join(_right(translated(name), width)
                  for name, width in (("cards", 5), ("GiB each", 10), ("tokens/s", 12), ("time", 10))),
        *map(_line, costs["estimates"]),
        "",
        translated(
            f"this machine, at {costs['utilisation']:.0%} of what was measured just now: {here['name']}, "
            f"{here['speed'] / 1e9:,.0f} G operations/s"
        ),
    ]  # fmt: skip
    until = f", {here['tokens'] / 1e6:,.1f} M tokens in {_time(here['seconds'])}" if here["tokens"] else ""
    lines.append(translated(f"  {here['tokens_per_second']:,.0f} tokens/s{until}"))
    if often := warning(costs.get("times_read", {})):
        lines += ["", translated(often)]
    return "\n".join(lines)


def _right(text: str, width: int) -> str:
    return " " * (width - columns(text)) + text


def _line(row: dict[str, Any]) -> str:
    start = f"  {row['card']:16}{row['cards']:5}"
    if "memory" not in row:
        return f"{start}  " + translated("batch_size can't be shared out evenly")
    start += f"{row['memory'] / 2**30:10.1f}"
    if not row["fits"]:
        largest = f"{row['largest'] / 1e6:,.0f} M parameters" if row["largest"] else "nothing of this vocabulary"
        return f"{start}  " + translated(f"doesn't fit: the largest that does: {largest}")
    with_ = ", ".join(f"{name} {str(value).lower()}" for name, value in row["settings"].items())
    notes = [translated(f"with {with_}")] if with_ else []
    notes += [translated("communication decides")] if row["communication_seconds"] >= row["step_seconds"] else []
    return f"{start}{row['tokens_per_second']:12,.0f}{_right(_time(row['seconds']), 10)}  {'; '.join(notes)}".rstrip()


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    unit, name = next((u, n) for u, n in ((86400, "d"), (3600, "h"), (60, "min"), (0, "s")) if seconds >= 2 * u)
    return translated(f"{seconds / (unit or 1):.1f} {name}")
