"""The command line: every verb's help, every bad input in one line, and what goes to which stream."""

import gc
import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers.utils import logging

from sioconv.cli import main as cli
from sioconv.data.config import TokenizerConfig
from sioconv.data.tokenizer.tokenizer import train_tokenizer
from sioconv.errors import UserError
from sioconv.model import load_model_folder, save_initial_state
from sioconv.model.initial_state import initial_states
from sioconv.terminal import visible

VERBS = list(cli.VERBS)
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONUTF8": "1"}
TINY = Path(__file__).parents[1] / "recipe" / "tiny.yaml"
Main = Callable[..., tuple[int, str, str]]


def sioconv(*arguments: str, stdin: str = "", cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """A real process."""
    command = [sys.executable, "-m", "sioconv", *arguments]
    return subprocess.run(
        command, input=stdin, cwd=cwd, env=os.environ | ENVIRONMENT, encoding="utf-8", capture_output=True, timeout=120
    )


@pytest.fixture
def main(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Main]:
    """`main(*arguments, stdin="")` in this process and an empty folder: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    # The command sets this in the environment before it imports transformers, which the tests have imported already.
    logging.disable_progress_bar()

    def run(*arguments: str, stdin: str | bytes = "") -> tuple[int, str, str]:
        data = stdin if isinstance(stdin, bytes) else stdin.encode()
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data), encoding="utf-8"))
        with pytest.raises(SystemExit) as ended:
            cli.main(arguments)
        assert isinstance(ended.value.code, int)
        return ended.value.code, *capsys.readouterr()

    yield run
    logging.enable_progress_bar()


@pytest.fixture
def refused(main: Main, tmp_path: Path) -> Callable[..., str]:
    """Runs what must be refused: one line, exit code 2, and no file left that is half-written."""

    def run(*arguments: str, **options: str | bytes) -> str:
        code, out, err = main(*arguments, **options)
        assert code == 2
        assert out == ""
        assert re.fullmatch(r"sioconv: .+\n", err)
        assert not [path for path in tmp_path.rglob("*") if path.name.startswith(".")]
        return err

    return run


# ------------------------------------------------------------------------------------------------------------ arguments


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_every_verb_has_help_with_an_example(main: Main, verb: str, flag: str) -> None:
    code, out, err = main(verb, flag)
    assert (code, err) == (0, "")
    assert re.search(rf"^Example: sioconv {verb} \S", out, re.MULTILINE)


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"], ["help"]])
def test_help_lists_every_verb(main: Main, arguments: list[str]) -> None:
    code, out, _ = main(*arguments)
    assert code == 0
    assert all(f"  sioconv {verb} " in out for verb in VERBS)


def test_version(main: Main) -> None:
    assert main("--version")[:2] == (0, f"sioconv {cli.__version__}\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train"], "unknown verb 'train': choose from .*pretrain"),
        (["--json"], "unknown verb '--json'"),
        (["pretrain"], "no recipe: sioconv pretrain RECIPE"),
        (["data", "--seed", "1"], "no recipe: sioconv data RECIPE"),
        (["pretrain", "nothing.yaml"], r"no recipe nothing\.yaml"),
        (["pretrain", "demo.yaml", "--seed"], "--seed: no value"),
        (["pretrain", "demo.yaml", "--model.num_heads", "7"], "recipe: model.num_heads: 7 does not divide hidden_size"),
        (["pretrain", "demo.yaml", "--architecture", "gpt"], "recipe: .*architecture"),
        (["plan", "demo.yaml", "--architecture", "llama"], "plan knows the architecture sioconv, not llama: leave"),
        (["generate"], "arguments are required: model, prompt; see sioconv generate --help"),
        (["generate", "model"], "arguments are required: prompt; see sioconv generate --help"),
        (["generate", "model", "--file", "book"], "arguments are required: prompt"),
        (["generate", "model", "text", "--n", "0"], "n out of range: 0"),
        (["generate", "model", "a", "b", "--save-state", "s"], "a state file holds one text"),
        (["generate", "model", "a", "--n", "2", "--save-state", "s"], "a state file holds one text"),
        (["generate", "model", "-", "--file", "-"], "standard input can be read once"),
        (["generate", "model", "--prompts", "none"], "can't read the prompts: none"),
        (["generate", "model", "a", "--schema", "none.json"], "can't read the schema: none.json"),
        (["generate", "model", "a", "--schema", "{"], "the schema is not JSON"),
        (["generate", "model", "a", "--regex", "a", "--choice", "b"], "a text has one form"),
        (["generate", "model", "a", "--choice", ""], "a choice is empty"),
        (["chat", "model", "--save", "a.state"], "--save goes with -p or --json"),
        (["chat", "model", "-p", "-", "-p", "-"], "standard input can be read once"),
        (["inspect", "model"], "give a text"),
        (["inspect", "model", "--text", "a", "--file", "b"], "give a text"),
        (["inspect", "model", "--text", "a", "--picture", "a.gif"], "can't draw a.gif"),
        (["inspect", "model", "--text", "a"], "no model folder at model"),
        (["generate", "model", "text", "--bogus", "1"], "unrecognized arguments: --bogus 1"),
        (["generate", "model", "text", "--temperature", "hot"], "temperature"),
        (["generate", "model", "text", "--top-p", "7"], "top_p out of range: 7"),
        (["generate", "model", "text", "--threads", "0"], "threads out of range: 0"),
        (["chat", "model", "--max-new-tokens", "0"], "max_new_tokens out of range: 0"),
        (["report"], "arguments are required: run"),
        (["report", "runs/nothing"], "no run at runs/nothing: there is no runs in .*: give a folder"),
        (["evaluate"], "arguments are required: model"),
        (["evaluate", "runs/demo/model"], "no model folder at runs/demo/model"),
        (["evaluate", "model", "--parts", "text,grammar"], "parts: 'grammar' is none of them: choose from text, "),
        (["evaluate", "model", "--parts", ","], "--parts names nothing"),
        (["evaluate", "model", "--text", "a", "--run", "b"], "name two texts"),
        (["evaluate", "model", "--run", "runs/none"], "no run at runs/none"),
        (["evaluate", "model", "--pairs", "0"], "pairs out of range: 0"),
        (["evaluate", "model", "--bytes", "0"], "bytes out of range: 0"),
        (["evaluate", "model", "--limit", "-1"], "limit out of range"),
        (["evaluate", "model", "--limit", "1"], "--limit is about --tasks, of which none are named"),
        (["evaluate", "model", "--include", "."], "--include is about --tasks, of which none are named"),
        (["evaluate", "model", "--tasks", ","], "--tasks names nothing"),
        (["evaluate", "model", "--tasks", "own", "--include", "nowhere"], "--include: no folder nowhere"),
        (["convert", "old.ckpt"], "arguments are required: out"),
        (["convert", "old.ckpt", "new"], r"no checkpoint at old\.ckpt"),
        (["demo", "--minutes", "soon"], "minutes"),
        (["demo", "--minutes", "-1"], "--minutes: -1.0 is not a positive number"),
        (["demo", "--minutes", "nan"], "minutes"),
        (["demo", "--minutes", "2", "--recipe", str(TINY)], "the recipe gives its budgets in tokens"),
        (["demo", "--name", ""], "the model's name is empty"),
        (["demo", "--name", "「塩」"], "name"),
        (["demo", "--recipe", "nothing"], "no recipe nothing"),
    ],
)
def test_wrong_arguments_are_refused(
    refused: Callable[..., str], tmp_path: Path, arguments: list[str], message: str
) -> None:
    assert re.search(message, refused(*arguments))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("verb", "given", "name", "expected"),
    [
        ("generate", ["--max-new-tokens", "1e3"], "max_new_tokens", 1000),
        ("generate", ["--max_new_tokens=1.5e3"], "max_new_tokens", 1500),
        ("generate", ["--top-k", "40.0"], "top_k", 40),
        ("generate", ["--seed", "1E6"], "seed", 1_000_000),
        ("generate", ["--threads=1e0"], "threads", 1),
        ("generate", ["--max-new-tokens", "1_000"], "max_new_tokens", 1000),
        ("generate", ["--temperature", "1e0"], "temperature", 1.0),
        ("generate", ["--stop", "1e6"], "stop", ["1e6"]),
        ("generate", ["--stop=1e6"], "stop", ["1e6"]),
        ("generate", ["--state", "1e6"], "state", "1e6"),
        ("chat", ["--max-new-tokens", "1e2"], "max_new_tokens", 100),
        ("demo", ["--name", "1e6"], "name", "1e6"),
    ],
)
def test_whole_numbers_as_in_recipes(
    main: Main, monkeypatch: pytest.MonkeyPatch, verb: str, given: list[str], name: str, expected: object
) -> None:
    found: list[object] = []
    watched = replace(cli.VERBS[verb], call=lambda arguments: found.append(arguments[name]))
    monkeypatch.setitem(cli.VERBS, verb, watched)
    model = {"generate": ["1e3", "1e6"], "chat": ["1e3"], "demo": []}[verb]
    assert main(verb, *model, *given)[0] == 0
    assert found == [expected] and type(found[0]) is type(expected)


@pytest.mark.parametrize("value", ["1.5", "1e-3", "1.25e1", "1e400", "1e", "e3", "nan", "1e99"])
def test_what_is_no_whole_number_is_refused(refused: Callable[..., str], value: str) -> None:
    assert "seed" in refused("generate", "model", "川", "--seed", value)


def test_a_real_process_answers_without_torch() -> None:
    code = (
        "import sys, sioconv.cli.main as cli\n"
        "try: cli.main(['pretrain', 'demo.yaml', '--modle.num_heads', '8'])\n"
        "finally: print([name for name in ('torch', 'transformers', 'numba') if name in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | ENVIRONMENT, capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 2
    assert re.fullmatch(r"sioconv: recipe: unknown key modle: .*\n", result.stderr)
    assert result.stdout == "[]\n"


def test_an_interrupt_is_one_line(main: Main, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setitem(cli.VERBS, "report", replace(cli.VERBS["report"], call=interrupted))
    assert main("report", "run") == (130, "", "sioconv: interrupted\n")


# --------------------------------------------------------------------------------------------------- bad recipes, text

ROWS = "".join(json.dumps({"text": f"第{n}の川は、山から海へ流れる。"}, ensure_ascii=False) + "\n" for n in range(60))
RECIPE = (
    "name: bad\ndata: {sources: {rivers: {path: rivers.jsonl}}}\ntokenizer: {vocab_size: 300}\ntrain: {tokens: 512}\n"
)


@pytest.fixture
def workplace(tmp_path: Path) -> Path:
    """A folder with a small recipe and its text."""
    (tmp_path / "recipe.yaml").write_text(RECIPE, encoding="utf-8")
    (tmp_path / "rivers.jsonl").write_text(ROWS, encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("modle: {num_heads: 4}", "unknown key modle"),
        ("modle:", "unknown key modle"),
        ("train: {tokens: 512, speed:}", "unknown key train.speed"),
        ("data: {sources: {rivers: {path: rivers.jsonl, kinds: }}}", "unknown key data.sources.rivers.kinds"),
        ("finetune: {data: {sorces: }}", "unknown key finetune.data.sorces"),
        ("seed: many", "seed"),
        ("train: {tokens: many}", "train.tokens"),
        ("train: fast", "train: 'fast' is not a mapping"),
        ("train: [", "not YAML"),
        ("", "empty"),
    ],
)
@pytest.mark.parametrize("verb", ["tokenizer", "pretrain"])
def test_a_bad_recipe_makes_nothing(
    refused: Callable[..., str], workplace: Path, verb: str, line: str, message: str
) -> None:
    (workplace / "bad.yaml").write_text(line + "\n", encoding="utf-8")
    assert message in refused(verb, "recipe.yaml", "bad.yaml")
    assert not (workplace / "runs").exists()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (None, "no text found: rivers.jsonl"),
        (b"", "empty file: rivers.jsonl"),
        (ROWS.encode() + b'{"text": "\xff\xfe"}\n', "rivers.jsonl:61: invalid UTF-8"),
        (ROWS.encode() + b'{"text": "a\n', "rivers.jsonl:61: not JSON"),
        (ROWS.encode() + b'{"txt": "a"}\n', 'rivers.jsonl:61: missing or empty "text"'),
        (b"[1]\n" + ROWS.encode(), "rivers.jsonl:1: JSON int"),  # a file that begins so is an array of rows
    ],
)
def test_bad_text_is_named_by_file_and_line(
    main: Main, refused: Callable[..., str], workplace: Path, data: bytes | None, message: str
) -> None:
    assert main("tokenizer", "recipe.yaml")[0] == 0
    source = workplace / "rivers.jsonl"
    if data is None:
        source.unlink()
    else:
        source.write_bytes(data)
    assert message in refused("data", "recipe.yaml", "--strict")
    assert not list((workplace / "runs").glob("bad/data/**/*"))  # a mended text may go on in the same run


def test_bad_text_is_counted_and_reported(main: Main, workplace: Path) -> None:
    (workplace / "rivers.jsonl").write_bytes(ROWS.encode() + b"[1]\n" + ROWS.encode())
    code, out, err = main("data", "recipe.yaml")
    assert (code, out) == (0, "")
    assert "120 of 121 rows became documents; 1 can't be used, such as rivers.jsonl:61: JSON list" in err
    report = workplace / "runs/bad/data/rivers/report.md"
    assert str(report.relative_to(workplace)) in err
    assert "`rivers.jsonl:61`: JSON list instead of an object" in report.read_text(encoding="utf-8")


def test_a_mended_recipe_goes_on_in_the_same_run(main: Main, workplace: Path) -> None:
    assert main("data", "recipe.yaml", "--data.sources.rivers.path=river.jsonl")[0] == 2
    assert main("data", "recipe.yaml")[0] == 0
    assert (workplace / "runs/bad/data/rivers/train/manifest.json").exists()


def test_a_run_is_not_mixed_with_another_recipe(main: Main, refused: Callable[..., str]) -> None:
    shutil.copy(TINY, "tiny.yaml")
    Path("rivers.jsonl").write_text(ROWS, encoding="utf-8")
    sources = "--data.sources={rivers: {path: rivers.jsonl}}"
    Path("base.yaml").write_text(RECIPE, encoding="utf-8")
    assert main("tokenizer", "base.yaml", sources)[0] == 0
    message = refused("tokenizer", "base.yaml", "--tokenizer.vocab_size=400")
    assert "runs/bad was made with another recipe: tokenizer.vocab_size: 300 there, 400 here" in message
    assert main("tokenizer", "base.yaml", "--train.lr=1e-4")[0] == 0  # nothing has been trained with it yet


# --------------------------------------------------------------------------------------------------------------- models


@pytest.fixture
def broken(tiny_model_folder: Path, tmp_path: Path) -> Path:
    """A copy of the model folder, to be broken."""
    return Path(shutil.copytree(tiny_model_folder, tmp_path / "broken"))


@pytest.mark.parametrize("verb", ["generate", "chat"])
@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_a_model_folder_that_is_not_whole(refused: Callable[..., str], broken: Path, verb: str, name: str) -> None:
    (broken / name).unlink()
    message = refused(verb, "broken", *(["川"] if verb == "generate" else []))
    assert f"no {name} in broken" in message


@pytest.mark.parametrize("verb", ["generate", "chat"])
def test_a_model_of_another_architecture(refused: Callable[..., str], broken: Path, verb: str) -> None:
    config = json.loads((broken / "config.json").read_text(encoding="utf-8"))
    (broken / "config.json").write_text(json.dumps(config | {"model_type": "mamba2"}), encoding="utf-8")
    message = refused(verb, "broken", *(["川"] if verb == "generate" else []))
    assert "broken holds a model of type 'mamba2': this command takes a sioconv model" in message


def test_weights_that_are_cut_short(refused: Callable[..., str], broken: Path) -> None:
    with (broken / "model.safetensors").open("r+b") as stream:
        stream.truncate(1000)
    assert "broken" in refused("generate", "broken", "川")


def test_a_tokenizer_of_another_model(refused: Callable[..., str], broken: Path, tmp_path: Path) -> None:
    train_tokenizer(TokenizerConfig(vocab_size=384), ["a wholly different text"] * 50, tmp_path / "other")
    shutil.copy(tmp_path / "other" / "tokenizer.json", broken / "tokenizer.json")
    assert "tokenizer.json isn't what was written" in refused("generate", "broken", "川")
    (broken / "SHA256SUMS").unlink()  # as of a folder from elsewhere
    assert "the tokenizer in broken is not the one" in refused("generate", "broken", "川")


@pytest.mark.parametrize("path", ["nothing", "./nothing", "runs/nothing", "/nothing", "a/b/c"])
def test_a_model_that_is_not_there(refused: Callable[..., str], tmp_path: Path, path: str) -> None:
    (tmp_path / "runs").mkdir()
    assert f"no model folder at {path}" in refused("generate", path, "川")


def test_a_prompt_that_is_not_text(refused: Callable[..., str], tiny_model_folder: Path) -> None:
    assert "the input is not UTF-8 at byte 3" in refused("generate", str(tiny_model_folder), "-", stdin=b"abc\xff")


def test_generates_the_same_twice(main: Main, tiny_model_folder: Path) -> None:
    arguments = ("generate", str(tiny_model_folder), "宮城県(", "--max-new-tokens", "8", "--seed", "1")
    first = main(*arguments)
    assert first == main(*arguments)
    code, out, _ = first
    assert code == 0
    assert out.startswith("宮城県(")
    assert len(out) > len("宮城県(\n")
    process = sioconv(*arguments)
    assert (process.returncode, process.stdout) == (0, out)
    assert main(*arguments[:-1], "2")[1] != out


def test_json_is_one_object_and_nothing_else(main: Main, tiny_model_folder: Path) -> None:
    arguments = ("generate", str(tiny_model_folder), "-", "--max-new-tokens=8", "--seed=1")
    code, out, _ = main(*arguments, "--json", stdin="川は\n山")
    assert code == 0
    assert out.count("\n") == 1
    values = json.loads(out)
    assert values["prompt"] == "川は\n山"
    assert (values["tokens"], values["stopped_by"], values["seed"]) == (8, "length", 1)
    assert main(*arguments, stdin="川は\n山")[1] == values["prompt"] + values["text"] + "\n"


def lines_of(out: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.splitlines()]


def test_texts_of_a_form_are_printed_alone_and_parse(main: Main, tiny_model_folder: Path, tmp_path: Path) -> None:
    schema = '{"type": "object", "properties": {"海": {"type": "boolean"}}, "required": ["海"]}'
    (tmp_path / "schema.json").write_text("\ufeff" + schema, encoding="utf-8")
    model = str(tiny_model_folder)
    for given in (schema, "schema.json"):
        closed = given.replace("]}", '], "additionalProperties": false}') if given == schema else given
        code, out, _ = main("generate", model, "川は", "--schema", closed, "--max-new-tokens=60", "--seed=1")
        assert (code, type(json.loads(out)["海"])) == (0, bool)
    code, out, _ = main("generate", model, "川は", "山は", "--n=2", "--choice", "はい", "--choice=いいえ", "--seed=1")
    assert code == 0
    assert len(out.split()) == 4
    assert set(out.split()) <= {"はい", "いいえ"}
    (told,) = lines_of(main("generate", model, "川は", "--regex", "[0-9]{9}", "--max-new-tokens=3", "--json")[1])
    assert (told["whole"], told["stopped_by"]) == (False, "length")
    for prompts in (["川は"], ["川は", "山は"]):
        code, out, err = main("generate", model, *prompts, "--regex", "[0-9]{9}", "--max-new-tokens=3")
        assert code == 2
        assert re.fullmatch(r"([0-9]{3,8}\n+)+", out)
        assert err == (
            "sioconv: a text ended before it was a whole regular expression: give more than --max-new-tokens 3, "
            "and no --stop that may stand in it\n"
        )


def test_a_document_goes_on_from_a_state_file(main: Main, tiny_model_folder: Path) -> None:
    options = ("generate", str(tiny_model_folder), "--regex", "[a-z]{4}[0-9]{9}", "--seed=1")
    assert main(*options, "川は", "--max-new-tokens=3", "--save-state=a.state")[0] == 2
    first = main(*options, "川は", "--max-new-tokens=3", "--save-state=a.state")[1].strip()
    code, rest, _ = main(*options, "--state=a.state")
    assert code == 0
    assert re.fullmatch("[a-z]{4}[0-9]{9}", first + rest.strip())


def test_a_script_talks(main: Main, tiny_model_folder: Path) -> None:
    chat = ("chat", str(tiny_model_folder), "--max-new-tokens=9", "--seed=3")
    code, talked, _ = main(*chat, stdin="川は？\n海は？\n")
    assert code == 0
    both = main(*chat, "-p", "川は？", "--message", "-", "--json", stdin="海は？\n")
    assert (both[0], [line["message"] for line in lines_of(both[1])]) == (0, ["川は？", "海は？"])
    shown = "".join(f"> {line['message']}\n{line['reply']}\n" for line in lines_of(both[1]))
    assert visible(shown) == talked
    assert [line["reply"] for line in lines_of(main(*chat, "--json", stdin="川は？\n\n海は？")[1])] == [
        line["reply"] for line in lines_of(both[1])
    ]
    first = main(*chat, "-p", "川は？", "--save", "a.state", "--store", "states.db")[1]
    (second,) = lines_of(main(*chat, "-p", "海は？", "--load", "a.state", "--store", "states.db", "--json")[1])
    assert (first, second["reply"]) == (lines_of(both[1])[0]["reply"] + "\n", lines_of(both[1])[1]["reply"])
    assert second["reused_tokens"] > 0
    (again,) = lines_of(main(*chat, "-p", "川は？" * 200, "--store", "states.db", "--json")[1])
    (reused,) = lines_of(main(*chat, "-p", "川は？" * 200, "--store", "states.db", "--json")[1])
    assert again["reply"] == reused["reply"]
    assert reused["reused_tokens"] > 256 > again["reused_tokens"]
    code, out, err = main(*chat, "-p", "")
    assert (code, out) == (2, "")
    assert "a message is empty" in err


def test_a_memory_is_inspected(main: Main, tiny_model_folder: Path, tmp_path: Path) -> None:
    model, text = str(tiny_model_folder), "川は山から海へ流れる。"
    (tmp_path / "text").write_text(text, encoding="utf-8")
    code, out, _ = main("inspect", model, "--text", text, "--picture", "memory.png")
    assert code == 0
    assert "bits a byte" in out
    assert (tmp_path / "memory.png").stat().st_size > 5000
    told = [main("inspect", model, *given, "--json", stdin=text)[1] for given in (["--file=text"], ["--text=-"])]
    assert told == [main("inspect", model, "--text", text, "--json")[1]] * 2
    assert json.loads(told[0])["bytes"] == len(text.encode())
    assert len(json.loads(main("inspect", model, "--file=text", "--window=3", "--json")[1])["window"]) == 3
    for given, message in (
        (["--file", "none"], "can't read none"),
        (["--text="], "there is no text to inspect"),
        (["--text", text, "--window=0"], "window out of range: 0"),
    ):
        code, out, err = main("inspect", model, *given)
        assert (code, out) == (2, "")
        assert message in err.splitlines()[-1]


def test_many_prompts_and_continuations_are_each_what_they_are_alone(
    main: Main, tiny_model_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "prompts").write_text('川は\n\n{"prompt": "山\\nは"}\n', encoding="utf-8")
    options = ("--max-new-tokens", "9", "--seed", "4", "--json")
    model = str(tiny_model_folder)
    code, out, _ = main("generate", model, *options, "--n", "3", "海", "空は", "--prompts", "prompts")
    assert code == 0
    found = lines_of(out)
    assert [(each["prompt"], each["seed"]) for each in found] == [
        (prompt, seed) for prompt in ("海", "空は", "川は", "山\nは") for seed in (4, 5, 6)
    ]
    for each in found[::4]:
        alone = main("generate", model, each["prompt"], "--max-new-tokens=9", f"--seed={each['seed']}", "--json")
        (other,) = lines_of(alone[1])
        assert (each["text"], each["tokens"]) == (other["text"], other["tokens"])
        assert each["reused_tokens"] + each["read_tokens"] == each["prompt_tokens"] == other["read_tokens"]
    assert len({each["text"] for each in found}) > 6
    plain = main("generate", model, "海", "空は", *options[:-1])[1]
    assert plain == f"海{found[0]['text']}\n\n空は{found[3]['text']}\n\n"


@pytest.mark.parametrize("content", ["", "\n \n", '{"prompt": 3}', '{"text": "a"}', '{"prompt": '])
def test_files_without_prompts_are_refused(refused: Callable[..., str], tmp_path: Path, content: str) -> None:
    (tmp_path / "prompts").write_text(content)
    assert "prompts" in refused("generate", "model", "--prompts", "prompts")


@pytest.mark.parametrize("stdin", [False, True])
def test_a_file_is_read_before_the_prompts(
    main: Main, tiny_model_folder: Path, tmp_path: Path, stdin: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sioconv.data.tokenizer.long_texts.STREAM_PIECE", 60)
    monkeypatch.setattr("sioconv.data.tokenizer.long_texts.CONTEXT", 20)
    book = "川は山から海へ流れる。雨が降る。\n" * 30
    (tmp_path / "book.txt").write_text("\ufeff" + book, encoding="utf-8")
    options = ("generate", str(tiny_model_folder), "--max-new-tokens=9", "--seed=4", "--json")
    file = ("--file", "-") if stdin else ("--file", "book.txt")
    code, out, _ = main(*options, *file, "海は", "空は", stdin=("\ufeff" + book) * stdin)
    assert code == 0
    first, second = lines_of(out)
    (alone,) = lines_of(main(*options, "-", stdin=book + "空は")[1])
    assert second["text"] == alone["text"] and second["prompt_tokens"] == alone["prompt_tokens"] > 200
    assert first["prompt"] == "海は" and first["read_tokens"] == first["prompt_tokens"]
    assert second["reused_tokens"] > 200 and second["read_tokens"] < 10


def test_a_file_can_be_asked_about_as_in_chat(main: Main, tiny_model_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "book.txt").write_text("川は流れる。", encoding="utf-8")
    options = ("--max-new-tokens=9", "--seed=4")
    model = str(tiny_model_folder)
    reply = main("generate", model, "--ask", "--file", "book.txt", "海は？", *options)[1]
    chat = main("chat", model, *options, stdin="川は流れる。\n")[1]
    told = main("generate", model, "--ask", "川は流れる。", *options)[1]
    assert chat == visible(f"> 川は流れる。\n{told}") and reply not in (told, "\n")


def test_a_saved_state_goes_on_as_though_it_had_never_stopped(
    main: Main, tiny_model_folder: Path, tmp_path: Path
) -> None:
    model = str(tiny_model_folder)
    whole = main("generate", model, "川は", "--max-new-tokens=20", "--seed=3")[1]
    first = main("generate", model, "川は", "--max-new-tokens=8", "--seed=3", "--save-state=a.state")[1]
    rest = main("generate", model, "--state", "a.state", "--max-new-tokens=12")[1]
    assert whole.startswith(first[:-1]) and whole.endswith(rest)
    (tmp_path / "book.txt").write_text("海は広い。", encoding="utf-8")
    assert main("generate", model, "--file=book.txt", "--save-state=book.state", "--seed=3")[:2] == (0, "")
    (asked,) = lines_of(main("generate", model, "川は", "--state=book.state", "--max-new-tokens=8", "--json")[1])
    (alone,) = lines_of(
        main("generate", model, "川は", "--file=book.txt", "--seed=3", "--max-new-tokens=8", "--json")[1]
    )
    assert asked["text"] == alone["text"]


def test_a_store_spares_what_was_read_before(main: Main, tiny_model_folder: Path) -> None:
    options = ("generate", str(tiny_model_folder), "-", "--max-new-tokens=8", "--seed=3", "--json")
    book = "川は山から海へ流れる。" * 100
    plain, first, second = (
        lines_of(main(*options, *store, stdin=book)[1])[0] for store in ((), ("--store=s.db",), ("--store=s.db",))
    )
    assert plain["text"] == first["text"] and plain["not_reused_because"] is None
    assert first["reused_tokens"] == 0 and first["not_reused_because"]
    assert second["reused_tokens"] >= 256 and second["not_reused_because"] is None
    assert second["reused_tokens"] + second["read_tokens"] == plain["prompt_tokens"]


def test_a_file_that_is_not_text_is_refused(
    refused: Callable[..., str], tiny_model_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "book.txt").write_bytes(b"a" * 70_000 + "川".encode()[:2] + b"b" * 70_000)
    arguments = ("generate", str(tiny_model_folder), "q", "--file")
    assert "book.txt is not UTF-8 at byte 70000 (0xe5)" in refused(*arguments, "book.txt")
    assert "can't read none: No such file" in refused(*arguments, "none")
    (tmp_path / "wide.txt").write_bytes("river".encode("utf-16"))
    assert "wide.txt is UTF-16" in refused(*arguments, "wide.txt")


def test_options_may_stand_anywhere(main: Main, tiny_model_folder: Path) -> None:
    model, options = str(tiny_model_folder), ["--seed", "1", "--max-new-tokens=3"]
    places = [
        [model, "川", *options],
        [model, *options, "川"],
        [*options, model, "川"],
        [options[2], model, *options[:2], "川"],
    ]
    assert len({main("generate", *arguments)[:2] for arguments in places}) == 1


def test_options_may_be_written_with_dashes_or_underscores(main: Main, tiny_model_folder: Path) -> None:
    start = ("generate", str(tiny_model_folder), "川", "--seed=1")
    texts = {main(*start, *options)[1] for options in (["--max-new-tokens", "3"], ["--max_new_tokens=3"])}
    assert len(texts) == 1


def test_a_prompt_may_look_like_an_option(main: Main, tiny_model_folder: Path) -> None:
    code, out, _ = main("generate", str(tiny_model_folder), "--max-new-tokens=2", "--", "--seed")
    assert code == 0
    assert out.startswith("--seed")


def test_a_reader_that_goes_away_is_no_error(tiny_model_folder: Path) -> None:
    command = f"'{sys.executable}' -m sioconv generate '{tiny_model_folder}' 川 --max-new-tokens 300 | head -c 1"
    result = subprocess.run(command, shell=True, env=os.environ | ENVIRONMENT, capture_output=True, timeout=120)
    assert result.stdout == "川".encode()[:1]
    assert b"Traceback" not in result.stderr
    assert b"BrokenPipe" not in result.stderr


def test_measures_a_text(main: Main, tiny_model_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "text.jsonl").write_text(ROWS, encoding="utf-8")
    evaluate = ("evaluate", str(tiny_model_folder), "--text", "text.jsonl", "--parts=text")
    code, out, _ = main(*evaluate, "--json")
    assert code == 0
    measured = json.loads(out)["sources"]["text.jsonl"]
    assert measured["bytes"] == sum(len(json.loads(line)["text"].encode()) for line in ROWS.splitlines())
    code, out, _ = main(*evaluate, "--report", "page")
    assert re.search(rf"^text\.jsonl +{measured['bpb']:.4f} .* {measured['bytes']:,} ", out, re.MULTILINE)
    assert {path.name for path in Path("page").iterdir()} == {"index.html", "report.md", "evaluation.json"}
    assert json.loads(Path("page/evaluation.json").read_text(encoding="utf-8"))["sources"]["text.jsonl"] == measured


def test_converts_a_checkpoint_of_2024(main: Main) -> None:
    checkpoint = str(Path(__file__).parents[1] / "fixtures" / "sconv_mh_tiny.ckpt")
    code, out, _ = main("convert", checkpoint, "new", "--json")
    assert code == 0
    assert json.loads(out)["parameters"] == 27_808
    assert {"config.json", "model.safetensors", "modeling_sioconv.py"} <= {path.name for path in Path("new").iterdir()}
    code, out, _ = main("convert", checkpoint, "other")
    assert code == 0
    assert out.startswith("parameters 27,808, ")
    assert "no tokenizer: put its tokenizer.json" in out


def test_a_saved_conversation_goes_on_equally_in_a_new_process(
    main: Main, tiny_model_folder: Path, tmp_path: Path
) -> None:
    chat = ("chat", str(tiny_model_folder), "--max-new-tokens", "12", "--seed", "3")
    code, first, _ = main(*chat, stdin="川はどこへ？\n/save talk.state\n山は？\n海は？\n")
    assert code == 0
    talk, _, rest = first.partition("[saved to talk.state]\n")
    assert talk.startswith("> 川はどこへ？\n")
    assert rest.startswith("> 山は？\n")
    second = sioconv(*chat, stdin="/load talk.state\n山は？\n海は？\n/exit\nnever read\n", cwd=tmp_path)
    assert second.returncode == 0
    loaded, continued = second.stdout.split("]\n", 1)
    assert loaded.startswith("> /load talk.state\n[loaded from talk.state: replies 1, ")
    assert continued.removesuffix("> /exit\n") == rest
    assert main(*chat, "--load", "talk.state", stdin="山は？\n海は？\n")[:2] == (0, rest)
    assert main(*chat, stdin="山は？\n海は？\n")[1] != rest


@pytest.fixture
def persona(tiny_model_folder: Path, tmp_path: Path) -> str:
    """A file of initial states for the model of `tiny_model_folder` that are far from its own."""
    model, _ = load_model_folder(tiny_model_folder)
    base = model.fingerprint()
    with torch.no_grad():
        for number, state in enumerate(initial_states(model).values()):
            state.copy_(torch.linspace(-20, 20, state.numel()).roll(7 * number).view_as(state))
    save_initial_state(tmp_path / "persona.safetensors", model, base)
    return "persona.safetensors"


def test_a_persona_changes_what_is_written_and_measured(main: Main, tiny_model_folder: Path, persona: str) -> None:
    generate = ("generate", str(tiny_model_folder), "川は", "--max-new-tokens=12", "--seed=1")
    code, with_it, _ = main(*generate, "--state", persona)
    assert code == 0
    assert with_it == main(*generate, "--state", persona)[1] != main(*generate)[1]
    Path("text.jsonl").write_text(ROWS, encoding="utf-8")
    evaluate = ("evaluate", str(tiny_model_folder), "--text", "text.jsonl", "--parts=text")
    code, measured, _ = main(*evaluate, "--state", persona)
    assert code == 0
    assert measured != main(*evaluate)[1]


def test_a_conversation_begins_and_begins_anew_with_its_persona(
    main: Main, tiny_model_folder: Path, persona: str
) -> None:
    chat = ("chat", str(tiny_model_folder), "--max-new-tokens=12", "--seed=3")
    code, out, _ = main(*chat, "--state", persona, stdin="川は？\n/save talk.state\n/reset\n川は？\n")
    assert code == 0
    first, _, again = out.partition("> /save talk.state\n[saved to talk.state]\n> /reset\n[a new conversation]\n")
    assert first == again != main(*chat, stdin="川は？\n")[1]
    code, _, _ = main(*chat, "--state", persona, "--load", "talk.state", stdin="山は？\n")
    assert code == 0


def test_files_in_each_others_place_are_refused(
    main: Main, refused: Callable[..., str], tiny_model_folder: Path, persona: str
) -> None:
    chat = ("chat", str(tiny_model_folder))
    assert main(*chat, "--state", persona, stdin="/save talk.state\n")[0] == 0
    assert "load the model, and the --state file where there was one" in refused(*chat, "--load", "talk.state")
    assert "it is a state file, which chat --load takes" in refused(*chat, "--state", "talk.state")
    assert "it is a tuned state file, which --state takes" in refused(*chat, "--load", persona)
    assert "no tuned state file: nothing" in refused("generate", str(tiny_model_folder), "川", "--state", "nothing")


@pytest.mark.parametrize("verb", ["generate", "chat", "evaluate"])
def test_help_says_what_a_state_is(main: Main, verb: str) -> None:
    assert re.search(r"--state STATE\s+a persona: state\.safetensors", main(verb, "--help")[1])


# -------------------------------------------------------------------------------------------------- a disk that is full

FULL_DISK = """\
mount -t tmpfs -o size=6m none "$1" || exit 77
cd "$1" || exit 77
cp "$2" recipe.yaml && cp "$3" rivers.jsonl
shift 3
"$@" pretrain recipe.yaml
echo "exit code $?"
find . -name '.*' ! -name . ; ls runs/bad runs/bad/checkpoints/pretrain
"""


@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs Linux's unshare")
def test_no_space_for_a_checkpoint(workplace: Path) -> None:
    """A real disk of 6 MB: the weights alone fit, the optimizer's moments don't."""
    (workplace / "disk").mkdir()
    sizes = "model: {hidden_size: 256, num_layers: 1, num_heads: 4}".replace("num_layers", "num_hidden_layers")
    stage = "train: {tokens: 512, device: cpu, precision: fp32, threads: 1, sequence_length: 64, batch_size: 4}"
    stage = stage.replace("}", ", sample_seconds: [], sample_prompts: []}")
    recipe = workplace / "recipe.yaml"
    recipe.write_text(RECIPE.replace("train: {tokens: 512}", f"{sizes}\n{stage}"), encoding="utf-8")
    inputs = [str(workplace / name) for name in ("disk", "recipe.yaml", "rivers.jsonl")]
    command = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", FULL_DISK, "sh", *inputs]
    result = subprocess.run(
        [*command, sys.executable, "-m", "sioconv"],
        env=os.environ | ENVIRONMENT, capture_output=True, encoding="utf-8", timeout=120,
    )  # fmt: skip
    if "exit code" not in result.stdout:
        pytest.skip(f"no file system may be mounted here: {result.stderr.strip()}")
    assert result.stdout.startswith("exit code 2\n")
    last = result.stderr.splitlines()[-1]
    assert re.fullmatch(r"sioconv: no disk space left: writing runs/bad/checkpoints/pretrain/step-\d+: .*", last)
    assert "Traceback" not in result.stderr
    left = result.stdout.split("\n", 1)[1].split()
    assert "plan.json" in left
    assert not {"base", "model"} & set(left)
    assert not [name for name in left if "step-" in name]


def test_data_inspect(main: Main, refused: Callable[..., str], tmp_path: Path) -> None:
    assert main("data", str(TINY), "--name", "shards")[0] == 0
    code, out, err = main("data", "inspect", "runs/shards/data", "--documents", "1", "--verify")
    assert code == 0 and "checksums verified" in out and "<|bos|>" in out
    assert "lengths.png" in err and (tmp_path / "runs" / "shards" / "data" / "lengths.png").is_file()
    code, out, _ = main("data", "inspect", "runs/shards", "--json", "--picture", "mine.png")
    assert code == 0 and (tmp_path / "mine.png").is_file()
    report = json.loads(out)
    assert report["total"]["tokens"] == sum(one["tokens"] for one in report["sets"]) > 0
    code, out, _ = main("data", "inspect", "--help")
    assert code == 0 and "Example: sioconv data inspect" in out
    shutil.rmtree(tmp_path / "runs")
    (tmp_path / "mine.png").unlink()
    assert "no token shards: nowhere" in refused("data", "inspect", "nowhere")
    assert "documents out of range" in refused("data", "inspect", "nowhere", "--documents", "-1")


def test_plan_prints_figures_and_json(main: Main) -> None:
    arguments = ["plan", "demo.yaml", "--train.minutes", "null", "--train.tokens", "1000000"]
    code, said, _ = main(*arguments)
    assert code == 0 and "RTX 3060 12 GB" in said and "H100 SXM" in said
    code, out, _ = main(*arguments, "--json")
    values = json.loads(out)
    assert code == 0 and f"parameters   {values['parameters']:,}" in said
    row = next(row for row in values["estimates"] if row["card"] == "T4" and row["cards"] == 1)
    assert row["fits"] and row["seconds"] == pytest.approx(1e6 / row["tokens_per_second"], rel=1e-6)
    assert "--json" in main("plan", "--help")[1]
    assert main("plan", "--json")[0] == 2


def test_plan_says_where_the_recipe_decides_in_place_of_size(main: Main) -> None:
    code, out, said = main("plan", "demo.yaml", "--size", "125m", "--json")
    assert code == 0 and json.loads(out)["parameters"] < 10**7
    assert "size 125m doesn't decide hidden_size, num_hidden_layers, num_heads, intermediate_size: the recipe" in said
    assert "decide" not in main("plan", "demo.yaml")[2]


@pytest.mark.skipif(os.name == "nt", reason="Windows keeps a folder that is in use")
def test_a_folder_that_is_gone_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "gone").mkdir()
    done = subprocess.run(
        ["sh", "-c", f"cd gone && rmdir ../gone && exec {sys.executable} -m sioconv --version"], cwd=tmp_path,
        env=os.environ | ENVIRONMENT, encoding="utf-8", capture_output=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.splitlines()[-1].startswith("sioconv: the folder that this is started in is gone: ")


@pytest.mark.parametrize("threads", ["0", "-3"])
def test_a_number_of_threads_that_numba_cant_take(main: Main, monkeypatch: pytest.MonkeyPatch, threads: str) -> None:
    monkeypatch.setenv("NUMBA_NUM_THREADS", threads)
    code, out, err = main("--version")
    assert (code, out) == (2, "") and err.startswith(f"sioconv: NUMBA_NUM_THREADS is {threads} in the environment: ")


@pytest.mark.parametrize("features", ["xyz", "+avx2,sse"])
def test_features_that_would_end_the_process(main: Main, monkeypatch: pytest.MonkeyPatch, features: str) -> None:
    monkeypatch.setenv("NUMBA_CPU_FEATURES", features)
    code, out, err = main("--version")
    assert (code, out) == (2, "") and err.startswith(f"sioconv: NUMBA_CPU_FEATURES is {features} in the environment: ")


def test_a_variable_that_numba_cant_read_is_one_line() -> None:
    """numba warns of it by a traceback."""
    code = "from sioconv.cli import main; main._quiet_libraries(); import numba, warnings; warnings.warn('other')"
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | ENVIRONMENT | {"NUMBA_OPT": "x"}, encoding="utf-8",
        capture_output=True, timeout=120, check=False,
    )  # fmt: skip
    start = "warning: Environment variable 'NUMBA_OPT' is defined but its associated value 'x' could not be parsed."
    assert done.returncode == 0 and "Traceback" not in done.stderr
    assert done.stderr.splitlines() == [start, "<string>:1: UserWarning: other"]


@pytest.mark.skipif(os.name == "nt", reason="Windows has Unicode arguments")
def test_a_locale_that_cannot_say_an_argument_is_named(tmp_path: Path) -> None:
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [sys.executable, "-m", "sioconv", "chat", "ゲンじい", "-p", "こんにちは"]
    done = subprocess.run(command, env={**os.environ, **plain}, cwd=tmp_path, capture_output=True, check=False)
    assert done.returncode == 2 and done.stdout == b""
    assert b"the locale's ascii: set PYTHONUTF8=1" in done.stderr and done.stderr.count(b"\n") == 1


@pytest.mark.parametrize("verb", VERBS)
def test_a_nul_character_is_refused(verb: str, main: Main) -> None:
    code, out, err = main(*verb.split(), "runs/\0")
    assert (code, out) == (2, "") and "an argument holds a NUL character" in err


def test_nothing_is_collected_while_a_model_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """And all is as before where that ends with an error."""
    seen: list[bool] = []

    def load(*_: Any, **__: Any) -> None:
        seen.append(gc.isenabled())
        raise UserError("no model")

    monkeypatch.setattr("sioconv.model.load_model_folder", load)
    with pytest.raises(SystemExit):
        cli.main(["generate", "nowhere", "宮城県"])
    assert seen == [False] and gc.isenabled()
