import pytest

from sioconv.errors import UserError
from sioconv.evaluate.parts.writing import figures_of, is_closed, measure_writing, stop_ids, that_fits, write
from sioconv.evaluate.subject import Subject
from sioconv.generate import SamplingConfig
from sioconv.generate.texts import continue_ids

DOCUMENTS = [
    "川は山から海へ流れる。海の水は空へ昇り、雨になって山へ帰る。川は、また海へ流れる。",
    "宮城県は、東北地方にある県である。県庁の所在地は、人口が東北で最も多い仙台市である。",
]


@pytest.mark.parametrize(
    ("text", "closed"),
    [("「川」と（山）", True), ("「川『海』」", True), ("", True), ("「川", False), ("川」", False), ("「川）", False),
     ("(a [b)]", False)],
)  # fmt: skip
def test_brackets(text: str, closed: bool) -> None:
    assert is_closed(text) is closed


def test_what_is_counted() -> None:
    found = figures_of(["a b c d a b c d", "the 川 \ufffd", "「x"])
    assert found["repetition"] == pytest.approx(1 / 5 / 1)  # abcd, bcda, cdab, dabc, abcd; the others are too short
    assert found["distinct_1"] == pytest.approx(9 / 13)  # a b c d, the 川 U+FFFD, 「 x
    assert found["distinct_2"] == pytest.approx(7 / 10)
    assert found["broken"] == found["unclosed"] == pytest.approx(1 / 3)
    assert figures_of(["", "a"])["repetition"] is None and figures_of([""])["distinct_1"] is None


def test_both_kinds_of_models_write_by_the_seed(subject: Subject) -> None:
    sampling = SamplingConfig(temperature=0.8, top_p=0.95, max_new_tokens=8)
    first, again, other = (list(write(subject, ["川は", "The"], sampling, seed)) for seed in (1, 1, 5))
    assert first == again != other and len(first) == 2
    assert list(write(subject, ["The"], sampling, 2)) == first[1:]  # the second text has the second seed


def test_a_text_that_ends_by_itself(stranger: Subject) -> None:
    assert stop_ids(stranger.model, stranger.tokenizer) == [stranger.tokenizer.eos_token_id]
    settings = stranger.model.generation_config
    assert settings is not None
    sampling = SamplingConfig(temperature=0, max_new_tokens=4)
    prompt = stranger.encode(["The river"])[0]
    [first, *_] = continue_ids(stranger.model, prompt, sampling, [])
    kept, settings.eos_token_id = settings.eos_token_id, first
    try:
        [written] = write(stranger, ["The river"], sampling, 0)
    finally:
        settings.eos_token_id = kept
    assert written.ended and len(written.text) <= len(stranger.tokenizer.decode([first]))


def test_a_person_is_measured_beside_on_as_much_text(ours: Subject) -> None:
    found = measure_writing(ours, {"ja": DOCUMENTS, "en": ["too short"]}, 5, 6, 0)
    assert set(found) == {"ja"} and found["ja"]["texts"] == 5
    assert set(found["ja"]["model"]) == {*found["ja"]["human"], "ended"}
    assert found["ja"]["human"]["broken"] == 0 and found == measure_writing(ours, {"ja": DOCUMENTS}, 5, 6, 0)


def test_no_text_is_longer_than_the_positions_of_a_model(stranger: Subject, capsys: pytest.CaptureFixture[str]) -> None:
    found = measure_writing(stranger, {"ja": DOCUMENTS}, 2, 96, 0)
    assert found["ja"]["texts"] == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "has positions for 64 tokens: it writes" in said and said.count("new ones at most") == 1
    with pytest.raises(UserError, match=r"a prompt has \d+ tokens .* positions for 64 in all"):
        that_fits(stranger, ["川は海へ流れる。" * 20], SamplingConfig(), "pfgen-bench")
