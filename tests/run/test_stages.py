"""The stages of a run: what they leave, what they refuse, and a run that is killed with SIGKILL and goes on."""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from sioconv.data.shards.shard_set import ShardSet
from sioconv.data.sources.identity import identity_rows
from sioconv.data.tokenizer.tokenizer import load_tokenizer, tokenizer_sha256
from sioconv.errors import UserError
from sioconv.evaluate.heldout import assistant_loss
from sioconv.evaluate.parts.settings import Settings
from sioconv.generate import SamplingConfig
from sioconv.generate.quantise import quantise_model
from sioconv.model import load_model_folder, parameter_count
from sioconv.model.folder import write_model_folder
from sioconv.model.folder_code import FILE
from sioconv.recipe.files import read_yaml, write_yaml
from sioconv.recipe.schema import Recipe, load_recipe
from sioconv.run import stages
from sioconv.run.measure import evaluate
from sioconv.train.checkpoint import checkpoints
from sioconv.train.metrics import read_jsonl
from tests.train import launch

RECIPE = """\
name: rivers
seed: 3
tokenizer: {vocab_size: 320}
data:
  heldout: 0.1
  sources:
    rivers: {path: rivers.jsonl, weight: 0.75}
    hills: {path: hills.jsonl, language: en, weight: 0.25}
model: {hidden_size: 32, num_hidden_layers: 2, num_heads: 4, intermediate_size: 48}
train: &train
  tokens: 3_072
  sequence_length: 32
  batch_size: 8
  device: cpu
  precision: fp32
  threads: 1
  log_every: 4
  checkpoint_every: 5
  sample_prompts: ["川は"]
  sample_seconds: []
  sample_tokens: 4
finetune:
  data:
    heldout: 0.1
    sources:
      talks: {path: talks.jsonl, kind: chat, weight: 0.5}
      rivers: {path: rivers.jsonl, weight: 0.5}
  train: {<<: *train, whole_documents: true}
"""
TINY = Path(__file__).parents[1] / "recipe" / "tiny.yaml"
PERSONA = """\
name: persona
finetune:
  from: runs/base/base
  data:
    heldout: 0.1
    sources:
      identity: {path: "identity:シオ", kind: chat}
  train:
    only: initial_state
    tokens: 10_240
    sequence_length: 64
    batch_size: 8
    whole_documents: true
    lr: 10.0
    device: cpu
    precision: fp32
    threads: 1
    sample_prompts: []
    sample_seconds: []
evaluate: {questions: 1, max_new_tokens: 4, conversations: 20, prompts: [], parts: [text]}
"""
Load = Callable[..., Recipe]


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Load]:
    """`load(*overrides)`: the recipe above, in a folder that has its texts."""
    monkeypatch.chdir(tmp_path)
    write_workplace(tmp_path)
    threads = torch.get_num_threads()
    yield lambda *overrides: load_recipe(["recipe.yaml"], overrides)
    torch.set_num_threads(threads)


def write_workplace(folder: Path) -> None:
    talk = [{"role": "user", "content": "川はどこへ？"}, {"role": "assistant", "content": "海へ流れます。"}]
    rows: dict[str, list[dict[str, Any]]] = {
        "rivers": [{"text": f"第{n}の川は、山から海へ流れる。海の水は空へ昇り、雨になる。"} for n in range(120)],
        "hills": [{"text": f"The river number {n} runs from the hills to the sea."} for n in range(120)],
        "talks": [{"messages": [{**talk[0], "content": f"第{n}の川はどこへ？"}, talk[1]]} for n in range(60)],
    }
    for name, entries in rows.items():
        lines = [json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries]
        (folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
    (folder / "recipe.yaml").write_text(RECIPE, encoding="utf-8")


def state_of(folder: Path) -> dict[str, tuple[int, bytes]]:
    """When each file was written, and what is in it."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


def hidden(folder: Path) -> list[Path]:
    return [path for path in folder.rglob(".*") if path.name not in (".metadata", ".inputs.json")]


def test_data_makes_the_tokenizer_and_the_shards_of_both_stages(load: Load) -> None:
    recipe = load()
    stages.make_data(recipe)
    run = Path("runs/rivers")
    tokenizer = load_tokenizer(run / "tokenizer")
    assert len(tokenizer) <= 320
    assert {path.name for path in (run / "data").iterdir()} == {"rivers", "hills", "talks"}
    sha256 = tokenizer_sha256(run / "tokenizer")
    documents = {
        path.name: sum(ShardSet.open(path / split, sha256).documents_total for split in ("train", "heldout"))
        for path in (run / "data").iterdir()
    }
    assert documents == {"rivers": 120, "hills": 120, "talks": 60}
    assert read_yaml(run / "recipe.yaml")["data"]["sources"]["hills"]["language"] == "en"
    before = state_of(run / "data")
    stages.make_data(recipe)
    assert state_of(run / "data") == before
    assert not hidden(run)


def test_pretraining_alone_ends_with_a_model(load: Load) -> None:
    recipe = load()
    recipe.finetune.data.sources.clear()
    assert stages.pretrain(recipe) == Path("runs/rivers/base")
    for name in ("base", "model"):
        model, tokenizer = load_model_folder(Path("runs/rivers") / name)
        assert model.config.vocab_size == len(tokenizer)
        assert (Path("runs/rivers") / name / FILE).is_file()
        assert model.generation_config.eos_token_id == tokenizer.convert_tokens_to_ids(["<|eos|>", "<|end_of_turn|>"])
        chosen = SamplingConfig().for_transformers()
        assert {name: getattr(model.generation_config, name) for name in chosen} == chosen
    assert {row["stage"] for row in read_jsonl(Path("runs/rivers/metrics.jsonl"))} == {"pretrain"}


def test_a_start_from_counts_is_ahead_at_once(load: Load, capsys: pytest.CaptureFixture[str]) -> None:
    losses = []
    for start in ("random", "counts"):
        options = (f"--name={start}", f"--train.start={start}", "--train.log_every=1", "--model.preset=sioconv-2026b")
        stages.pretrain(load(*options))
        rows = read_jsonl(Path(f"runs/{start}/metrics.jsonl"))
        losses.append(next(row["loss"] for row in rows if row["split"] == "train"))
    assert losses[1] < losses[0] - 1
    assert capsys.readouterr().err.count("start from counts") == 1


def test_without_a_good_checkpoint_a_run_starts_from_counts_again(load: Load) -> None:
    recipe = load("--train.start=counts")
    whole = load_model_folder(stages.pretrain(recipe))[0].state_dict()
    shutil.rmtree("runs/rivers/base")
    for path in checkpoints(Path("runs/rivers/checkpoints/pretrain")):
        next(path.glob("*.distcp")).write_bytes(b"")
    again = load_model_folder(stages.pretrain(recipe))[0].state_dict()
    assert all(torch.equal(value, again[name]) for name, value in whole.items())


def test_both_stages_and_what_they_measure(load: Load, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = load()
    assert stages.finetune(recipe) == Path("runs/rivers/model")
    run = Path("runs/rivers")
    held = {(r["stage"], r["source"], r["bpb"] is None) for r in read_jsonl(run / "metrics.jsonl") if r["source"]}
    assert held == {
        ("pretrain", "rivers", False),
        ("pretrain", "hills", False),
        ("finetune", "talks", True),
        ("finetune", "rivers", False),
    }
    samples = [(row["stage"], row["label"]) for row in read_jsonl(run / "samples.jsonl")]
    assert samples == [("pretrain", "start"), ("pretrain", "end"), ("finetune", "start"), ("finetune", "end")]
    base, model = (load_model_folder(run / name)[0].state_dict() for name in ("base", "model"))
    assert not torch.equal(base["lm_head.weight"], model["lm_head.weight"])
    before = state_of(run)
    before.pop("recipe.yaml")
    capsys.readouterr()
    assert stages.finetune(recipe) == run / "model"
    after = state_of(run)
    after.pop("recipe.yaml")
    assert after == before
    assert "is there already" in capsys.readouterr().err
    assert not hidden(run)


def test_a_run_that_is_not_tuned_yet_has_a_report(load: Load) -> None:
    recipe = load("--evaluate.yardstick_bytes=4000", "--evaluate.max_new_tokens=4")
    run = stages.pretrain(recipe).parent
    figures = stages.report(recipe, run)
    assert set(figures.languages) == {"ja", "en"}
    assert figures.chat is None
    assert (run / "report" / "index.html").exists()


@pytest.mark.parametrize("name", ["llama", "lstm", "mingru", "mamba2"])
def test_another_architecture_goes_the_same_way(load: Load, capsys: pytest.CaptureFixture[str], name: str) -> None:
    """Pretrained, tuned and measured in one recipe with ours; the figures are those of the validation."""
    recipe = load("--architecture", name, "--train.validate_bytes=100000")
    run = stages.finetune(recipe).parent
    said = capsys.readouterr().err
    model, tokenizer = load_model_folder(run / "base", baselines=True)
    ours = parameter_count(recipe.model, len(tokenizer))
    assert f"architecture {name}: hidden_size 32, " in said
    assert f"{model.num_parameters():,} parameters, SioConv of this recipe: {ours:,}" in said
    assert ("no resets" in said) == (name == "mamba2")
    state = {"lstm": 2 * 4 * 32, "mingru": 4 * 48}.get(name)  # bytes a layer
    assert getattr(model.config, "training_length", None) == (None if state else 32)
    assert not list((run / "base").glob("*.py"))
    assert model.generation_config.eos_token_id == tokenizer.convert_tokens_to_ids(["<|eos|>", "<|end_of_turn|>"])
    rows = read_jsonl(run / "metrics.jsonl")
    held = {row["source"]: row["bpb"] for row in rows if row["stage"] == "pretrain" and row["source"]}
    measured = evaluate(str(run / "base"), None, "cpu", settings=Settings(parts=("text",)))
    assert {source: values["bpb"] for source, values in measured["sources"].items()} == pytest.approx(held, rel=1e-6)
    assert measured["parameters"] == model.num_parameters()
    assert measured["state_bytes"] == (state * model.config.num_hidden_layers if state else None)
    samples = [(row["stage"], row["label"]) for row in read_jsonl(run / "samples.jsonl")]
    assert samples == [("pretrain", "start"), ("pretrain", "end"), ("finetune", "start"), ("finetune", "end")]
    tuned = load_model_folder(run / "model", baselines=True)[0]
    assert type(tuned) is type(model) and not torch.equal(tuned.lm_head.weight, model.lm_head.weight)


def test_what_another_architecture_has_not(load: Load) -> None:
    recipe = load("--architecture=llama")
    run = stages.open_run(recipe)
    with pytest.raises(UserError, match=r"report knows .*, not llama: take `sioconv evaluate runs/rivers/base`"):
        stages.report(recipe, run)
    with pytest.raises(UserError, match=r"plan knows .*, not llama: leave --architecture out"):
        stages.plan_costs(recipe)
    for name in ("llama", "mamba2"):
        with pytest.raises(UserError, match=r"train\.carry_state: .* carries no state: set it to false"):
            stages.pretrain(load("--name", name, "--architecture", name, "--train.carry_state=true"))


def test_a_run_from_before_there_were_architectures_goes_on(load: Load) -> None:
    run = stages.open_run(load())
    (run / "checkpoints/pretrain").mkdir(parents=True)
    path = run / "recipe.yaml"
    old = read_yaml(path)
    del old["architecture"]
    write_yaml(old, path)
    (run / "SHA256SUMS").unlink()  # nor were there any
    stages.open_run(load())
    assert read_yaml(path)["architecture"] == "sioconv"
    write_yaml(old, path)
    (run / "SHA256SUMS").unlink()
    with pytest.raises(UserError, match="was made with another recipe: architecture: 'sioconv' there, 'lstm' here"):
        stages.open_run(load("--architecture=lstm"))


def test_the_same_seed_gives_the_same_model(load: Load) -> None:
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        recipe = load("--name", name, "--seed", str(seed), "--train.tokens=1024")
        tokenizer = stages.make_tokenizer(recipe)
        torch.rand(3)  # whatever was drawn before
        torch.save(stages.build_model(recipe, tokenizer).state_dict(), f"{name}.pt")
    first, second, third = (torch.load(f"{name}.pt", weights_only=True) for name in "abc")
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    assert not torch.equal(first["lm_head.weight"], third["lm_head.weight"])


@pytest.mark.parametrize(
    ("made", "override", "fits"),
    [
        (None, "--data.sources.hills.weight=0.5", True),
        ("tokenizer", "--data.sources.hills.weight=0.5", False),
        ("tokenizer", "--tokenizer.vocab_size=330", False),
        ("tokenizer", "--data.workers=2", True),
        ("tokenizer", "--data.max_bad_rows=0.5", True),
        ("checkpoints/finetune", "--finetune.data.workers=2", True),
        ("tokenizer", "--train.lr=1e-4", True),
        ("tokenizer", "--tokenizer.compare=[rwkv]", True),
        ("checkpoints/pretrain", "--train.lr=1e-4", False),
        ("checkpoints/pretrain", "--seed=4", False),
        ("checkpoints/pretrain", "--model.num_heads=2", False),
        ("tokenizer", "--architecture=llama", True),
        ("checkpoints/pretrain", "--architecture=llama", False),
        ("checkpoints/pretrain", "--finetune.train.lr=1e-4", True),
        ("checkpoints/finetune", "--finetune.train.lr=1e-4", False),
        ("checkpoints/finetune", "--evaluate.questions=4", True),
    ],
)
def test_what_has_been_made_fixes_what_it_was_made_from(
    load: Load, made: str | None, override: str, fits: bool
) -> None:
    run = stages.open_run(load())
    if made:
        (run / made).mkdir(parents=True)
    if fits:
        stages.open_run(load(override))
        assert load_recipe([str(run / "recipe.yaml")]) == load(override)
    else:
        with pytest.raises(UserError, match="was made with another recipe") as refused:
            stages.open_run(load(override))
        assert override.removeprefix("--").partition("=")[0] in str(refused.value)
        assert load_recipe([str(run / "recipe.yaml")]) == load()


def test_adopts_the_tokenizer_that_the_recipe_names(load: Load) -> None:
    stages.make_tokenizer(load("--name=first", "--tokenizer.vocab_size=300"))
    adopted = stages.make_tokenizer(load("--name=second", "--tokenizer.path=runs/first/tokenizer"))
    first = load_tokenizer(Path("runs/first/tokenizer"))
    assert adopted.get_vocab() == first.get_vocab()
    second = load_tokenizer(Path("runs/second/tokenizer"))
    assert second.chat_template == first.chat_template
    assert second("川は").input_ids == first("川は").input_ids
    with pytest.raises(UserError, match="no tokenizer: nowhere"):
        stages.make_tokenizer(load("--name=third", "--tokenizer.path=nowhere"))


def test_tunes_a_model_of_another_run_with_its_tokenizer(load: Load) -> None:
    stages.pretrain(load("--name=first", "--tokenizer.vocab_size=300"))
    recipe = load("--name=second", "--finetune.from=runs/first/base")
    recipe.data.sources.clear()
    assert stages.finetune(recipe) == Path("runs/second/model")
    model, tokenizer = load_model_folder("runs/second/model")
    base, first = load_model_folder("runs/first/base")
    assert tokenizer.get_vocab() == first.get_vocab()
    assert not (Path("runs/second") / "base").exists()
    assert model.config.vocab_size == base.config.vocab_size
    assert not torch.equal(model.lm_head.weight, base.lm_head.weight)
    quantise_model(base, 8)
    write_model_folder(base, first, Path("few"))
    stages.finetune(load("--name=third", "--finetune.from=few"))
    assert not getattr(load_model_folder("runs/third/model")[0], "is_quantized", False)
    with pytest.raises(UserError, match="few is quantised: its initial states alone can't be trained"):
        stages.finetune(load("--name=fourth", "--finetune.from=few", "--finetune.train.only=initial_state"))


def test_a_model_with_another_tokenizer_is_not_tuned(load: Load) -> None:
    stages.pretrain(load("--name=first", "--tokenizer.vocab_size=300"))
    stages.make_tokenizer(load("--name=second"))
    with pytest.raises(UserError, match="runs/second has another tokenizer than the model in runs/first/base"):
        stages.finetune(load("--name=second", "--finetune.from=runs/first/base"))


def test_a_run_of_an_older_version_goes_on(load: Load) -> None:
    """Its recipe lacks what has been added since, which has the default that changes nothing."""
    path = stages.open_run(load()) / "recipe.yaml"
    (path.parent / "checkpoints/pretrain").mkdir(parents=True)
    older = re.sub(r"^ *only: all\n", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert older != path.read_text(encoding="utf-8")
    path.write_text(older, encoding="utf-8")
    (path.parent / "SHA256SUMS").unlink()
    stages.open_run(load())
    with pytest.raises(UserError, match="was made with another recipe"):
        stages.open_run(load("--train.lr=1e-4"))


@pytest.mark.usefixtures("load")
def test_state_tuning_gives_a_persona_in_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    """The base is that of the tests' small recipe, the tuned conversations are those about the model itself."""
    base = stages.pretrain(load_recipe([str(TINY)], ["--name=base", "--train.tokens=60_000", "--train.lr=1e-2"]))
    before = state_of(base)
    Path("persona.yaml").write_text(PERSONA, encoding="utf-8")
    recipe = load_recipe(["persona.yaml"])
    run, state = Path("runs/persona"), Path("runs/persona/state.safetensors")
    assert stages.finetune(recipe) == state
    assert state_of(base) == before
    assert not {"base", "model"} & {path.name for path in run.iterdir()}
    plain, tokenizer = load_model_folder(base)
    tuned, _ = load_model_folder(base, state=state)
    for (name, value), other in zip(plain.named_parameters(), tuned.parameters(), strict=True):
        assert torch.equal(value, other) != name.endswith("initial_state"), name

    sizes = {path.name: path.stat().st_size for path in (run / "checkpoints/finetune").rglob("*.distcp")}
    assert sum(sizes.values()) < (base / "model.safetensors").stat().st_size / 2  # two checkpoints
    talks = [row.messages or [] for row in identity_rows("シオ")]
    without, with_it = (assistant_loss(model, tokenizer, talks) for model in (plain, tuned))
    assert without is not None and with_it is not None
    assert with_it < without - 0.02

    written = state.stat().st_mtime_ns
    capsys.readouterr()
    assert stages.finetune(recipe) == state
    assert "runs/persona/state.safetensors is there already" in " ".join(capsys.readouterr().err.split())
    assert state.stat().st_mtime_ns == written

    chat = stages.report(recipe, run).chat
    assert chat is not None and chat.loss_before is not None and chat.loss_after is not None
    assert chat.loss_after < chat.loss_before
    (text := Path("rivers.txt")).write_text("川は、山から海へ流れる。" * 4, encoding="utf-8")
    parts = Settings(parts=("text",))
    measured = [evaluate(str(base), str(text), "cpu", persona, parts) for persona in (None, str(state))]
    assert measured[0]["sources"] != measured[1]["sources"]
    assert measured[0]["parameters"] == measured[1]["parameters"]


def test_a_stage_without_sources_says_so(load: Load) -> None:
    recipe = load()
    recipe.finetune.data.sources.clear()
    with pytest.raises(UserError, match=r"finetune\.data\.sources is empty"):
        stages.finetune(recipe)
    recipe.data.sources.clear()
    with pytest.raises(UserError, match=r"data\.sources is empty"):
        stages.pretrain(recipe)


# -------------------------------------------------------------------------------------------------------------- kill -9


LONGER = ("--train.tokens=15360", "--finetune.train.tokens=15360", "--train.start=counts")  # 60 steps each


def start(folder: Path) -> "subprocess.Popen[str]":
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONUTF8": "1"}
    command = [sys.executable, "-m", "sioconv", "finetune", "recipe.yaml", *LONGER]
    return subprocess.Popen(
        command, cwd=folder, env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, encoding="utf-8"
    )


def kill_after_a_checkpoint(folder: Path, stage: str) -> bool:
    """Kills the process at an arbitrary moment after the stage's first checkpoint; False where it was done already."""
    process = start(folder)
    while process.poll() is None and not checkpoints(folder / "runs" / "rivers" / "checkpoints" / stage):
        time.sleep(0.002)
    time.sleep(random.uniform(0.0, 0.2))
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=120)
    return process.returncode == -signal.SIGKILL


def results(folder: Path) -> tuple[dict[str, bytes], list[dict[str, Any]], list[dict[str, Any]]]:
    """Weights, metrics and samples, but for what depends on the clock."""
    run = folder / "runs" / "rivers"
    weights = {name: (run / name / "model.safetensors").read_bytes() for name in ("base", "model")}
    metrics, samples = (
        [
            {key: value for key, value in row.items() if key not in ("seconds", "tokens_per_second")}
            for row in read_jsonl(run / f"{name}.jsonl")
        ]
        for name in ("metrics", "samples")
    )
    return weights, metrics, samples


def test_a_run_killed_in_both_stages_ends_with_the_same_bits(load: Load, tmp_path: Path) -> None:
    killed = tmp_path / "killed"
    killed.mkdir()
    write_workplace(killed)
    was_killed = [kill_after_a_checkpoint(killed, stage) for stage in ("pretrain", "finetune")]
    process = start(killed)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 0, said
    if all(was_killed):
        assert "finetune: goes on from step-" in said
    stages.finetune(load(*LONGER))  # without a break, and in another process
    for whole, resumed in zip(results(tmp_path), results(killed), strict=True):
        assert whole == resumed
    assert not hidden(killed / "runs" / "rivers" / "checkpoints")


def test_two_processes_make_the_same_models_in_the_same_folder(load: Load, tmp_path: Path) -> None:
    """The whole way by two processes: one prepares the data and writes what is written once."""
    together = tmp_path / "together"
    together.mkdir()
    write_workplace(together)
    options = ("--train.carry_state=true", "--train.start=counts")
    running = launch.start(["-m", "sioconv", "finetune", "recipe.yaml", *options], 2, together)
    stages.finetune(load(*options))
    results = launch.finish(running)
    assert [code for code, _ in results] == [0, 0], results
    assert "× 2 processes" in results[0][1]
    assert results[1][1] == ""  # the second process keeps silent
    for name in ("base", "model"):
        alone, shared = (load_model_folder(folder / "runs/rivers" / name)[0] for folder in (tmp_path, together))
        for key, value in alone.state_dict().items():
            # By norm: sums are in another order, and where a gradient is nearly 0, AdamW makes more of a single number.
            assert (value - shared.state_dict()[key]).norm() < 1e-4, key
    metrics = [read_jsonl(folder / "runs/rivers/metrics.jsonl") for folder in (tmp_path, together)]
    for first, second in zip(*metrics, strict=True):
        assert first["loss"] == pytest.approx(second["loss"], rel=1e-4)
        assert [first[key] for key in ("stage", "step", "split", "source")] == [
            second[key] for key in ("stage", "step", "split", "source")
        ]
