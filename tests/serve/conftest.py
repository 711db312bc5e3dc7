"""A real server on a port of the loopback address, with a small random model."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from sioconv.data.config import TokenizerConfig
from sioconv.data.tokenizer.tokenizer import END_OF_TURN, train_tokenizer
from sioconv.model import SioConvForCausalLM, save_model_folder
from sioconv.serve.config import ServeConfig
from sioconv.serve.server import uvicorn_config
from sioconv.serve.service import Service
from sioconv.serve.start import make_service
from tests.conftest import TEXTS


class Running:
    """A server that runs in this process.

    Args:
        url: where it listens.
        service: its parts.
    """

    def __init__(self, url: str, service: Service) -> None:
        self.url, self.service = url, service

    def idle(self) -> bool:
        """Whether nothing runs or waits, after a while at most."""
        for _ in range(500):
            limits, runners = self.service.limits, [each.runner for each in self.service.models.values()]
            # On the engines' threads: there it is known what waits to be read aside.
            running = [runner.call(lambda runner=runner: runner.running).result(60) for runner in runners]  # type: ignore[misc]
            if not any([*limits.running.values(), *limits.waiting.values(), *running]):
                return True
            time.sleep(0.02)
        return False


@contextlib.contextmanager
def serving(*models: str, hosts: set[str] | None = None, **options: Any) -> Iterator[Running]:
    """A server of some models; `options` are those of `make_service`."""
    service = make_service(models, **{"threads": 1, **options})
    server = uvicorn.Server(uvicorn_config(service, "127.0.0.1", 0, hosts))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield Running(f"http://127.0.0.1:{port}", service)
    finally:
        server.should_exit = True
        thread.join(timeout=30)
        assert not thread.is_alive()


@pytest.fixture(scope="session")
def served_folder(tmp_path_factory: pytest.TempPathFactory, make_model: Callable[..., SioConvForCausalLM]) -> Path:
    """A folder with a random model that the compiled kernel runs (width 32, 2 layers, 384 tokens)."""
    folder = tmp_path_factory.mktemp("served")
    tokenizer = train_tokenizer(TokenizerConfig(vocab_size=384), TEXTS * 4, folder / "tokenizer")
    stop_ids = [tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids(END_OF_TURN)]
    save_model_folder(make_model(tokenizer), tokenizer, folder / "model", stop_ids)
    return folder / "model"


@pytest.fixture(scope="module")
def server(served_folder: Path) -> Iterator[Running]:
    """One for a whole file of tests; the model is called tiny."""
    with serving(f"tiny={served_folder}", config=ServeConfig(default_new_tokens=16)) as running:
        yield running
