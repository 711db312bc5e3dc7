"""transformers' common tests of a model, for SioConv's classes. Run by `test_common_suite.py` in a process of its own:

    COMMON_SUITE=<the unpacked source distribution> python -m pytest tests/compat/common_suite.py

The source distribution holds `tests/test_modeling_common.py`, but not the folders that it imports from
(`tests/generation`, `tests/exporters`): their mixins are empty here.
"""

import os
import sys
import unittest
from collections.abc import Callable, Iterable
from functools import partialmethod
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from sioconv.model import SioConvConfig, SioConvForCausalLM
from sioconv.model.causal_lm import SioConvForSequenceClassification, SioConvForTokenClassification, SioConvModel

SUITE = Path(os.environ["COMMON_SUITE"]) / "tests"
PACKAGE = "transformers_tests"  # not `tests`: that is a name of ours


def expand(cases: Iterable[Any]) -> Callable[[Callable[..., None]], None]:
    """`parameterized.expand`: in the class whose body is being run, one test per case in the place of a method."""
    names = sys._getframe(1).f_locals

    def put(test: Callable[..., None]) -> None:
        for i, case in enumerate(cases):
            values = case if isinstance(case, tuple) else (case,)
            name = f"{test.__name__}_{i}" + (f"_{values[0]}" if isinstance(values[0], str) else "")
            names[name] = partialmethod(test, *values)

    return put


def stand_in(name: str, **members: Any) -> None:
    """A module that the suite imports and that isn't there."""
    sys.modules[name] = ModuleType(name)
    vars(sys.modules[name]).update(members)


def import_suite() -> ModuleType:
    """`test_modeling_common` as a module of the package `transformers_tests`."""
    stand_in(PACKAGE, __path__=[str(SUITE)])
    stand_in("parameterized", parameterized=type("parameterized", (), {"expand": staticmethod(expand)}))
    for folder, module, mixin in (
        ("generation", "test_utils", "GenerationTesterMixin"),
        ("exporters", "test_export", "ExportTesterMixin"),
    ):
        if not (SUITE / folder).exists():
            stand_in(f"{PACKAGE}.{folder}", __path__=[])
            stand_in(f"{PACKAGE}.{folder}.{module}", **{mixin: type(mixin, (), {})})
    return import_module(f"{PACKAGE}.test_modeling_common")


common = import_suite()


class SioConvTester:
    """The sizes and inputs that the suite asks for."""

    batch_size = 3
    seq_length = 7
    hidden_size = 32
    num_hidden_layers = 2
    is_training = True

    def get_config(self) -> SioConvConfig:
        """A model small enough for the suite's bound of a million parameters."""
        return SioConvConfig(
            vocab_size=99,
            hidden_size=self.hidden_size,
            num_hidden_layers=self.num_hidden_layers,
            num_heads=4,
            intermediate_size=48,
            conv_width=2,
            bos_token_id=1,
            eos_token_id=2,
            pad_token_id=0,
        )

    def prepare_config_and_inputs_for_common(self) -> tuple[SioConvConfig, dict[str, torch.Tensor]]:
        """The configuration, and a batch with padding on the right."""
        mask = torch.ones(self.batch_size, self.seq_length, dtype=torch.int64).tril(self.seq_length - 3)
        ids = torch.randint(3, 99, mask.shape)
        return self.get_config(), {"input_ids": ids, "attention_mask": mask}


class SioConvCommonTest(common.ModelTesterMixin, common.GenerationTesterMixin, unittest.TestCase):  # type: ignore[name-defined, misc]
    """Every test of the suite, on every class."""

    all_model_classes = (
        SioConvModel,
        SioConvForCausalLM,
        SioConvForSequenceClassification,
        SioConvForTokenClassification,
    )
    has_attentions = False  # the suite's own switch for models without attention

    def setUp(self) -> None:
        self.model_tester = SioConvTester()
