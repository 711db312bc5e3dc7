"""Small safetensors files that belong to one model: written whole or not at all, checked when read."""

import errno
import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
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


def write_tensors(
    path: Path, kind: Kind, fingerprint: str, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]
) -> None:
    """Writes tensors, metadata and their checksum to `path`, whole or not at all.

    Args:
        path: the file; an older one is replaced.
        kind: what it is.
        fingerprint: of the model that it belongs to.
        tensors: by name, of any shape, dtype and device.
        metadata: what it says besides.

    Raises:
        UserError: the file can't be written.
    """
    said = {"format": kind.format, "version": str(kind.version), "model": fingerprint, **metadata}
    plain = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    data = save(plain, said | {CHECKSUM: _checksum(said, plain)})
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


def read_tensors(path: Path, kind: Kind, fingerprint: str) -> tuple[dict[str, str], dict[str, Tensor]]:
    """The metadata and tensors of a file, these on the CPU.

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
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise UserError(f"not a {kind.name}: {path}: {error}: give a file {kind.origin}") from error
    if metadata.get("format") != kind.format:
        other = next((each for each in KINDS if each.format == metadata.get("format")), None)
        found = "it holds other tensors" if other is None else f"it is a {other.name}, which {other.option} takes"
        raise UserError(f"not a {kind.name}: {path}: {found}: give a file {kind.origin}")
    if metadata.get("version") != str(kind.version):
        version = metadata.get("version")
        raise UserError(f"{kind.name} of another version: {path}: {version} and not {kind.version}: {kind.renew}")
    if metadata.get("model") != fingerprint:
        raise UserError(f"{kind.name} of another model: {path}: load {kind.owner}")
    checksum = metadata.pop(CHECKSUM, None)  # older files have none
    if checksum is not None and checksum != _checksum(metadata, tensors):
        raise UserError(f"damaged {kind.name}: {path}: it isn't what was written: restore it from a copy")
    return metadata, tensors


def _checksum(metadata: Mapping[str, str], tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of all that such a file says: safetensors has no checksum of its own."""
    digest = hashlib.sha256(json.dumps(dict(metadata), sort_keys=True).encode())
    for name, value in sorted(tensors.items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


@contextmanager
def damage(path: Path, kind: Kind) -> Iterator[None]:
    """Turns what is raised over a file's content into a `UserError` that it is damaged."""
    try:
        yield
    except (KeyError, ValueError, RecursionError) as error:
        raise UserError(f"damaged {kind.name}: {path}: {error}: restore it from a copy") from error


def check_shapes(tensors: Mapping[str, Tensor], expected: Mapping[str, tuple[int, ...]]) -> None:
    """Raises ValueError where the tensors have other names or shapes than `expected`."""
    if {name: tuple(value.shape) for name, value in tensors.items()} != expected:
        raise ValueError("its tensors are not those of the model's layers")
