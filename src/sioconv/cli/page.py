"""docs/cli.md and docs/cli.ja.md, made of the verbs: `python -m sioconv.cli.page docs/cli.md` writes both."""

import os
import sys
from pathlib import Path

from sioconv.cli.main import VERBS, usage
from sioconv.cli.recipe_verbs import RecipeVerb
from sioconv.files import atomic_write
from sioconv.language import VARIABLE, translated

WIDTH = "100"  # columns of the help's text, whatever the terminal is


def page(link: str) -> str:
    """The page as Markdown, in the user's language, as wide as COLUMNS says; `link` leads to the other language's.

    The keys of recipes, which five verbs take, stand in it once.
    """
    parts = [f"# {translated('The command line')}", link, _block(usage())]
    keys, title = "", translated("The keys of recipes")
    for verb in VERBS.values():
        parts += [f"## sioconv {verb.name}", translated(verb.purpose)]
        parts += [translated(f"Example: {example}") for example in map(_code, verb.example.splitlines())]
        if isinstance(verb, RecipeVerb):
            parts.append(f"{translated('Its options:')} [{title}](#{title.lower().replace(' ', '-')})")
            keys = keys or verb.usage().partition("\n\n")[2]
        else:
            parts.append(_block(verb.usage()))
    parts += [f"## {title}", translated("In a YAML file, or as options behind it:"), _block(keys)]
    return "\n\n".join(parts) + "\n"


def pages(english: Path) -> dict[Path, str]:
    """Both pages, by their files."""
    files, made = {"en": english, "ja": english.with_suffix(".ja.md")}, dict[Path, str]()
    links = {"en": f"[日本語]({files['ja'].name})", "ja": f"[English]({english.name})"}
    for code, path in files.items():
        os.environ[VARIABLE] = code
        made[path] = page(links[code])
    return made


def _code(line: str) -> str:
    return f"`{line}`"


def _block(text: str) -> str:
    return f"```text\n{text.strip()}\n```"


if __name__ == "__main__":
    os.environ["COLUMNS"] = WIDTH
    for path, text in pages(Path(sys.argv[1])).items():
        with atomic_write(path) as file:
            file.write_text(text, encoding="utf-8")
