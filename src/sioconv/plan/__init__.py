"""The costs of a training, computed before it starts."""
