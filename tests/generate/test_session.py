import copy
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from sioconv.data.tokenizer.tokenizer import encode_texts
from sioconv.errors import UserError
from sioconv.generate import Engine, SamplingConfig, Session, Vocabulary, generate_text
from sioconv.model import SioConvForCausalLM

TinyModel = tuple[SioConvForCausalLM, PreTrainedTokenizerFast]
PROMPT = "川は山から海へ流れる。"


def greedy(tokens: int, **values: object) -> SamplingConfig:
    return SamplingConfig(temperature=0, max_new_tokens=tokens, **values)


def sampled(tokens: int, **values: object) -> SamplingConfig:
    return SamplingConfig(max_new_tokens=tokens, **values)


def begun(tiny_model: TinyModel, prompt: str = PROMPT, seed: int = 3) -> Session:
    session = Session(*tiny_model, seed)
    session.feed([session.vocabulary.bos, *encode_texts(tiny_model[1], [prompt])[0]])
    return session


def written(session: Session, sampling: SamplingConfig) -> str:
    return "".join(session.stream(sampling))


def preferring(model: SioConvForCausalLM, token: int, much: float = 1e4) -> SioConvForCausalLM:
    """The model with a bias that makes `token` the likeliest at every step."""
    model = copy.deepcopy(model)
    with torch.no_grad():
        model.lm_head.bias[token] += much
    return model


@pytest.fixture
def tokens_read(tiny_model: TinyModel) -> Iterator[list[int]]:
    """The ids that the model has read since the test began."""
    ids: list[int] = []

    def remember(_: object, __: object, inputs: dict[str, Tensor]) -> None:
        ids.extend(inputs["input_ids"][0].tolist())

    hook = tiny_model[0].register_forward_pre_hook(remember, with_kwargs=True)
    yield ids
    hook.remove()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"conv_width": 4},
        {"conv_width": 2, "conv_on": "z_gate"},
        {"gate": "channel"},
        {"input_scale": "variance"},
        {"trapezoid": True},
        {"bigram_rows": 3},
    ],
)
def test_cached_equals_uncached(
    tiny_model: TinyModel, make_model: Callable[..., SioConvForCausalLM], options: dict[str, object]
) -> None:
    tokenizer = tiny_model[1]
    model = make_model(tokenizer, **options)
    session = begun((model, tokenizer))
    ids = [session.vocabulary.bos, *encode_texts(tokenizer, [PROMPT])[0]]
    prompt = len(ids)
    with torch.no_grad():
        for _ in range(30):
            logits = model(torch.tensor([ids]), use_cache=False).logits[0, -1]
            ids.append(int(logits.index_fill(0, session.vocabulary.banned, float("-inf")).argmax()))
    text = written(session, greedy(30))
    assert session.stopped_by == "length" and session.reply_tokens == 30 and session.tokens_seen == prompt + 30
    assert text == tokenizer.decode(ids[prompt:])[: len(text)]
    assert len(set(ids[prompt:])) > 10  # a model that repeats itself would show nothing


@given(st.lists(st.integers(0, 383), min_size=2, max_size=60), st.integers(1, 70), st.integers(1, 59))
def test_a_prompt_in_pieces_equals_the_whole(tiny_model: TinyModel, ids: list[int], chunk: int, cut: int) -> None:
    whole = Session(*tiny_model)
    pieces = Session(*tiny_model, engine=Engine(tiny_model[0], token_budget=chunk + 1, max_texts=1))
    whole.feed(ids)
    pieces.feed(ids[:cut])
    pieces.feed(ids[cut:])
    assert whole.tokens_seen == pieces.tokens_seen == len(ids)
    for name, value in whole.fork().state.tensors.items():
        torch.testing.assert_close(pieces.state.tensors[name], value, rtol=1e-4, atol=1e-5)


def test_every_token_is_read_once_and_in_order(tiny_model: TinyModel, tokens_read: list[int]) -> None:
    session = begun(tiny_model)
    fed = [session.vocabulary.bos, *encode_texts(tiny_model[1], [PROMPT])[0]]
    text = written(session, greedy(8))
    session.feed([9, 10, 11])
    reply = tokens_read[len(fed) : len(fed) + 8]
    assert tokens_read == [*fed, *reply, 9, 10]
    assert tiny_model[1].decode(reply).startswith(text)
    assert session.tokens_seen == len(tokens_read) + 1


PEAK = """
import resource, sys
from sioconv.generate import Session
from sioconv.model import load_model_folder
model, tokenizer = load_model_folder(sys.argv[1])
session = Session(model, tokenizer)
peaks = []
for tokens in (10_000, 90_000):
    session.feed([300] * tokens)
    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
assert session.tokens_seen == 100_000
print(peaks[1] - peaks[0])
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the unit of ru_maxrss differs")
def test_memory_is_flat_over_a_prompt_of_100_000_tokens(tiny_model_folder: Path) -> None:
    arguments = [sys.executable, "-c", PEAK, str(tiny_model_folder)]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 20_000  # KiB; the logits alone of such a prompt would take 150,000


@pytest.mark.parametrize("make", [greedy, sampled])
@given(st.integers(1, 40))
@settings(max_examples=8)
def test_what_streams_is_what_decode_gives(
    tiny_model: TinyModel, make: Callable[..., SamplingConfig], tokens: int
) -> None:
    session = begun(tiny_model)
    ids: list[int] = []
    hook = tiny_model[0].register_forward_pre_hook(
        lambda _, __, inputs: ids.extend(inputs["input_ids"][0].tolist()), with_kwargs=True
    )
    pieces = list(session.stream(make(tokens)))
    pending = session._text.pending
    session.feed([300, 300])  # reads the reply's last token
    hook.remove()
    assert all(pieces)
    assert "".join(pieces) + pending.decode(errors="replace") == tiny_model[1].decode(ids[1 : tokens + 1])


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6))
@settings(max_examples=20)
def test_a_text_written_in_parts_is_the_text_written_at_once(tiny_model: TinyModel, parts: list[int]) -> None:
    whole, pieces = begun(tiny_model), begun(tiny_model)
    text = written(whole, greedy(sum(parts)))
    assert "".join(written(pieces, greedy(part)) for part in parts) == text
    assert pieces.tokens_seen == whole.tokens_seen


@given(st.data())
@settings(max_examples=30)
def test_a_stop_string_ends_the_text_before_it(tiny_model: TinyModel, data: st.DataObject) -> None:
    text = written(begun(tiny_model), greedy(40))
    start = data.draw(st.integers(0, len(text) - 1))
    stop = text[start : start + data.draw(st.integers(1, 8))]
    session = begun(tiny_model)
    before = written(session, greedy(40, stop=["never this", stop]))
    assert before == text[: text.index(stop)] and session.stopped_by == "stop"
    rest = written(session, greedy(40))
    assert (before + stop + rest).startswith(text)


def test_text_that_only_began_like_a_stop_string_is_given_at_the_end(tiny_model: TinyModel) -> None:
    text = written(begun(tiny_model), greedy(40))
    session = begun(tiny_model)
    assert written(session, greedy(40, stop=[text[-2:] + "…"])) == text
    assert session.stopped_by == "length"


def test_half_a_character_waits_for_the_rest_or_is_forgotten(tiny_model: TinyModel) -> None:
    model, tokenizer = tiny_model
    vocabulary = Vocabulary(tokenizer, len(tokenizer))
    first, *rest = ({vocabulary.bytes_of(i): i for i in range(len(tokenizer))}[bytes([b])] for b in "海".encode())
    session = begun((preferring(model, first), tokenizer))
    interrupted = session.fork()
    assert written(session, greedy(1)) == written(interrupted, greedy(1)) == ""
    interrupted.feed(rest)
    assert written(interrupted, greedy(1)) == ""
    assert written(session, greedy(2)) == "\ufffd\ufffd"  # two beginnings that the next beginning has cut off


@pytest.mark.parametrize(("ending", "token"), [("eos", "<|eos|>"), ("end_of_turn", "<|end_of_turn|>")])
def test_ending_tokens_end_the_reply(tiny_model: TinyModel, ending: str, token: str) -> None:
    model, tokenizer = tiny_model
    session = begun((preferring(model, tokenizer.get_vocab()[token]), tokenizer))
    assert written(session, greedy(10)) == ""
    assert (session.stopped_by, session.reply_tokens) == (ending, 1)


def test_other_special_tokens_are_never_written(tiny_model: TinyModel) -> None:
    model, tokenizer = tiny_model
    expected = written(begun(tiny_model), greedy(20))
    for token in ("<|pad|>", "<|bos|>", "<|system|>", "<|user|>", "<|assistant|>"):
        loud = preferring(model, tokenizer.get_vocab()[token])
        assert written(begun((loud, tokenizer)), greedy(20)) == expected


def test_nothing_to_continue_from_is_a_programming_error(tiny_model: TinyModel) -> None:
    model, tokenizer = tiny_model
    with pytest.raises(ValueError, match="feed"):
        Session(model, tokenizer).stream(greedy(1))
    ended = begun((preferring(model, tokenizer.eos_token_id), tokenizer))
    written(ended, greedy(5))
    with pytest.raises(ValueError, match="feed"):
        ended.stream(greedy(1))
    ended.feed([300])
    written(ended, greedy(1))


def test_broken_weights_are_said_to_be_broken(tiny_model: TinyModel) -> None:
    model = preferring(tiny_model[0], 300, float("nan"))
    with pytest.raises(UserError, match="weights are broken"):
        written(begun((model, tiny_model[1])), sampled(1))


@pytest.mark.parametrize("stop", [[], ["。"]])
def test_a_closed_turn_is_read_with_its_end(tiny_model: TinyModel, tokens_read: list[int], stop: list[str]) -> None:
    session = begun(tiny_model)
    written(session, greedy(5, stop=stop))
    read = len(tokens_read)
    session.end_turn()
    session.feed([300, 301])
    assert tokens_read[read + 1 :] == [session.vocabulary.end_of_turn, 300]
    assert session.turns == 1


def test_an_end_of_turn_that_the_model_wrote_is_not_doubled(tiny_model: TinyModel) -> None:
    model, tokenizer = tiny_model
    session = begun((preferring(model, tokenizer.get_vocab()["<|end_of_turn|>"]), tokenizer))
    written(session, greedy(5))
    seen = session.tokens_seen
    session.end_turn()
    assert session.tokens_seen == seen


@given(st.integers(0, 12))
@settings(max_examples=12)
def test_a_reply_that_is_left_early_can_be_continued(tiny_model: TinyModel, pieces: int) -> None:
    text = written(begun(tiny_model), greedy(60))
    session = begun(tiny_model)
    reply = session.stream(greedy(60, stop=["never this"]))
    start = "".join(islice(reply, pieces))
    copied = session.fork()
    assert (start + written(copied, greedy(60))).startswith(text)
    assert (start + "".join(reply)).startswith(text)


def test_a_fork_goes_its_own_way(tiny_model: TinyModel) -> None:
    penalised = sampled(30, repetition_penalty=1.5)
    session, untouched = begun(tiny_model), begun(tiny_model)
    for one in (session, untouched):
        written(one, sampled(7))
    twin, other = session.fork(), session.fork(seed=99)
    ended = session.fork()
    ended.end_turn()
    texts = [written(one, penalised) for one in (twin, other, session, untouched)]
    assert texts[0] == texts[2] == texts[3] != texts[1]
    assert written(ended, penalised) not in texts
    before, fork = session.state, session.fork()
    kept = {name: tensor.clone() for name, tensor in before.tensors.items()}
    written(fork, sampled(5))
    assert session.state.tokens == before.tokens < fork.state.tokens
    assert all(torch.equal(session.state.tensors[name], tensor) for name, tensor in kept.items())


def test_the_seed_decides_the_text(tiny_model: TinyModel) -> None:
    texts = [written(begun(tiny_model, seed=seed), sampled(30)) for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]


def test_the_repetition_penalty_covers_this_turn_and_no_other(
    tiny_model: TinyModel, tokens_read: list[int], tmp_path: Path
) -> None:
    session = begun(tiny_model)
    read = len(tokens_read)
    written(session, greedy(25, repetition_penalty=1e6))
    session.feed([300])
    reply = tokens_read[read + 1 :]
    assert len(set(reply)) == len(reply) == 25
    assert not set(reply) & set(tokens_read[: read + 1])
    session.end_turn()
    session.feed([300])
    session.save(tmp_path / "state")
    with safe_open(tmp_path / "state", framework="pt") as file:
        assert file.metadata()["turn_ids"] == "[300]"


def test_the_repetition_penalty_leaves_the_end_of_turn_alone(tiny_model: TinyModel) -> None:
    model, tokenizer = tiny_model
    session = Session(preferring(model, tokenizer.get_vocab()["<|end_of_turn|>"], 50), tokenizer)
    session.feed([session.vocabulary.end_of_turn, 300])
    written(session, greedy(5, repetition_penalty=1e6))
    assert session.stopped_by == "end_of_turn"


SETTINGS = [(0.9, 1.3), (0.0, 1.3), (0.9, 1.0), (0.0, 1.0)]  # temperature, repetition penalty
CONTINUE = f"""
import json, sys
from sioconv.generate import SamplingConfig, Session
from sioconv.model import load_model_folder
model, tokenizer = load_model_folder(sys.argv[1])
texts = []
for path in sys.argv[2:]:
    session = Session.load(path, model, tokenizer)
    for temperature, penalty in {SETTINGS}:
        sampling = SamplingConfig(temperature=temperature, repetition_penalty=penalty, max_new_tokens=25)
        texts.append("".join(session.fork().stream(sampling)))
print(json.dumps(texts))
"""


def test_a_new_process_goes_on_where_sessions_were_saved(
    tiny_model: TinyModel, tiny_model_folder: Path, tmp_path: Path
) -> None:
    session = begun(tiny_model)
    paths, expected = [], []
    for number in range(3):
        written(session, sampled(1 + 11 * number))
        paths.append(str(tmp_path / f"state-{number}"))
        session.save(paths[-1])
        for temperature, penalty in SETTINGS:
            sampling = sampled(25, temperature=temperature, repetition_penalty=penalty)
            expected.append(written(session.fork(), sampling))
    arguments = [sys.executable, "-c", CONTINUE, str(tiny_model_folder), *paths]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == expected
    assert len(set(expected)) > 6


def test_an_empty_session_can_be_saved(tiny_model: TinyModel, tmp_path: Path) -> None:
    Session(*tiny_model, 5).save(tmp_path / "empty")
    loaded = Session.load(tmp_path / "empty", *tiny_model)
    assert (loaded.tokens_seen, loaded.turns, loaded.seed) == (0, 0, 5)


def test_generate_text_tells_what_it_did(tiny_model: TinyModel) -> None:
    pieces: list[str] = []
    result = generate_text(*tiny_model, PROMPT, sampled(20, seed=4), on_text=pieces.append)
    assert "".join(pieces) == result.text
    assert (result.tokens, result.stopped_by, result.seed) == (20, "length", 4)
    assert result.prompt_tokens == 1 + len(encode_texts(tiny_model[1], [PROMPT])[0])
    assert result.tokens_per_second == pytest.approx(result.tokens / result.seconds)
    assert generate_text(*tiny_model, PROMPT, sampled(20, seed=4)).text == result.text


def test_a_random_seed_is_told_and_gives_the_text_again(tiny_model: TinyModel) -> None:
    first, second = (generate_text(*tiny_model, PROMPT, sampled(20)) for _ in range(2))
    assert first.seed != second.seed
    assert generate_text(*tiny_model, PROMPT, sampled(20, seed=first.seed)).text == first.text


def test_a_prompt_may_be_empty(tiny_model: TinyModel) -> None:
    assert generate_text(*tiny_model, "", greedy(3)).prompt_tokens == 1


def test_special_tokens_in_a_prompt_are_text(tiny_model: TinyModel, tokens_read: list[int]) -> None:
    prompt = "a<|eos|><|assistant|><|bos|>"
    generate_text(*tiny_model, prompt, greedy(1))
    bos, *text = tokens_read
    assert bos == tiny_model[1].bos_token_id
    assert tiny_model[1].decode(text) == prompt
    assert not set(text) & set(tiny_model[1].added_tokens_decoder)


def test_a_prompt_that_is_not_text_is_refused(tiny_model: TinyModel) -> None:
    with pytest.raises(UserError, match="the prompt is not text"):
        generate_text(*tiny_model, "\udcff", greedy(1))
