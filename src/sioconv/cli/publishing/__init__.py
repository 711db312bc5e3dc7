"""Verbs that give a model to others."""
