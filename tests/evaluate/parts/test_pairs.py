import pytest

from sioconv.evaluate.bits import document_nats
from sioconv.evaluate.minimal_pairs.generator import Pair, make_pairs
from sioconv.evaluate.parts.pairs import measure_pairs, score
from sioconv.evaluate.subject import Subject


def test_the_likelier_sentence_is_the_answer(subject: Subject) -> None:
    pairs = make_pairs("en", 3)[:12]
    right = []
    for pair in pairs:
        nats = dict(document_nats(subject.model, subject.encode([pair.good, pair.bad])))
        right.append(nats[0] < nats[1])
    found = score(subject, pairs, "en")
    assert found["accuracy"] == pytest.approx(sum(right) / 12) and found["pairs"] == 12 and found["chance"] == 0.5
    assert [row["accuracy"] for row in found["phenomena"].values()] == [
        pytest.approx(sum(right[i : i + 3]) / 3) for i in range(0, 12, 3)
    ]


def test_equal_sentences_are_half_right_and_that_is_said(ours: Subject, capsys: pytest.CaptureFixture[str]) -> None:
    score(ours, make_pairs("ja", 1)[:3], "ja")
    assert "warning" not in capsys.readouterr().err
    found = score(ours, [Pair("none", "川。", "川。")] * 4, "ja")
    assert "4 of 4 are one sentence to the tokenizer" in capsys.readouterr().err
    assert found["accuracy"] == 0.5 and found["interval"] == pytest.approx((0.15, 0.85), abs=0.01)


def test_both_languages_are_measured(ours: Subject) -> None:
    found = measure_pairs(ours, 2, 0)
    assert set(found) == {"ja", "en"}
    for each in found.values():
        assert each["pairs"] == 2 * len(each["phenomena"]) >= 20
        assert 0 <= each["interval"][0] <= each["accuracy"] <= each["interval"][1] <= 1
