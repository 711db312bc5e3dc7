"""The page's files, and what the documentation shows of Python."""

import re
from pathlib import Path

import httpx
import pytest

from sioconv.serve import app
from sioconv.serve.config import ServeConfig
from tests.serve.conftest import serving

ROOT = Path(__file__).parents[2]


def test_the_page_can_load_nothing_from_elsewhere(
    served_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("index.html", "page.js", "page.css", "core.wasm"):
        (tmp_path / name).write_text("x")
    (tmp_path.parent / "outside.txt").write_text("x")
    monkeypatch.setattr(app, "PAGE", tmp_path)
    with serving(f"tiny={served_folder}", store=None) as running:
        kinds = {"": "text/html", "page.js": "text/javascript", "page.css": "text/css", "core.wasm": "application/wasm"}
        for name, kind in kinds.items():
            answer = httpx.get(f"{running.url}/{name}")
            assert (answer.status_code, answer.headers["content-type"].split(";")[0]) == (200, kind)
            policy = answer.headers["content-security-policy"]
            assert "default-src 'none'" in policy and "http" not in policy and "'unsafe-eval'" not in policy
            assert answer.headers["x-content-type-options"] == "nosniff"
        for wrong in ("%2e%2e/outside.txt", "nothing.js"):
            answer = httpx.get(f"{running.url}/{wrong}")
            assert (answer.status_code, answer.json()["error"]["type"]) == (404, "invalid_request_error")
        assert httpx.get(f"{running.url}/v1/models").json()["data"][0]["id"] == "tiny"


@pytest.mark.parametrize("page", ["README.md", "docs/serving.md"])
def test_what_a_page_shows_works_line_by_line(
    served_folder: Path, page: str, capsys: pytest.CaptureFixture[str]
) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```$", (ROOT / page).read_text("utf-8"), re.MULTILINE | re.DOTALL)
    blocks = [block for block in blocks if "client" in block]
    assert blocks
    with serving(f"demo={served_folder}", config=ServeConfig(default_new_tokens=16)) as running:
        names: dict[str, object] = {}
        for block in blocks:
            exec(block.replace("http://127.0.0.1:8000", running.url), names)
    assert capsys.readouterr().out.strip()
