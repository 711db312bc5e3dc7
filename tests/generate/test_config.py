import subprocess
import sys
from typing import Any

import pytest

from sioconv.errors import UserError
from sioconv.generate.config import LARGEST_SEED, SamplingConfig


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", -1.0),
        ("temperature", 1e-9),
        ("temperature", float("nan")),
        ("temperature", float("inf")),
        ("top_k", -1),
        ("top_p", 0.0),
        ("top_p", 1.1),
        ("top_p", float("nan")),
        ("min_p", -0.1),
        ("min_p", 1.5),
        ("repetition_penalty", 0.0),
        ("repetition_penalty", float("inf")),
        ("max_new_tokens", 0),
        ("seed", -1),
        ("seed", LARGEST_SEED + 1),
        ("stop", ["fine", ""]),
    ],
)
def test_a_value_out_of_range_is_named_in_one_line(name: str, value: Any) -> None:
    with pytest.raises(UserError) as caught:
        SamplingConfig(**{name: value})
    message = str(caught.value)
    assert message.startswith(f"{name} out of range: {value}: give ") and "\n" not in message


@pytest.mark.parametrize(
    "values",
    [
        {"temperature": 0, "top_p": 1, "min_p": 0, "repetition_penalty": 1},
        {"temperature": 0.001, "top_p": 1e-9, "min_p": 1.0, "max_new_tokens": 1, "seed": LARGEST_SEED, "stop": ["。"]},
    ],
)
def test_the_ends_of_the_ranges_are_inside(values: dict[str, Any]) -> None:
    config = SamplingConfig(**values)
    assert all(getattr(config, name) == value for name, value in values.items())


def test_the_settings_need_no_heavy_module() -> None:
    code = "import sys, sioconv.generate.config; print({'torch', 'transformers'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {"do_sample": True, "temperature": 0.8, "top_k": 0, "top_p": 0.95}),
        ({"temperature": 0}, {"do_sample": False}),
        (
            {"min_p": 0.1, "repetition_penalty": 1.1, "top_k": 7},
            {
                "do_sample": True,
                "temperature": 0.8,
                "top_k": 7,
                "top_p": 0.95,
                "min_p": 0.1,
                "repetition_penalty": 1.1,
            },
        ),
    ],
)
def test_in_the_words_of_transformers(given: dict[str, Any], expected: dict[str, Any]) -> None:
    assert SamplingConfig(**given).for_transformers() == expected


def test_a_folder_says_how_tokens_are_chosen_where_nobody_else_does() -> None:
    from transformers import GenerationConfig

    folder = GenerationConfig(do_sample=True, temperature=0.5, top_k=7, top_p=0.9)
    sampling = SamplingConfig(top_k=3).with_defaults(folder, given={"top_k"})
    assert (sampling.temperature, sampling.top_k, sampling.top_p) == (0.5, 3, 0.9)
    assert SamplingConfig().with_defaults(GenerationConfig(), given=set()) == SamplingConfig()
    with pytest.raises(UserError, match="temperature out of range"):
        SamplingConfig().with_defaults(GenerationConfig(do_sample=True, temperature=-1.0), given=set())
