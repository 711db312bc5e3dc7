"""Token shards: the tokens of one source on disk, read through memory maps.

A shard set is a folder. Task n of `data/shards/pipeline.py` has written `{n:05d}.ds` (tokens, uint16 or uint32, little
endian), `{n:05d}.ds.index` (uint64, where each document ends, counted in tokens from the beginning of the file) and,
for conversations, `{n:05d}.ds.mask` (uint8, 1 where a token is to be learned). `manifest.json` is written last and
lists them; what it doesn't list is never opened.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sioconv.checksums import checksums, read_sealed
from sioconv.errors import UserError

MANIFEST = "manifest.json"
FORMAT, VERSION = "sioconv-shards", 1
TOKENS, INDEX, MASK = ".ds", ".ds.index", ".ds.mask"
TOKEN_TYPES: dict[str, np.dtype[Any]] = {"uint16": np.dtype("<u2"), "uint32": np.dtype("<u4")}
INDEX_TYPE, MASK_TYPE = np.dtype("<u8"), np.dtype("u1")


class DamagedShards(UserError):
    """Shards that are there and aren't what was written.

    Args:
        folder: the shard set.
        problem: what is wrong with it.
    """

    def __init__(self, folder: Path, problem: str) -> None:
        super().__init__(f"damaged token shards: {folder}: {problem}: remove the folder and make them again")
        self.problem = problem


@dataclass(frozen=True)
class _Shard:
    """One task's files: `tokens` [n], `ends` [documents] int64, `mask` [n] or None; all of them memory maps."""

    tokens: NDArray[Any]
    ends: NDArray[np.int64]
    mask: NDArray[np.uint8] | None


class ShardSet:
    """The tokens of one source, as if they were one long array; made by `ShardSet.open`.

    Attributes:
        folder: where it is.
        manifest: what its manifest says.
        tokens_total: number of tokens.
        documents_total: number of documents.
        bytes_total: UTF-8 bytes of the text.
        masked: whether only some tokens are to be learned.
    """

    def __init__(self, folder: Path, manifest: Mapping[str, Any], shards: Sequence[_Shard]) -> None:
        self.folder, self.manifest = folder, manifest
        self.tokens_total, self.documents_total = int(manifest["tokens"]), int(manifest["documents"])
        self.bytes_total = int(manifest["bytes"])
        self.masked = any(shard.mask is not None for shard in shards)
        self._shards = shards
        self._dtype = TOKEN_TYPES[manifest["dtype"]]
        self._first_token = _offsets([len(shard.tokens) for shard in shards])  # [shards + 1]
        self._first_document = _offsets([len(shard.ends) for shard in shards])  # [shards + 1]

    @classmethod
    def open(cls, folder: Path | str, tokenizer_sha256: str | None = None) -> "ShardSet":
        """Opens the shard set in `folder`.

        Args:
            folder: where `manifest.json` is.
            tokenizer_sha256: of the tokenizer that the tokens must come from; None takes any.

        Raises:
            UserError: it isn't there, is damaged, or comes from another tokenizer.
        """
        folder = Path(folder)
        manifest = _read_manifest(folder)
        if tokenizer_sha256 is not None and manifest["tokenizer_sha256"] != tokenizer_sha256:
            raise UserError(f"shards of another tokenizer: {folder}: make them again with the one that is used now")
        dtype = TOKEN_TYPES[manifest["dtype"]]
        names = [name.removesuffix(TOKENS) for name in manifest["files"] if name.endswith(TOKENS)]
        shards = []
        for name in names:
            tokens = _map(folder, f"{name}{TOKENS}", manifest, dtype)
            ends = _map(folder, f"{name}{INDEX}", manifest, INDEX_TYPE).view(np.int64)
            masked = f"{name}{MASK}" in manifest["files"]
            mask = _map(folder, f"{name}{MASK}", manifest, MASK_TYPE) if masked else None
            if (ends[-1] if len(ends) else 0) != len(tokens) or (mask is not None and len(mask) != len(tokens)):
                raise DamagedShards(folder, f"the files of {name} don't fit each other")
            shards.append(_Shard(tokens, ends, mask))
        counted = (sum(len(shard.tokens) for shard in shards), sum(len(shard.ends) for shard in shards))
        if counted != (manifest["tokens"], manifest["documents"]):
            raise DamagedShards(folder, f"{MANIFEST} counts other tokens or documents than its files hold")
        return cls(folder, manifest, shards)

    def verify(self) -> None:
        """Compares every file with its checksum, by all cores. Raises UserError naming the first one that differs."""
        files: dict[str, Any] = self.manifest["files"]
        try:
            found = checksums(self.folder / name for name in files)
        except OSError as error:
            raise DamagedShards(self.folder, f"{Path(error.filename).name} can't be read") from error
        for (name, facts), sha256 in zip(files.items(), found, strict=True):
            if sha256 != facts["sha256"]:
                raise DamagedShards(self.folder, f"{name} isn't what was written")

    @property
    def fingerprint(self) -> str:
        """Of the tokens, whatever the names of the files that they came from."""
        return hashlib.sha256(json.dumps(self.manifest["files"], sort_keys=True).encode()).hexdigest()

    @property
    def document_ends(self) -> NDArray[np.int64]:
        """[documents_total]: one past the last token of each document."""
        parts = [shard.ends + first for shard, first in zip(self._shards, self._first_token, strict=False)]
        return np.concatenate([np.empty(0, np.int64), *parts])

    def slice(self, start: int, stop: int) -> NDArray[Any]:
        """The tokens from `start` up to `stop`, [stop - start] uint16 or uint32, not to be written into."""
        parts = [shard.tokens[low:high] for shard, _, low, high in self._parts(start, stop)]
        return parts[0] if len(parts) == 1 else np.concatenate([np.empty(0, self._dtype), *parts])

    def mask_slice(self, start: int, stop: int) -> NDArray[np.uint8]:
        """1 for each token from `start` up to `stop` that is to be learned, else 0, [stop - start]."""
        if not self.masked:
            self._check(start, stop)
            return np.ones(stop - start, np.uint8)
        parts = [shard.mask[low:high] for shard, _, low, high in self._parts(start, stop) if shard.mask is not None]
        return parts[0] if len(parts) == 1 else np.concatenate([np.empty(0, np.uint8), *parts])

    def document_starts(self, start: int, stop: int) -> NDArray[np.int64]:
        """The places in [start, stop) at which a document begins, ascending."""
        found = [np.empty(0, np.int64)]
        for shard, first, low, high in self._parts(start, stop):
            if low == 0:
                found.append(np.array([first]))
            begin, end = np.searchsorted(shard.ends, (max(low, 1), high))
            found.append(shard.ends[begin:end] + first)
        return found[0] if len(found) == 1 else np.concatenate(found)

    def document(self, number: int) -> tuple[NDArray[Any], NDArray[np.uint8]]:
        """Token ids and mask of a document, both [tokens]. Raises IndexError where there is none."""
        if not 0 <= number < self.documents_total:
            raise IndexError(f"document {number} of {self.documents_total}")
        place = int(np.searchsorted(self._first_document, number, "right")) - 1
        ends, inside = self._shards[place].ends, number - int(self._first_document[place])
        first = int(self._first_token[place])
        start, stop = first + (int(ends[inside - 1]) if inside else 0), first + int(ends[inside])
        return self.slice(start, stop), self.mask_slice(start, stop)

    def _check(self, start: int, stop: int) -> None:
        if not 0 <= start <= stop <= self.tokens_total:
            raise ValueError(f"0 <= start <= stop <= {self.tokens_total} expected, got start={start}, stop={stop}")

    def _parts(self, start: int, stop: int) -> Iterator[tuple[_Shard, int, int, int]]:
        """The shards that [start, stop) touches, each with its first token's place and the touched range inside it."""
        self._check(start, stop)
        place = int(np.searchsorted(self._first_token, start, "right")) - 1
        while start < stop:
            first, end = int(self._first_token[place]), int(self._first_token[place + 1])
            if start < end:
                yield self._shards[place], first, start - first, min(stop, end) - first
                start = min(stop, end)
            place += 1


def _offsets(sizes: Sequence[int]) -> NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    if not path.is_file():
        raise UserError(f"no token shards: {folder}: {MANIFEST} isn't there: make them with `sioconv data RECIPE`")
    try:
        values = read_sealed(path)
        known = values["format"] == FORMAT and values["version"] == VERSION
        numbers = [values[key] for key in ("tokens", "documents", "bytes")]
        numbers += [facts["bytes"] for facts in values["files"].values()]
        texts = [values["tokenizer_sha256"], *(facts["sha256"] for facts in values["files"].values())]
        sound = all(isinstance(number, int) for number in numbers) and all(isinstance(text, str) for text in texts)
        sound = sound and values["dtype"] in TOKEN_TYPES and all(Path(name).name == name for name in values["files"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedShards(folder, f"{MANIFEST} can't be read") from error
    if not known:
        raise UserError(f"shards of another format: {folder}: this version reads {FORMAT} {VERSION}: make them again")
    if not sound:
        raise DamagedShards(folder, f"{MANIFEST} can't be read")
    return dict(values)


def _map(folder: Path, name: str, manifest: Mapping[str, Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    path = folder / name
    expected = manifest["files"].get(name, {"bytes": None})["bytes"]
    if not path.is_file() or path.stat().st_size != expected or expected % dtype.itemsize:
        raise DamagedShards(folder, f"{name} is missing or not as long as {MANIFEST} says")
    if expected == 0:  # nothing can't be mapped
        return np.empty(0, dtype)
    return np.asarray(np.memmap(path, dtype, mode="r"))
