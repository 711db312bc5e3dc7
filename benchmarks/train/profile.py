"""Where the time of a training step goes: operators grouped by what they are for, on one thread."""

import re

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.train.measure import Entry, step, stepper

KINDS = {  # the first pattern that an operator's name matches; what matches none is "everything else"
    "matrix products": r"aten::(mm|addmm|bmm|baddbmm|linear|mkldnn_rnn_layer|lstm)",
    "attention": r"aten::.*(attention|sdpa)",
    "recurrence, normalisation of the state": r".*sioconv_?:*(mix|scan)",
    "loss over the vocabulary": r"aten::(_?log_?softmax|_?softmax|nll_loss|logsumexp|cross_entropy|gather|scatter)",
    "gated units": r"aten::(silu|mul|sigmoid|softplus|neg|exp)|sioconv::gated|Generated.*gated",
    "norms": r"aten::(.*norm|pow|mean|rsqrt|div|var)",
    "casts and copies": r"aten::(copy_|_to_copy|to|cat|fill_|zero_|zeros|empty|index|clone|contiguous)",
    "sums: residuals, biases' gradients": r"aten::(sum|add|add_)$",
    "optimizer": r"aten::(_fused_adamw|_foreach|.*adam)",
}


def shares(arm: str, size: str, length: int, batch: int, dtype: str) -> dict[str, float]:
    """Share of the step's processor time by kind, the largest first, of the third step on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        made, windows = stepper(arm, size, dtype), Entry(arm, length, batch).windows()
        for _ in range(2):
            step(made, windows)
        with profile(activities=[ProfilerActivity.CPU]) as recorded:
            step(made, windows)
    finally:
        torch.set_num_threads(threads)
    found: dict[str, float] = {}
    for event in recorded.key_averages():
        kind = next((name for name, pattern in KINDS.items() if re.match(pattern, event.key)), "everything else")
        found[kind] = found.get(kind, 0.0) + event.self_cpu_time_total
    total = sum(found.values())
    return {kind: value / total for kind, value in sorted(found.items(), key=lambda item: -item[1])}
