"""Linear layers and embeddings whose weights are whole numbers of 8 or 4 bits, and how transformers loads them.

A weight is scale * code. In 8 bits a row has one scale and codes from -127 to 127; in 4 bits each GROUP weights of a
row have a scale and codes from -8 to 7, which lie two in a byte, plus 8. Scales are bfloat16, kept as their bits, so
that nobody casts them or takes their dtype for the model's. Biases, norms, convolutions, forget gates and the mixture's
weights stay as they are. `sioconv.generate.quantise` chooses the codes.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING, AUTO_QUANTIZER_MAPPING
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

METHOD = "sioconv"  # the `quant_method` of a config.json
GROUP = 32  # weights that share a scale, in 4 bits; the decoding kernel's too
# Layers that stay: what the forget gates and the mixture with the last z are computed by.
KEPT = ("dt_proj", "mix_proj")


def pack(codes: Tensor) -> Tensor:
    """Codes from -8 to 7, int8 [M, K], two in a byte: uint8 [M, K / 2]; K is a multiple of GROUP.

    A byte holds a code of the first half of its group of GROUP, in its low bits, and the one GROUP / 2 further on.
    """
    halves = (codes + 8).to(torch.uint8).view(codes.shape[0], -1, 2, GROUP // 2)
    return (halves[:, :, 0] | halves[:, :, 1] << 4).flatten(1)


def unpack(packed: Tensor) -> Tensor:
    """The inverse of `pack`: uint8 [M, K / 2] to int8 [M, K]."""
    halves = packed.view(packed.shape[0], -1, GROUP // 2)
    return torch.stack([halves & 15, halves >> 4], dim=2).flatten(1).to(torch.int8) - 8


class QuantisedWeight(nn.Module):
    """A matrix [M, K] of 8 or 4 bits.

    Attributes:
        codes: int8 [M, K], or packed uint8 [M, K / 2].
        scales: bfloat16 [M] or [M, K / GROUP], as its bits in int16.

    Raises:
        ValueError: another number of bits, or K is no multiple of GROUP in 4 bits.
    """

    def __init__(self, rows: int, columns: int, bits: int) -> None:
        super().__init__()
        if bits not in (4, 8) or (bits == 4 and columns % GROUP):
            raise ValueError(f"no matrix [{rows}, {columns}] of {bits} bits: columns are in groups of {GROUP}")
        self.bits, self.rows, self.columns = bits, rows, columns
        if bits == 8:
            codes, scales = torch.zeros(rows, columns, dtype=torch.int8), torch.zeros(rows, dtype=torch.int16)
        else:
            codes = torch.zeros(rows, columns // 2, dtype=torch.uint8)
            scales = torch.zeros(rows, columns // GROUP, dtype=torch.int16)
        # Parameters and not buffers: transformers ties the embedding's and the head's by the names of parameters.
        self.codes = nn.Parameter(codes, requires_grad=False)
        self.scales = nn.Parameter(scales, requires_grad=False)

    @torch.no_grad()
    def fill(self, codes: Tensor, scales: Tensor) -> None:
        """Takes codes int8 [M, K] and scales, bfloat16 [M] or [M, K / GROUP]."""
        self.codes.copy_(codes if self.bits == 8 else pack(codes))
        self.scales.copy_(scales.view(torch.int16))

    def dequantised(self, dtype: torch.dtype, rows: Tensor | None = None) -> Tensor:
        """The matrix [M, K], or its `rows` [...], as [..., K]."""
        codes = self.codes if rows is None else self.codes[rows]
        scales = (self.scales if rows is None else self.scales[rows]).view(torch.bfloat16).float().unsqueeze(-1)
        if self.bits == 8:
            return (codes.float() * scales).to(dtype)
        groups = unpack(codes.reshape(-1, codes.shape[-1])).view(*scales.shape[:-1], GROUP)
        return (groups.float() * scales).flatten(-2).to(dtype)


class QuantisedLinear(QuantisedWeight):
    """`nn.Linear` for inference, with a matrix of few bits that is widened whenever it is used."""

    def __init__(self, inputs: int, outputs: int, bias: bool, bits: int) -> None:
        super().__init__(outputs, inputs, bits)
        self.in_features, self.out_features = inputs, outputs
        self.bias = nn.Parameter(torch.zeros(outputs), requires_grad=False) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """[..., inputs] to [..., outputs] in x's dtype."""
        return F.linear(x, self.dequantised(x.dtype), None if self.bias is None else self.bias.to(x.dtype))


class QuantisedEmbedding(QuantisedWeight):
    """`nn.Embedding` for inference, with a matrix of few bits of which the rows that are looked up are widened.

    Args:
        dtype: of what is looked up.
    """

    like: Tensor

    def __init__(self, size: int, width: int, bits: int, dtype: torch.dtype) -> None:
        super().__init__(size, width, bits)
        self.num_embeddings, self.embedding_dim = size, width
        self.register_buffer("like", torch.empty(0, dtype=dtype), persistent=False)  # follows the model's dtype

    def forward(self, ids: Tensor) -> Tensor:
        """Ids [...] to [..., width]."""
        return self.dequantised(self.like.dtype, ids)


class SioConvQuantisation(QuantizationConfigMixin):
    """The `quantization_config` of a config.json.

    Args:
        bits: of every matrix but those that stay, 8 or 4.
        kwargs: what else the file says; it is kept.
    """

    def __init__(self, bits: int = 8, **kwargs: Any) -> None:
        self.quant_method: Any = METHOD
        self.bits = bits
        self.__dict__.update({name: value for name, value in kwargs.items() if name != "quant_method"})


class SioConvQuantizer(HfQuantizer):
    """What transformers calls to load a folder with quantised weights."""

    quantization_config: SioConvQuantisation
    requires_calibration = True  # `sioconv quantize` makes such folders, `from_pretrained` doesn't

    def _process_model_before_weight_loading(
        self, model: PreTrainedModel, dtype: torch.dtype | None = None, **_: Any
    ) -> None:
        quantise_modules(model, self.quantization_config.bits, dtype or torch.get_default_dtype())

    def is_serializable(self) -> bool:
        """`save_pretrained` writes what was loaded."""
        return True

    @property
    def is_trainable(self) -> bool:
        """No: codes have no gradient."""
        return False


def quantise_modules(model: PreTrainedModel, bits: int, dtype: torch.dtype) -> None:
    """Puts quantised layers, whose weights are still to come, in the place of a model's matrices.

    Args:
        model: a model of this file's folder; it may be on meta.
        bits: 8 or 4.
        dtype: of what the embedding gives.

    Raises:
        ValueError: a matrix can't have that many bits.
    """
    for parent in list(model.modules()):
        for name, module in parent.named_children():
            new: nn.Module
            with torch.device(next(module.parameters()).device if _holds_matrix(module) else "cpu"):
                if type(module) is nn.Embedding:
                    new = QuantisedEmbedding(module.num_embeddings, module.embedding_dim, bits, dtype)
                # At the top a head for something else than language would be new, and has to be trained.
                elif type(module) is nn.Linear and name not in KEPT and (parent is not model or name == "lm_head"):
                    new = QuantisedLinear(module.in_features, module.out_features, module.bias is not None, bits)
                else:
                    continue
            setattr(parent, name, new)
    if getattr(model.config, "tie_word_embeddings", False) and hasattr(model, "lm_head"):
        model._tied_weights_keys = {f"lm_head.{name}": f"model.embed_tokens.{name}" for name in ("codes", "scales")}
        model.all_tied_weights_keys = model.get_expanded_tied_weights_keys(all_submodels=True)
        model.tie_weights(recompute_mapping=False)


def _holds_matrix(module: nn.Module) -> bool:
    return type(module) in (nn.Embedding, nn.Linear)


def register_quantizer() -> None:
    """Makes the two classes known to transformers' `from_pretrained`.

    A folder's own code may be loaded beside the package, and beside that of other folders: the first is taken.
    """
    AUTO_QUANTIZATION_CONFIG_MAPPING.setdefault(METHOD, SioConvQuantisation)
    AUTO_QUANTIZER_MAPPING.setdefault(METHOD, SioConvQuantizer)
