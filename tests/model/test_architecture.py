import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from sioconv.model import PRESETS, Architecture


@pytest.mark.parametrize("name", PRESETS)
def test_presets_can_be_built(name: str) -> None:
    Architecture(**PRESETS[name]).check()


def test_the_defaults_are_the_preset_that_they_name() -> None:
    default = Architecture()
    assert all(getattr(default, field) == value for field, value in PRESETS[default.preset].items())


def test_head_dim() -> None:
    assert Architecture(hidden_size=48, num_heads=3).head_dim == 16


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("hidden_size", 0),
        ("num_hidden_layers", 0),
        ("num_heads", -1),
        ("num_heads", 7),
        ("intermediate_size", 0),
        ("preset", "lstm"),
        ("gate", "row"),
        ("conv_width", 1),
        ("conv_width", 5),
        ("conv_width", -2),
        ("input_scale", "max"),
        ("embedding_max_norm", 0.0),
        ("gate_bound", 0.0),
        ("gate_bound", float("inf")),
        ("timescale_max", 1.0),
        ("conv_on", "y"),
        ("norm_groups", 0),
        ("norm_groups", 7),
        ("bigram_rows", -1),
        ("bigram_width", 0),
        ("embedding_std", 0.0),
        ("linear_std", float("nan")),
        ("output_gate", "none"),
        ("state_norm_eps", 0.0),
        ("rms_norm_eps", float("nan")),
        ("z_gain", -1.0),
        ("initial_state_std", float("inf")),
    ],
)
def test_what_cannot_be_built_is_named(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=rf"^{field}: .*{value}"):
        Architecture(**{field: value}).check()


def test_every_option_is_explained() -> None:
    """In the dataclass, which `--help` prints, and in the docs."""
    text = (Path(__file__).parents[2] / "docs" / "model.md").read_text(encoding="utf-8")
    for field in fields(Architecture):
        assert f"        {field.name}: " in (Architecture.__doc__ or ""), field.name
        assert f"`{field.name}`" in text, field.name


def test_no_heavy_import_is_needed() -> None:
    """Recipes and `--help` read the architecture; they must not wait for torch."""
    heavy = "{'torch', 'transformers', 'numba', 'numpy'}"
    code = f"import sys, sioconv, sioconv.model.architecture; sys.exit(bool({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
