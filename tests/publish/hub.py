"""A server on this machine that speaks the Hub's protocol for uploads: create, preupload, LFS batch, PUT, commit."""

import base64
import hashlib
import json
import threading
from collections import Counter
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import yaml

LARGE = (".safetensors", ".bin")
WRITER, READER = "hf_writer", "hf_reader"
APIS = {"/api/models/": "", "/api/spaces/": "spaces/"}  # and what the names of their repositories begin with
# What a card must say, and the colours that a Space may have.
NEEDED = {"model": ("license",), "space": ("title", "sdk", "colorFrom", "colorTo")}
COLOURS = {"red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray"}


@dataclass
class Repository:
    """One repository: its files, and which of them are kept as large ones; of a Space also what runs it."""

    private: bool
    sdk: str | None = None
    files: dict[str, bytes] = field(default_factory=lambda: {".gitattributes": b"*.safetensors filter=lfs\n"})
    large: set[str] = field(default_factory=set)
    commits: list[str] = field(default_factory=list)


class Hub(ThreadingHTTPServer):
    """The server; `fail[name]` answers the next requests of a kind with a status, 0 closes the connection."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories: dict[str, Repository] = {}
        self.objects: dict[str, bytes] = {}
        self.count: Counter[str] = Counter()
        self.fail: dict[str, list[int]] = {}
        self.thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self.thread.start()

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def close(self) -> None:
        """Ends it."""
        self.shutdown()
        self.server_close()
        self.thread.join()


class Handler(BaseHTTPRequestHandler):
    """One request."""

    protocol_version = "HTTP/1.1"
    server: Hub

    def log_message(self, *_: Any) -> None:
        """Nothing."""

    def do_GET(self) -> None:
        """Who am I, a repository, its files."""
        path = self.path.partition("?")[0]
        if path == "/api/whoami-v2" and self._allowed(False):
            self._answer(200, {"name": "aoba", "type": "user"})
        elif path.startswith(tuple(APIS)) and "/tree/" in path:
            repository = self._repository(place_of(path, "/tree/"))
            if repository is not None:
                self._answer(200, [entry(repository, name) for name in sorted(repository.files)])
        elif path.startswith(tuple(APIS)):
            name = place_of(path, "/revision/")
            repository = self._repository(name)
            if repository is not None:
                siblings, name = [{"rfilename": file} for file in repository.files], name.removeprefix("spaces/")
                self._answer(200, {"id": name, "private": repository.private, "sha": "0" * 40, "siblings": siblings})

    def do_PUT(self) -> None:
        """A large file's content."""
        data = self._body()
        if self._failing("put"):
            return
        oid = self.path.rpartition("/")[2]
        if hashlib.sha256(data).hexdigest() != oid:
            self._answer(400, {"error": "checksum"})
            return
        self.server.objects[oid] = data
        self._answer(200, {})

    def do_POST(self) -> None:
        """Everything that writes."""
        data, path = self._body(), self.path.partition("?")[0]
        if path == "/api/repos/create" and not self._failing("create") and self._allowed(True):
            self._create(json.loads(data))
        elif path == "/api/validate-yaml":
            errors = [{"message": error} for error in wrong(json.loads(data))]
            self._answer(400 if errors else 200, {"errors": errors, "warnings": []})
        elif "/preupload/" in path and not self._failing("preupload") and self._allowed(True):
            repository = self.server.repositories[place_of(path, "/preupload/")]
            self._answer(200, {"files": [mode(repository, file["path"]) for file in json.loads(data)["files"]]})
        elif path.endswith("/info/lfs/objects/batch") and not self._failing("batch") and self._allowed(True):
            self._answer(
                200, {"transfer": "basic", "objects": [self._object(each) for each in json.loads(data)["objects"]]}
            )
        elif path == "/verify":
            self._answer(200 if json.loads(data)["oid"] in self.server.objects else 404, {})
        elif "/commit/" in path and not self._failing("commit") and self._allowed(True):
            self._commit(place_of(path, "/commit/"), data)

    def _create(self, values: dict[str, Any]) -> None:
        kind = values.get("type") or "model"
        name = f"{values.get('organization') or 'aoba'}/{values['name']}"
        place = f"spaces/{name}" if kind == "space" else name
        if kind == "space" and values.get("sdk") != "static":
            self._answer(400, {"error": "no sdk"})
        elif name.startswith("others/"):
            self._answer(403, {"error": f"You don't have the rights to create a {kind} under others"})
        elif place in self.server.repositories:
            self._answer(409, {"error": f"You already created this {kind} repo"})
        else:
            private = values.get("visibility") == "private" or bool(values.get("private"))
            self.server.repositories[place] = Repository(private, values.get("sdk"))
            self._answer(200, {"url": f"{self.server.url}/{place}", "id": name})

    def _object(self, wanted: dict[str, Any]) -> dict[str, Any]:
        if wanted["oid"] in self.server.objects:
            return wanted
        upload = {"href": f"{self.server.url}/objects/{wanted['oid']}"}
        return wanted | {"actions": {"upload": upload, "verify": {"href": f"{self.server.url}/verify"}}}

    def _commit(self, name: str, data: bytes) -> None:
        repository = self.server.repositories[name]
        lines = [json.loads(line) for line in data.splitlines()]
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                repository.files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                repository.files[value["path"]] = self.server.objects[value["oid"]]
                repository.large.add(value["path"])
            elif line["key"] == "deletedFile":
                del repository.files[value["path"]]
        repository.commits.append(lines[0]["value"]["summary"])
        self._answer(200, {"commitUrl": f"{self.server.url}/{name}/commit/{'1' * 40}", "commitOid": "1" * 40})

    def _repository(self, name: str) -> Repository | None:
        found = self.server.repositories.get(name)
        if found is None or (found.private and not self._token()):
            self._answer(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
            return None
        return found

    def _token(self) -> str:
        return self.headers.get("Authorization", "").removeprefix("Bearer ")

    def _allowed(self, writes: bool) -> bool:
        if self._token() not in (WRITER, READER):
            self._answer(401, {"error": "Invalid username or password."})
        elif writes and self._token() == READER:
            self._answer(403, {"error": "This token has no write access"})
        else:
            return True
        return False

    def _failing(self, kind: str) -> bool:
        self.server.count[kind] += 1
        if not self.server.fail.get(kind):
            return False
        status = self.server.fail[kind].pop(0)
        if status == 200:
            return False
        if status:
            self._answer(status, {"error": "no"})
        else:
            self.close_connection = True
        return True

    def _body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        data = b""
        while size := int(self.rfile.readline(), 16):
            data += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return data

    def _answer(self, status: int, values: Any, headers: dict[str, str] | None = None) -> None:
        body = json.dumps(values).encode()
        self.send_response(status)
        for key, value in (
            {"Content-Type": "application/json", "Content-Length": str(len(body))} | (headers or {})
        ).items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(body)


def place_of(path: str, before: str) -> str:
    """The repository that a path of the API names, up to `before`."""
    start = next(start for start in APIS if path.startswith(start))
    return APIS[start] + path.removeprefix(start).partition(before)[0]


def wrong(asked: dict[str, Any]) -> list[str]:
    """What is wrong with a card's metadata."""
    front, kind = yaml.safe_load(asked["content"].split("---\n")[1]), asked["repoType"]
    found = [f"{key} is missing" for key in NEEDED[kind] if key not in front]
    colours = {front[key] for key in ("colorFrom", "colorTo") if key in front}
    return found + [f"{colour} is no colour" for colour in colours - COLOURS]


def mode(repository: Repository, path: str) -> dict[str, Any]:
    """How a file shall be sent, and the hash of the one that is there."""
    found = {"path": path, "uploadMode": "lfs" if path.endswith(LARGE) else "regular", "shouldIgnore": False}
    if path in repository.files:
        there = entry(repository, path)
        found["oid"] = there["lfs"]["oid"] if "lfs" in there else there["oid"]
    return found


def entry(repository: Repository, name: str) -> dict[str, Any]:
    """A line of the list of files."""
    data = repository.files[name]
    found: dict[str, Any] = {"type": "file", "path": name, "size": len(data)}
    found["oid"] = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
    if name in repository.large:
        found["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
    return found
