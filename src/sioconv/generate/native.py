"""Decoding on CPUs by `sioconv.ops.cpu.decode_kernels`: the model's weights and states as that kernel wants them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from sioconv.generate.states.state import State
from sioconv.hardware import use_large_pages
from sioconv.model import Architecture, SioConvForCausalLM
from sioconv.model.causal_lm import CheckpointedBlock, SioConvModel
from sioconv.model.convolution import NO_TOKEN, Bigrams
from sioconv.model.layers import FeedForward, NormedScan, RMSNorm, SioConvLayer
from sioconv.model.quantised import QuantisedEmbedding, QuantisedLinear, QuantisedWeight
from sioconv.ops.cpu.jit import is_kept
from sioconv.ops.cpu.threads import form_of, run_tasks, threads
from sioconv.ops.operators import COMPILES

if TYPE_CHECKING:
    from sioconv.generate.decoder import Piece

KNOWN = {
    SioConvForCausalLM, SioConvModel, nn.ModuleList, CheckpointedBlock, SioConvLayer, NormedScan, RMSNorm, FeedForward,
    Bigrams, nn.Linear, nn.Embedding, QuantisedLinear, QuantisedEmbedding,
}  # fmt: skip
# How a matrix lies in memory, to the compiler.
DTYPES = {torch.float32: np.float32, torch.bfloat16: np.uint16, torch.int8: np.int8, torch.uint8: np.uint8}


@dataclass(slots=True)
class Memory:
    """What the kernel keeps of a text."""

    states: NDArray[np.float32]  # [L, S, H, P]: c; with `trapezoid` the last z; a convolution's tail, oldest first
    last: int  # its last token, which bigrams are read with; NO_TOKEN at the beginning
    address: int = field(init=False)  # of the states

    def __post_init__(self) -> None:
        """Asks for the address once: numpy takes longer for it than for the rest of a short call."""
        self.address = self.states.ctypes.data


def why_not_native(model: Any) -> str | None:
    """What keeps the kernel from running this model; None where it does."""
    if type(model) is not SioConvForCausalLM:
        return f"the model is a {type(model).__name__}"
    if model.device.type != "cpu":
        return f"the model is on {model.device}"
    if not COMPILES:
        return "NUMBA_DISABLE_JIT is set"
    if model.config.conv_width and model.config.conv_on != "z_gate":
        return f"the model has a convolution of {model.config.conv_on}"
    if model.config.groups != model.config.num_heads:
        return "the norm's groups aren't the heads"
    for name, module in model.named_modules():
        # Adapters and quantised layers are modules of other types; what they compute isn't in the weights alone.
        if type(module) not in KNOWN:
            return f"{name} is a {type(module).__module__}.{type(module).__qualname__}"
        if module._forward_hooks or module._forward_pre_hooks:
            return f"{name or 'the model'} has a hook"
    matrices = [numbers_of(module) for module in _products(model)]
    dtypes = {tensor.dtype for tensor in matrices}
    if len(dtypes) != 1 or not dtypes <= set(DTYPES):
        return f"the weights are in {', '.join(sorted(map(str, dtypes)))}"
    if not all(tensor.is_contiguous() for tensor in matrices):
        return "a weight isn't contiguous"
    return None


def _products(model: SioConvForCausalLM) -> list[Any]:
    """The layers whose matrices the kernel reads as they are; those of the gates are read in fp32."""
    modules: list[Any] = [model.model.embed_tokens, model.lm_head]
    if model.model.bigrams is not None:
        modules += [model.model.bigrams.table, model.model.bigrams.out]
    for block in model.model.layers:
        mixer, ffn = block.mixer, block.ffn
        modules += [mixer.z_proj, mixer.z_gate_proj, mixer.y_proj, mixer.y_gate_proj]
        modules += [ffn.up_proj, ffn.gate_proj, ffn.down_proj]
    return modules


def numbers_of(module: Any) -> Tensor:
    """A layer's matrix as it lies in memory: its weights, or their codes."""
    tensor: Tensor = module.codes if isinstance(module, QuantisedWeight) else module.weight
    return tensor


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
        from sioconv.ops.cpu.crew import LINE
        from sioconv.ops.cpu.decode_products import PAIR
        from sioconv.ops.cpu.integers.inputs import BLOCK

        self._kernels = kernels
        self._model = model
        config = model.config
        self._parts = ("c", "z") if config.trapezoid else ("c",)
        self._past = config.conv_past
        gates = config.num_heads if config.gate == "head" else config.hidden_size
        shape = kernels.Shape(
            rows=0,
            layers=config.num_hidden_layers,
            width=config.hidden_size,
            heads=config.num_heads,
            inner=config.intermediate_size,
            vocabulary=config.vocab_size,
            outputs=0,
            mixes=int(config.trapezoid),
            past=self._past,
            gates=gates,
            bigram_width=config.bigram_width if config.bigram_rows else 0,
            bigram_rows=config.bigram_rows * config.vocab_size,
            input_scale=_number("input_scale", config.input_scale),
            output_gate=_number("output_gate", config.output_gate),
            gate_bound=float(config.gate_bound or 0),
            head_eps=config.state_norm_eps,
            norm_eps=config.rms_norm_eps,
            embedding_limit=float(config.embedding_max_norm or 0),
        )
        # Arrays and not the tuple: numba keeps a reference to each number of a tuple that it is called with.
        place, self._outputs = (kernels.Shape._fields.index(name) for name in ("gate_bound", "outputs"))
        self._sizes, self._numbers = np.array(shape[:place], np.int64), np.array(shape[place:], np.float64)
        self._layers, self._vocabulary, self._width = shape.layers, shape.vocabulary, shape.width
        self._row = kernels.floats_of_row(shape)
        self._work = np.empty(0, np.float32)
        self._lines = kernels.phases_of(shape.layers), LINE
        step = BLOCK if numbers_of(model.lm_head).dtype == torch.uint8 else PAIR
        uneven = any(width % step for width in (shape.width, shape.inner, shape.bigram_width))
        self._edge = True if uneven else None
        self._matrix = np.empty(1, DTYPES[numbers_of(model.lm_head).dtype])
        self._kept: list[Tensor] = []  # what the addresses point to
        self._table = self._addresses()
        use_large_pages([(tensor.data_ptr(), tensor.nbytes) for tensor in self._kept])

    def memory(self, state: State) -> Memory:
        """A copy of the state's tensors; without a state, the learned initial one."""
        if state.tensors:
            rows = [torch.stack(self._parts_of(state.tensors, f"layers.{i}.")) for i in range(self._layers)]
        else:
            starts = [block.mixer.initial_state.detach().float() for block in self._model.model.layers]
            others = len(self._parts) - 1 + self._past
            rows = [torch.stack([start, *[torch.zeros_like(start)] * others]) for start in starts]
        last = state.tensors.get("last_token")
        return Memory(torch.stack(rows).numpy(), NO_TOKEN if last is None else int(last))

    def _parts_of(self, tensors: Mapping[str, Tensor], prefix: str) -> list[Tensor]:
        """What the kernel keeps of a layer, each [H, P], from the tensors of a state."""
        parts = [tensors[prefix + part][0].float() for part in self._parts]
        tail = tensors[f"{prefix}conv"][0].float().unbind(-1) if self._past else ()  # each [D]
        return parts + [before.view_as(parts[0]) for before in tail]

    def freeze(self, memory: Memory, tokens: int) -> State:
        """See `Decoder.freeze`."""
        if tokens == 0:
            return State()
        copy = torch.from_numpy(memory.states.copy())
        parts = list(enumerate(self._parts))
        tensors = {f"layers.{i}.{name}": copy[i, j : j + 1] for i in range(len(copy)) for j, name in parts}
        if self._past:
            tails = copy[:, len(parts) :].flatten(2).transpose(1, 2).contiguous()  # [L, D, W - 1]
            tensors |= {f"layers.{i}.conv": tails[i : i + 1] for i in range(len(copy))}
        if self._model.config.bigram_rows:
            tensors["last_token"] = torch.tensor([memory.last])
        return State(tensors, tokens)

    def copy(self, memory: Memory) -> Memory:
        """Another memory with the same content."""
        return Memory(memory.states.copy(), memory.last)

    def read(self, pieces: Sequence["Piece"]) -> NDArray[np.float32]:
        """See `Decoder.read`; a text's logits are the same bits whatever stands beside it."""
        ids, before, states, wanted = list[int](), list[int](), list[int](), list[int]()
        for piece in pieces:
            ids += piece.ids
            before += [piece.memory.last, *piece.ids[:-1]]
            states += [piece.memory.address] * len(piece.ids)
            if piece.wanted:
                wanted.append(len(ids) - 1)
            piece.memory.last = piece.ids[-1]
        self._sizes[0], self._sizes[self._outputs] = len(ids), self._task_size()
        if self._work.size < len(ids) * self._row:
            self._work = np.empty(len(ids) * self._row, np.float32)
        logits = np.empty((len(wanted), self._vocabulary), np.float32)
        arguments = self._arguments(ids, before, states, wanted, logits.reshape(-1))
        run_tasks(self._kernels.parallel, self._kernels.serial, *arguments)
        return logits

    def is_kept(self) -> bool:
        """Whether the kernel is compiled for such a model, here or on disk: else the first `read` does it."""
        kernel = form_of(self._kernels.parallel, self._kernels.serial)
        return is_kept(kernel, *self._arguments([0], [0], [0], [0], np.empty(1, np.float32)))

    def _arguments(
        self, ids: list[int], before: list[int], states: list[int], wanted: list[int], logits: NDArray[np.float32]
    ) -> tuple[Any, ...]:
        """What the kernel is called with, in its order."""
        phases, line = self._lines
        board = np.zeros((phases, threads() + 1, line), np.int64)
        tokens, last, memories, rows = (np.array(row, np.int64) for row in (ids, before, states, wanted))
        model = self._table, memories, rows, self._sizes, self._numbers, self._work, board
        return tokens, last, *model, self._matrix, logits, self._edge

    def _task_size(self) -> int:
        """Outputs of a task: as many as leave each thread some tasks of a layer's smallest matrix."""
        kernels = self._kernels
        size = self._width // (4 * torch.get_num_threads()) // kernels.OUTPUTS * kernels.OUTPUTS
        return int(min(max(size, kernels.OUTPUTS), kernels.MOST_OUTPUTS))

    def _addresses(self) -> NDArray[np.int64]:
        """The table of `sioconv.ops.cpu.decode_kernels`: [L + 1, COLUMNS], 0 where the model has no such tensor."""
        model, kernels = self._model, self._kernels
        table = np.zeros((self._layers + 1, kernels.COLUMNS), np.int64)
        for i, block in enumerate(model.model.layers):
            mixer, ffn = block.mixer, block.ffn
            line = [self._vector(block.mixer_norm.weight), self._vector(_rates(mixer))]
            line += [self._vector(mixer.state_norm.weight), self._vector(mixer.state_norm.bias)]
            line += [self._vector(block.ffn_norm.weight), self._vector(mixer.conv_weight)]
            for product in (mixer.z_proj, mixer.z_gate_proj, mixer.y_proj, mixer.y_gate_proj):
                line += self._product(product)
            line += self._product(mixer.dt_proj, whole=True)
            line += [0] * kernels.COLUMNS_OF_PRODUCT if mixer.mix_proj is None else self._product(mixer.mix_proj, True)
            for product in (ffn.up_proj, ffn.gate_proj, ffn.down_proj):
                line += self._product(product)
            table[i] = line
        line = [self._vector(model.model.norm.weight)]
        line += [*self._product(model.model.embed_tokens), *self._product(model.lm_head)]
        if model.model.bigrams is not None:
            line += [*self._product(model.model.bigrams.table), *self._product(model.model.bigrams.out)]
        table[-1, : len(line)] = line
        return table

    def _product(self, module: Any, whole: bool = False) -> list[int]:
        """The columns of a product; with `whole` the matrix in fp32."""
        bias = self._vector(getattr(module, "bias", None))
        if not isinstance(module, QuantisedWeight):
            return [self._vector(module.weight) if whole else self._address(module.weight), bias, 0, 0]
        codes, scales = self._address(module.codes), self._address(module.scales)
        return [codes, bias, scales, 0] if module.bits == 8 else [codes, bias, 0, scales]

    def _vector(self, tensor: Tensor | None) -> int:
        return 0 if tensor is None else self._address(tensor.float())

    def _address(self, tensor: Tensor) -> int:
        kept = tensor.detach()
        self._kept.append(kept)
        return kept.data_ptr()


def _number(field: str, value: str) -> int:
    """The place of an option among the values that `Architecture` knows."""
    return get_args(get_type_hints(Architecture)[field]).index(value)
