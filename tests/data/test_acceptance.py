"""From three local sources to shards and batches by the command line, as someone with their own text would."""

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sioconv.data.batches.loader import Mixture
from sioconv.data.config import SourceConfig
from sioconv.data.shards.shard_set import ShardSet
from sioconv.data.sources.source import read_rows
from sioconv.data.tokenizer.tokenizer import load_tokenizer, tokenizer_sha256

RECIPE = """\
name: mix
tokenizer: {vocab_size: 600, sample_bytes: 200_000}
data:
  heldout: 0.1
  sources:
    wikipedia: {path: "wikipedia/*.parquet", weight: 0.6, id_column: id, licence: CC-BY-SA-4.0}
    web: {path: "web", text_column: body, weight: 0.3}
    notes: {path: "notes", language: en, weight: 0.1}
train: {tokens: 1000}
"""


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, list[str]]]:
    """A folder with a recipe and its three sources, and the documents of each."""
    folder = tmp_path_factory.mktemp("mix")
    texts = {
        "wikipedia": [row.text or "" for row in read_rows(SourceConfig("bundled:manuals_ja"))][:60],
        "web": [row.text or "" for row in read_rows(SourceConfig("bundled:sentences_ja"))][:300],
        "notes": [(row.text or "")[:4000] for row in read_rows(SourceConfig("bundled:prose_en"))][:20],
    }
    for name in texts:
        (folder / name).mkdir()
    for part, rows in enumerate((texts["wikipedia"][:25], texts["wikipedia"][25:])):
        numbers = [f"{part}-{number}" for number in range(len(rows))]
        table = {"id": numbers, "url": numbers, "title": numbers, "text": rows}
        pq.write_table(pa.table(table), folder / "wikipedia" / f"train-{part:05d}-of-00002.parquet")
    lines = "".join(json.dumps({"body": text}, ensure_ascii=False) + "\n" for text in texts["web"])
    (folder / "web" / "a.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    for number, text in enumerate(texts["notes"]):
        (folder / "notes" / f"{number:02d}.txt").write_text(text, encoding="utf-8", newline="")
    (folder / "mix.yaml").write_text(RECIPE)
    for verb in ("tokenizer", "data"):
        sioconv(folder, verb, "mix.yaml")
    return folder, texts


def sioconv(folder: Path, *arguments: str) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "sioconv", *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_decoded_documents_are_the_input(workplace: tuple[Path, dict[str, list[str]]]) -> None:
    folder, texts = workplace
    run = folder / "runs" / "mix"
    tokenizer = load_tokenizer(run / "tokenizer")
    for name, expected in texts.items():
        found = []
        for split in ("train", "heldout"):
            shards = ShardSet.open(run / "data" / name / split, tokenizer_sha256(run / "tokenizer"))
            shards.verify()
            for number in range(shards.documents_total):
                ids = shards.document(number)[0].tolist()
                assert (ids[0], ids[-1]) == (tokenizer.bos_token_id, tokenizer.eos_token_id)
                found.append(tokenizer.decode(ids[1:-1]))
        assert sorted(found) == sorted(expected)


def test_batches_are_mixed_by_the_weights(workplace: tuple[Path, dict[str, list[str]]]) -> None:
    folder, texts = workplace
    sets = {name: ShardSet.open(folder / "runs/mix/data" / name / "train") for name in texts}
    mixture = Mixture(sets, {"wikipedia": 0.6, "web": 0.3, "notes": 0.1}, 64, seed=0)
    for windows in (1, 7, 10, 333, 1000):
        counts = mixture.counts(windows)
        assert sum(counts.values()) == windows
        for name, weight in (("wikipedia", 0.6), ("web", 0.3), ("notes", 0.1)):
            assert abs(counts[name] - weight * windows) < 1
    assert mixture.batch(0, 4).input_ids.shape == (4, 64)


@pytest.mark.slow
def test_workers_and_runs_make_the_same_files(workplace: tuple[Path, dict[str, list[str]]]) -> None:
    folder, texts = workplace
    options = ("--name=tasks", "--data.tasks=3")
    sioconv(folder, "data", "mix.yaml", *options)
    sioconv(folder, "data", "mix.yaml", "--name=workers", "--data.tasks=3", "--data.workers=2")
    for name in texts:
        one, other = (folder / "runs" / run / "data" / name for run in ("tasks", "workers"))
        files = [path.relative_to(one) for path in one.rglob("*") if path.is_file()]
        assert len(files) > 10
        assert all((one / file).read_bytes() == (other / file).read_bytes() for file in files)
