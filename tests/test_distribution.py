"""What is given to others beside the source: wheel and sdist, citation, workflow."""

import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest
import yaml

from sioconv import __version__
from sioconv.checksums import check_sums

ROOT = Path(__file__).parents[1]
LARGEST_WHEEL = 13_500_000  # 6.5 MB of it are the model's weights, which don't get smaller, 5.8 MB are text


def test_citation_and_changelog_name_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["cff-version"] == "1.2.0" and citation["version"] == __version__
    assert {"title", "message", "authors", "license"} <= citation.keys()
    assert f"\n## {__version__} " in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("workflow", "wanted"),
    [("test", ["dist", "lint", "page-packages", "test", "test"]), ("docs", ["docs"]), ("audit", ["audit"])],
)
def test_the_workflows_run_targets_that_there_are(workflow: str, wanted: list[str]) -> None:
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / f"{workflow}.yml").read_text(encoding="utf-8"))["jobs"]
    steps = [step["run"] for job in jobs.values() for step in job["steps"] if "run" in step]
    packages = [steps.pop(i) for i, step in reversed(list(enumerate(steps))) if step.startswith("apt-get ")]
    targets = re.findall(r"^([\w-]+):(?!=)", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(step.split()[1] for step in steps) == wanted and set(wanted) <= set(targets)
    assert all(step.startswith("make ") for step in steps)
    if workflow == "test":
        systems = jobs["test"]["strategy"]["matrix"]["os"]
        assert {name.partition("-")[0] for name in systems} == {"ubuntu", "macos", "windows"}
        assert {"chromium", "nodejs", "valkey-server"} <= set(" ".join(packages).split())


@pytest.mark.slow
def test_wheel_and_sdist_are_whole_and_the_wheel_works_in_an_empty_environment(tmp_path: Path) -> None:
    """The environment has the wheel alone; what it depends on is found where these tests find it."""
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(tmp_path / "dist"), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr + done.stdout
    (wheel,), (sdist,) = (list((tmp_path / "dist").glob(pattern)) for pattern in ("*.whl", "*.tar.gz"))
    assert wheel.stat().st_size < LARGEST_WHEEL
    with zipfile.ZipFile(wheel) as content:
        inside = set(content.namelist())
    source = ROOT / "src" / "sioconv"
    files = [path for path in source.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert {f"sioconv/{path.relative_to(source).as_posix()}" for path in files} <= inside
    with tarfile.open(sdist) as content:
        names = {name.partition("/")[2] for name in content.getnames()}
    assert {"LICENSE", "NOTICE", "README.md", "constraints.txt", "tests/test_distribution.py"} <= names
    assert [name for name in names if "node_modules" in name] == []  # of who has built the page

    place = tmp_path / "empty"
    subprocess.run([sys.executable, "-m", "venv", str(place)], check=True)
    python = place / ("Scripts" if os.name == "nt" else "bin") / "python"
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(place)}))
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def run(*arguments: str) -> str:
        done = subprocess.run([str(python), *arguments], env=environment, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    run("-m", "pip", "install", "--quiet", "--no-index", "--no-deps", str(wheel))
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    assert Path(run("-c", "import sioconv; print(sioconv.__file__)").strip()).is_relative_to(packages)
    assert run("-m", "sioconv", "--version") == f"sioconv {__version__}\n"
    assert "sioconv publish" in run("-m", "sioconv", "--help")
    # What reads files of the package: recipes, bundled text, templates, the licence beside it.
    code = "from sioconv.recipe.schema import load_recipe; print(load_recipe(['demo.yaml']).name)"
    assert run("-c", code) == "demo\n"
    code = "from sioconv.publish.folder import package_text; print(package_text('NOTICE'), package_text('LICENSE'))"
    notice = (ROOT / "NOTICE").read_text(encoding="utf-8")
    assert run("-c", code).startswith(notice[:200])
    assert "シオ" in run("-m", "sioconv", "chat", "-p", "あなたの名前は？", "--temperature", "0")
    installs = ("-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--force-reinstall")
    run(*installs, "--no-build-isolation", str(sdist))
    assert "シオ" in run("-m", "sioconv", "chat", "-p", "あなたの名前は？", "--temperature", "0")


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="needs the repository")
def test_a_clone_that_turns_line_ends_around_keeps_every_byte(tmp_path: Path) -> None:
    """As git does on Windows where it is told to: the model's checksums are those of its bytes."""
    options = ["--quiet", "--depth", "1", "-c", "core.autocrlf=true"]
    subprocess.run(["git", "clone", *options, ROOT.as_uri(), str(tmp_path / "clone")], check=True)
    inside = "src/sioconv/models/sioconv-ja-en-7m"
    for path in sorted((tmp_path / "clone" / inside).iterdir()):
        assert b"\r\n" not in path.read_bytes() or b"\r\n" in (ROOT / inside / path.name).read_bytes(), path.name
    check_sums(tmp_path / "clone" / inside)
