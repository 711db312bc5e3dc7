"""Generation for other architectures."""

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from sioconv.data.tokenizer.tokenizer import encode_texts
from sioconv.generate.config import SamplingConfig
from sioconv.generate.sampling import random_seed
from sioconv.generate.stream import Vocabulary


@torch.inference_mode()
def continue_text(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, prompt: str, sampling: SamplingConfig
) -> str:
    """Continues `prompt` by transformers' own `generate`; nothing in it becomes a special token.

    Args:
        model: any causal language model of transformers' form, in eval mode.
        tokenizer: its tokenizer.
        prompt: the beginning of the text.
        sampling: temperature, top_p, max_new_tokens and seed count.
    """
    vocabulary = Vocabulary(tokenizer, model.config.vocab_size)
    ids = torch.tensor([[vocabulary.bos, *encode_texts(tokenizer, [prompt])[0]]], device=model.device)  # [1, T]
    chance = {"temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": 0} if sampling.temperature else {}
    with torch.random.fork_rng([model.device] if model.device.type == "cuda" else []):
        torch.manual_seed(random_seed() if sampling.seed is None else sampling.seed)
        written = model.generate(  # type: ignore[operator]
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=sampling.max_new_tokens,
            do_sample=bool(chance),
            suppress_tokens=vocabulary.banned.tolist() or None,
            eos_token_id=[vocabulary.eos, vocabulary.end_of_turn],
            pad_token_id=vocabulary.eos,
            **chance,
        )
    return b"".join(map(vocabulary.bytes_of, written[0, ids.shape[1] :].tolist())).decode(errors="replace")
