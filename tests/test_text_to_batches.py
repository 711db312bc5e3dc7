"""From three kinds of local files to tokenizer, shards and an exact mixture; all stages with an adopted tokenizer."""

import gzip
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from transformers import PreTrainedTokenizerFast

from sioconv.data.batches.lanes import Lanes
from sioconv.data.batches.loader import Mixture
from sioconv.data.batches.prefetch import prefetch
from sioconv.data.shards.shard_set import ShardSet
from sioconv.data.tokenizer.tokenizer import SPECIAL_TOKENS, encode_texts, load_tokenizer, tokenizer_sha256
from sioconv.generate import SamplingConfig, generate_text
from sioconv.model import load_model_folder
from sioconv.recipe.schema import Recipe, load_recipe
from sioconv.run import stages
from tests.data.tokenizers_of_others import llama_like

RECIPE = """\
name: three
tokenizer: {vocab_size: 400}
data:
  heldout: 0.1
  tasks: 2
  sources:
    table: {path: table.parquet, language: ja, weight: 0.6}
    lines: {path: lines.jsonl.gz, language: en, weight: 0.3}
    plain: {path: "plain/*.txt", language: ja, weight: 0.1}
model: {hidden_size: 32, num_hidden_layers: 2, num_heads: 4, intermediate_size: 48}
train: &train {tokens: 1024, sequence_length: 32, batch_size: 4, device: cpu, precision: fp32, threads: 1,
        sample_prompts: ["川は"], sample_seconds: [], sample_tokens: 4}
finetune:
  data:
    sources:
      talks: {path: talks.jsonl, kind: chat, weight: 1.0}
  train: {<<: *train, whole_documents: true}
"""
TEXTS = {
    "table": [f"表の第{number}行。川は山から海へ流れる。\n" for number in range(90)],
    "lines": [f"Line {number}: the river runs <|user|> from the hills.\n" for number in range(60)],
    "plain": [f"平文 {number}\n\n雨は空から降る。<|eos|>" for number in range(30)],
}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    pq.write_table(pa.table({"id": list(range(90)), "text": TEXTS["table"]}), tmp_path / "table.parquet")
    lines = "".join(json.dumps({"text": text}) + "\n" for text in TEXTS["lines"])
    (tmp_path / "lines.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    (tmp_path / "plain").mkdir()
    for number, text in enumerate(TEXTS["plain"]):
        (tmp_path / "plain" / f"{number:02d}.txt").write_bytes(text.encode())
    talks: list[dict[str, Any]] = [
        {"conversations": [{"from": "human", "value": f"川{number}は？"}, {"from": "gpt", "value": "海へ流れます。"}]}
        for number in range(40)
    ]
    (tmp_path / "talks.jsonl").write_text("".join(json.dumps(talk) + "\n" for talk in talks))
    (tmp_path / "recipe.yaml").write_text(RECIPE, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def sets(recipe: Recipe, split: str) -> dict[str, ShardSet]:
    sha256 = tokenizer_sha256(recipe.folder / "tokenizer")
    return {name: ShardSet.open(recipe.folder / "data" / name / split, sha256) for name in recipe.data.sources}


def test_three_kinds_of_files_become_shards_and_an_exact_mixture(place: Path) -> None:
    command = [sys.executable, "-m", "sioconv", "data", "recipe.yaml"]
    subprocess.run(command, cwd=place, check=True, capture_output=True)
    recipe = load_recipe(["recipe.yaml"])
    tokenizer = load_tokenizer(recipe.folder / "tokenizer")
    for name, texts in TEXTS.items():
        decoded = []
        for split in ("train", "heldout"):
            shards = sets(recipe, split)[name]
            for number in range(shards.documents_total):
                ids = shards.document(number)[0].tolist()
                assert (ids[0], ids[-1]) == (tokenizer.bos_token_id, tokenizer.eos_token_id)
                assert not {*tokenizer.convert_tokens_to_ids(SPECIAL_TOKENS)} & {*ids[1:-1]}
                decoded.append(tokenizer.decode(ids[1:-1]))
        assert Counter(decoded) == Counter(texts)
    mixture, _ = stages.open_windows(recipe, recipe.data, recipe.train)
    assert isinstance(mixture, Mixture)
    shares = {"table": 0.6, "lines": 0.3, "plain": 0.1}
    for windows in range(1, 200):
        counts = mixture.counts(windows)
        assert all(abs(counts[name] - share * windows) <= 1 for name, share in shares.items())
    assert mixture.counts(1000) == {"table": 600, "lines": 300, "plain": 100}
    lanes = Lanes(sets(recipe, "train"), shares, 32, 0, lanes=4, span=4)
    ahead = prefetch(lanes.batch(step * 4, 4) for step in range(6))
    for step, batch in enumerate(ahead):
        assert torch.equal(batch.input_ids, lanes.batch(step * 4, 4).input_ids)


@pytest.mark.usefixtures("place")
def test_shares_can_follow_the_sources_sizes() -> None:
    """Every source is then read equally often, but one of weight 2 twice as often."""
    words = ["--data.by_size=true", "--data.sources.lines.weight=1", "--data.sources.plain.weight=1"]
    recipe = load_recipe(["recipe.yaml"], [*words, "--data.sources.table.weight=2"])
    stages.make_data(recipe)
    mixture, _ = stages.open_windows(recipe, recipe.data, recipe.train)
    assert isinstance(mixture, Mixture)
    sizes = {name: shards.tokens_total for name, shards in sets(recipe, "train").items()}
    counts = mixture.counts(10_000)
    read = {name: counts[name] / sizes[name] for name in sizes}
    assert len(set(sizes.values())) == 3
    assert read["lines"] == pytest.approx(read["plain"], rel=0.01)
    assert read["table"] == pytest.approx(2 * read["plain"], rel=0.01)


def test_all_stages_run_with_an_adopted_tokenizer(place: Path) -> None:
    others = llama_like(place / "llama")
    vocabulary = len(PreTrainedTokenizerFast.from_pretrained(others))
    recipe = load_recipe(["recipe.yaml"], [f"--tokenizer.path={others}"])
    folder = stages.finetune(recipe)
    model, tokenizer = load_model_folder(folder)
    assert model.config.vocab_size == len(tokenizer) == vocabulary + len(SPECIAL_TOKENS)
    shards = ShardSet.open(recipe.folder / "data" / "talks" / "train", tokenizer_sha256(recipe.folder / "tokenizer"))
    ids, mask = shards.document(0)
    assert tokenizer.decode(ids[mask == 1].tolist(), skip_special_tokens=True) == "海へ流れます。"
    said = generate_text(model, tokenizer, " 川は <s>", SamplingConfig(max_new_tokens=12, seed=1))
    assert said.text == tokenizer.decode(encode_texts(tokenizer, [said.text])[0])
