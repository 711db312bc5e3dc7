"""The models of tests/model, for what is measured on every variant."""

from tests.model.conftest import build, model, options

__all__ = ["build", "model", "options"]
