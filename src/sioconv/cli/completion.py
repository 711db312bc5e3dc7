"""Completion in shells: `eval "$(register-python-argcomplete sioconv)"` in bash or zsh switches it on.

At the Tab key the shell runs `sioconv` with the line so far in its environment; argcomplete answers from the parser of
the verb that the line names.
"""

import argparse
import os
from collections.abc import Callable, Mapping
from typing import Any

REQUEST = "_ARGCOMPLETE"  # at which word of the line the program stands, from 1; set by the shell's function


def complete(parsers: Mapping[str, Callable[[], Any]]) -> None:
    """Answers the shell and ends the process; returns at once where no shell asks.

    Args:
        parsers: verb, of one or two words → what makes its parser.
    """
    if REQUEST not in os.environ:
        return
    import argcomplete
    from argcomplete.lexers import split_line

    start = int(os.environ[REQUEST])
    *_, words, _ = split_line(os.environ["COMP_LINE"], int(os.environ["COMP_POINT"]))
    said = [str(word) for word in words[start:]]  # before the word that is being completed
    line = " ".join(said) + " "
    verb = next((name for name in sorted(parsers, key=len, reverse=True) if line.startswith(f"{name} ")), "")
    os.environ[REQUEST] = str(start + len(verb.split()))  # the verb's parser doesn't know the verb
    if verb:
        parsers[verb]().parse_args([])  # jsonargparse makes argcomplete ready for its parsers, and answers
    verbs = argparse.ArgumentParser(add_help=False)
    verbs.add_argument("verb", choices=[name for name in parsers if " " not in name])
    argcomplete.autocomplete(verbs)
