"""What tests of several baselines read."""

import pytest
import torch
from torch import Tensor


@pytest.fixture
def reset() -> Tensor:
    """[3, 11]: documents that begin inside of two rows and at the start of one, and a row that is one document."""
    starts = torch.zeros(3, 11, dtype=torch.bool)
    starts[0, [4, 5, 10]] = True
    starts[2, [0, 7]] = True
    return starts
