"""sioconv.data.cleaning.ngrams, minhash, dedup: what is the same is found, what isn't is kept."""

import random
from pathlib import Path

import numpy as np
import pytest
from datatrove.data import Document
from hypothesis import given
from hypothesis import strategies as st

from sioconv.data.cleaning.config import Cleaning, NearDuplicates
from sioconv.data.cleaning.dedup import DuplicateFilter, DuplicateFinder, SignatureWriter
from sioconv.data.cleaning.minhash import MINIMA, Minima, earliest, equal_pairs, near_pairs, signature
from sioconv.data.cleaning.ngrams import compared, ngram_hashes, ngram_pieces
from sioconv.data.config import SourceConfig
from sioconv.data.sources.source import read_rows

BOTH = Cleaning(duplicates=True, near_duplicates=NearDuplicates())


@given(st.text(st.characters(exclude_categories=["Cs"])), st.integers(1, 30))
def test_ngrams_are_the_same_where_their_characters_are(text: str, length: int) -> None:
    grams = [text[start : start + length] for start in range(len(text) - length + 1)]
    hashes = ngram_hashes(text, length).tolist()
    assert len(hashes) == len(grams)
    assert len(set(hashes)) == len(set(grams))
    assert dict(zip(grams, hashes, strict=True)) == {gram: ngram_hashes(gram, length)[0] for gram in grams}
    assert [hash for piece in ngram_pieces(text, length, 3) for hash in piece.tolist()] == hashes


def test_hashes_are_what_they_were() -> None:
    assert ngram_hashes("海は広い", 3).tolist() == [8260457556283887925, 2820910231920744779]
    assert signature("海は広いな大きいな", 5)[:3].tolist() == [232554376, 633897190, 557407980]


def test_spelling_is_not_compared() -> None:
    assert compared("Ａ級、 ﾃｽﾄ_x\n!") == "a級テストx"


@given(st.lists(st.integers(0, 9), max_size=40))
def test_equal_values_are_paired(values: list[int]) -> None:
    pairs = equal_pairs(np.array(values, np.uint64).view("V8")) if values else np.empty((0, 2), np.int64)
    original = earliest(len(values), pairs)
    assert original.tolist() == [values.index(value) for value in values]


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), max_size=40))
def test_joined_documents_have_one_original(pairs: list[tuple[int, int]]) -> None:
    groups = [{number} for number in range(31)]
    for one, other in pairs:
        joined = groups[one] | groups[other]
        for number in joined:
            groups[number] = joined
    found = earliest(31, np.array(pairs, np.int64).reshape(-1, 2))
    assert found.tolist() == [min(group) for group in groups]


def test_minima_estimate_what_two_texts_share() -> None:
    text = "".join(chr(0x4E00 + random.Random(0).randrange(20_000)) for _ in range(1)) + "".join(
        chr(0x4E00 + number * 7919 % 20_000) for number in range(3_000)
    )
    other = text[:2_000] + "".join(chr(0x4E00 + number * 104_729 % 20_000) for number in range(1_000))
    one, two = (set(ngram_hashes(each, 5).tolist()) for each in (text, other))
    share = len(one & two) / len(one | two)
    estimate = float(np.mean(signature(text, 5) == signature(other, 5)))
    assert abs(estimate - share) < 4 * (share * (1 - share) / MINIMA) ** 0.5


def test_texts_of_any_length_have_a_signature() -> None:
    for text in ("", "。", "海", "海は"):
        assert np.array_equal(signature(text, 5), signature(text, 5))
    assert not np.array_equal(signature("海", 5), signature("山", 5))
    assert not np.array_equal(signature("。", 5), signature("、", 5))


def dropped(folder: Path, tasks: list[list[str]], cleaning: Cleaning) -> list[list[tuple[int, str, str]]]:
    """Place, kind and original of what each task drops."""
    for task, texts in enumerate(tasks):
        documents = [Document(text, f"{task}:{number}") for number, text in enumerate(texts)]
        SignatureWriter(folder / "s", cleaning).run(documents, rank=task)
    list(DuplicateFinder(folder / "s", folder / "d", len(tasks), cleaning).run())
    verdicts = []
    for task, texts in enumerate(tasks):
        filter = DuplicateFilter(folder / "s", folder / "d", task)
        kinds = {number: filter.kind(number) for number in range(len(texts))}
        verdicts.append([(number, kind, filter.repeats(number)) for number, kind in kinds.items() if kind is not None])
    return verdicts


def test_the_first_one_is_kept_over_all_tasks(tmp_path: Path) -> None:
    long = "川は山から海へ流れる。海の水は空へ昇り、雨になって山へ帰る。" + "".join(map(chr, range(0x4E00, 0x4F00)))
    tasks = [["a", long, "a"], [], ["b", "a", long + "！"], [long[:-9] + "とも言う。"]]
    expected = [
        [(2, "duplicates", "0:0")],
        [],
        [(1, "duplicates", "0:0"), (2, "near_duplicates", "0:1")],
        [(0, "near_duplicates", "0:1")],
    ]
    assert dropped(tmp_path / "both", tasks, BOTH) == expected
    exact = [[part for part in task if part[1] == "duplicates"] for task in expected]
    assert dropped(tmp_path / "exact", tasks, Cleaning(duplicates=True)) == exact
    near = [[(place, "near_duplicates", original) for place, _, original in task] for task in expected]
    assert dropped(tmp_path / "near", tasks, Cleaning(near_duplicates=NearDuplicates())) == near


def edited(text: str, share: float, random: random.Random) -> str:
    """The text with `share` of its characters changed, in places of eight characters."""
    letters = list(text)
    for _ in range(max(1, int(len(text) * share / 8))):
        place = random.randrange(len(letters))
        letters[place : place + 8] = random.choice(["追記しました", "（改訂）", "edited ", "", "XYZ 12"])
    return "".join(letters)


@pytest.mark.parametrize("name", ["manuals_ja", "sentences_ja", "gazetteer_ja", "sentences_en", "prose_en"])
def test_planted_near_duplicates_are_found_and_real_text_kept(tmp_path: Path, name: str) -> None:
    chance = random.Random(0)
    texts = [row.text or "" for row in read_rows(SourceConfig(f"bundled:{name}"))][:1000]
    copies = [edited(text, 0.05, chance) for text in texts[:200]]
    real, planted = dropped(tmp_path, [texts, copies], BOTH)
    assert len(real) <= 0.01 * len(texts)
    assert len(planted) >= 0.95 * len(copies)
    right = [original == f"0:{place}" for place, _, original in planted]
    assert sum(right) >= 0.99 * len(right)


def test_similar_is_not_the_same(tmp_path: Path) -> None:
    """Half of the n-grams in common is far from the threshold, but often enough to meet in a band."""
    chance = random.Random(1)

    def text(length: int) -> str:
        return "".join(chr(0x4E00 + chance.randrange(20_000)) for _ in range(length))

    pairs = [(head + text(100), head + text(100)) for head in (text(200) for _ in range(100))]
    minima = np.stack([signature(part, 5) for pair in pairs for part in pair])
    minima.tofile(tmp_path / "minima")
    found = near_pairs(Minima([tmp_path / "minima"], np.array([0, 200])), NearDuplicates())
    assert len(found) <= 1
    lenient = near_pairs(Minima([tmp_path / "minima"], np.array([0, 200])), NearDuplicates(threshold=0.1))
    assert len(np.unique(lenient[:, 1])) > 10  # so they were compared
