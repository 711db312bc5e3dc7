"""The model: configuration, layers, causal language model, cache, bits per byte.

Names are imported when they are first asked for, so that `SioConvLayer` works where transformers isn't installed.
"""

from typing import TYPE_CHECKING

from sioconv.lazy import lazy_names

if TYPE_CHECKING:
    from sioconv.model.architecture import PRESETS as PRESETS
    from sioconv.model.architecture import Architecture as Architecture
    from sioconv.model.architecture import parameter_count as parameter_count
    from sioconv.model.cache import SioConvCache as SioConvCache
    from sioconv.model.causal_lm import SioConvForCausalLM as SioConvForCausalLM
    from sioconv.model.causal_lm import SioConvForSequenceClassification as SioConvForSequenceClassification
    from sioconv.model.causal_lm import SioConvForTokenClassification as SioConvForTokenClassification
    from sioconv.model.causal_lm import SioConvModel as SioConvModel
    from sioconv.model.configuration import SioConvConfig as SioConvConfig
    from sioconv.model.folder import load_model_folder as load_model_folder
    from sioconv.model.folder import save_model_folder as save_model_folder
    from sioconv.model.initial_state import load_initial_state as load_initial_state
    from sioconv.model.initial_state import save_initial_state as save_initial_state
    from sioconv.model.layers import LayerState as LayerState
    from sioconv.model.layers import SioConvLayer as SioConvLayer

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

if not TYPE_CHECKING:  # or a type checker would take any name for one of these
    __getattr__, __dir__ = lazy_names(__name__, _HOMES)
