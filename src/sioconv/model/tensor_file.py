"""Small safetensors files that belong to one model: written whole or not at all, checked when read."""

import errno
import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save
from torch import Tensor

from sioconv.errors import UserError
from sioconv.files import atomic_write, refuse_pointer


@dataclass(frozen=True)
class Kind:
    """A kind of file, and the words for what can be wrong with one.

    Args:
        format: the metadata's "format".
        version: the metadata's "version".
        name: what it is called.
        origin: what wrote it.
        option: where it is to be given.
        renew: what to do with one of another version.
        owner: the model that it belongs to.
        private: whether it is for its owner's eyes only.
    """

    format: str
    version: int
    name: str
    origin: str
    option: str
    renew: str
    owner: str
    private: bool = False


SESSION = Kind(
    format="sioconv-state",
    version=1,
    name="state file",
    origin="that a session was saved to",
    option="chat --load",
    renew="save the session again",
    owner="the model, and the --state file where there was one, that it was saved with",
    private=True,
)
INITIAL_STATE = Kind(
    format="sioconv-initial-state",
    version=1,
    name="tuned state file",
    origin="that finetune.train.only=initial_state has made",
    option="--state",
    renew="tune it again",
    owner="the model that it was tuned from",
)
KINDS = (SESSION, INITIAL_STATE)
CHECKSUM = "sha256"  # in the metadata


def pack(kind: Kind, fingerprint: str, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """The bytes of a file: tensors, metadata and their checksum.

    Args:
        kind: what it is.
        fingerprint: of the model that it belongs to.
        tensors: by name, of any shape, dtype and device.
        metadata: what it says besides.
    """
    said = {"format": kind.format, "version": str(kind.version), "model": fingerprint, **metadata}
    plain = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    return save(plain, said | {CHECKSUM: _checksum(said, plain)})


def write_tensors(path: Path, kind: Kind, data: bytes) -> None:
    """Writes what `pack` made to `path`, whole or not at all; an older file is replaced.

    Raises:
        UserError: the file can't be written.
    """
    try:
        with atomic_write(path, kind.private) as temporary:
            temporary.write_bytes(data)
    except UserError as error:
        # What is wrong with the name is said like a name that no file can have; the rest says enough.
        if getattr(error.__cause__, "errno", None) == errno.ENAMETOOLONG:
            raise UserError(f"can't write a {kind.name}: {error}") from error
        raise
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        raise UserError(f"can't write a {kind.name}: {path}: {error}: choose another name") from error


def read_tensors(path: Path, kind: Kind, fingerprint: str, most: int) -> tuple[dict[str, str], dict[str, Tensor]]:
    """The metadata and tensors of a file, these on the CPU.

    Args:
        path: the file.
        kind: what it must be.
        fingerprint: of the model that it must belong to.
        most: the numbers that the tensors may have in all; more aren't read.

    Raises:
        UserError: no such file, not one of this kind, another version, one that belongs to another model, or one that
            isn't what was written.
    """
    try:
        if not path.is_file():
            raise UserError(f"no {kind.name}: {path}: check the name")
        refuse_pointer(path)
        with safe_open(path, framework="pt") as file:
            metadata = dict(file.metadata() or {})
            _check_origin(metadata, kind, fingerprint, path)
            names = list(file.keys())
            if sum(math.prod(file.get_slice(name).get_shape()) for name in names) > most:
                raise UserError(f"damaged {kind.name}: {path}: its tensors are too large: restore it from a copy")
            tensors = {name: file.get_tensor(name).clone() for name in names}
    except (SafetensorError, OSError, RuntimeError) as error:  # RuntimeError: it is too large to be mapped
        raise UserError(f"not a {kind.name}: {path}: {error}: give a file {kind.origin}") from error
    return _without_checksum(metadata, tensors, kind, path), tensors


def unpack(data: bytes, kind: Kind, fingerprint: str, origin: object) -> tuple[dict[str, str], dict[str, Tensor]]:
    """What `read_tensors` gives, from the bytes of a file; `origin` is what messages call them.

    Raises:
        UserError: as `read_tensors`.
    """
    try:
        tensors = load(data)
        size = int.from_bytes(data[:8], "little")
        metadata = dict(json.loads(data[8 : 8 + size]).get("__metadata__", {}))
    except (SafetensorError, ValueError) as error:
        raise UserError(f"not a {kind.name}: {origin}: {error}: give a file {kind.origin}") from error
    _check_origin(metadata, kind, fingerprint, origin)
    return _without_checksum(metadata, tensors, kind, origin), tensors


def kind_of(path: Path) -> Kind | None:
    """What kind of file it says it is; None for another one, or none."""
    try:
        with safe_open(path, framework="pt") as file:
            said = (file.metadata() or {}).get("format")
    except (SafetensorError, OSError, RuntimeError, ValueError):
        return None
    return next((kind for kind in KINDS if kind.format == said), None)


def _check_origin(metadata: Mapping[str, str], kind: Kind, fingerprint: str, origin: object) -> None:
    if metadata.get("format") != kind.format:
        other = next((each for each in KINDS if each.format == metadata.get("format")), None)
        found = "it holds other tensors" if other is None else f"it is a {other.name}, which {other.option} takes"
        raise UserError(f"not a {kind.name}: {origin}: {found}: give a file {kind.origin}")
    if metadata.get("version") != str(kind.version):
        version = metadata.get("version")
        raise UserError(f"{kind.name} of another version: {origin}: {version} and not {kind.version}: {kind.renew}")
    if metadata.get("model") != fingerprint:
        raise foreign(kind, origin)


def foreign(kind: Kind, origin: object, what: str = "model") -> UserError:
    """What is said of a file that belongs to another model, or another `what`."""
    return UserError(f"{kind.name} of another {what}: {origin}: load {kind.owner}")


def _without_checksum(
    metadata: dict[str, str], tensors: Mapping[str, Tensor], kind: Kind, origin: object
) -> dict[str, str]:
    checksum = metadata.pop(CHECKSUM, None)  # older files have none
    if checksum is not None and checksum != _checksum(metadata, tensors):
        raise UserError(f"damaged {kind.name}: {origin}: it isn't what was written: restore it from a copy")
    return metadata


def _checksum(metadata: Mapping[str, str], tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of all that such a file says: safetensors has no checksum of its own."""
    digest = hashlib.sha256(json.dumps(dict(metadata), sort_keys=True).encode())
    for name, value in sorted(tensors.items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


@contextmanager
def damage(origin: object, kind: Kind) -> Iterator[None]:
    """Turns what is raised over a file's content into a `UserError` that it is damaged."""
    try:
        yield
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise UserError(f"damaged {kind.name}: {origin}: {error}: restore it from a copy") from error


def check_shapes(tensors: Mapping[str, Tensor], expected: Mapping[str, tuple[int, ...]]) -> None:
    """Raises ValueError where the tensors have other names or shapes than `expected`."""
    if {name: tuple(value.shape) for name, value in tensors.items()} != expected:
        raise ValueError("its tensors are not those of the model's layers")
