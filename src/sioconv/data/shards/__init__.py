"""Tokens on disk: written by tasks, read through memory maps."""
