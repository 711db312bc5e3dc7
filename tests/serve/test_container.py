"""The Dockerfile and the compose file name what is there: options, routes, files. No Docker runs here."""

import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from sioconv.cli.serve import SERVE
from sioconv.serve.config import ServeConfig

ROOT = Path(__file__).resolve().parents[2]


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions and what stands behind them, lines joined."""
    text = (ROOT / "Dockerfile").read_text("utf-8").replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(name, rest.strip()) for name, _, rest in (line.partition(" ") for line in lines)]


def of(name: str) -> list[str]:
    return [rest for each, rest in instructions() if each == name]


@pytest.fixture
def compose() -> Any:
    return yaml.safe_load((ROOT / "compose.yaml").read_text("utf-8"))


def test_what_the_image_is_made_of_is_there() -> None:
    left_out = (ROOT / ".dockerignore").read_text("utf-8").split()
    for line in of("COPY"):
        for source in shlex.split(line)[:-1]:
            assert (ROOT / source).exists()
            assert source not in left_out


def test_the_server_runs_without_root_and_says_whether_it_is_ready() -> None:
    names = [name for name, _ in instructions()]
    assert of("USER") == ["sioconv"]
    assert names.index("USER") < names.index("ENTRYPOINT")
    (run,) = of("RUN")
    assert "useradd" in run and "chown sioconv /states" in run
    assert of("VOLUME") == ["/states"]
    assert "http://127.0.0.1:8000/ready" in of("HEALTHCHECK")[0]
    assert of("EXPOSE") == ["8000"]


def test_the_commands_are_what_sioconv_understands(compose: Any) -> None:
    (entry,), (own,) = of("ENTRYPOINT"), of("CMD")
    command = yaml.safe_load(entry)
    assert command[:2] == ["sioconv", "serve"]
    for more in (yaml.safe_load(own), compose["services"]["server"]["command"]):
        found = SERVE.parser().parse_args([*command[2:], *more])
        assert (found.models, found.host, found.port) == (["demo=/model"], "0.0.0.0", 8000)
        assert found.store


def test_two_replicas_share_a_store_behind_a_proxy(compose: Any) -> None:
    server, proxy = compose["services"]["server"], compose["services"]["proxy"]
    assert server["deploy"]["replicas"] == 2
    assert float(server["stop_grace_period"].removesuffix("s")) > ServeConfig().grace
    assert "redis://valkey:6379/0" in server["command"] and "valkey" in compose["services"]
    assert proxy["command"][-1] == "server:8000"
    assert "ports" not in server and "ports" not in compose["services"]["valkey"]  # reached by the proxy alone
    mounted = [each.rsplit(":", 2)[-2] for each in server["volumes"]]
    assert mounted == ["/model", "/keys.txt"]
    assert all(each.endswith(":ro") for each in server["volumes"])
