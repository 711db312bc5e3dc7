"""SioConv: build your own language model on the recurrence c_t = a_t * c_{t-1} + z_t."""

__version__ = "0.1.0"
