"""Cleaning: rules for each document, removal of duplicates, the held-out part."""
