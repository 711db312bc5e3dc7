"""Long texts become the same tokens piece by piece as at once."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from sioconv.data.tokenizer import long_texts
from sioconv.data.tokenizer.long_texts import encode_long, encode_stream
from sioconv.data.tokenizer.tokenizer import encode_texts

# What a cut could change: line ends in a row, spaces before and after, marks before a line end.
WORDS = [
    "川は",
    "山から",
    "流れる。",
    "The river",
    " runs.",
    " ",
    "  ",
    "\n",
    "\n\n",
    "\r\n",
    "。\n",
    "!\n",
    "12",
    "、",
    "\t",
    "\u3000",
]


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cuts where other runs would only at a million characters."""
    monkeypatch.setattr(long_texts, "PIECE", 60)
    monkeypatch.setattr(long_texts, "STREAM_PIECE", 60)
    monkeypatch.setattr(long_texts, "CONTEXT", 20)


@given(words=st.lists(st.sampled_from(WORDS), max_size=120))
def test_pieces_are_the_whole(tokenizer: PreTrainedTokenizerFast, words: list[str]) -> None:
    text = "".join(words)
    assert encode_long(tokenizer, text, 1, 2).tolist() == [1, *encode_texts(tokenizer, [text])[0], 2]
    assert "".join(long_texts._pieces(tokenizer, text)) == text


def test_long_texts_are_cut(tokenizer: PreTrainedTokenizerFast) -> None:
    pieces = list(long_texts._pieces(tokenizer, "川は山から海へ流れる。雨が降る。\n" * 50))
    assert len(pieces) > 10 and max(map(len, pieces)) <= 60


def test_a_text_without_a_place_to_cut_is_left_whole(tokenizer: PreTrainedTokenizerFast) -> None:
    text = "abc" * 100
    assert list(long_texts._pieces(tokenizer, text)) == [text]
    assert encode_long(tokenizer, text, 1, 2).tolist() == [1, *encode_texts(tokenizer, [text])[0], 2]


def test_a_tokenizer_that_adds_a_space_before_a_text() -> None:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=False)
    text = "The river runs to the sea.\nIt rains.\n" * 20
    backend.train_from_iterator([text], trainers.BpeTrainer(vocab_size=100, show_progress=False))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend)
    assert encode_long(tokenizer, text, 1, 2).tolist() == [1, *encode_texts(tokenizer, [text])[0], 2]


@given(words=st.lists(st.sampled_from(WORDS), max_size=120), size=st.integers(1, 90))
def test_a_text_in_chunks_has_the_tokens_of_the_whole(
    tokenizer: PreTrainedTokenizerFast, words: list[str], size: int
) -> None:
    text = "".join(words)
    chunks = (text[i : i + size] for i in range(0, len(text), size))
    pieces = list(encode_stream(tokenizer, chunks))
    assert [i for piece in pieces for i in piece] == encode_texts(tokenizer, [text])[0]


def test_a_text_in_chunks_is_held_in_parts(tokenizer: PreTrainedTokenizerFast) -> None:
    text = "川は山から海へ流れる。雨が降る。\n" * 50
    assert len(list(encode_stream(tokenizer, [text]))) > 10
