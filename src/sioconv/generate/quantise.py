"""The choice of 8-bit and 4-bit codes for a trained model's matrices.

In 8 bits a row's scale makes its largest weight 127. In 4 bits each group's scale is searched: from several starts,
codes and scale are chosen by turns, each the best for the other, so that the sum over the group of
importance * (weight - scale * code)^2 becomes small. A weight's importance is the mean square of the input that it is
multiplied by on some text: an error there is an error of the output.
"""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from sioconv.errors import UserError
from sioconv.model.fingerprint import weights_fingerprint
from sioconv.model.quantised import GROUP, METHOD, QuantisedWeight, SioConvQuantisation, quantise_modules
from sioconv.progress import track

STARTS = 16  # scales that the search begins with, from that of the largest weight down to half of it
ROUNDS = 2
AT_ONCE = 2**22  # weights that are searched for at the same time
Codes = tuple[Tensor, Tensor]


def in_eight_bits(weight: Tensor) -> Codes:
    """Codes int8 [M, K] and scales bfloat16 [M] of a matrix [M, K]."""
    weight = weight.float()
    # Rounded up, so that no code is beyond 127: the largest of bfloat16's rounding errors is 2^-8.
    scales = (weight.abs().amax(1) / 127 * (1 + 2**-8)).bfloat16()
    codes = (weight / _nonzero(scales.float()).unsqueeze(1)).round().clamp(-127, 127)
    return codes.to(torch.int8), scales


def in_four_bits(weight: Tensor, importance: Tensor) -> Codes:
    """Codes int8 [M, K] from -8 to 7 and scales bfloat16 [M, K / GROUP] of a matrix [M, K].

    Args:
        weight: the matrix.
        importance: of its columns, [K], 0 or more.
    """
    rows, columns = weight.shape
    groups = importance.float().clamp(min=0).view(-1, GROUP)
    share = groups / _nonzero(groups.mean(1, keepdim=True))
    share = share + 1e-3  # a column that was 0 on this text may not be on another
    parts = [
        _search(part.float().view(len(part), -1, GROUP), share)
        for part in torch.split(weight, max(1, AT_ONCE // columns))
    ]
    codes, scales = (torch.cat(list(kind)) for kind in zip(*parts, strict=True))
    return codes.view(rows, columns).to(torch.int8), scales.squeeze(-1).bfloat16()


def _search(weight: Tensor, share: Tensor) -> Codes:
    """Codes [M, N, GROUP] and scales [M, N, 1], both float32, of groups [M, N, GROUP] with importances [N, GROUP]."""
    largest = weight.gather(-1, weight.abs().argmax(-1, keepdim=True))
    # In units of a power of two, which loses nothing, so that no square is too large or too small for float32.
    unit = torch.exp2(torch.frexp(largest).exponent.float())
    weight, largest = weight / unit, largest / unit
    best = torch.zeros_like(largest)
    least = (share * weight**2).sum(-1, keepdim=True)
    starts = [largest / -8 * (1 - start / (2 * STARTS)) for start in range(STARTS)]
    for start in (*starts, largest.abs() / 8):  # the last is the plain choice: never worse than that
        scales = _rounded(start)
        for _ in range(ROUNDS + 1):
            codes = _codes(weight, scales)
            error = (share * (weight - scales * codes) ** 2).sum(-1, keepdim=True)
            best = torch.where(error < least, scales, best)
            least = torch.minimum(error, least)
            square = (share * codes**2).sum(-1, keepdim=True)
            scales = _rounded((share * codes * weight).sum(-1, keepdim=True) / _nonzero(square))
    return _codes(weight, best), best * unit


def _codes(weight: Tensor, scales: Tensor) -> Tensor:
    return (weight / _nonzero(scales)).round().clamp(-8, 7)


def _rounded(scales: Tensor) -> Tensor:
    """As they are kept: the codes are chosen for these."""
    return scales.bfloat16().float()


def _nonzero(x: Tensor) -> Tensor:
    return torch.where(x == 0, torch.ones_like(x), x)


@torch.inference_mode()
def input_squares(model: Any, documents: Sequence[Sequence[int]]) -> dict[str, Tensor]:
    """Of each linear layer of a model by name, the sum over all tokens of its inputs' squares, [K] in float64."""
    squares: dict[str, Tensor] = {}

    def note(name: str) -> Any:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            found = inputs[0].detach().double().square().flatten(0, -2).sum(0).cpu()
            squares[name] = squares.get(name, 0) + found

        return hook

    modules = [(name, module) for name, module in model.named_modules() if type(module) is nn.Linear]
    hooks = [module.register_forward_pre_hook(note(name)) for name, module in modules]
    try:
        for ids in track(documents, "reading text for the importance of weights", len(documents)):
            model(torch.tensor([list(ids)], device=model.device), use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    return squares


@torch.no_grad()
def quantise_model(model: Any, bits: int, squares: Mapping[str, Tensor] | None = None) -> None:
    """Turns the matrices of a model into ones of 8 or 4 bits, in place; its configuration says which weights it had.

    Args:
        model: a `SioConvForCausalLM` in float32.
        bits: 8 or 4.
        squares: what `input_squares` gave, for 4 bits; without it all weights are equally important.

    Raises:
        UserError: it is quantised already, a width is no multiple of GROUP, or a weight isn't finite.
    """
    check_quantisable(model, bits)
    made_from = weights_fingerprint(model)
    modules = dict(model.named_modules())
    tied = model.config.tie_word_embeddings
    quantise_modules(model, bits, model.dtype)
    names = [name for name, module in model.named_modules() if isinstance(module, QuantisedWeight)]
    for name in track(names, f"{bits} bits", len(names)):
        if tied and name == "lm_head":
            head = model.lm_head
            head.codes, head.scales = model.model.embed_tokens.codes, model.model.embed_tokens.scales
        else:
            # A tied matrix is read as the head's: there an error is multiplied by all that the model has computed.
            importance = (squares or {}).get("lm_head" if tied and name == "model.embed_tokens" else name)
            _fill(model.get_submodule(name), modules[name].weight, importance)
        bias = getattr(modules[name], "bias", None)
        if bias is not None:
            model.get_submodule(name).bias = nn.Parameter(bias.detach().clone(), requires_grad=False)
        del modules[name]
    model.config.quantization_config = SioConvQuantisation(
        bits, group_size=GROUP if bits == 4 else None, made_from=made_from
    )
    model.is_quantized, model.quantization_method = True, METHOD


@torch.no_grad()
def widened_model(model: Any) -> Any:
    """A new `SioConvForCausalLM` in float32 that computes what a quantised one does, and can be trained."""
    config = deepcopy(model.config)
    del config.quantization_config
    values = {name: value for name, value in model.state_dict().items() if not name.endswith((".codes", ".scales"))}
    for name, module in model.named_modules():
        if isinstance(module, QuantisedWeight):
            values[f"{name}.weight"] = module.dequantised(torch.float32)
    wide = type(model)(config)
    wide.load_state_dict(values)
    return wide.to(model.device).eval()


def _fill(module: Any, weight: Tensor, importance: Tensor | None) -> None:
    if module.bits == 8:
        module.fill(*in_eight_bits(weight))
    else:
        module.fill(*in_four_bits(weight, torch.ones(weight.shape[1]) if importance is None else importance))


def check_quantisable(model: Any, bits: int) -> None:
    """Raises UserError where `quantise_model` can't take a model."""
    if any(isinstance(module, QuantisedWeight) for module in model.modules()):
        raise UserError("the model is quantised already: give the one that it was made from")
    names = ("hidden_size", "intermediate_size", *(("bigram_width",) if model.config.bigram_rows else ()))
    for name in names:
        if bits == 4 and (size := getattr(model.config, name)) % GROUP:
            raise UserError(f"{name} is {size}, which 4 bits can't cut into groups of {GROUP}: use --to int8")
    for name, value in model.named_parameters():
        if not bool(torch.isfinite(value).all()):
            raise UserError(f"{name} holds what is no number: the model is damaged, take an earlier one")
