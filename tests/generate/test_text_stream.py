from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from sioconv.data.tokenizer.tokenizer import SPECIAL_TOKENS, encode_texts
from sioconv.errors import UserError
from sioconv.generate.text_stream import TextStream
from sioconv.generate.vocabulary import Vocabulary
from sioconv.model import SioConvForCausalLM

TinyModel = tuple[SioConvForCausalLM, PreTrainedTokenizerFast]
# Few letters, so that stop strings occur; some of several bytes, so that they are cut.
short = st.text("abあ🌊", max_size=12)
stops = st.lists(st.text("abあ🌊", min_size=1, max_size=4), max_size=3)


def cut(data: bytes, places: list[int]) -> list[bytes]:
    ends = sorted({place % (len(data) + 1) for place in places})
    return [data[start:end] for start, end in zip([0, *ends], [*ends, len(data)], strict=True)]


def run(stream: TextStream, pieces: list[bytes]) -> str:
    text = ""
    for piece in pieces:
        if not stream.stopped:
            text += stream.push(piece)
    return text


@given(st.text(), st.lists(st.integers(0, 10**6)))
def test_any_text_in_any_pieces_comes_whole_and_at_once(text: str, places: list[int]) -> None:
    stream, seen, bytes_seen = TextStream(), "", b""
    for piece in cut(text.encode(), places):
        seen += stream.push(piece)
        bytes_seen += piece
        assert seen == bytes_seen.decode(errors="ignore")  # every whole character, nothing of the next
        assert stream.pending == bytes_seen[len(seen.encode()) :]
    assert seen == text


@given(st.binary(), st.lists(st.integers(0, 10**6)))
def test_bytes_that_are_no_text_become_replacement_characters(data: bytes, places: list[int]) -> None:
    stream = TextStream()
    text = run(stream, cut(data, places))
    assert text + stream.pending.decode(errors="replace") == data.decode(errors="replace")


def stop_by_letters(text: str, stop: list[str]) -> tuple[str, str] | None:
    """Text before the stop string that is complete first, the longest of several, and text after it."""
    for end in range(len(text) + 1):
        ending = [s for s in stop if text[:end].endswith(s)]
        if ending:
            return text[: end - max(map(len, ending))], text[end:]
    return None


@given(short, stops, st.lists(st.integers(0, 100)))
def test_stop_strings_don_t_depend_on_the_pieces(text: str, stop: list[str], places: list[int]) -> None:
    stream, pieces = TextStream(stop), cut(text.encode(), places)
    seen, used = "", 0
    for piece in pieces:
        seen += stream.push(piece)
        used += len(piece)
        if stream.stopped:
            break
    expected = stop_by_letters(text, stop)
    assert stream.stopped == (expected is not None)
    if expected is None:
        assert seen + stream.flush() == text and stream.pending == b""
    else:
        assert seen == expected[0]
        assert stream.pending + text.encode()[used:] == expected[1].encode()


@given(short, stops)
def test_only_a_possible_beginning_of_a_stop_string_is_held_back(text: str, stop: list[str]) -> None:
    stream = TextStream(stop)
    seen = run(stream, [text.encode()])
    held = stream.pending.decode()
    if not stream.stopped:
        assert seen + held == text
        assert held == "" or any(s.startswith(held) for s in stop)


@given(st.text(), st.integers(0, 10**6), stops)
def test_what_is_pending_can_be_carried_to_another_stream(text: str, place: int, stop: list[str]) -> None:
    first, second = cut(text.encode(), [place])
    stream = TextStream(stop)
    seen = stream.push(first)
    if not stream.stopped:
        assert seen + TextStream(pending=stream.pending).push(second) == text


@given(st.text())
def test_tokens_of_a_text_are_its_bytes(tiny_model: TinyModel, text: str) -> None:
    model, tokenizer = tiny_model
    vocabulary = Vocabulary(tokenizer, model.config.vocab_size)
    assert b"".join(map(vocabulary.bytes_of, encode_texts(tokenizer, [text])[0])) == text.encode()


@given(st.data())
def test_any_tokens_stream_to_what_decode_gives(tiny_model: TinyModel, data: st.DataObject) -> None:
    model, tokenizer = tiny_model
    vocabulary = Vocabulary(tokenizer, model.config.vocab_size)
    ids = data.draw(st.lists(st.integers(0, len(tokenizer) - 1)))
    stream = TextStream()
    text = run(stream, [vocabulary.bytes_of(token) for token in ids])
    decoded = tokenizer.decode(ids, skip_special_tokens=True)
    assert text + stream.pending.decode(errors="replace") == decoded


def test_special_tokens_are_told_apart(tiny_model: TinyModel) -> None:
    tokenizer = tiny_model[1]
    vocabulary = Vocabulary(tokenizer, len(tokenizer) + 3)
    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in SPECIAL_TOKENS}
    assert vocabulary.special == set(ids.values())
    ending = {vocabulary.eos, vocabulary.end_of_turn}
    assert ending == {ids["<|eos|>"], ids["<|end_of_turn|>"]}
    extra = set(range(len(tokenizer), len(tokenizer) + 3))  # rows of a head that was padded to a round size
    assert set(vocabulary.banned.tolist()) == (vocabulary.special - ending) | extra
    assert all(vocabulary.bytes_of(token) == b"" for token in vocabulary.special | extra)


def test_a_token_added_as_it_is_keeps_its_letters(tiny_model_folder: Path) -> None:
    tokenizer = PreTrainedTokenizerFast.from_pretrained(tiny_model_folder)
    tokenizer.add_tokens(["仙台駅"])
    vocabulary = Vocabulary(tokenizer, len(tokenizer))
    assert vocabulary.bytes_of(len(tokenizer) - 1).decode() == "仙台駅"


def test_a_tokenizer_of_words_with_byte_fallback() -> None:
    names = ["<unk>", *SPECIAL_TOKENS, *(f"<0x{byte:02X}>" for byte in range(256)), *"▁theriv", "th", "▁th", "▁the"]
    merges = [("t", "h"), ("▁", "th"), ("▁th", "e")]
    vocab = {name: i for i, name in enumerate(names)}
    backend = Tokenizer(models.BPE(vocab=vocab, merges=merges, byte_fallback=True, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    backend.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace(), decoders.Fuse()])
    backend.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL_TOKENS])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|eos|>", bos_token="<|bos|>")
    vocabulary = Vocabulary(tokenizer, len(tokenizer))
    text = "the sea と 🌊 river"
    ids = tokenizer.encode(text, add_special_tokens=False)
    stream = TextStream()
    assert run(stream, [vocabulary.bytes_of(token) for token in ids]) == " " + text
    assert stream.pending == b""


def test_a_tokenizer_without_the_special_tokens_is_refused() -> None:
    backend = Tokenizer(models.BPE())
    with pytest.raises(UserError, match=r"lacks <\|bos\|>"):
        Vocabulary(PreTrainedTokenizerFast(tokenizer_object=backend), 10)
