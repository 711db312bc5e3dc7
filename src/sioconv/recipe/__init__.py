"""Recipes: what they say, their files, and those of the package in `presets/`."""
