"""How long each head remembers: the forget gates' timescales."""

import math
from collections.abc import Iterable

import torch
from transformers import PreTrainedTokenizerFast

from sioconv.data.tokenizer.tokenizer import encode_texts
from sioconv.model import SioConvForCausalLM

LONGEST = 1e6
SAMPLE = (
    "宮城県は、東北地方にある県である。県庁の所在地は仙台市である。川は山から海へ流れる。海の水は空へ昇り、雨になって山へ帰る。",
    "The river runs from the hills to the sea, and the rain brings it back again. Thank you, I am fine.",
)


@torch.inference_mode()
def timescales(
    model: SioConvForCausalLM, tokenizer: PreTrainedTokenizerFast, texts: Iterable[str], max_tokens: int = 1024
) -> list[list[float]]:
    """Tokens after which a head has forgotten all but 1/e of what it held, over some text.

    After n steps a share exp(Σ log a_t) = exp(n · mean(log a)) is left of what was in the state, so 1/e is left after
    n = −1 / mean(log a). Gates depend on the text: the mean is over the tokens of `texts`. With gates per channel each
    channel counts as a head.

    Args:
        model: in eval mode.
        tokenizer: the model's tokenizer.
        texts: documents; each is read from the initial state.
        max_tokens: most tokens of one document that are read.

    Returns:
        [layer][head] in tokens, ascending, at most 1e6. Empty where `texts` is.
    """
    sums: list[torch.Tensor] = []
    count = 0
    for text in encode_texts(tokenizer, list(texts)):
        ids = [tokenizer.bos_token_id, *text][:max_tokens]
        gates = model.forget_gates(torch.tensor([ids], device=model.device))  # per layer [1, T, H] or [1, T, H, P]
        new = [log_a.cpu().double().sum((0, 1)).flatten() for log_a in gates]  # [H] or [H·P]
        sums = [old + more for old, more in zip(sums, new, strict=True)] if sums else new
        count += len(ids)
    return [(-1 / (total / count).clamp(max=-1 / LONGEST)).sort().values.tolist() for total in sums]


def half_lives(model: SioConvForCausalLM, tokenizer: PreTrainedTokenizerFast) -> list[list[float]]:
    """Tokens after which half of what a head held has faded, [layer][head], over a few sentences."""
    found = timescales(model, tokenizer, SAMPLE)
    return [[round(math.log(2) * tokens, 2) for tokens in heads] for heads in found]
