"""Texts of a given form: whatever the weights, a text that ends by itself is what was asked for."""

import json
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from transformers import PreTrainedTokenizerFast

from sioconv.data.tokenizer.adopt import adopt_tokenizer
from sioconv.data.tokenizer.tokenizer import EOS
from sioconv.errors import UserError
from sioconv.generate import (
    Engine,
    Form,
    Grammar,
    Grammars,
    Request,
    Sampler,
    SamplingConfig,
    Session,
    Vocabulary,
    generate_text,
)
from sioconv.generate.texts import read_prompt, write_text, write_texts
from sioconv.model import SioConvForCausalLM
from tests.data.tokenizers_of_others import KINDS

TinyModel = tuple[SioConvForCausalLM, PreTrainedTokenizerFast]
PERSON = {
    "type": "object",
    "properties": {
        "名前": {"type": "string", "maxLength": 6},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "seas": {"type": "array", "items": {"enum": ["海", "川\n", 'a "b"']}, "maxItems": 3},
    },
    "required": ["名前", "age", "seas"],
    "additionalProperties": False,
}
LONG = SamplingConfig(max_new_tokens=300, seed=1)


@pytest.fixture(scope="module")
def grammars(tiny_model: TinyModel) -> Grammars:
    return Grammars(Vocabulary(tiny_model[1], tiny_model[0].config.vocab_size))


@pytest.fixture(scope="module")
def person(grammars: Grammars) -> Grammar:
    form = Form.of(schema=PERSON)
    assert form is not None
    return grammars.compile(form)


@pytest.fixture
def session(tiny_model: TinyModel) -> Session:
    session = Session(*tiny_model, seed=3)
    read_prompt(session, tiny_model[1], "川は")
    return session


def between(kind: str, names: tuple[str, str], low: int, high: int) -> st.SearchStrategy[dict[str, Any]]:
    """Schemas with a lower and an upper bound."""
    bounds = st.lists(st.integers(low, high), min_size=2, max_size=2).map(sorted)
    return bounds.map(lambda pair: {"type": kind, names[0]: pair[0], names[1]: pair[1]})


leaves = st.one_of(
    st.just({"type": "null"}),
    st.just({"type": "boolean"}),
    between("integer", ("minimum", "maximum"), -999, 999),
    between("number", ("minimum", "maximum"), -9, 9),
    between("string", ("minLength", "maxLength"), 0, 8),
    st.just({"type": "string", "pattern": "^[a-c川]{1,3}$"}),
    st.just({"type": "string", "format": "date"}),
    st.lists(st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=4)), min_size=1, max_size=3).map(
        lambda values: {"enum": values}
    ),
    st.text(max_size=5).map(lambda text: {"const": text}),
)


def deeper(schemas: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    names = st.text(min_size=1, max_size=4)
    return st.one_of(
        st.builds(
            lambda items, low, more: {"type": "array", "items": items, "minItems": low, "maxItems": low + more},
            schemas, st.integers(0, 2), st.integers(0, 2),
        ),
        st.builds(
            lambda properties, chance: {
                "type": "object",
                "properties": properties,
                "required": chance.sample(sorted(properties), chance.randint(0, len(properties))),
                "additionalProperties": False,
            },
            st.dictionaries(names, schemas, max_size=3), st.randoms(use_true_random=False),
        ),
        st.lists(schemas, min_size=1, max_size=3).map(lambda several: {"anyOf": several}),
    )  # fmt: skip


def scrambled(model: SioConvForCausalLM, seed: int) -> Callable[[], None]:
    """Gives the head other random weights; the result takes them back."""
    before = model.lm_head.bias.data.clone()
    generator = torch.Generator().manual_seed(seed)
    model.lm_head.bias.data = 6 * torch.randn(before.shape, generator=generator)

    def restore() -> None:
        model.lm_head.bias.data = before

    return restore


@given(st.recursive(leaves, deeper, max_leaves=5), st.integers(0, 2**32), st.sampled_from([0.0, 1.0, 3.0]))
@settings(max_examples=25)
def test_a_document_that_ended_by_itself_is_one_that_its_schema_allows(
    tiny_model: TinyModel, schema: dict[str, Any], seed: int, temperature: float
) -> None:
    restore = scrambled(tiny_model[0], seed)
    try:
        sampling = SamplingConfig(temperature=temperature, seed=seed, max_new_tokens=120, top_p=0.9, min_p=0.01)
        result = generate_text(*tiny_model, "川は", sampling, schema=schema)
    except UserError as error:
        assert "JSON schema" in str(error)  # a schema may ask for what can't be
        assert "no text is like that" in str(error) or "Unsatisfiable" in str(error)
        return
    finally:
        restore()
    if result.whole:
        assert result.stopped_by in ("complete", "eos", "end_of_turn", "length")
        Draft202012Validator(schema).validate(json.loads(result.text))
    else:
        assert result.stopped_by == "length"
        assert result.tokens == 120


@given(st.lists(st.text(min_size=1, max_size=6), min_size=1, max_size=5), st.integers(0, 2**32))
@settings(max_examples=30)
def test_a_choice_is_one_of_its_strings(tiny_model: TinyModel, choice: list[str], seed: int) -> None:
    result = generate_text(*tiny_model, "川は", SamplingConfig(seed=seed, temperature=2), choice=choice)
    assert result.whole
    assert result.text in choice


@pytest.mark.parametrize(
    "regex", ["[0-9]{3}-[0-9]{4}", "(は|ひ)[a-z]?川+海", "[^a]b{2}", r"\d\s\w", "^宮城.{1,3}$", "(?i)yes|no", "😀{2}|."]
)
def test_a_text_matches_its_expression_as_a_whole(tiny_model: TinyModel, regex: str) -> None:
    for seed in range(5):
        result = generate_text(*tiny_model, "川は", SamplingConfig(seed=seed, max_new_tokens=60), regex=regex)
        assert result.whole or result.stopped_by == "length"
        if result.whole:
            assert re.fullmatch(regex, result.text)


def test_only_tokens_with_bytes_and_those_that_end_a_text_are_allowed(
    tiny_model: TinyModel, grammars: Grammars
) -> None:
    vocabulary = Vocabulary(tiny_model[1], tiny_model[0].config.vocab_size)
    end = {vocabulary.eos, vocabulary.end_of_turn}
    anything = grammars.compile(Form("regex", r"[\s\S]*")).start
    allowed = set(np.flatnonzero(anything.copy().mask()).tolist())
    assert end <= allowed
    assert not allowed & set(vocabulary.banned.tolist())
    assert {i for i in range(vocabulary.size) if vocabulary.bytes_of(i)} - set(vocabulary.banned.tolist()) >= (
        allowed - end
    )
    one = grammars.compile(Form("regex", "ab?")).start.copy()
    assert not end & set(np.flatnonzero(one.mask()).tolist())
    (a,) = vocabulary.encode("a")
    one.accept(a)
    assert (one.whole, one.complete) == (True, False)
    assert end | set(vocabulary.encode("b")) == set(np.flatnonzero(one.mask()).tolist())
    nothing = grammars.compile(Form("regex", "")).start.copy()
    assert set(np.flatnonzero(nothing.mask()).tolist()) == end


def test_what_is_not_allowed_is_out_before_all_filters(tiny_model: TinyModel, grammars: Grammars) -> None:
    size = tiny_model[0].config.vocab_size
    vocabulary = Vocabulary(tiny_model[1], size)
    (b,) = vocabulary.encode("b")
    logits = np.arange(size, dtype=np.float32)[::-1].copy()
    logits[b] = -1000
    for sampling in (SamplingConfig(top_k=1), SamplingConfig(top_p=0.1), SamplingConfig(min_p=1, temperature=0.01)):
        constraint = grammars.compile(Form("regex", "bc")).start.copy()
        assert Sampler(sampling, 1, constraint=constraint).choose(logits) == b
        assert set(np.flatnonzero(constraint.mask()).tolist()) == set(vocabulary.encode("c"))


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_tokenizers_of_others_write_it_too(
    kind: Callable[..., Path], make_model: Callable[..., SioConvForCausalLM], tmp_path: Path
) -> None:
    tokenizer = adopt_tokenizer(str(kind(tmp_path / "others")), tmp_path / "own")
    model = make_model(tokenizer)
    for seed in range(3):
        result = generate_text(
            model, tokenizer, "a", SamplingConfig(max_new_tokens=200, seed=seed), choice=["川 a", "ab"]
        )
        assert result.text in ("川 a", "ab"), result


def test_requests_with_forms_get_what_they_get_alone(tiny_model: TinyModel, grammars: Grammars) -> None:
    model, tokenizer = tiny_model
    vocabulary = Vocabulary(tokenizer, model.config.vocab_size)
    chance = random.Random(5)
    forms = [Form.of(schema=PERSON), Form.of(regex="[0-9]{2,}x"), Form.of(choice=["川は", "海"]), None]
    requests = []
    for _ in range(10):
        form = chance.choice(forms)
        requests.append(
            Request(
                [vocabulary.bos, *vocabulary.encode("川は" * chance.randint(1, 9))],
                sampling=SamplingConfig(temperature=chance.choice([0, 1.0])),
                max_new_tokens=chance.randint(1, 60),
                seed=chance.randrange(2**32),
                n=chance.choice([1, 1, 3]),
                ending=(vocabulary.eos, vocabulary.end_of_turn),
                banned=vocabulary.banned,
                constraint=None if form is None else grammars.compile(form).start,
            )
        )
    engine, got = Engine(model, token_budget=40, max_texts=12), {}
    for i, request in enumerate(requests):
        engine.submit(request, got.setdefault(i, []).append)
        engine.step()
    while engine.step():
        pass
    for i, request in enumerate(requests):
        alone = [(event.branch, event.token, event.ended) for event in Engine(model).stream(request)]
        assert sorted(alone, key=lambda event: event[0]) == sorted(
            ((event.branch, event.token, event.ended) for event in got[i]), key=lambda event: event[0]
        )
        assert len({tuple(event[1:] for event in alone if event[0] == branch) for branch in range(request.n)}) >= (
            1 if request.sampling.temperature == 0 else min(request.n, 1)
        )


def test_a_form_that_cannot_be_followed_ends_its_text_alone(tiny_model: TinyModel, grammars: Grammars) -> None:
    class Broken:
        complete = False

        def copy(self) -> "Broken":
            return self

        def mask(self) -> Any:
            raise UserError("the form can't be followed: too complex: make it simpler")

        def accept(self, token: int) -> None: ...

    engine, got = Engine(tiny_model[0]), []
    engine.submit(Request([1, 2], constraint=Broken()), got.append)
    fine = Request([1, 2], constraint=grammars.compile(Form("regex", "ab")).start)
    assert [event.ended for event in engine.stream(fine)][-1] == "complete"
    assert got[-1].ended == "failed"
    assert "too complex" in str(got[-1].error)


@pytest.mark.parametrize("parts", [[1] * 9, [2, 7, 1], [30, 1]])
def test_a_document_that_was_cut_short_is_gone_on_with(
    session: Session, person: Grammar, tiny_model: TinyModel, tmp_path: Path, parts: list[int]
) -> None:
    whole = write_text(session.fork(), LONG, grammar=person)
    assert whole.whole
    text = ""
    for number, most in enumerate(parts):
        part = write_text(session, SamplingConfig(max_new_tokens=most), grammar=person)
        assert (part.stopped_by, part.whole) == ("length", False)
        text += part.text
        match number % 3:
            case 0:
                session = session.fork()
            case 1:
                session.save(tmp_path / "state")
                session = Session.load(tmp_path / "state", *tiny_model)
            case 2:
                session.rewind(tokens=0)
    assert text + write_text(session, LONG, grammar=person).text == whole.text


def test_forks_of_one_document_end_it_in_their_own_ways(session: Session, person: Grammar) -> None:
    begun = write_text(session, SamplingConfig(max_new_tokens=12), grammar=person).text
    forks = [session.fork(seed) for seed in range(6)]
    ends = [result.text for result in write_texts(forks, LONG, person)]
    assert len(set(ends)) > 1
    for end in ends:
        Draft202012Validator(PERSON).validate(json.loads(begun + end))


def test_going_back_into_a_document_goes_on_with_it(session: Session, person: Grammar) -> None:
    first = write_text(session, LONG, grammar=person)
    for back in (0, 1, 7, first.tokens, first.tokens + 1):
        other = session.fork()
        other.rewind(tokens=back)
        if back == 0:  # whole: another one begins
            Draft202012Validator(PERSON).validate(json.loads(write_text(other, LONG, grammar=person).text))
            continue
        rest = write_text(other, LONG, grammar=person).text
        if back <= first.tokens:
            assert first.text.endswith(rest)
        else:
            Draft202012Validator(PERSON).validate(json.loads(rest))
    session.feed([5])
    session.rewind(tokens=8)  # what was fed, and seven tokens of the document
    assert first.text.endswith(write_text(session, LONG, grammar=person).text)


def test_a_new_document_begins_after_a_feed_another_form_or_free_text(
    session: Session, person: Grammar, grammars: Grammars
) -> None:
    short, digits = SamplingConfig(max_new_tokens=3), grammars.compile(Form("regex", "[0-9]{2}"))

    def whole(session: Session) -> None:
        Draft202012Validator(PERSON).validate(json.loads(write_text(session, LONG, grammar=person).text))

    write_text(session, short, grammar=person)
    fed, other, free, closed = (session.fork() for _ in range(4))
    fed.feed([session.vocabulary.encode("a")[0]])
    whole(fed)
    assert re.fullmatch("[0-9]{2}", write_text(other, LONG, grammar=digits).text)
    whole(other)
    write_text(free, short)
    whole(free)
    closed.end_turn()
    whole(closed)


def test_half_a_character_before_it_is_no_part_of_a_document(session: Session, person: Grammar) -> None:
    session._text.push("川".encode()[:2])
    assert session._text.pending
    assert json.loads(write_text(session, LONG, grammar=person).text)


def test_a_stop_string_says_that_the_document_is_not_whole(session: Session, person: Grammar) -> None:
    result = write_text(session, SamplingConfig(max_new_tokens=300, stop=["age"]), grammar=person)
    assert (result.stopped_by, result.whole) == ("stop", False)
    assert result.text.endswith('"')


def test_a_text_that_may_end_but_need_not_is_whole_at_any_length(session: Session, grammars: Grammars) -> None:
    result = write_text(session, SamplingConfig(max_new_tokens=4), grammar=grammars.compile(Form("regex", "[a-z]+")))
    assert (result.stopped_by, result.whole) == ("length", True)
    free = write_text(session, SamplingConfig(max_new_tokens=4))
    assert free.whole is None


def test_a_model_that_wants_to_end_may_do_so_only_where_the_document_is_whole(
    session: Session, person: Grammar, grammars: Grammars
) -> None:
    eager = SamplingConfig(max_new_tokens=300, logit_bias={session.vocabulary.eos: 1e4})
    assert write_text(session.fork(), eager, grammar=person).whole
    result = write_text(session, eager, grammar=grammars.compile(Form("regex", "a[b-z]*")))
    assert (result.tokens, result.stopped_by, result.whole) == (2, "eos", True)
    assert EOS not in result.text


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"schema": '{"type":'}, "the schema is not JSON"),
        ({"schema": "[1]"}, "the schema is a list"),
        ({"schema": "[" * 100_000}, "the schema is not JSON"),
        ({"schema": {"type": "nonsense"}}, "Invalid type"),
        ({"schema": "false"}, "the schema is a bool"),
        ({"schema": {"type": "integer", "minimum": 5, "maximum": 3}}, "minimum (5) is greater"),
        ({"schema": {"not": {"type": "string"}}}, "Unimplemented keys"),
        ({"schema": {"$ref": "http://example.com/x"}}, "example.com"),
        ({"schema": {"$ref": "file:///etc/passwd"}}, "passwd"),
        ({"schema": {"type": "string", "pattern": "("}}, "unclosed group"),
        ({"regex": "[0-9"}, "unclosed character class"),
        ({"regex": "(?=a)b"}, "look-around"),
        ({"regex": r"(a)\1"}, "backreferences"),
        ({"regex": r"[^\s\S]"}, "no text is like that"),
        ({"regex": "a\ud800"}, "not text"),
        ({"choice": ["a", ""]}, "a choice is empty"),
        ({"choice": ["a"], "regex": "a"}, "one form"),
    ],
)
def test_forms_that_cannot_be_are_refused_in_one_line(
    tiny_model: TinyModel, given: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError) as refused:
        generate_text(*tiny_model, "川は", LONG, **given)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 400


def test_a_schema_that_no_document_can_meet_never_gives_one(tiny_model: TinyModel) -> None:
    endless = {"$defs": {"a": {"type": "array", "minItems": 1, "items": {"$ref": "#/$defs/a"}}}, "$ref": "#/$defs/a"}
    with pytest.raises(UserError, match=r"the form can't be followed: .*make it simpler"):
        generate_text(*tiny_model, "川は", SamplingConfig(max_new_tokens=50), schema=endless)


def test_grammars_keep_what_they_compiled(grammars: Grammars) -> None:
    assert grammars.compile(Form("regex", "a{3}")) is grammars.compile(Form("regex", "a{3}"))
