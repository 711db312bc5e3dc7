"""docs/cli.md, made of the verbs themselves: `python -m sioconv.cli.page docs/cli.md`."""

import os
import sys
from pathlib import Path

from sioconv.cli.main import VERBS, usage
from sioconv.cli.recipe_verbs import RecipeVerb
from sioconv.files import atomic_write

WIDTH = "100"  # columns of the help's text, whatever the terminal is


def page() -> str:
    """The page as Markdown, as wide as COLUMNS says. The keys of recipes, which five verbs take, stand in it once."""
    parts = ["# The command line", _block(usage())]
    keys = ""
    for verb in VERBS.values():
        parts += [f"## sioconv {verb.name}", verb.purpose]
        parts += [f"Example: `{line}`" for line in verb.example.splitlines()]
        if isinstance(verb, RecipeVerb):
            parts.append("Its options are [the keys of recipes](#the-keys-of-recipes).")
            keys = keys or verb.parser().format_help().partition("\n\n")[2]
        else:
            parts.append(_block(verb.parser().format_help()))
    parts += ["## The keys of recipes", "In a YAML file, or as options behind it.", _block(keys)]
    return "\n\n".join(parts) + "\n"


def _block(text: str) -> str:
    return f"```text\n{text.strip()}\n```"


if __name__ == "__main__":
    os.environ["COLUMNS"] = WIDTH
    with atomic_write(Path(sys.argv[1])) as file:
        file.write_text(page(), encoding="utf-8")
