"""From a model to text: the choice of the next token, streaming, sessions that can be saved, chat.

Names are imported when they are first asked for: `SamplingConfig` needs neither torch nor transformers.
"""

from importlib import import_module
from typing import Any

_HOMES = {
    "SamplingConfig": "config",
    "Sampler": "sampling",
    "TextStream": "stream",
    "Vocabulary": "stream",
    "Session": "session",
    "Generation": "session",
    "generate_text": "session",
    "continue_text": "baseline",
    "chat_loop": "chat",
}
__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
