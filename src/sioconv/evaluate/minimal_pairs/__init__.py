"""Minimal pairs of Japanese and English sentences, made of templates and lists of words."""
