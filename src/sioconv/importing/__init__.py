"""A user's own files, whatever form they have, as the JSON lines that a source of a recipe reads."""
