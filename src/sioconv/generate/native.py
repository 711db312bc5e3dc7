"""Decoding on CPUs by `sioconv.ops.cpu.decode_kernels`: the model's weights and states as that kernel wants them."""

from collections.abc import Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from sioconv.generate.states.state import State
from sioconv.model import Architecture, SioConvForCausalLM
from sioconv.model.causal_lm import CheckpointedBlock, SioConvModel
from sioconv.model.layers import FeedForward, NormedScan, RMSNorm, SioConvLayer
from sioconv.ops.cpu.threads import run_tasks

if TYPE_CHECKING:
    from sioconv.generate.decoder import Piece

Memory = NDArray[np.float32]  # [L, S, H, P]: c and, with `trapezoid`, the last z
KNOWN = {
    SioConvForCausalLM, SioConvModel, nn.ModuleList, CheckpointedBlock, SioConvLayer, NormedScan, RMSNorm, FeedForward,
    nn.Linear, nn.Embedding,
}  # fmt: skip
DTYPES = {torch.float32: np.float32, torch.bfloat16: np.uint16}


def why_not_native(model: Any) -> str | None:
    """What keeps the kernel from running this model; None where it does."""
    if type(model) is not SioConvForCausalLM:
        return f"the model is a {type(model).__name__}"
    if model.device.type != "cpu":
        return f"the model is on {model.device}"
    if model.config.conv_width:
        return "the model has a convolution"
    if model.config.groups != model.config.num_heads:
        return "the norm's groups aren't the heads"
    for name, module in model.named_modules():
        # Adapters and quantised layers are modules of other types; what they compute isn't in the weights alone.
        if type(module) not in KNOWN:
            return f"{name} is a {type(module).__module__}.{type(module).__qualname__}"
        if module._forward_hooks or module._forward_pre_hooks:
            return f"{name or 'the model'} has a hook"
    dtypes = {tensor.dtype for tensor in _matrices(model)}
    if len(dtypes) != 1 or not dtypes <= set(DTYPES):
        return f"the weights are in {', '.join(sorted(map(str, dtypes)))}"
    if not all(tensor.is_contiguous() for tensor in _matrices(model)):
        return "a weight isn't contiguous"
    return None


def _matrices(model: SioConvForCausalLM) -> list[Tensor]:
    """The matrices that the kernel reads in their own dtype; those of the gates are read in fp32."""
    matrices = [model.model.embed_tokens.weight, model.lm_head.weight]
    for block in model.model.layers:
        mixer, ffn = block.mixer, block.ffn
        products = (mixer.z_proj, mixer.z_gate_proj, mixer.y_proj, mixer.y_gate_proj)
        matrices += [product.weight for product in (*products, ffn.up_proj, ffn.gate_proj, ffn.down_proj)]
    return matrices


def _rates(mixer: SioConvLayer) -> Tensor:
    """What the kernel multiplies the gates by, [G]."""
    bound = mixer.config.gate_bound
    rates = mixer.A_log.detach().float()
    return rates.exp() if bound is None else bound * F.softplus(rates)


class NativeDecoder:
    """The compiled kernel on a model's own weights, which aren't copied.

    Args:
        model: one that `why_not_native` has nothing against, in eval mode. Its weights may not change while the decoder
            is used.
    """

    def __init__(self, model: SioConvForCausalLM) -> None:
        from sioconv.ops.cpu import decode_kernels as kernels

        self._kernels = kernels
        self._model = model
        config = model.config
        self._parts = ("c", "z") if config.trapezoid else ("c",)
        gates = config.num_heads if config.gate == "head" else config.hidden_size
        shape = kernels.Shape(
            rows=0,
            layers=config.num_hidden_layers,
            width=config.hidden_size,
            heads=config.num_heads,
            inner=config.intermediate_size,
            vocabulary=config.vocab_size,
            parts=len(self._parts),
            gates=gates,
            input_scale=_number("input_scale", config.input_scale),
            output_gate=_number("output_gate", config.output_gate),
            gate_bound=float(config.gate_bound or 0),
            head_eps=config.state_norm_eps,
            norm_eps=config.rms_norm_eps,
            embedding_limit=float(config.embedding_max_norm or 0),
        )
        # Arrays and not the tuple: numba keeps a reference to each number of a tuple that it is called with.
        place = kernels.Shape._fields.index("gate_bound")
        self._sizes, self._numbers = np.array(shape[:place], np.int64), np.array(shape[place:], np.float64)
        self._layers, self._vocabulary = config.num_hidden_layers, config.vocab_size
        self._row = 6 * config.hidden_size + gates + config.num_heads + 2 * config.intermediate_size
        self._work = np.empty(0, np.float32)
        uneven = config.hidden_size % kernels.LANES or config.intermediate_size % kernels.LANES
        self._edge = True if uneven else None
        self._kept: list[Tensor] = []  # what the addresses point to
        self._table = self._addresses()

    def memory(self, state: State) -> Memory:
        """A copy of the state's tensors, [L, S, H, P]; without a state, the learned initial one."""
        if state.tensors:
            rows = [
                torch.stack([state.tensors[f"layers.{i}.{part}"][0].float() for part in self._parts])
                for i in range(self._layers)
            ]
        else:
            starts = [block.mixer.initial_state.detach().float() for block in self._model.model.layers]
            rows = [torch.stack([start, torch.zeros_like(start)][: len(self._parts)]) for start in starts]
        memory: Memory = torch.stack(rows).numpy()
        return memory

    def freeze(self, memory: Memory, tokens: int) -> State:
        """See `Decoder.freeze`."""
        if tokens == 0:
            return State()
        copy = torch.from_numpy(memory.copy())
        parts = list(enumerate(self._parts))
        return State({f"layers.{i}.{name}": copy[i, j : j + 1] for i in range(len(copy)) for j, name in parts}, tokens)

    def copy(self, memory: Memory) -> Memory:
        """Another memory with the same content."""
        return memory.copy()

    def read(self, pieces: Sequence["Piece"]) -> NDArray[np.float32]:
        """See `Decoder.read`; a text's logits are the same bits whatever stands beside it."""
        lengths = [len(piece.ids) for piece in pieces]
        ids = np.concatenate([np.asarray(piece.ids, np.int64) for piece in pieces])
        states = np.repeat(np.array([piece.memory.ctypes.data for piece in pieces], np.int64), lengths)
        ends = accumulate(lengths)
        wanted = np.array([end - 1 for end, piece in zip(ends, pieces, strict=True) if piece.wanted], np.int64)
        self._sizes[0] = len(ids)
        if self._work.size < len(ids) * self._row:
            self._work = np.empty(len(ids) * self._row, np.float32)
        logits = np.empty((len(wanted), self._vocabulary), np.float32)
        like = np.empty(1, DTYPES[self._model.lm_head.weight.dtype])
        kernels = self._kernels
        run_tasks(
            kernels.parallel, kernels.serial,
            ids, self._table, states, wanted, self._sizes, self._numbers, self._work, like, logits.reshape(-1),
            self._edge,
        )  # fmt: skip
        return logits

    def _addresses(self) -> NDArray[np.int64]:
        """The table of `sioconv.ops.cpu.decode_kernels`: [L + 1, COLUMNS], 0 where the model has no such tensor."""
        model, kernels = self._model, self._kernels
        table = np.zeros((self._layers + 1, kernels.COLUMNS), np.int64)
        for i, block in enumerate(model.model.layers):
            mixer, ffn = block.mixer, block.ffn
            products = [mixer.z_proj, mixer.z_gate_proj, mixer.y_proj, mixer.y_gate_proj]
            line = [self._vector(block.mixer_norm.weight)]
            for product in products:
                line += self._product(product)
            line += [self._vector(mixer.dt_proj.weight), self._vector(mixer.dt_proj.bias), self._vector(_rates(mixer))]
            line += [self._vector(mixer.state_norm.weight), self._vector(mixer.state_norm.bias)]
            line.append(self._vector(block.ffn_norm.weight))
            for product in (ffn.up_proj, ffn.gate_proj, ffn.down_proj):
                line += self._product(product)
            mix = mixer.mix_proj
            line += [0, 0] if mix is None else [self._vector(mix.weight), self._vector(mix.bias)]
            table[i] = line
        ends = [self._address(model.model.embed_tokens.weight), self._vector(model.model.norm.weight)]
        table[-1, : kernels.HEAD_BIAS + 1] = [*ends, *self._product(model.lm_head)]
        return table

    def _product(self, product: nn.Linear) -> list[int]:
        return [self._address(product.weight), self._vector(product.bias)]

    def _vector(self, tensor: Tensor | None) -> int:
        return 0 if tensor is None else self._address(tensor.float())

    def _address(self, tensor: Tensor) -> int:
        kept = tensor.detach()
        self._kept.append(kept)
        return kept.data_ptr()


def _number(field: str, value: str) -> int:
    """The place of an option among the values that `Architecture` knows."""
    return get_args(get_type_hints(Architecture)[field]).index(value)
