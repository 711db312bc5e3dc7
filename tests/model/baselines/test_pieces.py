"""Rows cut where documents begin, and the LSTM that reads their pieces: its gradients by differences in fp64."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from sioconv.model.baselines.pieces import PackedLstm, cut_rows


def test_rows_are_cut_where_documents_begin() -> None:
    reset = torch.zeros(2, 4, dtype=torch.bool)
    reset[0, 0] = reset[0, 1] = True
    reset[1, 2] = True
    pieces = cut_rows(reset)  # tokens 0 | 1 2 3 || 4 5 | 6 7: the second piece is the longest
    assert pieces is not None
    assert pieces.order.tolist() == [1, 4, 6, 0, 2, 5, 7, 3]
    assert pieces.sizes == [4, 3, 1]
    assert (pieces.first.tolist(), pieces.last.tolist()) == ([3, 1], [0, 2])


def test_rows_that_are_one_document_stay_whole() -> None:
    reset = torch.zeros(2, 3, dtype=torch.bool)
    assert cut_rows(reset) is None
    reset[:, 0] = True
    assert cut_rows(reset) is None


@given(st.integers(0, 2**32 - 1), st.integers(1, 5), st.integers(2, 40), st.floats(0.02, 0.9))
def test_each_piece_is_one_document_in_order(seed: int, batch: int, length: int, share: float) -> None:
    reset = torch.rand(batch, length, generator=torch.Generator().manual_seed(seed)) < share
    reset[0, 1] = True
    pieces = cut_rows(reset)
    assert pieces is not None
    found: list[list[int]] = [[] for _ in range(pieces.sizes[0])]
    for run in pieces.order.split(pieces.sizes):
        for piece, token in enumerate(run.tolist()):
            found[piece].append(token)
    expected: list[list[int]] = []
    for row in range(batch):
        for place in range(length):
            if not place or reset[row, place]:
                expected.append([])
            expected[-1].append(row * length + place)
    assert sorted(found) == expected
    assert [len(piece) for piece in found] == sorted(map(len, expected), reverse=True)
    for row in range(batch):
        assert found[int(pieces.first[row])][0] == row * length
        assert found[int(pieces.last[row])][-1] == row * length + length - 1


def test_gradients() -> None:
    """Of all inputs and both outputs, by differences."""
    torch.manual_seed(0)
    sizes, width = [3, 3, 1, 1], 2

    def values(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64, requires_grad=True)

    inputs = (values(sum(sizes), 4 * width), values(4 * width, width), values(3, width), values(3, width))
    assert torch.autograd.gradcheck(lambda *tensors: PackedLstm.apply(*tensors, sizes), inputs)
