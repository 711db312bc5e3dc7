"""The recurrence c_t = a_t * c_{t-1} + z_t, and nothing else.

`scan` for whole sequences, `step` for one token, `scan_sequence_parallel` for a sequence split over processes,
`scan_norm_gate` for a scan whose result is normalised and gated at once, `normalise_heads` for the normalisation alone.
"""

from sioconv.ops.mix import normalise_heads, scan_norm_gate
from sioconv.ops.scan import scan, step
from sioconv.ops.sequence_parallel import scan_sequence_parallel

__all__ = ["normalise_heads", "scan", "scan_norm_gate", "scan_sequence_parallel", "step"]
