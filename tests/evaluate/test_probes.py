"""What is said of an answer, on answers whose truth is known."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerFast

from sioconv.data.chat import end_of_turn_id
from sioconv.data.tokenizer.tokenizer import encode_texts
from sioconv.evaluate.probes import answer_questions, in_language, repeats
from sioconv.evaluate.questions import Question
from sioconv.generate import State
from sioconv.generate.decoder import Piece
from sioconv.model import SioConvForCausalLM

Pair = tuple[SioConvForCausalLM, PreTrainedTokenizerFast]
QUESTION = Question("「宮城県」は何と読みますか？", "みやぎけん。", ("みやぎけん",), "ja", "seen", "reading")


@pytest.mark.parametrize(
    ("text", "language", "expected"),
    [
        ("宮城県です。", "ja", True),
        ("ミヤギ", "ja", True),
        ("SioConvです。", "ja", False),  # more Latin letters than Japanese ones
        ("私はSioConvといいます。", "ja", True),
        ("Miyagi", "ja", False),
        ("123。", "ja", False),
        ("", "ja", False),
        ("It is Miyagi.", "en", True),
        ("The word 宮城 is read Miyagi.", "en", True),
        ("宮城県です。", "en", False),
        ("Это река", "en", False),
        ("42", "en", False),
        ("Das ist ein Fluss.", "de", True),
        ("?", "de", False),
    ],
)
def test_in_language(text: str, language: str, expected: bool) -> None:
    assert in_language(text, language) is expected


@given(st.lists(st.integers(0, 1), max_size=14), st.integers(1, 4))
def test_repeats_equals_the_slow_one(ids: list[int], length: int) -> None:
    starts = range(len(ids) - length + 1)
    slow = any(ids[a : a + length] == ids[b : b + length] for a in starts for b in starts if a < b)
    assert repeats(ids, length) is slow


def test_repeats_needs_eight_tokens_twice() -> None:
    assert not repeats([*range(8), *range(7)])
    assert repeats([*range(8), *range(8)])
    assert repeats([1] * 9) and not repeats([1] * 8)


def test_answers_are_what_a_greedy_session_writes(tiny_model: Pair) -> None:
    model, tokenizer = tiny_model
    first, second = answer_questions(model, tokenizer, [QUESTION, QUESTION], max_new_tokens=30)
    assert first == second
    assert (first.question, first.expected, first.why) == (QUESTION.question, QUESTION.answer, QUESTION.why)
    assert first.text and not first.ended and not first.right
    assert first.no_repeat is not repeats(encode_texts(tokenizer, [first.text])[0])
    assert first.in_language is in_language(first.text, "ja")


class Scripted:
    """A decoder that reads anything and gives the logits of one token after the other."""

    def __init__(self, tokens: list[int], size: int) -> None:
        self._tokens, self._size = iter(tokens), size

    def memory(self, state: State) -> None:
        """There is none."""

    def freeze(self, _memory: None, tokens: int) -> State:
        return State(tokens=tokens)

    def read(self, pieces: list[Piece]) -> NDArray[np.float32]:
        logits = np.zeros((sum(piece.wanted for piece in pieces), self._size), np.float32)
        for row in logits:
            row[next(self._tokens)] = 1
        return logits


def scripted(monkeypatch: pytest.MonkeyPatch, tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    """Makes every session's model say `text` and end its turn."""
    tokens = [*encode_texts(tokenizer, [text])[0], end_of_turn_id(tokenizer)]
    monkeypatch.setattr("sioconv.generate.engine.pick_decoder", lambda _: Scripted(tokens, len(tokenizer)))


@pytest.mark.parametrize(
    ("text", "language", "no_repeat", "right"),
    [
        ("「みやぎけん」と読みます。", True, True, True),
        ("It is MIYAGI.", False, True, False),
        ("ふくしまけんです。" * 8, True, False, False),
        ("ﾐﾔｷﾞです。", True, True, False),
    ],
)
def test_what_is_said_of_known_answers(
    tiny_model: Pair, monkeypatch: pytest.MonkeyPatch, text: str, language: bool, no_repeat: bool, right: bool
) -> None:
    scripted(monkeypatch, tiny_model[1], text)
    [answer] = answer_questions(*tiny_model, [QUESTION], max_new_tokens=200)
    assert answer.text == text and answer.ended
    assert (answer.in_language, answer.no_repeat, answer.right) == (language, no_repeat, right)


def test_an_answer_that_is_cut_has_not_ended(tiny_model: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    scripted(monkeypatch, tiny_model[1], "ふくしまけんです。" * 8)
    [answer] = answer_questions(*tiny_model, [QUESTION], max_new_tokens=3)
    assert not answer.ended
