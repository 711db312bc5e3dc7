"""sioconv.data.sources.readers, compressed, mediawiki, hub: every kind of file, whole and damaged."""

import bz2
import gzip
import json
import lzma
import textwrap
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from sioconv.data.config import DataConfig, SourceConfig
from sioconv.data.shards.pipeline import prepare_source
from sioconv.data.shards.shard_set import ShardSet
from sioconv.data.sources.source import open_source, read_rows
from sioconv.data.tally import Tally
from sioconv.errors import UserError

Compress = Callable[[bytes], bytes]
COMPRESSIONS: dict[str, Compress] = {
    "": bytes,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": zstandard.ZstdCompressor().compress,
}
# The columns and types of wikimedia/wikipedia, and two articles.
WIKIPEDIA = {
    "id": ["5", "10"],
    "url": ["https://ja.wikipedia.org/wiki/%E6%B5%B7", "https://ja.wikipedia.org/wiki/%E5%B1%B1"],
    "title": ["海", "山"],
    "text": ["海は、塩水である。", "山は、高い。\n\n谷は、低い。"],
}


def lines(*rows: Any) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def read(path: Path | str, tally: Tally | None = None, **options: Any) -> list[str]:
    return [row.text or "" for row in read_rows(SourceConfig(str(path), **options), tally=tally)]


def counted(path: Path | str, **options: Any) -> tuple[list[str], Tally]:
    """The texts of a source, and what was counted."""
    tally = Tally("read")
    return read(path, tally, **options), tally


def problems(tally: Tally) -> list[tuple[str, str]]:
    """File name and line, and problem, of what couldn't be used."""
    return [(Path(where).name, what) for part in tally.left_out.values() for where, what in part.examples]


@pytest.mark.parametrize("suffix", COMPRESSIONS)
def test_compressed_lines_and_text(tmp_path: Path, suffix: str) -> None:
    (tmp_path / f"a.jsonl{suffix}").write_bytes(COMPRESSIONS[suffix](lines({"text": "一"}, {"text": "二"})))
    (tmp_path / f"b.txt{suffix}").write_bytes(COMPRESSIONS[suffix]("三\n四".encode()))
    assert read(tmp_path) == ["一", "二", "三\n四"]


def test_zstd_frames_one_after_the_other(tmp_path: Path) -> None:
    compress = COMPRESSIONS[".zst"]
    (tmp_path / "a.jsonl.zst").write_bytes(compress(lines({"text": "一"})) + compress(lines({"text": "二"})))
    assert read(tmp_path) == ["一", "二"]


@pytest.mark.parametrize("window", [27, 28, 31])
def test_zstd_with_a_long_window(tmp_path: Path, window: int) -> None:
    settings = zstandard.ZstdCompressionParameters(window_log=window, enable_ldm=True)
    packer = zstandard.ZstdCompressor(compression_params=settings).compressobj()
    content = lines(*({"text": f"川は海へ流れます。{number}"} for number in range(20)))
    (tmp_path / "a.jsonl.zst").write_bytes(packer.compress(content) + packer.flush())
    assert len(read(tmp_path)) == 20


@given(data=st.binary(max_size=200_000), cut=st.integers(1, 9))
def test_zstd_gives_back_what_went_in(tmp_path_factory: pytest.TempPathFactory, data: bytes, cut: int) -> None:
    from sioconv.data.sources.compressed import open_bytes

    file = tmp_path_factory.mktemp("zstd") / "a.zst"
    packed = COMPRESSIONS[".zst"](data)
    file.write_bytes(packed)
    with open_bytes(file) as stream:
        assert stream.read() == data
    file.write_bytes(packed[: max(1, len(packed) - cut)])
    with pytest.raises(UserError, match="broken zstd file"), open_bytes(file) as stream:
        stream.read()


@pytest.mark.parametrize("suffix", [".gz", ".bz2", ".xz", ".zst"])
def test_a_file_that_breaks_off_keeps_what_came_before(tmp_path: Path, suffix: str) -> None:
    rows = [
        {"text": f"{number} " + "".join(chr(0x4E00 + number * i % 20000) for i in range(99))} for number in range(9999)
    ]
    whole = COMPRESSIONS[suffix](lines(*rows))
    path = tmp_path / f"a.jsonl{suffix}"
    path.write_bytes(whole[: len(whole) * 2 // 3])
    (tmp_path / "b.jsonl").write_bytes(lines({"text": "after"}))
    found, tally = counted(tmp_path)
    assert found[-1] == "after"
    assert found[:-1] == [row["text"] for row in rows[: len(found) - 1]]
    assert 0 < len(found) < 9999
    assert (tally.bad, tally.seen) == (1, len(found) + 1)
    with pytest.raises(UserError, match=rf"broken .* file: .*a\.jsonl\{suffix}: .*download it again"):
        read(tmp_path)


def test_bad_lines_are_counted_with_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(
        lines({"text": "one"}) + b'{"text": "\xff"}\nnothing\n{"txt": 1}\n{"text": 2}\n' + lines({"text": "two"})
    )
    (tmp_path / "b.jsonl").write_bytes(b"")
    (tmp_path / "c.txt").write_bytes(b"\xff")
    found, tally = counted(tmp_path)
    assert found == ["one", "two"]
    assert (tally.seen, tally.bad) == (8, 6)
    assert [where for where, _ in problems(tally)] == [
        "a.jsonl:2",
        "a.jsonl:3",
        "a.jsonl:4",
        "a.jsonl:5",
        "b.jsonl",
        "c.txt:1",
    ]
    assert problems(tally)[0][1] == "invalid UTF-8 at byte 10 of the line"


def test_a_source_without_a_usable_row_is_refused_early(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(lines({"body": "x"}) * 5000)
    with pytest.raises(UserError, match=r'none of the first 1,000 rows.*a\.jsonl:1000.*"text"'):
        counted(tmp_path)
    assert len(counted(tmp_path, text_column="body")[0]) == 5000


# ---------------------------------------------------------------------------------------------------------- Parquet


@pytest.mark.parametrize("compression", ["none", "snappy", "gzip", "zstd"])
def test_parquet_of_the_hubs_schema(tmp_path: Path, compression: str) -> None:
    pq.write_table(pa.table(WIKIPEDIA), tmp_path / "train-00000-of-00001.parquet", compression=compression)
    assert read(tmp_path) == WIKIPEDIA["text"]
    [first, _] = read_rows(SourceConfig(str(tmp_path), text_column="title", id_column="id"))
    assert (first.text, first.extra, first.id.rpartition(":")[2]) == ("海", {"id": "5"}, "1")


@pytest.mark.parametrize("world_size", [1, 2, 3, 8])
def test_parquet_rows_are_dealt_out_once(tmp_path: Path, world_size: int) -> None:
    table = pa.table({"text": [f"{number}" for number in range(500)]})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=100)
    source = SourceConfig(str(tmp_path))
    parts = [list(read_rows(source, rank=rank, world_size=world_size)) for rank in range(world_size)]
    assert all(parts)
    rows = sorted((row for part in parts for row in part), key=lambda row: int(row.text or ""))
    assert [row.text for row in rows] == table["text"].to_pylist()
    assert [row.id.rpartition(":")[2] for row in rows] == [str(number + 1) for number in range(500)]


def test_parquet_rows_that_can_not_be_used(tmp_path: Path) -> None:
    text = pa.array([b"fine", b"\xff\xfe", None, b"", b"good"]).view(pa.string())
    pq.write_table(pa.table({"text": text}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"text": [1, 2]}), tmp_path / "b.parquet")
    pq.write_table(pa.table({"body": ["x"]}), tmp_path / "c.parquet")
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), tmp_path / "d.parquet")
    found, tally = counted(tmp_path)
    assert found == ["fine", "good"]
    names = ["a.parquet:2", "a.parquet:3", "a.parquet:4", "b.parquet:1", "b.parquet:2", "c.parquet:1", "d.parquet"]
    assert sorted(where for where, _ in problems(tally)) == names


@pytest.mark.parametrize("damage", ["truncated", "page"])
def test_broken_parquet(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": [f"text {number}" for number in range(5000)]}), path, row_group_size=2500)
    content = bytearray(path.read_bytes())
    if damage == "truncated":
        del content[len(content) // 2 :]
    else:
        middle = pq.ParquetFile(path).metadata.row_group(1).column(0).data_page_offset
        content[middle : middle + 64] = b"\xff" * 64
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"broken parquet file: .*a\.parquet"):
        read(path)
    (tmp_path / "b.jsonl").write_bytes(lines({"text": "after"}))
    found, tally = counted(tmp_path)
    assert (len(found), tally.bad) == ((1 if damage == "truncated" else 2501), 1)


# -------------------------------------------------------------------------------------------------------- MediaWiki

DUMP = """\
<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.11/" version="0.11" xml:lang="ja">
  <siteinfo><namespaces>
    <namespace key="0" case="first-letter" /><namespace key="6" case="first-letter">ファイル</namespace>
    <namespace key="14" case="first-letter">カテゴリ</namespace>
  </namespaces></siteinfo>
  <page><title>海</title><ns>0</ns><id>5</id><revision><id>77</id><text bytes="9">{{暖かい|引数=[[水]]}}
'''海'''（うみ、{{lang-en|sea}}）は、[[塩水|塩の水]]である&lt;ref name="a"&gt;『本』&lt;/ref&gt;。
[[ファイル:Umi.jpg|thumb|[[波]]の絵]]
== 深さ ==
* 平均は3,700 m。&lt;!-- 要出典 --&gt;
{| class="wikitable"
| 一 || 二
|}
[[カテゴリ:海|うみ]] [[en:Sea]]</text></revision></page>
  <page><title>うみ</title><ns>0</ns><id>6</id><redirect title="海" />
  <revision><text>#転送 [[海]]</text></revision></page>
  <page><title>ノート:海</title><ns>1</ns><id>7</id><revision><text>議論</text></revision></page>
  <page><title>空</title><ns>0</ns><id>8</id><revision><text>{{スタブ}}</text></revision></page>
  <page><title>山</title><ns>0</ns><id>9</id><revision><text>山は、高い。</text></revision></page>
</mediawiki>
"""


@pytest.mark.parametrize("suffix", ["", ".bz2"])
def test_articles_of_a_dump(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"jawiki-pages-articles.xml{suffix}"
    path.write_bytes(COMPRESSIONS[suffix](DUMP.encode()))
    tally = Tally("read")
    rows = list(read_rows(SourceConfig(str(path), id_column="id"), tally=tally))
    assert [(row.extra["id"], row.extra["title"]) for row in rows] == [("5", "海"), ("9", "山")]
    assert rows[0].text == "海（うみ、sea）は、塩の水である。\n\n波の絵\n\n深さ\n平均は3,700 m。"
    assert rows[1].text == "山は、高い。"
    reasons = {reason: part.count for reason, part in tally.left_out.items()}
    assert reasons == {"redirect": 1, "not an article": 1, "nothing but markup": 1}
    assert (tally.seen, tally.bad) == (5, 0)
    assert {name: part.count for name, part in tally.parts.items()} == {"template": 1, "reference": 1, "table": 1}
    parts = [list(read_rows(SourceConfig(str(path)), rank=rank, world_size=2)) for rank in (0, 1)]
    assert sorted(row.text or "" for part in parts for row in part) == sorted(row.text or "" for row in rows)


def test_a_dump_that_breaks_off(tmp_path: Path) -> None:
    path = tmp_path / "a.xml"
    path.write_bytes(DUMP.encode()[:-60])
    found, tally = counted(path)
    assert (len(found), tally.bad) == (1, 1)
    with pytest.raises(UserError, match=r"broken xml file.*after page 4"):
        read(path)


# -------------------------------------------------------------------------------------------------------------- Hub


@pytest.fixture
def hub_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A folder laid out like wikimedia/wikipedia: configurations in its README, Parquet files with its columns."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "wikipedia"
    for config, rows in (("20231101.ja", 70), ("20231101.en", 3)):
        (folder / config).mkdir(parents=True)
        for part in range(2):
            table = {
                name: [f"{config} {part} {number} {values[0]}" for number in range(rows)]
                for name, values in WIKIPEDIA.items()
            }
            pq.write_table(pa.table(table), folder / config / f"train-{part:05d}-of-00002.parquet")
    configs = "".join(
        f"- config_name: {config}\n  data_files:\n  - split: train\n    path: {config}/train-*\n"
        for config in ("20231101.ja", "20231101.en")
    )
    (folder / "README.md").write_text(f"---\nconfigs:\n{configs}---\n")
    return f"hf:{folder}"


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_a_dataset_of_the_hub(hub_folder: str, streaming: bool, world_size: int) -> None:
    source = SourceConfig(hub_folder, config="20231101.ja", streaming=streaming, id_column="id")
    parts = [list(read_rows(source, rank=rank, world_size=world_size)) for rank in range(world_size)]
    assert all(parts)
    found = [row.text for part in parts for row in part]
    expected = [f"20231101.ja {part} {number} 海は、塩水である。" for part in (0, 1) for number in range(70)]
    assert found == expected if world_size == 1 else sorted(found) == sorted(expected)
    assert len({row.id for part in parts for row in part}) == len(expected)
    assert set(parts[0][0].extra) == {"id"}


@pytest.mark.parametrize("streaming", [False, True])
def test_a_dataset_becomes_shards_once(
    hub_folder: str, tmp_path: Path, tokenizer_folder: Path, streaming: bool
) -> None:
    source = SourceConfig(hub_folder, config="20231101.ja", streaming=streaming, id_column="id")
    data, out = DataConfig(heldout=0.1, tasks=3), tmp_path / "out"
    prepare_source("wikipedia", source, data, tokenizer_folder, out)
    sets = [ShardSet.open(out / split) for split in ("train", "heldout")]
    assert sum(shards.documents_total for shards in sets) == 140
    [identity] = sets[0].manifest["inputs"]
    assert (identity["config"], identity["split"], len(identity["files"])) == ("20231101.ja", "train", 2)
    before = (out / "train" / "manifest.json").stat().st_mtime_ns
    prepare_source("wikipedia", source, data, tokenizer_folder, out)
    assert (out / "train" / "manifest.json").stat().st_mtime_ns == before
    prepare_source("wikipedia", replace(source, config="20231101.en"), data, tokenizer_folder, out)
    assert (out / "train" / "manifest.json").stat().st_mtime_ns != before


def test_what_is_not_on_the_hub(hub_folder: str) -> None:
    for options, problem in (
        ({"config": "20231101.de"}, "20231101.de"),
        ({"config": "20231101.ja", "split": "test"}, "test"),
        ({}, "[Cc]onfig"),
    ):
        with pytest.raises(UserError, match=problem) as caught:
            read(hub_folder, **options)
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="can't read the dataset hf:nobody/nothing"):
        read("hf:nobody/nothing")
    assert open_source(SourceConfig("hf:nobody/nothing")).found().files == []


def test_columns_of_the_hub_can_be_missing(hub_folder: str) -> None:
    _, tally = counted(hub_folder, config="20231101.en", text_column="body")
    assert (tally.seen, tally.bad) == (6, 6)
    assert textwrap.shorten(problems(tally)[0][1], 40) == 'missing or empty "body", or not a string'
