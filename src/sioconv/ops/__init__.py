"""The recurrence c_t = a_t * c_{t-1} + z_t, and what a model computes beside it.

`scan` for whole sequences, `step` for one token, `scan_sequence_parallel` for a sequence split over processes,
`scan_norm_gate` for a scan whose result is normalised and gated at once, `normalise_heads` for the normalisation alone,
`linear`, `fast_products`, `silu_gate`, `rms_norm`, `causal_convolution` and `cross_entropy_` for the work beside it.
"""

from sioconv.ops.convolution import causal_convolution
from sioconv.ops.cross_entropy import cross_entropy_
from sioconv.ops.heads import normalise_heads
from sioconv.ops.linear import fast_products, linear
from sioconv.ops.rms_norm import rms_norm
from sioconv.ops.scan import scan, step
from sioconv.ops.scan_norm_gate import scan_norm_gate
from sioconv.ops.sequence_parallel import scan_sequence_parallel
from sioconv.ops.silu_gate import silu_gate

__all__ = [
    "causal_convolution",
    "cross_entropy_",
    "fast_products",
    "linear",
    "normalise_heads",
    "rms_norm",
    "scan",
    "scan_norm_gate",
    "scan_sequence_parallel",
    "silu_gate",
    "step",
]
