"""Builds the documentation: `python -m scripts.site [--out site]`. Needs the extra `docs`, and no network."""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

from scripts.site.pages import ROOT, Staging

CONFIG = ROOT / "mkdocs.yml"


def build(out: Path, repository: str | None = None) -> int:
    """Writes the site into a folder; MkDocs' exit code, which isn't 0 where it has a warning."""
    with tempfile.TemporaryDirectory() as name:
        pages = Path(name) / "docs"
        Staging(pages, repository).write()
        config = Path(name) / "mkdocs.yml"
        values = {"INHERIT": str(CONFIG), "docs_dir": str(pages), "site_dir": str(out.resolve())}
        config.write_text(yaml.safe_dump(values), encoding="utf-8")
        command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--config-file", str(config)]
        return subprocess.call(command, cwd=ROOT, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "site", help="the site's folder (default: site)")
    parser.add_argument("--repository", help="address of the repository's files, https://…/blob/main")
    arguments = parser.parse_args()
    code = build(arguments.out, arguments.repository)
    if code == 0:
        print(f"{arguments.out}: look at it with  python -m http.server --directory {arguments.out}")
    sys.exit(code)


if __name__ == "__main__":
    main()
