"""Products of codes of 8 and 4 bits with rows of 16-bit numbers, which the `cpu` backend's decoding takes."""
