"""The `cpu` backend: kernels that numba compiles."""
