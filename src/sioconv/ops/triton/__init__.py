"""The `triton` backend for GPUs."""
