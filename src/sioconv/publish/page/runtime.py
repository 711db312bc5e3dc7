"""What runs ONNX in a browser: one file of the npm package onnxruntime-web, which is too large for this package."""

import os
import sys
import urllib.request
from pathlib import Path

from sioconv.errors import UserError
from sioconv.files import atomic_write, sha256_file, shown
from sioconv.progress import say, track

VERSION = "1.30.0"
FILE = "ort-wasm-simd-threaded.wasm"
SIZE, SHA256 = 14_239_897, "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2"
ADDRESS = f"https://cdn.jsdelivr.net/npm/onnxruntime-web@{VERSION}/dist/{FILE}"
AT_ONCE = 1 << 18  # bytes
ADVICE = f"give --runtime FILE: {FILE} of the npm package onnxruntime-web {VERSION} (in dist/)"


def find_runtime(given: Path | None = None, address: str = ADDRESS) -> Path:
    """The file; it is downloaded once, checked, and kept in the user's cache.

    Args:
        given: the file itself, or a folder that it is in; None for the cache, or the address.
        address: where it is.

    Raises:
        UserError: it isn't the file that this version of the page was built for, or can't be had.
    """
    if given is not None:
        file = given / FILE if given.is_dir() else given
        if not file.is_file():
            raise UserError(f"no runtime at {shown(given)}: {ADVICE}")
        return _checked(file)
    kept = _cache() / f"onnxruntime-web-{VERSION}" / FILE
    if kept.is_file() and sha256_file(kept) == SHA256:
        return kept
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        raise UserError(f"the browser's runtime isn't here yet, and HF_HUB_OFFLINE is set: {ADVICE}")
    say(f"export: downloading onnxruntime-web {VERSION} ({SIZE / 1e6:.1f} MB), once")
    with atomic_write(kept) as temporary:
        _download(address, temporary)
        _checked(temporary)
    return kept


def _download(address: str, target: Path) -> None:
    try:
        with urllib.request.urlopen(address, timeout=60) as answer, target.open("wb") as file:
            for piece in track(iter(lambda: answer.read(AT_ONCE), b""), "onnxruntime-web (bytes)", SIZE, len):
                file.write(piece)
                if file.tell() > SIZE:
                    break
    except OSError as error:  # those of urllib too
        raise UserError(f"can't download {address}: {error}: try again, or {ADVICE}") from error


def _checked(file: Path) -> Path:
    if sha256_file(file) != SHA256:
        raise UserError(f"{shown(file)} isn't {FILE} of onnxruntime-web {VERSION}, which the page needs: {ADVICE}")
    return file


def _cache() -> Path:
    """The folder for what can be had again."""
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData/Local") / "sioconv"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sioconv"
