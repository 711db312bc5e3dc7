"""The recurrence c_t = a_t * c_{t-1} + z_t, and nothing else.

`scan` for whole sequences, `step` for one token, `scan_sequence_parallel` for a sequence split over processes.
"""

from sioconv.ops.scan import scan, step
from sioconv.ops.sequence_parallel import scan_sequence_parallel

__all__ = ["scan", "scan_sequence_parallel", "step"]
