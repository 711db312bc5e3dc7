"""The model: configuration, layers, causal language model, cache, bits per byte.

Names are imported when they are first asked for, so that `SioConvLayer` works where transformers isn't installed. After
`import sioconv.model`, transformers' Auto classes know the model, whichever of the two was imported first.
"""

from importlib import import_module
from typing import Any

from wrapt import register_post_import_hook

_HOMES = {
    "Architecture": "architecture",
    "PRESETS": "architecture",
    "SioConvLayer": "layers",
    "LayerState": "layers",
    "SioConvConfig": "configuration",
    "SioConvCache": "cache",
    "SioConvModel": "causal_lm",
    "SioConvForCausalLM": "causal_lm",
    "load_model_folder": "folder",
    "save_model_folder": "folder",
}
__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


# The configuration registers itself, and the model classes when one is made.
register_post_import_hook(
    lambda _: import_module(f"{__name__}.configuration"), "transformers.models.auto.configuration_auto"
)
