"""sioconv.data.sources.json_values: arrays and objects over many lines, value by value."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sioconv.data.config import SourceConfig
from sioconv.data.documents import Row
from sioconv.data.sources import json_values as module
from sioconv.data.sources.json_values import json_values
from sioconv.data.sources.source import read_rows
from sioconv.data.tally import Tally
from sioconv.errors import UserError

values = st.lists(st.dictionaries(st.text(max_size=9), st.text(max_size=40) | st.integers() | st.none(), max_size=3))


@given(values, st.sampled_from([None, 2]), st.booleans(), st.integers(1, 40))
def test_values_come_back_however_they_are_cut(rows: Any, indent: int | None, array: bool, chunk: int) -> None:
    text = json.dumps(rows, indent=indent) if array else "\n".join(json.dumps(row, indent=indent) for row in rows)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "CHUNK", chunk)
        assert list(json_values(io.StringIO(text))) == rows


@pytest.mark.parametrize("text", ['[{"a": 1}', '[{"a": 1}, {"b"', "[1, 2] 3", '[{"a": nothing}]', "[" * 99_999])
def test_what_breaks_off_or_is_no_json_is_an_error(text: str) -> None:
    with pytest.raises((ValueError, RecursionError)):
        list(json_values(io.StringIO(text)))


def read(path: Path, **options: Any) -> list[Row]:
    return list(read_rows(SourceConfig(str(path)), **options))


@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
@pytest.mark.parametrize("world_size", [1, 3])
def test_an_array_is_read_row_by_row(tmp_path: Path, name: str, world_size: int) -> None:
    (tmp_path / name).write_text("\n" + json.dumps([{"text": str(number)} for number in range(9)], indent=1))
    parts = [read(tmp_path, rank=rank, world_size=world_size) for rank in range(world_size)]
    assert sorted(row.text or "" for part in parts for row in part) == [str(number) for number in range(9)]
    assert {row.id.rpartition(":")[2] for part in parts for row in part} == {str(number + 1) for number in range(9)}


def test_a_json_file_of_lines_or_of_spread_objects_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"text": "1"}\n{"text": "2"}\n')
    (tmp_path / "b.json").write_text('{\n "text": "3"\n}\n{\n "text": "4"\n}')
    (tmp_path / "c.json").write_text('{"text": "5"}')
    assert [row.text for row in read(tmp_path)] == list("12345")


def test_a_bad_value_and_a_broken_array_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('[{"text": "1"}, 2, {"txt": 3}, {"text": "4"}, {"text": }]')
    tally = Tally("read")
    assert [row.text for row in read(tmp_path, tally=tally)] == ["1", "4"]
    found = [example for part in tally.left_out.values() for example in part.examples]
    assert [Path(where).name for where, _ in found] == ["a.json:2", "a.json:3", "a.json"]
    assert "after value 4" in found[2][1]
    (tmp_path / "a.json").write_text('{"txt": 3}')
    tally = Tally("read")
    assert read(tmp_path, tally=tally) == []
    assert "one object that is no row" in next(iter(tally.left_out))


def test_blank_lines_are_no_rows(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'\n{"text": "1"}\n\r\n  \n{"text": "2"}\n\n')
    assert [(row.text, row.id.rpartition(":")[2]) for row in read(path)] == [("1", "2"), ("2", "5")]
    for world_size in (2, 3):
        tally = Tally("read")
        parts = [read(path, rank=rank, world_size=world_size, tally=tally) for rank in range(world_size)]
        assert (sum(map(len, parts)), tally.seen, tally.bad) == (2, 2, 0)
    path.write_bytes(b"\n \n")
    with pytest.raises(UserError, match=r"empty file: .*a\.jsonl"):
        read(path)
