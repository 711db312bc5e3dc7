"""The comparison of an ONNX graph, in onnxruntime, with the model that it was made of, in PyTorch."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sioconv.errors import UserError
from sioconv.model import SioConvForCausalLM
from sioconv.publish.onnx.graph import INPUTS, KEEP, LOGITS, state_shapes

TOLERANCE = 1e-4  # of logits, times the largest one where that is above 1
LENGTH, CUTS = 300, (1, 2, 9, 64, 200)  # tokens that are compared, read whole and in pieces
Array = NDArray[Any]


class OnnxModel:
    """A graph in onnxruntime, on one thread.

    Args:
        path: the file.
        config: of the model that it was made of.
    """

    def __init__(self, path: Path, config: Any) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = 1, 3
        self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self._shapes = state_shapes(config)

    def start(self, rows: int = 1) -> dict[str, Array]:
        """The memory before the first token, of so many texts."""
        return {f"past_{name}": np.zeros((rows, *shape), np.float32) for name, shape in self._shapes.items()}

    def read(self, ids: Array, past: dict[str, Array], keep: int = 0) -> tuple[Array, dict[str, Array]]:
        """Ids [B, T] and memory → logits [B, N, V] of the last `keep` steps (0: all) and the memory after them."""
        wanted = [LOGITS, *(f"present_{name}" for name in self._shapes)]
        feeds = {INPUTS: ids.astype(np.int64), KEEP: np.array(keep, np.int64), **past}
        logits, *states = self._session.run(wanted, feeds)
        return logits, dict(zip(past, states, strict=True))

    def read_in_pieces(self, ids: Array, cuts: Sequence[int]) -> tuple[Array, dict[str, Array]]:
        """All logits [B, T, V] and the last memory, the text cut before the tokens `cuts`."""
        past, found = self.start(len(ids)), []
        for piece in np.split(ids, sorted(cuts), axis=1):
            logits, past = self.read(piece, past)
            found.append(logits)
        return np.concatenate(found, axis=1), past


@torch.inference_mode()
def compare(path: Path, model: SioConvForCausalLM) -> float:
    """The largest difference of a logit between a graph and its model, on random tokens, read whole and in pieces.

    Raises:
        UserError: it is above the tolerance.
    """
    ids = torch.randint(model.config.vocab_size, (2, LENGTH), generator=torch.Generator().manual_seed(0))
    expected = model(ids, use_cache=False).logits.numpy()
    graph = OnnxModel(path, model.config)
    found = [graph.read_in_pieces(ids.numpy(), cuts)[0] for cuts in ((), CUTS)]
    difference = max(float(np.abs(logits - expected).max()) for logits in found)
    allowed = TOLERANCE * max(1.0, float(np.abs(expected).max()))
    if not difference <= allowed:  # not a number neither
        raise UserError(
            f"{path.name} computes something else than the model: logits differ by {difference:.1e}, above "
            f"{allowed:.1e}: another version of torch or onnxscript may help; nothing was written"
        )
    return difference
