"""Where the time of a training step goes: operators grouped by what they are for, on one thread."""

import re

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.train.measure import Entry, step, stepper

KINDS = {  # the first pattern that an operator's name matches; what matches none is "everything else"
    "matrix products": r"aten::(mm|addmm|bmm|baddbmm|mkldnn_rnn_layer)|mkldnn::_linear|.*sioconv(::|_)linear",
    "recurrence, norm of the state": r".*sioconv(::|_)(mix|scan)",
    "gated units and RMSNorms": (
        r".*sioconv(::|_)(silu_gate|rms_norm|convolution)|aten::(silu|mul$|pow|rsqrt|mean|div$|_fused_rms)"
    ),
    "loss over the vocabulary": r"aten::(_log_softmax|nll_loss|exp_|scatter_add|mul_$)|sioconv::cross_entropy",
    "casts and copies": r"aten::(copy_|cat|fill_|index|clone)",
    "sums: residuals, biases' gradients": r"aten::(sum|add|add_)$",
    "clipping and optimizer": r"aten::(_fused_adamw|linalg_vector_norm|_foreach)",
}


def times(arm: str, size: str, length: int, batch: int, dtype: str) -> dict[str, float]:
    """Microseconds of processor time a token by kind, the largest first: the third step of a model, on one thread."""
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
        found[kind] = found.get(kind, 0.0) + event.self_cpu_time_total / (length * batch)
    return dict(sorted(found.items(), key=lambda item: -item[1]))
