"""The folder of the page, and where its runtime comes from."""

import json
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml

from sioconv.checksums import check_sums
from sioconv.cli import main as cli
from sioconv.errors import UserError
from sioconv.model import load_model_folder
from sioconv.model.in_package import packaged_model
from sioconv.publish.page import folder as page
from sioconv.publish.page import runtime as runtimes
from sioconv.publish.page.space import check_page
from tests.publish.page.conftest import manifest_of


def test_the_folder_is_whole(page_folder: Path, page_model: Path) -> None:
    check_sums(page_folder)
    check_sums(page_folder / "model")
    names = {path.relative_to(page_folder).as_posix() for path in page_folder.rglob("*") if path.is_file()}
    assert {"index.html", "page.js", "page.css", "worker.js", "sw.js", "README.md", "NOTICE", runtimes.FILE} <= names
    assert all(path.stat().st_size <= 10e6 for path in page_folder.rglob("*") if path.name != runtimes.FILE)
    said = (page_folder / "README.md").read_text(encoding="utf-8").split("---\n")
    assert yaml.safe_load(said[1]) | {"sdk": "static", "title": "river", "license": "mit"} == yaml.safe_load(said[1])
    kept = json.loads((page_folder / "sw.js").read_text(encoding="utf-8").splitlines()[0].partition(" = ")[2][:-1])
    assert set(kept) == names - {"sw.js", "README.md", "SHA256SUMS", "model/SHA256SUMS"} | {"./"}
    model, tokenizer = load_model_folder(page_model)
    manifest = manifest_of(page_folder)
    assert manifest["parameters"] == model.num_parameters() and manifest["ids"]["bos"] == tokenizer.bos_token_id
    assert [len(heads) for heads in manifest["halfLives"]] == [4]
    tokens = json.loads((page_folder / "model/tokens.json").read_text())
    assert len(tokens) == model.config.vocab_size
    assert not json.loads((page_folder / "model/tokenizer.json").read_text())["added_tokens"]


def test_a_large_graph_is_cut(
    page_model: Path, runtime: Path, page_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page, "PART", 100_000)
    graph = b"".join((page_folder / "model" / part["file"]).read_bytes() for part in manifest_of(page_folder)["parts"])
    monkeypatch.setattr(page, "write_graph", lambda *arguments: float(arguments[2].write_bytes(graph) > 0))
    page.export_page(page_model, tmp_path / "out", runtime=runtime)
    parts = manifest_of(tmp_path / "out")["parts"]
    assert len(parts) > 2 and b"".join((tmp_path / "out/model" / part["file"]).read_bytes() for part in parts) == graph
    assert (tmp_path / "out/sw.js").read_bytes() != (page_folder / "sw.js").read_bytes()


def test_the_model_of_the_package_needs_no_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its licence and the notices of its text go along."""
    (tmp_path / "runtime").write_bytes(b"\0asm")
    monkeypatch.setattr(page, "find_runtime", lambda _: tmp_path / "runtime")
    monkeypatch.setattr(page, "write_graph", lambda *given: float(given[2].write_bytes(bytes(1000)) < 0))
    with pytest.raises(SystemExit) as ended:
        cli.main(["export", "page", str(tmp_path / "out"), "--json"])
    said = capsys.readouterr()
    assert ended.value.code == 0 and "export: sioconv-ja-en-7m, the small model of the package" in said.err
    done = json.loads(said.out)
    assert done["name"] == "sioconv-ja-en-7m" and "model/NOTICE" in done["files"]
    assert "license: cc-by-sa-4.0\n" in (tmp_path / "out/README.md").read_text(encoding="utf-8")
    assert (tmp_path / "out/model/NOTICE").read_bytes() == (packaged_model() / "NOTICE").read_bytes()
    check_page(tmp_path / "out")


def test_the_runtime_is_downloaded_once_and_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(runtimes.sys, "platform", "linux")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    file = tmp_path / "core.wasm"
    file.write_bytes(b"0" * 100)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=str(tmp_path)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}/core.wasm"
    with pytest.raises(UserError, match=r"isn't .*\.wasm of onnxruntime-web"):
        runtimes.find_runtime(None, address)
    with pytest.raises(UserError, match=r"can't download .*404.*--runtime FILE"):
        runtimes.find_runtime(None, address + "x")
    assert not list((tmp_path / "cache").rglob("*.wasm"))
    monkeypatch.setattr(runtimes, "SHA256", runtimes.sha256_file(file))
    kept = runtimes.find_runtime(None, address)
    server.shutdown()
    server.server_close()
    assert kept.read_bytes() == file.read_bytes() and runtimes.find_runtime(None, address) == kept
    kept.write_bytes(b"damaged")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError, match="HF_HUB_OFFLINE is set: give --runtime FILE"):
        runtimes.find_runtime(None, address)


def test_bad_input_is_one_line(
    page_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(page, "MOST", 1000)
    out = str(tmp_path / "out")
    for arguments, why in (
        ([str(page_model), str(page_model)], "is already there"),
        ([str(page_model)], "is already there: give MODEL OUT, or OUT alone for a new folder"),
        ([str(page_model), out, "--to", "fp32"], "have 8 bits: give --to int8"),
        ([str(page_model), out], "are too many for a browser"),
    ):
        with pytest.raises(SystemExit) as ended:
            cli.main(["export", "page", *arguments])
        said = capsys.readouterr()
        assert ended.value.code == 2 and said.out == "" and why in said.err.splitlines()[-1]
    monkeypatch.setattr(page, "MOST", 10**9)
    with pytest.raises(UserError, match="no runtime at"):
        page.export_page(page_model, tmp_path / "out", runtime=tmp_path / "nowhere")
    assert not (tmp_path / "out").exists()
