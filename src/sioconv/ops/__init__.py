"""The recurrence c_t = a_t * c_{t-1} + z_t, and nothing else: `scan` for whole sequences, `step` for one token."""

from sioconv.ops.scan import scan, step

__all__ = ["scan", "step"]
