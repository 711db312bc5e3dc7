"""The folder for the Hub: whole, by itself, with every fact, and nothing of the machine."""

import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
import yaml
from huggingface_hub import ModelCard, parse_eval_result_entries

from sioconv.checksums import check_sums, read_sealed, write_sealed, write_sums
from sioconv.errors import UserError
from sioconv.generate.quantise import quantise_model
from sioconv.model import load_model_folder, save_initial_state
from sioconv.model.folder import write_model_folder
from sioconv.publish.config import PublishConfig
from sioconv.publish.folder import files_of, is_published, publish_folder
from sioconv.publish.verify import verify_folder
from sioconv.recipe.schema import Recipe, load_recipe, save_recipe
from sioconv.train.budget import make_budget
from tests.publish.conftest import SOURCES, MakeRun

DOCS = Path(__file__).parents[2] / "docs"
GIVEN = PublishConfig(license="apache-2.0", author="Aoba *Lab*")


def publish(model: Path, out: Path, **changes: object) -> None:
    publish_folder(model, out, PublishConfig(**{**vars(GIVEN), **changes}))  # type: ignore[arg-type]


def test_a_stranger_can_load_it_and_it_computes_the_same(
    make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[float] = []

    def verify(folder: Path) -> float:
        found.append(verify_folder(folder))
        return found[-1]

    monkeypatch.setattr("sioconv.publish.verify.verify_folder", verify)
    monkeypatch.chdir(tmp_path)
    run, out = make_run(), Path("hub/tiny")  # a relative path, as people give it
    model, _ = load_model_folder(run / "model")
    save_initial_state(tmp_path / "poet.safetensors", model, model.fingerprint())
    publish(run / "model", out, state=[f"poet={tmp_path / 'poet.safetensors'}"], benchmark="aoba/heldout")
    assert len(found) == 1 and found[0] < 1e-4
    assert is_published(out) and not is_published(run / "model")
    assert not [path for path in Path("hub").rglob(".*") if path.name != ".eval_results"]
    check_sums(out)
    check_sums(out / "personas")
    data = ModelCard.load(out / "README.md").data
    assert (data.language, data.license, data.datasets) == (["ja", "en"], "apache-2.0", ["owner/books"])
    assert (data.library_name, data.pipeline_tag) == ("transformers", "text-generation")
    results = {result.dataset_config: result.metric_value for result in data.eval_results}
    assert results == {"ja": 1.5, "rivers": 1.25}
    entries = parse_eval_result_entries(yaml.safe_load((out / ".eval_results/bits_per_byte.yaml").read_text()))
    assert (entries[0].dataset_id, entries[0].task_id, entries[0].value) == ("aoba/heldout", "ja", 1.5)
    text = (out / "README.md").read_text(encoding="utf-8")
    assert "AutoTokenizer.from_pretrained(name, trust_remote_code=True)" in text  # else transformers asks on a terminal
    assert "More Information Needed" not in text and "## 日本語" in text and "None" not in text
    assert r"a\|b<br>\`c\`" in text and r"Aoba \*Lab\*" in text and "personas/poet.safetensors" in text
    everything = "".join(path.read_text("utf-8", "replace") for path in out.rglob("*") if path.is_file())
    assert "/home/someone" not in everything and str(tmp_path) not in everything and "secret kernel" not in everything
    assert "rivers.jsonl" in (out / "recipe.yaml").read_text() and "chatterbot-corpus" in (out / "NOTICE").read_text()
    origin = json.loads((out / "provenance.json").read_text(encoding="utf-8"))
    assert [source["licence"] for source in origin["sources"]] == ["CC0-1.0", "MIT", "BSD-3-Clause and Apache-2.0"]
    assert origin["sources"][0]["share"] == 0.75 and origin["sources"][0]["tokens"] == 1200
    assert set(origin["weights_sha256"]) == {"model.safetensors"}


@pytest.mark.usefixtures("quick")
def test_of_relative_paths_only_the_last_part_is_published(
    make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not a customer's folder, nor the names of a cluster; identifiers of the Hub stay whole."""
    monkeypatch.chdir(tmp_path)
    ways = {"deep": "customer A/社内 文書.jsonl", "above": "../customer B/*.jsonl", "here": "."}
    sources = {name: SOURCES["rivers"] | {"path": path} for name, path in ways.items()} | {"books": SOURCES["books"]}
    run = make_run(sources, tuned=False)
    recipe = load_recipe([str(run / "recipe.yaml")])
    (tmp_path / "customer_c").mkdir()
    recipe.tokenizer.path = "customer_c/words"
    recipe.tokenizer.compare = ["rwkv", "owner/words@main", "../customer_d/spm.model"]
    recipe.data.executor, recipe.data.cluster.partition = "slurm", "customer_e"
    recipe.data.cluster.setup = ". customer_f/activate"
    save_recipe(recipe, run / "recipe.yaml")
    monkeypatch.chdir("/")  # what was a path for the run stays one
    publish(run / "base", tmp_path / "out")
    texts = {
        file.name: file.read_text("utf-8") for file in (tmp_path / "out").iterdir() if file.suffix != ".safetensors"
    }
    assert [name for name, text in texts.items() if "customer" in text] == []
    published = load_recipe([str(tmp_path / "out" / "recipe.yaml")])
    paths = {name: source.path for name, source in published.data.sources.items()}
    assert paths == {"deep": "社内 文書.jsonl", "above": "*.jsonl", "here": ".", "books": "hf:owner/books"}
    assert published.tokenizer.path == "words"
    assert published.tokenizer.compare == ["rwkv", "owner/words@main", "spm.model"]


@pytest.mark.usefixtures("quick")
def test_two_calls_write_the_same_bytes(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run(tuned=False)
    for place in ("a", "b"):
        publish(run / "base", tmp_path / place / "tiny", name="mine")
    first, second = tmp_path / "a/tiny", tmp_path / "b/tiny"
    assert files_of(first) == files_of(second)
    assert all((first / name).read_bytes() == (second / name).read_bytes() for name, _ in files_of(first))
    assert "not tuned on conversations" in (first / "README.md").read_text(encoding="utf-8")


@pytest.mark.usefixtures("quick")
def test_a_quantised_form_and_a_licence_of_its_own(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run()
    (tmp_path / "terms.txt").write_text("Be kind.")
    terms = {"license": "Kind Licence", "license_file": str(tmp_path / "terms.txt")}
    model, tokenizer = load_model_folder(run / "model")
    quantise_model(model, 8)
    write_model_folder(model, tokenizer, tmp_path / "q8")
    publish(run / "model", tmp_path / "out", variant=[f"int8={tmp_path / 'q8'}"], **terms)
    check_sums(tmp_path / "out" / "int8")
    data = ModelCard.load(tmp_path / "out" / "README.md").data
    assert (data.license, data.license_name, data.license_link) == ("other", "kind-licence", "LICENSE")
    assert (tmp_path / "out" / "LICENSE").read_text() == "Be kind."
    for name in ("NOTICE", "Readme.md", "personas", "x.safetensors"):
        with pytest.raises(UserError, match="of the published folder has that name: choose another"):
            publish(run / "model", tmp_path / "other", variant=[f"{name}={tmp_path / 'q8'}"])


@pytest.mark.skipif(not (shutil.which("sha256sum") and shutil.which("find")), reason="no such commands")
@pytest.mark.usefixtures("quick")
def test_the_line_of_the_card_compares_every_file(make_run: MakeRun, tmp_path: Path) -> None:
    """Those of folders below too: the pages of docs name the same line."""
    run, out = make_run(), tmp_path / "out"
    model, tokenizer = load_model_folder(run / "model")
    save_initial_state(tmp_path / "poet.safetensors", model, model.fingerprint())
    quantise_model(model, 8)
    write_model_folder(model, tokenizer, tmp_path / "q8")
    poet, int8 = [str(tmp_path / "poet.safetensors")], [f"int8={tmp_path / 'q8'}"]
    publish(run / "model", out, variant=int8, state=poet, benchmark="aoba/heldout")
    lines = re.findall(r"`(find .*?)`", (out / "README.md").read_text(encoding="utf-8"))
    assert len(lines) == 2 and lines[0] == lines[1]
    for name in ("publishing", "page"):
        for end in ("md", "ja.md"):
            assert f"`{lines[0]}`" in (DOCS / f"{name}.{end}").read_text(encoding="utf-8")

    def check() -> int:
        return subprocess.run(shlex.split(lines[0]), cwd=out, capture_output=True).returncode

    assert check() == 0
    folders = {path.parent.relative_to(out).as_posix() for path in out.rglob("SHA256SUMS")}
    assert folders == {".", "int8", "personas", ".eval_results"}
    for file in sorted(path for path in out.rglob("*") if path.is_file() and path.name != "SHA256SUMS"):
        data = file.read_bytes()
        file.write_bytes(data + b"x")
        assert check() != 0, file
        file.write_bytes(data)


@pytest.mark.usefixtures("quick")
def test_a_quantised_form_of_other_weights_is_refused(
    make_run: MakeRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run()
    model, tokenizer = load_model_folder(run / "model")
    with torch.no_grad():
        model.lm_head.weight[3, 3] += 1.0
    quantise_model(model, 8)
    write_model_folder(model, tokenizer, tmp_path / "q8")
    with pytest.raises(UserError, match="was made from other weights"):
        publish(run / "model", tmp_path / "out", variant=[f"int8={tmp_path / 'q8'}"])
    config = tmp_path / "q8" / "config.json"
    values = json.loads(config.read_text(encoding="utf-8"))
    del values["quantization_config"]["made_from"]  # as older versions wrote it
    config.write_text(json.dumps(values), encoding="utf-8")
    write_sums(tmp_path / "q8")
    capsys.readouterr()
    publish(run / "model", tmp_path / "out", variant=[f"int8={tmp_path / 'q8'}"])
    assert "doesn't say which weights it was made from" in capsys.readouterr().err


@pytest.mark.usefixtures("quick")
def test_a_model_without_a_run_takes_a_recipe(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run()
    shutil.move(run / "model", tmp_path / "model")
    publish(tmp_path / "model", tmp_path / "out", recipe=str(run / "recipe.yaml"))
    text = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "comes from no run" in text and "model-index" not in text
    with pytest.raises(UserError, match="in no run: say what text"):
        publish(tmp_path / "model", tmp_path / "other")
    publish(tmp_path / "model", tmp_path / "third", run=str(run))
    assert "model-index" in (tmp_path / "third" / "README.md").read_text(encoding="utf-8")


REFUSED = [
    ({"license": None}, "licence of the weights isn't known: give --license"),
    ({"license": "Foo"}, "no licence that the Hub knows"),
    ({"author": " "}, "give --author"),
    ({"source_license": ["seas=MIT"]}, "no such source: there are books, rivers, talks"),
    ({"source_license": ["rivers=MIT"]}, "rivers=MIT: the recipe says CC0-1.0: leave the option out"),
    ({"source_license": ["rivers"]}, "give NAME=VALUE"),
    ({"state": ["a=none.safetensors"]}, "none.safetensors"),
    ({"variant": ["../a=x"]}, "give NAME=VALUE"),
    ({"variant": ["int8=nowhere"]}, "no such folder"),
    ({"benchmark": "heldout"}, "give OWNER/NAME"),
    ({"base_model": "heldout"}, "give OWNER/NAME"),
    ({"run": "nowhere"}, "no run at nowhere"),
    ({"license_file": "nowhere"}, "no licence file"),
]


@pytest.mark.usefixtures("quick")
def test_what_is_refused_leaves_nothing(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run()
    for changes, why in REFUSED:
        with pytest.raises(UserError, match=re.escape(why)):
            publish(run / "model", tmp_path / "hub" / "out", **changes)
        assert not list(tmp_path.glob("hub/*")) and not list(tmp_path.glob("hub/.*"))
    (tmp_path / "there").mkdir()
    with pytest.raises(UserError, match="is there already"):
        publish(run / "model", tmp_path / "there")
    summary = run / "report" / "summary.json"
    summary.write_text(summary.read_text().replace('"parameters": ', '"parameters": 1'))
    with pytest.raises(UserError, match="run sioconv report"):
        publish(run / "model", tmp_path / "out")
    summary.unlink()
    with pytest.raises(UserError, match="has no report"):
        publish(run / "model", tmp_path / "out")


@pytest.mark.usefixtures("quick")
def test_an_unknown_or_forbidding_licence_of_a_text(make_run: MakeRun, tmp_path: Path) -> None:
    rivers, wiki = SOURCES["rivers"] | {"licence": ""}, SOURCES["books"] | {"licence": "CC-BY-SA-3.0"}
    run = make_run({"rivers": rivers, "wiki": wiki})
    with pytest.raises(UserError, match=r"licence of the text rivers .* give --source-license rivers=LICENCE"):
        publish(run / "model", tmp_path / "out")
    said = ["rivers=CC0-1.0"]
    with pytest.raises(UserError, match=r"wiki is CC-BY-SA-3.0: it demands .* --license-confirmed"):
        publish(run / "model", tmp_path / "out", source_license=said)
    publish(run / "model", tmp_path / "shared", source_license=[*said, "wiki=cc by-sa 3.0"], license="cc-by-sa-4.0")
    publish(run / "model", tmp_path / "out", source_license=said, license_confirmed=True)
    assert "has confirmed the right" in (tmp_path / "out" / "README.md").read_text(encoding="utf-8")


@pytest.mark.usefixtures("quick")
def test_shares_that_follow_sizes_are_those_of_the_shards(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run()
    recipe, books = run / "recipe.yaml", run / "data" / "books" / "train" / "manifest.json"
    recipe.write_text(recipe.read_text(encoding="utf-8").replace("by_size: false", "by_size: true", 1), "utf-8")
    write_sealed(books, read_sealed(books) | {"tokens": 3600})
    publish(run / "model", tmp_path / "out")
    sources = json.loads((tmp_path / "out" / "provenance.json").read_text(encoding="utf-8"))["sources"]
    assert [source["share"] for source in sources[:2]] == [0.5, 0.5]  # 3 x 1,200 and 1 x 3,600
    shutil.rmtree(books.parent)
    with pytest.raises(UserError, match="the run's shards aren't there"):
        publish(run / "model", tmp_path / "again")


@pytest.mark.usefixtures("quick")
def test_figures_of_other_weights_are_refused(
    make_run: MakeRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run()
    summary = run / "report" / "summary.json"
    values = json.loads(summary.read_text(encoding="utf-8"))
    summary.write_text(json.dumps(values | {"weights": {}}), encoding="utf-8")  # as older versions wrote it
    publish(run / "model", tmp_path / "out")
    assert "doesn't say which weights it measured" in capsys.readouterr().err
    summary.write_text(json.dumps(values), encoding="utf-8")
    data = bytearray((run / "model" / "model.safetensors").read_bytes())
    data[-2] ^= 1
    (run / "model" / "model.safetensors").write_bytes(data)
    write_sums(run / "model")
    with pytest.raises(UserError, match="measured other weights than the model has: run sioconv report"):
        publish(run / "model", tmp_path / "other")


@pytest.mark.usefixtures("quick")
def test_the_card_names_the_stage_that_makes_the_model(make_run: MakeRun, tmp_path: Path) -> None:
    publish(make_run(tuned=False) / "base", tmp_path / "out")
    text = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert text.count("`sioconv pretrain recipe.yaml`") == 2 and "sioconv finetune" not in text


@pytest.mark.usefixtures("quick")
def test_the_recipe_has_the_tokens_that_were_read_in_its_minutes(make_run: MakeRun, tmp_path: Path) -> None:
    """Of a stage that is done, so that training by it takes as many steps; else the card says what minutes mean."""
    run = make_run()

    def saved(stage: str, step: int, planned: int) -> None:
        values = {"tokens": step * 4096, "step": step, "seconds": 60.0, "plan": {"steps": planned}}
        folder = run / "checkpoints" / stage / f"step-{step:08d}"
        folder.mkdir(parents=True)
        write_sealed(folder / "progress.json", values)

    def published(out: str) -> tuple[Recipe, str]:
        publish(run / "model", tmp_path / out)
        card = (tmp_path / out / "README.md").read_text(encoding="utf-8")
        return load_recipe([str(tmp_path / out / "recipe.yaml")]), card

    saved("pretrain", 4390, 4390)
    saved("finetune", 9, 929)
    recipe, card = published("early")
    assert (recipe.train.tokens, recipe.finetune.train.minutes) == (4390 * 4096, 1.0)
    assert "trains one like it" in card and "別のモデルになります" in card
    assert "finetune" not in json.loads((tmp_path / "early" / "provenance.json").read_text("utf-8"))["training"]
    saved("finetune", 929, 929)
    recipe, card = published("late")
    for train, steps in ((recipe.train, 4390), (recipe.finetune.train, 929)):
        assert train.minutes is None and make_budget(train, torch.float32, 0.5).steps == steps
    assert "trains it again" in card and "any machine reads as many" in card and "どのマシンでも同じ数" in card


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
def test_code_that_computes_something_else_is_refused(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run()
    publish(run / "model", tmp_path / "out")
    code = tmp_path / "out" / "modeling_sioconv.py"
    code.write_text(code.read_text(encoding="utf-8") + "\nraise RuntimeError('broken')\n", encoding="utf-8")
    write_sums(tmp_path / "out")
    with pytest.raises(UserError, match="can't be loaded without the package: RuntimeError: broken"):
        verify_folder(tmp_path / "out")
