"""One ONNX graph for any number of tokens, one or many: a text's memory goes in, and comes out.

Names and axes are those that transformers.js knows for recurrent caches: `past_ssm.{i}` → `present_ssm.{i}` is layer
i's c [B, H, P], `past_conv.{i}` → `present_conv.{i}` what it reads of the steps before [B, D, N], where it reads any:
the convolution's W - 1 last inputs and, behind them, the last z of a mixture (`trapezoid`). With bigrams `past_token` →
`present_token` [B, 1] is the last token's id + 1, as a float like the others. A row whose `past_ssm` is all zeros
begins a text: the graph puts the learned initial state in its place; its `past_token` is 0.
"""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch._higher_order_ops.scan import scan as scan_operator
from torch.export import Dim
from torch.nn import functional as F

from sioconv.errors import UserError
from sioconv.model import SioConvCache, SioConvForCausalLM
from sioconv.model.convolution import NO_TOKEN
from sioconv.model.layers import LayerState, NormedScan, at_least_fp32
from sioconv.model.quantised import QuantisedEmbedding, QuantisedLinear, QuantisedWeight

OPSET = 21
INPUTS, KEEP, LOGITS = "input_ids", "num_logits_to_keep", "logits"


class StepByStep(NormedScan):
    """The normed scan as a graph that takes one step after the other (ONNX's operator Scan).

    Steps are summed in one order, so that the state doesn't depend on how a text is cut. The decay's distance from 1 is
    computed in fp64, where ONNX has no expm1.
    """

    def __init__(self, like: NormedScan) -> None:
        super().__init__(len(like.weight), like.eps, like.output_gate)
        self.weight, self.bias = like.weight, like.bias

    def forward(
        self,
        z: Tensor,
        log_a: Tensor,
        gate: Tensor | None,
        carried: Tensor,
        start: Tensor,  # noqa: ARG002
        reset: Tensor | None,
        output_state: bool,  # noqa: ARG002
    ) -> tuple[Tensor, Tensor | None]:
        """See `NormedScan.forward`; no document begins inside of a call."""
        assert reset is None
        log_a = log_a if log_a.dim() == z.dim() else log_a.unsqueeze(-1)  # [B, T, H, 1 or P]
        lost = torch.expm1(log_a.double()).float()
        final, c = scan_operator(_advance, carried, (lost.transpose(0, 1), z.transpose(0, 1)), dim=0)
        c = c.transpose(0, 1)  # [B, T, H, P]
        if gate is not None and self.output_gate == "state":
            c = c * gate
        after = gate if self.output_gate == "normed" else None
        return self._normalise(c, at_least_fp32(self.weight), at_least_fp32(self.bias), after), final


def _advance(c: Tensor, step: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    lost, z = step
    c = c + (lost * c + z)  # [B, H, P]
    return c, c.clone()


class WideCodes(nn.Module):
    """A matrix of 8 bits that is widened when the graph is loaded: runtimes compute what is constant once.

    Attributes:
        codes: int8 [M, K].
        scales: fp32 [M, 1].
    """

    def __init__(self, quantised: QuantisedWeight) -> None:
        super().__init__()
        scales = quantised.scales.view(torch.bfloat16).float().unsqueeze(-1)
        self.codes = quantised.codes
        self.scales = nn.Parameter(scales, requires_grad=False)

    def matrix(self) -> Tensor:
        """[M, K] in fp32."""
        return self.codes.float() * self.scales


class WideLinear(WideCodes):
    """`QuantisedLinear` in such a graph."""

    def __init__(self, quantised: QuantisedLinear) -> None:
        super().__init__(quantised)
        self.bias = quantised.bias

    def forward(self, x: Tensor) -> Tensor:
        """[..., K] to [..., M]."""
        return F.linear(x, self.matrix(), self.bias)


class WideEmbedding(WideCodes):
    """`QuantisedEmbedding` in such a graph."""

    def forward(self, ids: Tensor) -> Tensor:
        """Ids [...] to [..., K]."""
        return F.embedding(ids, self.matrix())


class Exported(nn.Module):
    """What becomes the graph: `SioConvForCausalLM` with its states as plain tensors."""

    def __init__(self, model: SioConvForCausalLM) -> None:
        super().__init__()
        self.lm = deepcopy(model)
        tied = model.config.tie_word_embeddings
        for module in list(self.lm.modules()):
            for name, child in module.named_children():
                if isinstance(child, NormedScan):
                    setattr(module, name, StepByStep(child))
                elif isinstance(child, QuantisedLinear):
                    setattr(module, name, WideLinear(child))
                elif isinstance(child, QuantisedEmbedding):
                    setattr(module, name, WideEmbedding(child))
        embedding: Any = self.lm.model.embed_tokens
        head: Any = self.lm.lm_head
        if tied and isinstance(head, WideCodes):
            head.codes, head.scales = embedding.codes, embedding.scales

    def forward(self, input_ids: Tensor, keep: Tensor, *past: Tensor) -> tuple[Tensor, ...]:
        """Ids [B, T], how many logits are wanted (0 for all) [], states → logits [B, N, V], states."""
        config = self.lm.config
        cache = SioConvCache(config)
        states = iter(past)
        for layer, block in zip(cache.layers, self.lm.model.layers, strict=True):
            c = next(states)  # [B, H, P]
            begun = (c != 0).flatten(1).any(1)[:, None, None]
            c = torch.where(begun, c, block.mixer.initial_state)
            conv = z = None
            if tail_width(config):
                tail = next(states)  # [B, D, N]
                conv = tail[:, :, : config.conv_width - 1] if config.conv_width else None
                z = tail[:, :, -1].reshape(-1, config.num_heads, config.head_dim) if config.trapezoid else None
            layer.state = LayerState(c, conv, z)
        if config.bigram_rows:
            cache.last_token = next(states).squeeze(1).long() + NO_TOKEN
        hidden = self.lm.model(input_ids=input_ids, cache=cache, use_cache=True).last_hidden_state  # [B, T, D]
        position = torch.arange(input_ids.shape[1])
        first = torch.where(keep == 0, 0, input_ids.shape[1] - keep)
        hidden = hidden.index_select(1, (position >= first).nonzero().squeeze(1))
        present: list[Tensor] = []
        for layer in cache.layers:
            state: LayerState = layer.state
            present.append(state.c)
            tails = [] if state.conv is None else [state.conv]
            tails += [] if state.z is None else [state.z.flatten(1).unsqueeze(-1)]
            present += [torch.cat(tails, dim=-1)] if tails else []
        present += [] if cache.last_token is None else [(cache.last_token - NO_TOKEN).float().unsqueeze(1)]
        return self.lm.lm_head(hidden), *present


def tail_width(config: Any) -> int:
    """N, how much a layer reads of the steps before: in its `past_conv` [B, D, N]; 0 where it has none."""
    return int(config.conv_past) + int(config.trapezoid)


def state_shapes(config: Any) -> dict[str, tuple[int, ...]]:
    """Shapes of the states by name without `past_` or `present_`, of one row, in the graph's order."""
    shapes: dict[str, tuple[int, ...]] = {}
    for i in range(config.num_hidden_layers):
        shapes[f"ssm.{i}"] = (config.num_heads, config.head_dim)
        if tail_width(config):
            shapes[f"conv.{i}"] = (config.hidden_size, tail_width(config))
    if config.bigram_rows:
        shapes["token"] = (1,)
    return shapes


def export_graph(model: SioConvForCausalLM, metadata: dict[str, str]) -> Any:
    """The model as an `onnx_ir.Model`, its weights in it.

    Args:
        model: in fp32 or with matrices of 8 bits, on the CPU.
        metadata: stands in the file.

    Raises:
        UserError: the packages for it aren't installed, or the matrices have 4 bits.
    """
    check_exportable(model)
    shapes = state_shapes(model.config)
    rows, length = Dim("batch_size", max=2**16), Dim("sequence_length", max=2**31)
    past = tuple(torch.zeros(2, *shape) for shape in shapes.values())
    axes: tuple[Any, ...] = ({0: rows, 1: length}, {}, tuple({0: rows} for _ in past))
    with torch.no_grad(), _quiet():
        program = torch.onnx.export(
            Exported(model).eval(),
            (torch.zeros(2, 9, dtype=torch.int64), torch.tensor(0), *past),
            input_names=[INPUTS, KEEP, *(f"past_{name}" for name in shapes)],
            output_names=[LOGITS, *(f"present_{name}" for name in shapes)],
            dynamic_shapes=axes,
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    from onnx_ir.passes.common import DeduplicateInitializersPass

    graph: Any = program.model
    DeduplicateInitializersPass(size_limit=2**40)(graph)  # matrices that are tied
    graph.metadata_props.update(metadata)
    return graph


def check_exportable(model: Any) -> None:
    """Raises UserError where `export_graph` can't take a model, or its packages are missing."""
    if not isinstance(model, SioConvForCausalLM):
        raise UserError(f"{type(model).__name__} is no SioConv: only this project's own model is exported to ONNX")
    if any(isinstance(module, QuantisedWeight) and module.bits != 8 for module in model.modules()):
        raise UserError("the model's matrices have 4 bits: export the model that it was made from, --to int8")
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UserError(f"{error.name} is missing: pip install 'sioconv[export]'") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Torch's exporter names packages that nobody needs, and warns of its own parts."""
    logger = logging.getLogger("torch.onnx")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)
