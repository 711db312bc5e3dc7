"""Verbs that look into what was made: shards, a memory."""
