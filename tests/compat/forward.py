"""The forward pass and its cache: padding, continuing, cutting, keeping logits, hidden states."""

from copy import deepcopy

import torch
from torch import Tensor

from sioconv.model.layers import bounded
from tests.compat.subject import NEW, TEXTS, Subject, close, continuation, require, same

LIMIT = 1e-10  # of models in fp64


@torch.no_grad()
def padded(subject: Subject, side: str) -> str:
    """The rows of a padded batch and what follows on them give what they give alone, whatever stands in the padding."""
    model, tokenizer = subject.model(), subject.tokenizer()
    batch = tokenizer(TEXTS, padding=True, padding_side=side, return_tensors="pt")
    real = batch.attention_mask.bool()
    require(not real.all(), "no row is padded")
    garbage = torch.where(real, batch.input_ids, (batch.input_ids + 11) % len(tokenizer))
    error = 0.0
    for ids in (batch.input_ids, garbage):
        output = model(ids, attention_mask=batch.attention_mask)
        behind = model(batch.input_ids[:, -2:], cache=output.cache).logits
        for i, text in enumerate(batch.input_ids):
            alone = model(torch.cat([text[real[i]], text[-2:]]).unsqueeze(0)).logits[0]
            error = max(error, close(output.logits[i, real[i]], alone[:-2], LIMIT, "logits of a padded row"))
            error = max(error, close(behind[i], alone[-2:], LIMIT, "logits behind a padded row"))
    if side == "left":
        found = continuation(model, garbage, attention_mask=batch.attention_mask)
        for row, text, mask in zip(found, batch.input_ids, real, strict=True):
            same(row, continuation(model, text[mask].unsqueeze(0))[0], "text of a padded row")
    return f"{int((~real).sum())} padding tokens; rows differ by {error:.0e} from alone"


def left_padding(subject: Subject) -> str:
    """Logits and generated texts of a left-padded batch."""
    return padded(subject, "left")


def right_padding(subject: Subject) -> str:
    """Logits of a right-padded batch, and of what follows it."""
    return padded(subject, "right")


def returned_cache(subject: Subject) -> str:
    """A text goes on from the cache that `generate` returned, with several new tokens."""
    model, ids = subject.model(), subject.ids()
    first = model.generate(
        ids[:, :4], max_new_tokens=NEW, do_sample=False, return_dict_in_generate=True, use_cache=True
    )
    seen = first.past_key_values.get_seq_length()
    require(seen == 4 + NEW - 1, f"the cache has seen {seen} tokens")
    text = torch.cat([first.sequences, ids[:, 4:]], dim=1)
    expected = continuation(model, text)
    same(continuation(model, text, past_key_values=deepcopy(first.past_key_values)), expected, "text by its old name")
    same(continuation(model, text, cache=first.cache), expected, "text")
    return f"{text.shape[1] - seen} new tokens behind {seen}"


@torch.no_grad()
def copied_cache(subject: Subject) -> str:
    """Two continuations of one prompt from deep copies of its cache."""
    model, ids = subject.model(), subject.ids()
    warm = model(ids[:, :6]).cache
    tails = (ids[:, 6:], ids[:, 6:].flip(0))
    for tail in tails:
        text = torch.cat([ids[:, :6], tail], dim=1)
        same(continuation(model, text, cache=deepcopy(warm)), continuation(model, text), "text")
    return "two texts equal those read from the start"


@torch.no_grad()
def chunked_prefill(subject: Subject) -> str:
    """A prompt read in pieces, padded rows among them."""
    model, tokenizer = subject.model(), subject.tokenizer()
    batch = tokenizer(TEXTS, padding=True, padding_side="left", return_tensors="pt")
    real = batch.attention_mask.bool()
    rows = [text[mask].unsqueeze(0) for text, mask in zip(batch.input_ids, real, strict=True)]
    texts = torch.cat([continuation(model, row) for row in rows])
    logits = torch.cat([model(row).logits[:, -1] for row in rows])
    options = {"max_new_tokens": NEW, "do_sample": False, "return_dict_in_generate": True, "output_logits": True}
    for size in (1, 7):
        found = model.generate(**batch, prefill_chunk_size=size, **options)
        same(found.sequences[:, real.shape[1] :], texts, f"text of a prompt in pieces of {size}")
        error = close(found.logits[0], logits, 1e-6, "the first logits, which generate gives in fp32,")
    return f"{real.shape[1]} tokens in pieces of 1 and 7: logits differ by {error:.0e}"


@torch.no_grad()
def logits_to_keep(subject: Subject) -> str:
    """Only the wanted logits are computed; `generate` asks for the last."""
    model, ids = subject.model(), subject.ids()
    logits, rows = model(ids).logits, []
    hook = model.lm_head.register_forward_hook(lambda _, inputs, __: rows.append(inputs[0].shape[1]))
    places = torch.tensor([2, 5])
    close(model(ids, logits_to_keep=3).logits, logits[:, -3:], LIMIT, "the last three")
    close(model(ids, logits_to_keep=places).logits, logits[:, places], LIMIT, "chosen places")
    continuation(model, ids, max_new_tokens=2)
    hook.remove()
    require(rows == [3, 2, 1, 1], f"the head ran on {rows} positions")
    return f"the head runs on {rows} positions of {ids.shape[1]}"


@torch.no_grad()
def hidden_states(subject: Subject) -> str:
    """One more than layers, from the embedding to what the head reads; by argument and by configuration."""
    model, ids = subject.model(), subject.ids()
    output = model(ids, output_hidden_states=True)
    layers = model.config.num_hidden_layers
    require(len(output.hidden_states) == layers + 1, f"{len(output.hidden_states)} hidden states")
    rows = bounded(model.get_input_embeddings()(ids), model.config.embedding_max_norm)
    same(output.hidden_states[0], rows, "the first is the embedding")
    same(model.lm_head(output.hidden_states[-1]), output.logits, "the last is what the head reads")
    options = {"do_sample": False, "output_hidden_states": True, "return_dict_in_generate": True}
    generated = model.generate(ids, max_new_tokens=2, **options)
    shapes = [step[-1].shape[1] for step in generated.hidden_states]
    require(shapes == [ids.shape[1], 1], f"generate gives hidden states of lengths {shapes}")
    model.config.output_hidden_states = True
    found: tuple[Tensor, ...] = model(ids, return_dict=False)[-1]
    same(found[-1], output.hidden_states[-1], "by the configuration, as a tuple")
    return f"{layers + 1} of them"
