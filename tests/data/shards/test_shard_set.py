"""What is written comes back, and what was damaged is refused."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sioconv.checksums import write_sealed
from sioconv.data.shards.shard_set import MANIFEST, ShardSet
from sioconv.data.shards.writer import task_writer, token_type
from sioconv.errors import UserError

MakeShards = Callable[..., ShardSet]
documents = st.lists(st.lists(st.integers(0, 65535), min_size=1, max_size=9), max_size=5)


@given(st.lists(documents, min_size=1, max_size=4), st.booleans(), st.data())
def test_a_set_is_its_documents_in_the_order_of_the_tasks(
    make_shards: MakeShards, tasks: list[list[list[int]]], masked: bool, data: st.DataObject
) -> None:
    masks = [[[token % 2 for token in ids] for ids in task] for task in tasks] if masked else None
    shards = make_shards(tasks, masks)
    shards.verify()
    expected = [ids for task in tasks for ids in task]
    tokens = [token for ids in expected for token in ids]
    ends = np.cumsum([len(ids) for ids in expected], dtype=np.int64)
    learned = [token % 2 if masked else 1 for token in tokens]
    assert (shards.tokens_total, shards.documents_total) == (len(tokens), len(expected))
    assert shards.bytes_total == 3 * len(expected)
    assert shards.document_ends.tolist() == ends.tolist()
    start, stop = sorted(data.draw(st.tuples(*[st.integers(0, len(tokens))] * 2)))
    assert shards.slice(start, stop).tolist() == tokens[start:stop]
    assert shards.mask_slice(start, stop).tolist() == learned[start:stop]
    begins = [0, *ends[:-1].tolist()] if expected else []
    assert shards.document_starts(start, stop).tolist() == [place for place in begins if start <= place < stop]
    for number, ids in enumerate(expected):
        found, mask = shards.document(number)
        assert found.tolist() == ids
        assert mask.tolist() == learned[ends[number] - len(ids) : ends[number]]


def test_large_vocabularies_take_four_bytes(make_shards: MakeShards) -> None:
    assert [token_type(size) for size in (65536, 65537)] == ["uint16", "uint32"]
    shards = make_shards([[[65536, 1]]], dtype="uint32")
    assert shards.slice(0, 2).tolist() == [65536, 1]
    assert (shards.folder / "00000.ds").stat().st_size == 8


def test_places_outside_are_programming_errors(make_shards: MakeShards) -> None:
    shards = make_shards([[[1, 2], [3]]])
    for start, stop in ((-1, 1), (2, 1), (0, 4)):
        for read in (shards.slice, shards.mask_slice, shards.document_starts):
            with pytest.raises(ValueError, match="expected"):
                read(start, stop)
    for number in (-1, 2):
        with pytest.raises(IndexError):
            shards.document(number)


def test_an_error_while_writing_leaves_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    with pytest.raises(OverflowError), task_writer(folder, 0, "uint16", False, tmp_path / "facts") as writer:
        writer.write([[1, 2]], None, 2)
        writer.write([[70_000]], None, 2)
    assert not list(folder.iterdir())
    assert not (tmp_path / "facts").exists()


def test_a_folder_may_be_a_string(make_shards: MakeShards) -> None:
    folder = make_shards([[[1, 2]]]).folder
    assert ShardSet.open(str(folder)).tokens_total == 2


def test_another_tokenizers_shards_are_refused(make_shards: MakeShards) -> None:
    shards = make_shards([[[1]]], sha256="abc")
    assert ShardSet.open(shards.folder).tokens_total == 1
    with pytest.raises(UserError, match="another tokenizer"):
        ShardSet.open(shards.folder, "def")


def test_only_listed_files_are_opened(make_shards: MakeShards) -> None:
    shards = make_shards([[[1, 2]]])
    (shards.folder / "00001.ds").write_bytes(b"other")
    assert ShardSet.open(shards.folder).tokens_total == 2


def shorten(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def lengthen(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0\0")


@pytest.mark.parametrize("suffix", [".ds", ".ds.index", ".ds.mask"])
@pytest.mark.parametrize("damage", [Path.unlink, shorten, lengthen])
def test_damaged_files_are_refused(make_shards: MakeShards, suffix: str, damage: Callable[[Path], None]) -> None:
    shards = make_shards([[[1, 2, 3]], [[4]]], [[[0, 1, 1]], [[1]]])
    damage(shards.folder / f"00001{suffix}")
    with pytest.raises(UserError, match=f"damaged.*00001{suffix}"):
        ShardSet.open(shards.folder)


def test_verification_finds_a_changed_byte(make_shards: MakeShards) -> None:
    shards = make_shards([[[1, 2, 3]]])
    shards.verify()
    (shards.folder / "00000.ds").write_bytes(b"\1\0\2\0\4\0")
    changed = ShardSet.open(shards.folder)
    with pytest.raises(UserError, match=r"damaged.*00000\.ds"):
        changed.verify()


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (None, "no token shards"),
        ("not json", "can't be read"),
        ("[]", "can't be read"),
        ({"format": "other"}, "another format"),
        ({"version": 99}, "another format"),
        ({"dtype": "int8"}, "can't be read"),
        ({"tokens": "3"}, "can't be read"),
        ({"files": []}, "can't be read"),
        ({"files": {}}, "counts other tokens"),
        ({"files": {"00000.ds": {"bytes": 6, "sha256": ""}}}, "index is missing"),
        ({"files": {"../00000.ds": {"bytes": 6, "sha256": ""}}}, "can't be read"),
        ({"tokens": 4}, "counts other tokens"),
        ({"documents": 2}, "counts other tokens"),
    ],
)
def test_a_bad_manifest_is_refused(
    make_shards: MakeShards, change: dict[str, object] | str | None, complaint: str
) -> None:
    shards = make_shards([[[1, 2, 3]]])
    path = shards.folder / MANIFEST
    if change is None:
        path.unlink()
    elif isinstance(change, str):
        path.write_text(change)
    else:
        write_sealed(path, {**json.loads(path.read_text()), **change})
    with pytest.raises(UserError, match=complaint) as caught:
        ShardSet.open(shards.folder)
    assert "\n" not in str(caught.value)


def test_an_index_that_doesnt_fit_the_tokens_is_refused(make_shards: MakeShards) -> None:
    shards = make_shards([[[1, 2, 3]]])
    (shards.folder / "00000.ds.index").write_bytes((2).to_bytes(8, "little"))
    with pytest.raises(UserError, match="don't fit"):
        ShardSet.open(shards.folder)
