"""transformers' own command line for this model: `python -m sioconv.serve.transformers_cli serve runs/demo/model`.

`transformers serve` looks a model's class up in the module `transformers` and knows no other place; here it finds ours.
It renders conversations with the folder's chat template; told to by default here, text that spells a special token
stays text. `sioconv serve` is this project's own server.
"""

import json
import sys

from sioconv.progress import say

SAFE = "sanitize_control_tokens"
OPTION = "--chat-template-kwargs"


def with_safe_text(arguments: list[str]) -> list[str]:
    """The arguments of `transformers`, with `serve` told that no text of a user becomes a special token.

    A value that the user gives for it stands. What isn't a JSON object is left for `serve` to refuse.
    """
    if arguments[:1] != ["serve"] or "--help" in arguments:
        return arguments
    given, rest = "{}", []
    words = iter(arguments)
    for word in words:
        if word == OPTION:
            given = next(words, "")
        elif word.startswith(f"{OPTION}="):
            given = word.removeprefix(f"{OPTION}=")
        else:
            rest.append(word)
    try:
        options = {SAFE: True, **json.loads(given)}
    except (json.JSONDecodeError, TypeError):
        return arguments
    return [*rest, OPTION, json.dumps(options)]


def main() -> None:
    """Runs `transformers` with the arguments of the command line."""
    from transformers.cli.serving import model_manager
    from transformers.cli.transformers import app
    from transformers.utils.import_utils import is_serve_available

    from sioconv.model import SioConvForCausalLM

    # Its own `transformers`: importing transformers.processing_utils replaces the module for those who come later.
    model_manager.transformers.SioConvForCausalLM = SioConvForCausalLM  # type: ignore[attr-defined]
    if sys.argv[1:2] == ["serve"] and not is_serve_available():
        say("transformers serve needs fastapi, uvicorn, pydantic and openai: pip install 'transformers[serving]'")
        sys.exit(2)
    if sys.argv[1:2] == ["serve"] and "--continuous-batching" in sys.argv:
        say("continuous batching pages keys and values, which this model doesn't have: leave --continuous-batching out")
        sys.exit(2)
    app(with_safe_text(sys.argv[1:]), prog_name="python -m sioconv.serve.transformers_cli")


if __name__ == "__main__":
    main()
