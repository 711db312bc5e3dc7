"""Runs `sioconv` commands in children that are forked, each with a fault of its own: no start-up of seconds for each.

`python -m tests.faults.server` reads a JSON object a line: `folder`, `arguments`, `fault` (see `Fault`), `seconds`; and
answers with `code` (negative: the signal that ended it), `said` (its standard error), `out` and `operations`. The verb
`ask` is the server of `sioconv serve` without its port: a model, a store and requests as JSON follow.
"""

import copy
import errno
import functools
import gc
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Mapping
from contextlib import redirect_stderr, redirect_stdout, suppress
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

CHANGING = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.chmod", "os.link", "os.symlink", "os.truncate"}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
NEEDS_ROOM = {"open", "os.mkdir", "os.rename", "os.link", "os.symlink"}


class Fault:
    """Counts the operations that change files below `runs/` and does something at one of them, before it happens.

    Args:
        kind: `kill` (-9), `full` (no space from there on), or `none`.
        at: the operation's number, from 0.
        log: gets a line for each operation.
    """

    def __init__(self, kind: str, at: int, log: Path) -> None:
        self.kind, self.at, self.count, self.pid = kind, at, 0, os.getpid()
        self._log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        """The audit hook."""
        if event == "open":
            path, _, flags = arguments
            if not isinstance(flags, int) or not flags & WRITING:
                return
        elif event in CHANGING:
            path = arguments[0]
        else:
            return
        if not isinstance(path, str | os.PathLike) or os.getpid() != self.pid:
            return
        name = os.fspath(path)
        # What `shutil.rmtree` removes has a name that is relative to a folder of its own.
        inside = "runs" in Path(name).parts or (event in CHANGING and arguments[-1] not in (-1, None))
        if not inside:
            return
        os.write(self._log, f"{event} {name}\n".encode(errors="replace"))
        number, self.count = self.count, self.count + 1
        if self.kind == "kill" and number == self.at:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.kind == "full" and number >= self.at and event in NEEDS_ROOM:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), name)


def child(job: dict[str, Any], folder: Path) -> int:
    """The command, in a process of its own; returns its exit code."""
    from sioconv.cli import main as cli

    os.chdir(folder)
    for number, name in ((1, "out"), (2, "said")):
        handle = os.open(f"{name}.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(handle, number)
    sys.addaudithook(Fault(job.get("fault", "none"), job.get("at", -1), folder / "operations.log"))
    verb, *operands = job["arguments"]
    try:
        if verb == "ask":
            cli.sys.exit(cli.exit_code_of(lambda: ask(*operands)))
        cli.main(job["arguments"])
    except SystemExit as end:
        return int(end.code or 0)
    except BaseException:
        traceback.print_exc()
        return 99


def ask(model: str, store: str, requests: str) -> None:
    """Puts requests (a list of method, path and body) to a server; prints the code and JSON of each answer."""
    from fastapi.testclient import TestClient

    from sioconv.serve.app import make_app
    from sioconv.serve.start import make_service

    with TestClient(make_app(make_service([f"small={model}"], store=store, threads=1))) as client:
        for method, path, body in json.loads(requests):
            answer = client.request(method, path, json=body)
            print(json.dumps([answer.status_code, answer.json()]), flush=True)


def spare() -> None:
    """Takes out of every child what is the same in all of them, or is looked at by nobody."""
    from sioconv.evaluate import pictures
    from sioconv.publish import folder as published
    from sioconv.publish.page import folder as page
    from sioconv.recipe import files, schema
    from sioconv.serve import server
    from sioconv.train import loop

    checked, known = schema.build, dict[str, Any]()

    def build(values: Mapping[str, Any]) -> Any:
        if (key := repr(values)) not in known:
            known[key] = checked(values)
        return copy.deepcopy(known[key])

    find_runtime = page.find_runtime  # it would be downloaded
    replacements: tuple[tuple[Any, str, Any], ...] = (
        (loop, "matrix_speed", lambda *_: 1e9),  # shown on the terminal, and nothing else
        (pictures, "_svg", lambda _: b"<svg></svg>"),
        (files, "parse_yaml", functools.cache(files.parse_yaml)),
        (schema, "build", build),
        (published, "verify_folder", lambda _: 0.0),  # a process of seconds, with tests of its own
        (page, "find_runtime", lambda given: find_runtime(given) if given else Path(__file__)),
        (server, "run_server", lambda *_: None),  # it would run until it is stopped
    )
    for module, name, value in replacements:
        setattr(module, name, value)


def warm(folder: Path) -> None:
    """Loads here what every command would load by itself: modules, compiled kernels, fonts.

    Nothing is trained in this process: after a backward pass here, torch refuses one in a child.
    """
    from sioconv.cli import main as cli
    from sioconv.model.folder_code import folder_code
    from sioconv.recipe.schema import load_recipe
    from tests.faults.workplace import write_workplace

    place = write_workplace(folder / "warm")
    code, names = forked({"arguments": ["finetune", "recipe.yaml"]}, place)
    assert code == 0, (place / "said.log").read_text(encoding="utf-8")
    for name in names:
        with suppress(ImportError):  # such as a part of the program that was run
            import_module(name)
    folder_code()
    here = Path.cwd()
    os.chdir(place)
    for recipe in ("recipe.yaml", "runs/small/recipe.yaml"):
        load_recipe([recipe])
    with Path(os.devnull).open("w", encoding="utf-8") as nothing, redirect_stdout(nothing), redirect_stderr(nothing):
        assert cli.exit_code_of(lambda: cli.run(["report", "runs/small"])) == 0
    os.chdir(here)


def forked(job: dict[str, Any], folder: Path) -> tuple[int, list[str]]:
    """Runs a command in a child; its exit code (negative: the signal that ended it), and the modules that it loaded."""
    loaded = folder / "modules.log"
    process = os.fork()
    if process == 0:
        code = child(job, folder)
        sys.stdout.flush()
        sys.stderr.flush()
        loaded.write_text("\n".join(sys.modules), encoding="utf-8")
        os._exit(code)
    end = time.monotonic() + job.get("seconds", 600)
    ended, status = 0, 0
    while not ended:
        ended, status = os.waitpid(process, os.WNOHANG)
        if not ended and time.monotonic() > end:
            os.kill(process, signal.SIGKILL)
            end = time.monotonic() + job["seconds"]
        time.sleep(0.005)
    names = loaded.read_text(encoding="utf-8").split("\n") if loaded.exists() else []
    return os.waitstatus_to_exitcode(status), names


def serve() -> None:
    """Answers until the input ends."""
    import torch

    from sioconv.run import stages  # noqa: F401 - imported here, for all children

    torch.set_num_threads(1)
    spare()
    with TemporaryDirectory() as folder:
        warm(Path(folder))
    gc.freeze()  # what is here is in every child: a collection there would copy its pages
    for line in sys.stdin:
        job = json.loads(line)
        folder = Path(job["folder"])
        code, _ = forked(job, folder)
        said, out, log = (folder / f"{name}.log" for name in ("said", "out", "operations"))
        answer = {
            "code": code,
            "said": said.read_text(encoding="utf-8", errors="replace"),
            "out": out.read_text(encoding="utf-8", errors="replace"),
            "operations": log.read_text(encoding="utf-8", errors="replace").splitlines() if log.exists() else [],
        }
        print(json.dumps(answer), file=sys.__stdout__, flush=True)


if __name__ == "__main__":
    serve()
