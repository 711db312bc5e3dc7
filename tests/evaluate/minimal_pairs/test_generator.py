import re

import pytest

from sioconv.errors import UserError
from sioconv.evaluate.minimal_pairs.generator import LANGUAGES, make_pairs

each_language = pytest.mark.parametrize("language", LANGUAGES)


@each_language
def test_a_language_has_at_least_a_thousand_different_pairs(language: str) -> None:
    pairs = make_pairs(language)
    assert len(pairs) >= 1000 and len(set(pairs)) == len(pairs)
    names = [pair.phenomenon for pair in pairs]
    assert all(names.count(name) == 100 for name in set(names)) and len(set(names)) >= 10


@each_language
def test_the_sentences_of_a_pair_differ_and_are_nearly_as_long(language: str) -> None:
    pairs = make_pairs(language)
    right = {pair.good for pair in pairs}
    for pair in pairs:
        assert pair.good != pair.bad and pair.bad not in right, pair
        assert abs(len(pair.good) - len(pair.bad)) <= max(4, len(pair.good) // 4), pair
        assert not re.search(r"[{}]|  ", pair.good + pair.bad), pair
        assert pair.good[-1] == pair.bad[-1] and pair.good[-1] in "。.?", pair


@each_language
def test_the_longer_sentence_is_wrong_about_as_often_as_the_shorter_one(language: str) -> None:
    """A model that only likes short sentences stays near chance."""
    pairs = make_pairs(language)
    liked = sum((len(pair.good) < len(pair.bad)) + 0.5 * (len(pair.good) == len(pair.bad)) for pair in pairs)
    assert 0.4 < liked / len(pairs) < 0.6


@each_language
def test_the_seed_decides_the_pairs(language: str) -> None:
    first = make_pairs(language, 20, 1)
    assert make_pairs(language, 20, 1) == first != make_pairs(language, 20, 2)


def test_some_known_pairs() -> None:
    pairs = {(pair.good, pair.bad) for language in LANGUAGES for pair in make_pairs(language, 100, 0)}
    assert any(good.endswith("しか読みません。") and bad.endswith("しか読みます。") for good, bad in pairs)
    assert any(
        re.fullmatch("猫が.匹いた。", good) and re.fullmatch("猫が.[本枚台冊]いた。", bad) for good, bad in pairs
    )
    assert any(re.fullmatch(r"\w+ \w+ an egg\.", good) and " a egg" in bad for good, bad in pairs)


GOOD = {  # what a reader may take for a right sentence
    "ja": {
        "particle_place": "[にを].*(歌った|踊った|笑った|泣いた)|に(手紙|花|絵)を|を[^を]+(勉強|料理)した",
        "honorific": "(先生|社長|部長|院長|会長|監督|教授|市長)が.*します",  # humble, of one's own side
        "counter": "^魚|いる。$",  # 三本 of long fish; 要る
        "animacy": "がいる。$",  # 要る
    },
    "en": {
        "agreement_past_clause": r"who (sees|helps|knows|hears|lets|makes) the \w+ \w+\.$",
        "form_of_verb": r" (can|will|must|should|may|might) (saw|found|felt|left)\b",  # other verbs' first forms
    },
}


@each_language
def test_no_wrong_sentence_is_right_in_another_reading(language: str) -> None:
    for pair in make_pairs(language, 100, 0) + make_pairs(language, 100, 1):
        pattern = GOOD[language].get(pair.phenomenon)
        assert pattern is None or not re.search(pattern, pair.bad), pair


@each_language
def test_no_right_sentence_contradicts_itself(language: str) -> None:
    for pair in make_pairs(language, 100, 0):
        assert pair.phenomenon != "tense" or "every day" not in pair.good, pair


def test_the_right_sentences_of_a_phenomenon_are_many() -> None:
    good = {pair.good for pair in make_pairs("ja", 100, 0) if pair.phenomenon == "honorific"}
    assert len(good) >= 75


def test_more_pairs_than_the_words_give_are_refused() -> None:
    with pytest.raises(UserError, match="different pairs: ask for fewer"):
        make_pairs("en", 3000)


def test_more_pairs_than_there_are_end_at_once() -> None:
    with pytest.raises(UserError, match=r"the words give \d+ different pairs: ask for fewer"):
        make_pairs("ja", 10**16)
