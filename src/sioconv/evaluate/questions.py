"""Questions with known answers, put to a finished model: some that it was tuned on, some that it never saw."""

import random
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain, islice, zip_longest
from typing import Literal

from sioconv.data.cleaning.splits import read_split
from sioconv.data.config import SourceConfig
from sioconv.data.documents import Row
from sioconv.data.sources.source import read_rows

CITY = re.compile(r"(.+?市)\((.+?)\)は、(.+?)にある市である。")
GAZETTEER = SourceConfig("bundled:gazetteer_ja")
JAPANESE = re.compile("[\u3040-\u30ff\u3400-\u9fff]")
MOST_OWN = 1000  # questions of the user's own from which some are asked
MOST_PLACES = 64  # that are looked for in every row, to find some that none names

# Wordings that no row of the bundled conversations has, by what is asked and language.
PLACE_PARAPHRASES = {
    ("reading", "ja"): (
        "「{about}」の読みをひらがなで教えてください。",
        "{about}という地名は何と読むのですか？",
        "「{about}」は何て読めばいいですか？",
    ),
    ("prefecture", "ja"): (
        "{about}がどの都道府県にあるか教えてください。",
        "{about}は日本のどこにありますか？",
        "{about}の所在地はどの都道府県ですか？",
    ),
    ("towns", "ja"): ("{about}の市の名前を三つ教えてください。", "{about}にある市の例を挙げてください。"),
}
IDENTITY_PARAPHRASES = {
    ("name", "ja"): ("あなたの名前を知りたいです。", "あなたは何という名前ですか？", "ところで、名前は何ですか？"),
    ("who", "ja"): ("簡単に自己紹介をしてもらえますか？", "あなたはいったい誰なの？"),
    ("human", "ja"): ("あなたは生きている人間なのですか？",),
    ("program", "ja"): ("あなたの正体はAIですか？",),
    ("maker", "ja"): ("あなたはどのようにして生まれたのですか？", "だれに作ってもらったの？"),
    ("mechanism", "ja"): ("あなたの動く仕組みを式で説明してください。",),
    ("ability", "ja"): ("あなたはどんなことができますか？",),
    ("call", "ja"): ("{name}、聞こえますか？",),
    ("name", "en"): ("Could you tell me your name?", "What are you called?", "By the way, what is your name?"),
    ("who", "en"): ("Could you introduce yourself, please?", "Tell me who you are."),
    ("human", "en"): ("Am I talking to a human being?",),
    ("program", "en"): ("So you are an AI, right?",),
    ("maker", "en"): ("Where do you come from? Who made you?", "By whom were you made?"),
    ("mechanism", "en"): ("Which formula does your memory follow?",),
    ("ability", "en"): ("Tell me what you can do.",),
    ("call", "en"): ("{name}, can you hear me?",),
}


@dataclass(frozen=True)
class Question:
    """One question.

    Args:
        question: what the user says.
        answer: the reference answer; for an unseen place it is built as the trained ones are.
        key: strings one of which a right answer contains.
        language: ja or en.
        kind: `seen` stands word for word in the training rows, `unseen` doesn't.
        why: what it probes: trained place, identity, trained question, paraphrase, unseen place, identity paraphrase.
    """

    question: str
    answer: str
    key: tuple[str, ...]
    language: str
    kind: Literal["seen", "unseen"]
    why: str


@dataclass(frozen=True)
class Fact:
    """What one or more single questions of the training rows are on."""

    about: str
    relation: str
    language: str


@dataclass
class Training:
    """What the training rows ask, what those of the user's own begin with, and which places they don't name."""

    questions: dict[Fact, list[Question]] = field(default_factory=lambda: defaultdict(list))
    own: dict[str, Question] = field(default_factory=dict)
    asked: set[str] = field(default_factory=set)
    unnamed: dict[str, tuple[str, str]] = field(default_factory=dict)


def build_questions(
    chat_sources: Mapping[str, SourceConfig], heldout: float, name: str, n: int = 20, seed: int = 0
) -> list[Question]:
    """Up to `n` seen and up to `n` unseen questions; a pure function of its arguments and the sources' content.

    Seen ones are single questions of the training split whose row has a `key`, and up to a half of them questions of
    the user's own conversations. Unseen ones are first those of the
    user's own held-out conversations, then other wordings of the
    same facts as far as they go, other wordings of questions on the model, whose name is `name`, and trained questions
    on cities that no training row names; none of them is asked in a training row. There are fewer where the sources
    don't give them.
    """
    dice = random.Random(seed)
    training = Training(unnamed=_cities(dice))
    for source in chat_sources.values():
        for row in read_split(source, "train", source.heldout_or(heldout)):
            _take(row, training, source.origin == "files")
    facts = list(training.questions)
    dice.shuffle(facts)
    seen: dict[str, list[Question]] = defaultdict(list)
    unseen: dict[str, list[Question]] = defaultdict(list)
    for fact in facts:
        group = f"{fact.relation if fact.about else ''} {fact.language}"
        seen[group].append(dice.choice(training.questions[fact]))
        unseen[group] += _paraphrases(fact, training, name, dice)
    for relation, at in (("prefecture", 1), ("reading", 0)):
        unseen[f"unseen {relation}"] += _on_unnamed(relation, at, training, dice)
    own = list(islice(_held_out(chat_sources, heldout, training), n))
    said = list(training.own.values())
    said = dice.sample(said, min(len(said), n - n // 2))
    return [*said, *_deal(seen.values(), n - len(said)), *own, *_deal(unseen.values(), n - len(own))]


def _held_out(sources: Mapping[str, SourceConfig], heldout: float, training: Training) -> Iterator[Question]:
    """First questions of held-out conversations of files; what a right answer to them holds isn't known."""
    for source in sources.values():
        if source.origin != "files":
            continue
        for row in read_split(source, "heldout", source.heldout_or(heldout)):
            if (found := _first_question(row)) and found[0] not in training.asked:
                yield Question(*found, (), _language(row), "unseen", "held-out question")


def _first_question(row: Row) -> tuple[str, str] | None:
    """What a conversation begins with and the reply; None where the user doesn't begin."""
    turns = [message for message in row.messages or [] if message["role"] != "system"][:2]
    asked = [turn["role"] for turn in turns] == ["user", "assistant"]
    return (turns[0]["content"], turns[1]["content"]) if asked else None


def _language(row: Row) -> str:
    """The language of what is replied."""
    return "ja" if JAPANESE.search(row.texts[-1]) else "en"


def is_right(question: Question, reply: str) -> bool:
    """Whether the reply contains one of the question's keys, both in Unicode's compatibility form (NFKC)."""
    said = unicodedata.normalize("NFKC", reply)
    return any(unicodedata.normalize("NFKC", key) in said for key in question.key)


def _cities(dice: random.Random) -> dict[str, tuple[str, str]]:
    """Reading and prefecture of some cities of the gazetteer whose name no other place shares."""
    entries = [match.groups() for row in read_rows(GAZETTEER) if (match := CITY.match(row.text or ""))]
    names = [name for name, _, _ in entries]
    unique = [entry for entry in entries if names.count(entry[0]) == 1]
    chosen = dice.sample(unique, min(MOST_PLACES, len(unique)))
    return {name: (reading, prefecture) for name, reading, prefecture in chosen}


def _take(row: Row, training: Training, is_own: bool) -> None:
    """Notes what a training row asks and which places it names."""
    messages = row.messages or []
    training.asked |= {message["content"] for message in messages if message["role"] == "user"}
    text = "\n".join(row.texts)
    for city in [city for city in training.unnamed if city in text]:
        del training.unnamed[city]
    key = row.extra.get("key")
    keys = (key,) if isinstance(key, str) else tuple(key) if isinstance(key, list) else ()
    if is_own and not keys and (found := _first_question(row)) and len(training.own) < MOST_OWN:
        question, answer = found
        training.own.setdefault(question, Question(question, answer, (), _language(row), "seen", "trained question"))
    single = [message["role"] for message in messages] == ["user", "assistant"]
    if not single or not keys or not all(isinstance(part, str) and part for part in keys):
        return
    about, relation, language = (str(row.extra.get(part, "")) for part in ("about", "relation", "language"))
    why = "trained place" if about else "identity" if relation else "trained question"
    question, answer = row.texts
    fact = Fact(about, relation or question, language)
    training.questions[fact].append(Question(question, answer, keys, language, "seen", why))


def _paraphrases(fact: Fact, training: Training, name: str, dice: random.Random) -> Iterator[Question]:
    """The question on a trained fact in wordings that no training row has: one of them on a place, all on the model."""
    known = training.questions[fact][0]
    asked = (fact.relation, fact.language)
    if fact.about:
        wordings = [wording.format(about=fact.about) for wording in PLACE_PARAPHRASES.get(asked, ())]
        dice.shuffle(wordings)
        new = [wording for wording in wordings if wording not in training.asked][:1]
        why = "paraphrase"
    else:
        wordings = [wording.format(name=name) for wording in IDENTITY_PARAPHRASES.get(asked, ())]
        new = [wording for wording in wordings if wording not in training.asked]
        why = "identity paraphrase"
    for wording in new:
        yield Question(wording, known.answer, known.key, fact.language, "unseen", why)


def _on_unnamed(relation: str, at: int, training: Training, dice: random.Random) -> Iterator[Question]:
    """Trained questions of one relation, on cities that no training row names; `at` finds the answer's key."""
    models = [(fact, asked) for fact, asked in training.questions.items() if fact.relation == relation and fact.about]
    for city, facts in training.unnamed.items() if models else ():
        fact, asked = dice.choice(models)
        model, key = dice.choice(asked), facts[at]
        question = model.question.replace(fact.about, city)
        answer = model.answer.replace(fact.about, city).replace(model.key[0], key)
        if question not in training.asked:
            yield Question(question, answer, (key,), model.language, "unseen", "unseen place")


def _deal(groups: Iterable[list[Question]], n: int) -> list[Question]:
    """The first `n` questions when the groups give one each in turn."""
    dealt = chain.from_iterable(zip_longest(*groups))
    return [question for question in dealt if question is not None][:n]
