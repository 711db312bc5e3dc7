"""`sioconv publish MODEL --state FILE`: saved conversations go with their model, and go on from what is published."""

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
from safetensors import safe_open

from sioconv.checksums import check_sums
from sioconv.cli import main as cli
from sioconv.generate.quantise import quantise_model
from sioconv.model import load_model_folder, save_initial_state, save_model_folder
from sioconv.model.folder import write_model_folder
from sioconv.model.initial_state import initial_states
from sioconv.model.tensor_file import SESSION, pack, read_tensors
from tests.publish.conftest import MakeRun
from tests.publish.hub import Hub

GIVEN = ["--license", "apache-2.0", "--author", "Aoba Lab"]
SAID = "わたしの秘密の川"


def run(*words: object) -> int:
    with pytest.raises(SystemExit) as ended:
        cli.main([*map(str, words)])
    assert isinstance(ended.value.code, int)
    return ended.value.code


def talk(model: Path, file: Path, *more: object) -> Path:
    """A conversation with a model, which is saved."""
    assert run("chat", model, "-p", SAID, "--save", file, "--max-new-tokens", 2, "--threads", 1, *more) == 0
    return file


def metadata(file: Path) -> dict[str, str]:
    with safe_open(file, framework="pt") as opened:
        return dict(opened.metadata())


def length(file: Path) -> int:
    said = metadata(file)
    return int(said["tokens_seen"]) + len(json.loads(said["pending_ids"]))


pytestmark = pytest.mark.usefixtures("quick")


@pytest.fixture
def model(make_run: MakeRun) -> Path:
    """The model of a run."""
    return make_run() / "model"


@pytest.fixture
def poet(model: Path, tmp_path: Path) -> Path:
    """A persona of the model, with states of its own."""
    loaded, _ = load_model_folder(model)
    before = loaded.fingerprint()
    for value in initial_states(loaded).values():
        value.data += 1
    save_initial_state(tmp_path / "poet.safetensors", loaded, before)
    return tmp_path / "poet.safetensors"


def test_the_cards_commands_go_on_with_what_is_published(
    model: Path, poet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the model, with a persona and with a quantised form; of what was said nothing stands in the card."""
    loaded, tokenizer = load_model_folder(model)
    quantise_model(loaded, 8)
    write_model_folder(loaded, tokenizer, tmp_path / "small")
    files = [
        talk(model, tmp_path / "川.state"),
        talk(model, tmp_path / "verse.state", "--state", poet),
        talk(tmp_path / "small", tmp_path / "blur.state", "--no-transcript"),
    ]
    out = tmp_path / "hub" / "tiny"
    given = [
        "--state",
        poet,
        *(word for file in files[1:] for word in ("--state", file)),
        "--state",
        f"river={files[0]}",
    ]
    assert run("publish", model, out, *GIVEN, *given, "--variant", f"int8={tmp_path / 'small'}") == 0
    check_sums(out / "states")
    assert "river.safetensors" in (out / "states" / "SHA256SUMS").read_text()
    assert (out / "states" / "river.safetensors").read_bytes() == files[0].read_bytes()
    card = (out / "README.md").read_text(encoding="utf-8")
    lines = re.findall(r"^- `(sioconv chat .*)`(?:: |：)(.*)$", card, re.MULTILINE)
    assert [command for command, _ in lines] == 2 * [
        "sioconv chat int8 --load states/blur.safetensors",
        "sioconv chat . --load states/river.safetensors",
        "sioconv chat . --state personas/poet.safetensors --load states/verse.safetensors",
    ]
    said = json.loads(metadata(files[0])["transcript"])
    assert [role for role, _ in said] == ["user", "assistant"] and said[0][1] == SAID
    tokens, few = length(files[0]), length(files[2])
    held = f"2 messages ({sum(len(text) for _, text in said)} characters) as text"
    assert lines[0][1] == f"{few} tokens; no text, the last {few} tokens as they are"
    assert lines[1][1] == f"{tokens} tokens; {held}"
    assert lines[4][1].startswith(f"{tokens} トークン、文字のままの発言 2 件（")
    assert SAID not in card and "may be recovered from such a file" in card
    monkeypatch.chdir(out)
    for command, _ in lines[:3]:
        assert run(*shlex.split(command)[1:], "-p", "続き", "--save", tmp_path / "on.state", "--max-new-tokens", 2) == 0
        assert length(tmp_path / "on.state") > max(tokens, few)


def test_each_conversation_is_listed_and_told_before_a_push(
    online: Hub, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also when what was written is pushed; without it, a repository that holds one is left alone, or loses it."""
    file, bare = talk(model, tmp_path / "river.state"), talk(model, tmp_path / "bare.state", "--no-transcript")
    out, given = tmp_path / "hub" / "tiny", [*GIVEN, "--state", file, "--state", bare]
    warnings = (
        r"warning: states/bare\.safetensors holds a conversation of \d+ tokens, no text but the last \d+ tokens as "
        r"they are: whoever gets the file may recover the whole of it warning: states/river\.safetensors holds a "
        r"conversation of \d+ tokens, and its 2 messages \(\d+ characters\) as text: whoever gets the file can read "
        r"them"
    )
    for line in ([model, out, *given], [out], [model, *given]):
        capsys.readouterr()
        assert run("publish", *line, "--repo", "aoba/tiny", "--dry-run") == 0
        said, err = capsys.readouterr()
        assert "  states/SHA256SUMS\n" in said and f"{file.stat().st_size:,}  states/river.safetensors\n" in said
        assert re.search(warnings, " ".join(err.split())) and not online.repositories
    assert run("publish", out, "--repo", "aoba/tiny", "--json") == 0
    said, err = capsys.readouterr()
    files = online.repositories["aoba/tiny"].files
    assert json.loads(said)["files"]["states/river.safetensors"] == len(files["states/river.safetensors"])
    assert files["states/river.safetensors"] == file.read_bytes() and re.search(warnings, " ".join(err.split()))
    assert run("publish", model, "--repo", "aoba/tiny", *GIVEN) == 2
    assert "exists and holds other content" in capsys.readouterr().err and "states/river.safetensors" in files
    assert run("publish", model, "--repo", "aoba/tiny", *GIVEN, "--update") == 0
    assert not [name for name in files if name.startswith("states/")] and b"states/" not in files["README.md"]
    assert "holds a conversation" not in capsys.readouterr().err


def test_a_conversation_that_was_saved_in_the_models_folder_is_published_by_name_alone(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    talk(model, model / "river.safetensors")
    capsys.readouterr()
    assert run("publish", model, tmp_path / "hub" / "tiny", *GIVEN, "--json") == 0
    said, err = capsys.readouterr()
    assert [name for name in json.loads(said)["files"] if name.endswith(".safetensors")] == ["model.safetensors"]
    assert "left out of" in err and "river.safetensors" in err and "holds a conversation" not in err


def test_what_is_no_state_of_this_model_is_one_line(
    model: Path, poet: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other, tokenizer = load_model_folder(model)
    other.lm_head.weight.data[3, 3] += 1  # in the middle
    save_model_folder(other, tokenizer, tmp_path / "other", [tokenizer.eos_token_id])
    river = talk(model, tmp_path / "river.state")
    talk(tmp_path / "other", tmp_path / "strange.state")
    talk(model, tmp_path / "verse.state", "--state", poet)
    said, tensors = read_tensors(river, SESSION, metadata(river)["model"], 10**6)
    kept = {key: value for key, value in said.items() if key not in ("format", "version", "model")}
    for name, changed in (("old", kept), ("odd", kept | {"transcript": "5"}), ("early", kept | {"tokens_seen": "-1"})):
        changed = {key: value for key, value in changed.items() if (key, name) != ("weights", "old")}
        (tmp_path / f"{name}.state").write_bytes(pack(SESSION, said["model"], tensors, changed))
    data = river.read_bytes()
    (tmp_path / "cut.state").write_bytes(data[:-9])
    (tmp_path / "flipped.state").write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    (tmp_path / "text.state").write_text("hello")
    (tmp_path / "pointer.state").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    (tmp_path / "folder").mkdir()
    shutil.copyfile(river, tmp_path / "a b.state")
    out, here = tmp_path / "hub" / "out", f"{tmp_path}/"
    neither, others = "can't be read as a saved conversation or a persona", "was saved with other weights than those of"
    for states, why in (
        (["strange.state"], others),
        (["verse.state"], others),
        (["old.state"], "doesn't say with which weights"),
        (["odd.state"], "damaged state file"),
        (["early.state"], "damaged state file"),
        (["flipped.state"], "damaged state file"),
        (["cut.state"], neither),
        (["text.state"], neither),
        (["runs/tiny/model/model.safetensors"], neither),
        (["pointer.state"], "is a Git LFS pointer"),
        (["folder"], "no file at"),
        (["nowhere.state"], "no file at"),
        (["n" * 300], "can't have the name"),
        (["a b.state"], "can't have the name 'a b'"),
        (["river.state", "river.state"], "the name river came before"),
        (["river.state", f"River={here}river.state"], "the name River came before"),
        ([f"../x={here}river.state"], "can't have the name '../x'"),
        ([f"a/b={here}river.state"], "can't have the name 'a/b'"),
        ([f"a\\b={here}river.state"], "can't have the name"),
        ([f".x={here}river.state"], "can't have the name '.x'"),
        ([f"x;ls={here}river.state"], "can't have the name 'x;ls'"),
        ([f"={here}river.state"], "can't have the name ''"),
        ([""], "can't have the name ''"),
        (["x="], "no file at"),
        (["x=" + "n" * 300], "too long"),
    ):
        given = [word if "=" in word or not word else here + word for word in states]
        capsys.readouterr()
        assert run("publish", model, out, *GIVEN, *(f"--state={word}" for word in given)) == 2, states
        said_out, err = capsys.readouterr()
        told = [line for line in err.splitlines() if line and not line.startswith("Loading weights")]
        assert said_out == "" and len(told) == 1 and why in told[0], (states, err)
        assert not list(tmp_path.glob("hub/*")) and not list(tmp_path.glob("hub/.*"))
