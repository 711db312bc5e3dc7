"""Models of other architectures to compare with."""
