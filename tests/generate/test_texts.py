"""Many texts at once, files of any length, and what transformers' own generation writes for other models."""

import io
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from sioconv.data.tokenizer.tokenizer import BOS, EOS, encode_texts
from sioconv.errors import UserError
from sioconv.generate import Engine, SamplingConfig, Session, continue_text, texts
from sioconv.model import Architecture, SioConvForCausalLM, save_model_folder
from sioconv.model.baselines.architectures import build_baseline

TinyModel = tuple[SioConvForCausalLM, PreTrainedTokenizerFast]
SMALL = Architecture(hidden_size=32, num_hidden_layers=2, num_heads=4, intermediate_size=64)


@pytest.fixture(params=["llama", "lstm", "mingru", "mamba2"])
def pair(request: pytest.FixtureRequest, tiny_model: TinyModel) -> tuple[torch.nn.Module, PreTrainedTokenizerFast]:
    torch.manual_seed(0)
    model = build_baseline(request.param, SMALL, len(tiny_model[1]) + 3).eval()  # three rows without a token
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += torch.randn_like(parameter) * 0.1
    return model, tiny_model[1]


@torch.no_grad()
def test_temperature_zero_takes_the_likeliest_token_that_may_be_written(pair: TinyModel) -> None:
    model, tokenizer = pair
    banned = [*tokenizer.added_tokens_decoder, *range(len(tokenizer), len(tokenizer) + 3)]
    end = tokenizer.convert_tokens_to_ids(["<|eos|>", "<|end_of_turn|>"])
    ids = [tokenizer.convert_tokens_to_ids(BOS), *encode_texts(tokenizer, [f"川は{EOS}"])[0]]
    assert not set(ids[1:]) & set(tokenizer.added_tokens_decoder)  # what looks like one in a prompt is text
    start = len(ids)
    for _ in range(6):
        logits = model(torch.tensor([ids])).logits[0, -1]
        logits[[token for token in banned if token not in end]] = -torch.inf
        ids.append(int(logits.argmax()))
        if ids[-1] in end:
            break
    text = tokenizer.decode(ids[start:], skip_special_tokens=True)
    assert continue_text(model, tokenizer, f"川は{EOS}", SamplingConfig(temperature=0, max_new_tokens=6)) == text


def test_a_seed_repeats_a_text_and_leaves_the_random_numbers_alone(pair: TinyModel) -> None:
    texts = []
    for seed in (1, 1, 2):
        torch.manual_seed(5)
        texts.append(continue_text(*pair, "川は", SamplingConfig(max_new_tokens=12, seed=seed)))
        assert float(torch.rand(())) == pytest.approx(
            float(torch.rand((), generator=torch.Generator().manual_seed(5))), abs=0
        )
    assert texts[0] == texts[1] != texts[2]
    assert continue_text(*pair, "", SamplingConfig(max_new_tokens=3, seed=1))


def begun(pair: TinyModel, engine: Engine, seed: int) -> Session:
    session = Session(*pair, seed, engine)
    texts.read_prompt(session, pair[1], "川は山から" + "海へ" * (seed % 5))
    return session


def test_texts_that_are_written_at_once_are_those_that_are_written_alone(
    tiny_model: TinyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(texts, "AT_ONCE", 4)
    engine, sampling, made = Engine(tiny_model[0]), SamplingConfig(max_new_tokens=9, stop=["海"]), []

    def sessions() -> Iterator[Session]:
        for seed in range(11):
            made.append(seed)
            yield begun(tiny_model, engine, seed)

    results = texts.write_texts(sessions(), sampling)
    first = next(results)
    assert len(made) < 11  # the others come when there is room
    found = [first, *results]
    for seed, result in enumerate(found):
        alone = texts.write_text(begun(tiny_model, Engine(tiny_model[0]), seed), sampling)
        assert (result.text, result.tokens, result.stopped_by, result.seed) == (
            alone.text, alone.tokens, alone.stopped_by, seed,
        )  # fmt: skip
        assert result.reused_tokens + result.read_tokens == result.prompt_tokens
    assert len(found) == 11 and engine.running == 0


@pytest.mark.parametrize("content", [b"", b"\xef\xbb\xbf", b"\n"])
def test_a_file_may_hold_nothing(tiny_model: TinyModel, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "empty").write_bytes(content)
    session = Session(*tiny_model)
    texts.read_file(session, tiny_model[1], tmp_path / "empty", io.BytesIO())
    assert session.tokens_seen == 1 + (content == b"\n")
    assert "".join(islice(session.stream(SamplingConfig(max_new_tokens=3)), 1)) or session.stopped_by


@pytest.mark.parametrize("name", ["none", "."])
def test_a_file_that_can_t_be_read_is_named(tiny_model: TinyModel, tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=r"can't read .*: check the name"):
        texts.read_file(Session(*tiny_model), tiny_model[1], tmp_path / name, io.BytesIO())


READ = """
import resource, sys
from pathlib import Path
from sioconv.generate import SamplingConfig, Session, texts
from sioconv.model import load_model_folder
model, tokenizer = load_model_folder(sys.argv[1])
session = Session(model, tokenizer, history=2**20)
for name in sys.argv[2:]:
    texts.read_file(session, tokenizer, Path(name), sys.stdin.buffer)
    print(session.tokens_seen, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
texts.read_prompt(session, tokenizer, "海は")
assert texts.write_text(session, SamplingConfig(max_new_tokens=5)).tokens == 5
"""


@pytest.mark.slow
def test_a_million_tokens_take_the_memory_of_a_hundred_thousand(
    tiny_model: TinyModel, make_model: Callable[..., SioConvForCausalLM], tmp_path: Path
) -> None:
    save_model_folder(make_model(tiny_model[1]), tiny_model[1], tmp_path / "model", [])
    line = "川は山から海へ流れる。海の水は空へ昇り、雨になって山へ帰る。\n"
    per_line = len(encode_texts(tiny_model[1], [line])[0])
    for name, tokens in (("short", 100_000), ("long", 1_000_000)):
        (tmp_path / name).write_text(line * (tokens // per_line + 1), encoding="utf-8")
    arguments = [sys.executable, "-c", READ, *(str(tmp_path / name) for name in ("model", "short", "long"))]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    (_, before), (tokens, after) = (map(int, line.split()) for line in done.stdout.splitlines())
    assert tokens > 1_100_000 and after - before < 20_000  # kilobytes
