"""Questions put to a model, and what can be said of its answers without reading them."""

import re
from collections.abc import Sequence

from transformers import PreTrainedTokenizerFast

from sioconv.data.chat import encode
from sioconv.data.tokenizer.tokenizer import encode_texts
from sioconv.evaluate.figures import Answer
from sioconv.evaluate.questions import Question, is_right
from sioconv.generate import SamplingConfig, Session
from sioconv.model import SioConvForCausalLM
from sioconv.progress import track

KANA_OR_KANJI = re.compile(r"[\u3005\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]")
LATIN = re.compile(r"[A-Za-z]")
REPEATED = 8


def answer_questions(
    model: SioConvForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    questions: Sequence[Question],
    max_new_tokens: int = 96,
    what: str = "questions",
) -> list[Answer]:
    """Asks each question in a conversation of its own; always takes the likeliest token.

    Args:
        model: in eval mode.
        tokenizer: the model's tokenizer.
        questions: what to ask.
        max_new_tokens: an answer that hasn't ended by then is cut.
        what: the progress bar's name.

    Raises:
        UserError: the model's weights are broken.
    """
    sampling = SamplingConfig(temperature=0, max_new_tokens=max_new_tokens)
    return [_answer(model, tokenizer, question, sampling) for question in track(questions, what)]


def _answer(
    model: SioConvForCausalLM, tokenizer: PreTrainedTokenizerFast, question: Question, sampling: SamplingConfig
) -> Answer:
    session = Session(model, tokenizer)
    messages = [{"role": "user", "content": question.question}]
    session.feed(encode(tokenizer, messages, add_generation_prompt=True)[0])
    text = "".join(session.stream(sampling))
    return Answer(
        question=question.question,
        expected=question.answer,
        text=text,
        why=question.why,
        ended=session.stopped_by in ("eos", "end_of_turn"),
        in_language=in_language(text, question.language),
        no_repeat=not repeats(encode_texts(tokenizer, [text])[0]),
        right=is_right(question, text),
        judged=bool(question.key),
    )


def in_language(text: str, language: str) -> bool:
    """Whether the script of `text` is that of `language`.

    Japanese has kana or kanji, and at least as many of them as Latin letters; English has more Latin letters than other
    ones. Of another language only that there are letters can be told. Text without letters is in no language.
    """
    japanese, latin = len(KANA_OR_KANJI.findall(text)), len(LATIN.findall(text))
    if language == "ja":
        return japanese > 0 and japanese >= latin
    if language == "en":
        return latin > sum(map(str.isalpha, text)) / 2
    return any(map(str.isalpha, text))


def repeats(ids: Sequence[int], length: int = REPEATED) -> bool:
    """Whether some `length` tokens in a row come a second time, overlapping themselves or not."""
    grams = [tuple(ids[i : i + length]) for i in range(len(ids) - length + 1)]
    return len(set(grams)) < len(grams)
