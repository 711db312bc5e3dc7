"""The report's figures are what encoding the same text gives."""

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from sioconv.checksums import read_sealed
from sioconv.data.config import DataConfig, SourceConfig, TokenizerConfig
from sioconv.data.tokenizer.adopt import adopt_tokenizer
from sioconv.data.tokenizer.peers import COMPARED
from sioconv.data.tokenizer.prepare import prepare_tokenizer
from sioconv.data.tokenizer.report import JSON_FILE, TABLE_FILE, policy, write_tokenizer_report
from sioconv.data.tokenizer.sample import Sample
from sioconv.data.tokenizer.tokenizer import encode_texts, load_tokenizer
from sioconv.errors import UserError
from tests.data.tokenizers_of_others import TEXTS, llama_like, unigram_like

JA = ["川は山から海へ流れる。\n", "海の水は空へ昇る。"]
EN = ["The river runs.", "And the rain brings it back.", "川"]


def test_sizes_are_measured_on_held_out_text(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    samples = {
        "a": Sample("ja", False, ["not measured"] * 3, JA),
        "b": Sample("en", False, EN, []),
        "c": Sample("ja", True, [], ["県" * 9]),
    }
    report = write_tokenizer_report(tokenizer, samples, [], tmp_path)
    assert read_sealed(tmp_path / JSON_FILE) == report
    for name, measured, split, texts in (
        ("a", JA, "heldout", 5),
        ("b", EN, "train", 3),
        ("c", ["県" * 9], "heldout", 1),
    ):
        one, size = report["sources"][name], sum(len(text.encode()) for text in measured)
        tokens = sum(map(len, encode_texts(tokenizer, measured)))
        assert (one["bytes"], one["tokens"], one["measured_on"]) == (size, tokens, split)
        assert one["characters"] == sum(map(len, measured)) and one["bytes_per_token"] == size / tokens
        assert (one["texts"], one["broken"], one["unknown"]) == (texts, 0, 0)
    for language, name in (("ja", "a"), ("en", "b")):  # what is templated is left out
        assert report["languages"][language]["bytes_per_token"] == report["sources"][name]["bytes_per_token"]
    every = [*JA, *EN, "not measured", "県" * 9]
    assert report["seen"] == len({token for ids in encode_texts(tokenizer, every) for token in ids})
    table = (tmp_path / TABLE_FILE).read_text(encoding="utf-8")
    assert f"| a | ja | {report['sources']['a']['bytes']:,} |" in table and "| **all en** |" in table
    assert report["peers"] == {} and report["broken"] == []


def test_longest_tokens(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    longest = write_tokenizer_report(tokenizer, {"a": Sample("ja", False, JA, [])}, [], tmp_path)["longest"]
    sizes = [len(token.encode()) for token in longest]
    assert len(longest) == 20 and sizes == sorted(sizes, reverse=True)
    assert all(len(encode_texts(tokenizer, [token])[0]) == 1 for token in longest[:5])


def test_text_that_doesnt_come_back_is_shown(tmp_path: Path) -> None:
    adopted = adopt_tokenizer(str(llama_like(tmp_path / "llama")), tmp_path / "ours")
    text = "川は山から海へ" * 3 + "▁流れる|"
    report = write_tokenizer_report(adopted, {"a": Sample("ja", False, [text, "川"], [])}, [], tmp_path)
    assert report["sources"]["a"]["broken"] == 1
    [broken] = report["broken"]
    assert broken["source"] == "a" and "▁流れる" in broken["text"] and " 流れる" in broken["back"]
    assert "doesn't come back (a)" in (tmp_path / TABLE_FILE).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "model",
    [
        models.WordLevel({"<unk>": 0, "川": 1, "海": 2}, unk_token="<unk>"),
        models.Unigram([("<unk>", 0.0), ("川", -1.0), ("海", -1.0)], unk_id=0, byte_fallback=False),
    ],
)
def test_unknown_characters_are_counted(model: models.Model, tmp_path: Path) -> None:
    backend = Tokenizer(model)
    backend.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    (tmp_path / "words").mkdir()
    backend.save(str(tmp_path / "words" / "tokenizer.json"))
    adopted = adopt_tokenizer(str(tmp_path / "words"), tmp_path / "ours")
    report = write_tokenizer_report(adopted, {"a": Sample("ja", False, ["川空海雨"], ["川雨雪"])}, [], tmp_path)
    assert report["sources"]["a"]["unknown"] == 2 and report["sources"]["a"]["tokens"] == 3
    assert report["sources"]["a"]["broken"] == 2


def test_the_policy_is_told_from_the_tokens(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    ours = policy(tokenizer)
    assert ours["digits"] == "one by one" and ours["changes"].startswith("nothing")
    from tokenizers import normalizers

    backend = Tokenizer(models.BPE({"1": 0, "2": 1, "12": 2, "a": 3, " ": 4, "  ": 5}, [("1", "2"), (" ", " ")]))
    backend.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    (tmp_path / "others").mkdir()
    backend.save(str(tmp_path / "others" / "tokenizer.json"))
    theirs = policy(adopt_tokenizer(str(tmp_path / "others"), tmp_path / "ours"))
    assert theirs["digits"] == "up to 2 in a token"
    assert theirs["spaces"] == "up to 2 in a token; apart from words"
    assert "ＡＢＣ" in theirs["changes"] and "ABC" in theirs["changes"]


def test_others_are_measured_on_the_same_text(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    others = str(unigram_like(tmp_path / "others"))
    samples = {
        "a": Sample("ja", False, [], JA * 20_000),
        "b": Sample("ja", True, [], EN),
        "c": Sample("en", False, EN, []),
    }
    peers = write_tokenizer_report(tokenizer, samples, [others, "nowhere/", "x.model"], tmp_path)["peers"]
    assert list(peers) == ["this one", others, "nowhere/", "x.model"]
    repeats = -(-COMPARED // sum(len(text.encode()) for text in JA))
    size, tokens = (sum(len(text.encode()) for text in JA), sum(map(len, encode_texts(tokenizer, JA))))
    assert peers["this one"]["bytes_per_token"]["ja"] == pytest.approx(size / tokens, rel=2 / repeats)
    assert peers["this one"]["vocabulary"] == len(tokenizer)
    # Every character that the others know is a token: three bytes in Japanese.
    assert 2 < peers[others]["bytes_per_token"]["ja"] < 3.1
    assert "give a folder" in peers["nowhere/"]["problem"] and "x.model" in peers["x.model"]["problem"]
    table = (tmp_path / TABLE_FILE).read_text(encoding="utf-8")
    assert f"| this one | {len(tokenizer):,} |" in table and "| nowhere/ | no tokenizer" in table


def test_rwkv_and_sentencepiece(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    pytest.importorskip("rwkv")
    sentencepiece = pytest.importorskip("sentencepiece")
    (tmp_path / "text.txt").write_text("\n".join(TEXTS * 20), encoding="utf-8")
    sentencepiece.SentencePieceTrainer.train(
        input=str(tmp_path / "text.txt"), model_prefix=str(tmp_path / "sp"), vocab_size=60, minloglevel=5
    )
    peer = str(tmp_path / "sp.model")
    peers = write_tokenizer_report(tokenizer, {"a": Sample("ja", False, [], JA)}, ["rwkv", peer], tmp_path)["peers"]
    assert peers["rwkv"]["vocabulary"] > 65_000 and 1 < peers["rwkv"]["bytes_per_token"]["ja"] < 9
    assert peers[peer]["vocabulary"] == 60 and 1 < peers[peer]["bytes_per_token"]["ja"] < 9


def source(tmp_path: Path) -> DataConfig:
    path = tmp_path / "text.jsonl"
    path.write_text("".join(json.dumps({"text": f"{number} {text}"}) + "\n" for number in range(40) for text in JA))
    return DataConfig({"x": SourceConfig(str(path))}, heldout=0.1)


def test_the_tokenizer_of_a_run_is_trained_measured_and_kept(tmp_path: Path) -> None:
    config, data, folder = TokenizerConfig(vocab_size=290), source(tmp_path), tmp_path / "run" / "tokenizer"
    first = prepare_tokenizer(config, None, data, folder)
    assert len(first) == 290
    report = (folder / JSON_FILE).read_bytes()
    assert json.loads(report)["languages"]["ja"]["tokens"] > 0
    before = (folder / "tokenizer.json").stat().st_mtime_ns
    (folder / JSON_FILE).unlink()  # as if it had been stopped before the report
    prepare_tokenizer(config, None, data, folder)
    assert (folder / JSON_FILE).read_bytes() == report
    config.compare = [str(llama_like(tmp_path / "llama"))]
    prepare_tokenizer(config, None, data, folder)  # the same tokenizer, with a comparison that was asked for later
    assert list(json.loads((folder / JSON_FILE).read_text(encoding="utf-8"))["peers"]) == ["this one", *config.compare]
    Path(data.sources["x"].path).unlink()  # nothing is read when both are there
    prepare_tokenizer(config, None, data, folder)
    assert (folder / "tokenizer.json").stat().st_mtime_ns == before


def test_the_tokenizer_of_a_run_is_adopted(tmp_path: Path) -> None:
    others, folder = llama_like(tmp_path / "llama"), tmp_path / "run" / "tokenizer"
    adopted = prepare_tokenizer(TokenizerConfig(), str(others), source(tmp_path), folder)
    assert adopted.get_vocab() == load_tokenizer(folder).get_vocab()
    assert json.loads((folder / JSON_FILE).read_text(encoding="utf-8"))["vocabulary"] == len(adopted)
    with pytest.raises(UserError, match="no tokenizer"):
        prepare_tokenizer(TokenizerConfig(), str(tmp_path / "nothing"), source(tmp_path), tmp_path / "run2")
    assert not (tmp_path / "run2").exists()
