"""Registers the model with other packages (transformers, PEFT) when they are imported, without importing them."""

import sys
from importlib import import_module
from types import ModuleType

from wrapt import register_post_import_hook

# Names of the layers that adapters change. `dt_proj` isn't among them: how long the memory is stays as it was trained.
LINEAR = ["z_proj", "z_gate_proj", "y_proj", "y_gate_proj", "up_proj", "gate_proj", "down_proj"]
SCALED, SCALED_INPUTS = ["z_proj", "y_proj", "down_proj"], ["down_proj"]  # IA3: results, and inputs of feed-forwards
NORMS = ["mixer_norm", "ffn_norm", "norm"]


def set_hooks() -> None:
    """Tells transformers' Auto classes of the model, PEFT of its layers, and torch.export of its cache."""
    # The configuration registers itself, and the model classes when one is made.
    auto = "transformers.models.auto.configuration_auto"
    register_post_import_hook(lambda _: import_module("sioconv.model.configuration"), auto)
    register_post_import_hook(name_targets, "peft.utils.constants")
    register_post_import_hook(name_classes, "torch._export.serde.serialize")


def name_classes(_: ModuleType) -> None:
    """Brings the classes that a saved program of the model takes and gives, and the operators in older ones."""
    if _is_being_imported("transformers.cache_utils"):  # which imports hqq or quanto, where they are, and these torch
        register_post_import_hook(lambda _: import_module("sioconv.model.cache"), "transformers.modeling_outputs")
    else:
        import_module("transformers.modeling_outputs")
        import_module("sioconv.model.cache")


def _is_being_imported(name: str) -> bool:
    """Whether a module has begun to run and hasn't ended: what imports it now finds it without its names."""
    spec = getattr(sys.modules.get(name), "__spec__", None)
    return bool(getattr(spec, "_initializing", False))


def name_targets(constants: ModuleType) -> None:
    """Enters the layers for each of PEFT's methods, for configurations that don't name `target_modules`."""
    special = {"IA3": SCALED, "LNTUNING": NORMS}
    for name, targets in vars(constants).items():
        if name.startswith("TRANSFORMERS_MODELS_TO_") and name.endswith("_TARGET_MODULES_MAPPING"):
            method = name.removeprefix("TRANSFORMERS_MODELS_TO_").removesuffix("_TARGET_MODULES_MAPPING")
            targets.setdefault("sioconv", special.get(method, LINEAR))
    constants.TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING.setdefault("sioconv", SCALED_INPUTS)
