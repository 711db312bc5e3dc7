"""Ways to generate: each is compared with the plain loop of forward passes, or with greedy search."""

from threading import Thread
from typing import Any

import torch
from torch import Tensor
from transformers import StoppingCriteria, StoppingCriteriaList, TextIteratorStreamer, pipeline

from sioconv.data.chat import encode
from tests.compat.subject import CHATS, NEW, TEXTS, Subject, close, continuation, require, same


@torch.no_grad()
def greedy(subject: Subject) -> str:
    """The most likely token each time, with and without a cache."""
    model, ids = subject.model(), subject.ids()
    text = ids
    for _ in range(NEW):
        text = torch.cat([text, model(text, use_cache=False).logits[:, -1:].argmax(-1)], dim=1)
    new = text[:, ids.shape[1] :]
    same(continuation(model, ids), new, "with a cache")
    same(continuation(model, ids, use_cache=False), new, "without a cache")
    return f"{new.numel()} tokens equal those of the plain loop"


@torch.no_grad()
def sampling(subject: Subject) -> str:
    """A seed repeats a text, another seed gives another, and what is drawn is among the k most likely tokens."""
    model, ids = subject.model(), subject.ids()
    texts = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        texts.append(continuation(model, ids, do_sample=True, top_k=5, temperature=1.5))
    same(texts[0], texts[1], "the same seed")
    require(not torch.equal(texts[0], texts[2]), "another seed gives the same text")
    logits = model(torch.cat([ids, texts[0]], dim=1)).logits[:, ids.shape[1] - 1 : -1]
    rank = (logits > logits.gather(2, texts[0].unsqueeze(2))).sum(2)
    require(rank.max() < 5 and rank.any(), f"ranks of the drawn tokens are {rank.tolist()}")
    return f"ranks 0 to {int(rank.max())} of top_k 5"


@torch.no_grad()
def beam_search(subject: Subject) -> str:
    """The scores are the log-likelihoods of the texts, and the cache changes none."""
    model, ids = subject.model(), subject.ids()
    options = {"num_beams": 4, "num_return_sequences": 2, "length_penalty": 0.0, "max_new_tokens": NEW}
    found = model.generate(ids, do_sample=False, output_scores=True, return_dict_in_generate=True, **options)
    same(model.generate(ids, do_sample=False, use_cache=False, **options), found.sequences, "without a cache")
    likelihoods = model(found.sequences).logits.log_softmax(-1)[:, ids.shape[1] - 1 : -1]
    chosen = likelihoods.gather(2, found.sequences[:, ids.shape[1] :, None]).sum((1, 2))
    error = close(found.sequences_scores, chosen, 1e-4, "scores")
    require((chosen[0::2] >= chosen[1::2]).all(), "the better beam isn't first")
    return f"scores differ by {error:.0e} from the texts' log-likelihoods"


@torch.no_grad()
def return_sequences(subject: Subject) -> str:
    """Several samples of one prompt differ, and are those drawn without a cache."""
    model, ids = subject.model(), subject.ids()
    texts = []
    for use_cache in (True, False):
        torch.manual_seed(1)
        options = {"do_sample": True, "num_return_sequences": 4, "max_new_tokens": NEW, "use_cache": use_cache}
        texts.append(model.generate(ids, **options))
    require(texts[0].shape == (4 * len(ids), ids.shape[1] + NEW), f"shape {tuple(texts[0].shape)}")
    same(texts[0], texts[1], "without a cache")
    same(texts[0][:, : ids.shape[1]], ids.repeat_interleave(4, dim=0), "prompts")
    different = len({tuple(row) for row in texts[0].tolist()})
    require(different > len(ids), "all samples of a prompt are equal")
    return f"{different} texts of {len(ids)} prompts"


class _At(StoppingCriteria):  # type: ignore[no-untyped-call]
    """Ends a row at a token."""

    def __init__(self, token: int) -> None:
        self.token = token

    def __call__(self, input_ids: Tensor, scores: Tensor, **_: Any) -> Tensor:  # noqa: ARG002
        """[B] bool."""
        return input_ids[:, -1] == self.token


def stopping_criteria(subject: Subject) -> str:
    """Each row ends at the given token, by a criterion of one's own and as an end-of-text token."""
    model, ids = subject.model(), subject.ids()
    whole, pad = continuation(model, ids), model.generation_config.pad_token_id
    token = int(whole[0, NEW // 2])
    before = (whole == token).cumsum(1) - (whole == token).long() > 0  # behind the first one
    expected = whole.masked_fill(before, pad)
    expected = expected[:, : int((~before).sum(1).max())]
    ended = StoppingCriteriaList([_At(token)])
    same(continuation(model, ids, eos_token_id=token), expected, "eos_token_id")
    found = continuation(model, ids[:1], stopping_criteria=ended)
    same(found, whole[:1, : found.shape[1]], "text")
    require(int(found[0, -1]) == token and (found == token).sum() == 1, "a criterion doesn't end the text at its token")
    return f"ends after {found.shape[1]} of {NEW} tokens"


def stop_strings(subject: Subject) -> str:
    """The text ends with the first token that completes the string."""
    model, tokenizer, ids = subject.model(), subject.tokenizer(), subject.ids()
    ids = ids[:1]
    whole = continuation(model, ids, max_new_tokens=64)[0]
    words = [(i, tokenizer.decode(whole[i])) for i in range(3, 64)]
    place, word = next((i, word) for i, word in words if word.strip() and "\ufffd" not in word)
    length = next(n for n in range(1, place + 2) if word in tokenizer.decode(whole[:n]))
    found = continuation(model, ids, max_new_tokens=64, stop_strings=[word], tokenizer=tokenizer)[0]
    same(found, whole[:length], f"text up to {word!r}")
    return f"ends at {word!r} after {length} of 64 tokens"


def inputs_embeds(subject: Subject) -> str:
    """Vectors in place of ids, as the model's own embedding gives them, also where its rows are long."""
    model, ids = subject.model(), subject.ids()
    model.get_input_embeddings().weight.data *= 3
    vectors = model.get_input_embeddings()(ids)
    found = model.generate(inputs_embeds=vectors, max_new_tokens=NEW, do_sample=False)
    same(found, continuation(model, ids), "text")
    return f"{found.numel()} tokens equal"


def streamer(subject: Subject) -> str:
    """TextIteratorStreamer gives the text piece by piece."""
    model, tokenizer, ids = subject.model(), subject.tokenizer(), subject.ids()
    ids = ids[:1]
    pieces = TextIteratorStreamer(tokenizer, skip_prompt=True, timeout=60, skip_special_tokens=True)  # type: ignore[no-untyped-call]
    thread = Thread(target=continuation, args=(model, ids), kwargs={"streamer": pieces})
    thread.start()
    got = list(pieces)
    thread.join()
    whole = tokenizer.decode(continuation(model, ids)[0], skip_special_tokens=True)
    require("".join(got) == whole, f"streamed {''.join(got)!r}, generated {whole!r}")
    return f"{len(got)} pieces join to the text"


def pipeline_text(subject: Subject) -> str:
    """pipeline("text-generation") on a folder continues the text with bos before it, alone or in a batch."""
    tokenizer, options = subject.tokenizer(), {"max_new_tokens": NEW, "do_sample": False}
    ids = torch.tensor([[tokenizer.bos_token_id, *tokenizer(TEXTS[0], add_special_tokens=False).input_ids]])
    from_folder = pipeline("text-generation", str(subject.folder))
    text = tokenizer.decode(from_folder.model.generate(ids, **options)[0], skip_special_tokens=True)
    [found] = from_folder(TEXTS[0], **options)
    require(found["generated_text"] == text, f"{found['generated_text']!r}, expected {text!r}")
    run = pipeline("text-generation", model=subject.model(), tokenizer=tokenizer)
    alone = [run(text, **options)[0]["generated_text"] for text in TEXTS]
    batch = [row[0]["generated_text"] for row in run(TEXTS, batch_size=len(TEXTS), **options)]
    require(batch == alone, f"a batch gives {batch}, rows alone {alone}")
    return f"{len(TEXTS)} texts of different lengths in one batch equal those alone"


def pipeline_chat(subject: Subject) -> str:
    """pipeline("text-generation") on messages answers what the conversation's own encoding asks."""
    run = pipeline("text-generation", str(subject.folder))
    options = {"max_new_tokens": NEW, "do_sample": False}
    for chat in CHATS:
        question = chat[:-1]
        ids, _ = encode(run.tokenizer, question, add_generation_prompt=True)
        text = run.model.generate(torch.tensor([ids]), **options)[0, len(ids) :]
        expected = run.tokenizer.decode(text, skip_special_tokens=True)
        [found] = run(question, **options)
        answer = {"role": "assistant", "content": expected}
        require(found["generated_text"] == [*question, answer], f"{found['generated_text']}, expected {answer}")
    return f"{len(CHATS)} answers equal"
