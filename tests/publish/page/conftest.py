"""The page without a server, on a static host, with a small model of 8 bits."""

import json
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

from sioconv.data.config import TokenizerConfig
from sioconv.data.tokenizer.tokenizer import END_OF_TURN, train_tokenizer
from sioconv.errors import UserError
from sioconv.generate.quantise import quantise_model
from sioconv.model import SioConvForCausalLM, save_model_folder
from sioconv.model.folder import load_model_folder, write_model_folder
from sioconv.publish.config import PublishConfig
from sioconv.publish.page.folder import export_page
from sioconv.publish.page.runtime import find_runtime
from tests.conftest import TEXTS

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="session")
def runtime() -> Path:
    """The runtime of the page's packages, or of the cache."""
    packages = ROOT / "page/node_modules/onnxruntime-web/dist"
    try:
        return find_runtime(packages if packages.is_dir() else None, "http://127.0.0.1:9/")
    except UserError:
        pytest.skip("onnxruntime-web isn't here: npm ci in page/")


@pytest.fixture(scope="session")
def page_model(tmp_path_factory: pytest.TempPathFactory, make_model: Callable[..., SioConvForCausalLM]) -> Path:
    """A random model of one layer and 8 bits whose state has all parts, in the folder of a run called river."""
    folder = tmp_path_factory.mktemp("page") / "river"
    tokenizer = train_tokenizer(TokenizerConfig(vocab_size=384), TEXTS * 4, folder / "tokenizer")
    model = make_model(tokenizer, num_hidden_layers=1, conv_width=3, trapezoid=True, bigram_rows=2)
    model.model.bigrams.out.weight.data.normal_()
    stop_ids = [tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids(END_OF_TURN)]
    save_model_folder(model, tokenizer, folder / "whole", stop_ids)
    model = load_model_folder(folder / "whole")[0]
    quantise_model(model, 8)
    write_model_folder(model, tokenizer, folder / "model")
    return folder / "model"


@pytest.fixture(scope="session")
def page_folder(page_model: Path, runtime: Path) -> Path:
    """What `sioconv export page` makes of it."""
    out = page_model.parent / "page"
    done = export_page(page_model, out, runtime=runtime, options=PublishConfig(license="mit"))
    assert done["name"] == "river" and done["logit_difference"] < 1e-4
    return out


class StaticHost(ThreadingHTTPServer):
    """Sends the files of a folder, and no header of its own, from below a path, as a host of many pages does.

    Attributes:
        asked: the paths so far.
        away: names that aren't there.
    """

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), partial(_Handler, directory=str(folder.parent)))
        self.asked: list[str] = []
        self.away: set[str] = set()
        self.url = f"http://127.0.0.1:{self.server_port}/{folder.name}/"


class _Handler(SimpleHTTPRequestHandler):
    server: Any

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        if self.path.rpartition("/")[2] in self.server.away:
            self.send_error(404)
        else:
            super().do_GET()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def host(page_folder: Path) -> Iterator[StaticHost]:
    server = StaticHost(page_folder)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


def manifest_of(folder: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((folder / "model/model.json").read_text(encoding="utf-8"))
    return values
