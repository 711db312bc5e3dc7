"""The model: configuration, layers, causal language model, cache, bits per byte.

Names are imported when they are first asked for, so that `SioConvLayer` works where transformers isn't installed.
"""

from importlib import import_module
from typing import Any

_HOMES = {
    "Architecture": "architecture",
    "PRESETS": "architecture",
    "parameter_count": "architecture",
    "SioConvLayer": "layers",
    "LayerState": "layers",
    "SioConvConfig": "configuration",
    "SioConvCache": "cache",
    "SioConvModel": "causal_lm",
    "SioConvForCausalLM": "causal_lm",
    "SioConvForSequenceClassification": "causal_lm",
    "SioConvForTokenClassification": "causal_lm",
    "load_model_folder": "folder",
    "save_model_folder": "folder",
    "load_initial_state": "initial_state",
    "save_initial_state": "initial_state",
}
__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
