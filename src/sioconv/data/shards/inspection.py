"""Looking into token shards: how much there is, how long documents are, what some of them say."""

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerFast

from sioconv.data.shards.shard_set import MANIFEST, ShardSet
from sioconv.data.tokenizer.tokenizer import TOKENIZER_FILE, load_tokenizer, tokenizer_sha256
from sioconv.errors import UserError
from sioconv.files import atomic_write
from sioconv.language import translated
from sioconv.terminal import one_line

PICTURE = "lengths.png"
SHOWN = 300  # characters of a document
BAR = 40
CHUNK = 1 << 24  # tokens whose mask is summed at once
COLUMNS = 4  # of the picture
COLOUR = "#0072B2"


def inspect_data(
    path: Path, *, tokenizer: Path | None = None, documents: int = 3, seed: int = 0, verify: bool = False
) -> dict[str, Any]:
    """What is in a folder of token shards.

    Args:
        path: one shard set, the folder of a source, a run's `data/`, or a run.
        tokenizer: the folder of the tokenizer; by default it is looked for in `tokenizer/` beside and above `path`.
        documents: how many documents of each set are shown, drawn at random.
        seed: decides which.
        verify: compare every file with its checksum.

    Returns:
        `path`, `tokenizer` (its folder, or None where none was found), `sets`: of each shard set `name`, what its
        manifest says, `disk_bytes`, the documents' `lengths` in tokens (mean, median, longest, and a histogram of
        [least, most, count]), `learned` (share of the tokens that are learned) and the drawn `documents`; and `total`.

    Raises:
        UserError: there are no shards, they are damaged, or they come from another tokenizer.
    """
    folders = _sets(path)
    if not folders:
        raise UserError(
            f"no token shards: {path}: no {MANIFEST} in it or below: give a folder that `sioconv data` made"
        )
    place = tokenizer or _tokenizer_near(path)
    text_of = load_tokenizer(place) if place else None
    sha256 = tokenizer_sha256(place) if place else None
    found = []
    for folder in folders:
        shards = ShardSet.open(folder, sha256)
        if verify:
            shards.verify()
        name = folder.relative_to(path).as_posix() if folder != path else folder.name
        found.append(_facts(name, shards, text_of, documents, seed))
    total = {key: sum(one[key] for one in found) for key in ("documents", "tokens", "bytes", "disk_bytes")}
    return {
        "path": str(path),
        "tokenizer": str(place) if place else None,
        "verified": verify,
        "sets": found,
        "total": total,
    }


def describe_shards(report: Mapping[str, Any]) -> str:
    """What `inspect_data` found, to read."""
    return "\n".join(_lines(report)) + "\n"


def draw_lengths(report: Mapping[str, Any], file: Path) -> None:
    """Writes a picture of the histograms, one for each set, as PNG. Raises UserError where it can't be written."""
    from matplotlib.figure import Figure  # takes a second, and not everybody wants a picture

    from sioconv.plots import plot_words

    sets = report["sets"]
    columns = min(len(sets), COLUMNS)
    rows = -(-len(sets) // columns)
    figure = Figure(figsize=(max(4.5, 3.2 * columns), 0.6 + 1.7 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True).flatten()
    for number, (axes, one) in enumerate(zip(grid, sets, strict=False)):
        buckets = one["lengths"]["histogram"]
        edges = [buckets[0][0], *(most + 1 for _, most, _ in buckets)] if buckets else [1, 2]
        axes.stairs([count for *_, count in buckets] or [0], edges, fill=True, color=COLOUR)
        axes.set_xscale("log", base=2)
        # Letters in it are ASCII only: no font with more is guaranteed on a user's machine.
        axes.set_title(one["name"] if re.fullmatch("[ -#%-~]+", one["name"]) else f"set {number + 1}", fontsize=9)
        axes.tick_params(labelsize=8)
        axes.grid(True, axis="x", alpha=0.3)
    for axes in grid[len(sets) :]:
        axes.set_visible(False)
    with plot_words() as word, atomic_write(file) as temporary, temporary.open("wb") as stream:
        figure.supxlabel(word("tokens in a document"), fontsize=9)
        figure.supylabel(word("documents"), fontsize=9)
        figure.savefig(stream, format="png", dpi=120, metadata={"Software": None})


def _sets(path: Path) -> list[Path]:
    """The folders with a manifest in `path` and up to three levels below, hidden ones left out, in order."""
    patterns = ["", "*/", "*/*/", "*/*/*/"]
    manifests = (file for pattern in patterns for file in path.glob(f"{pattern}{MANIFEST}"))
    return sorted(
        file.parent for file in manifests if not any(part.startswith(".") for part in file.relative_to(path).parts)
    )


def _tokenizer_near(path: Path) -> Path | None:
    absolute = path.absolute()
    near = (folder / "tokenizer" for folder in (absolute, *absolute.parents[:3]))
    return next((folder for folder in near if (folder / TOKENIZER_FILE).is_file()), None)


def _facts(
    name: str, shards: ShardSet, tokenizer: PreTrainedTokenizerFast | None, documents: int, seed: int
) -> dict[str, Any]:
    manifest = shards.manifest
    lengths = np.diff(shards.document_ends, prepend=0)  # [documents]
    known = ("source", "split", "path", "kind", "language", "licence", "dtype")
    return {
        "name": name,
        **{key: manifest[key] for key in known if key in manifest},
        "documents": shards.documents_total,
        "tokens": shards.tokens_total,
        "bytes": shards.bytes_total,
        "disk_bytes": sum(facts["bytes"] for facts in manifest["files"].values()),
        "learned": _learned(shards),
        "lengths": _lengths(lengths),
        "drawn": [_drawn(shards, number, tokenizer) for number in _draw(name, len(lengths), documents, seed)],
    }


def _learned(shards: ShardSet) -> float:
    if not shards.masked or not shards.tokens_total:
        return 1.0
    total = shards.tokens_total
    chunks = (shards.mask_slice(start, min(start + CHUNK, total)) for start in range(0, total, CHUNK))
    return sum(int(np.count_nonzero(chunk)) for chunk in chunks) / total


def _lengths(lengths: NDArray[np.int64]) -> dict[str, Any]:
    """Mean, median, longest, and how many documents have 2ⁿ to 2ⁿ⁺¹ - 1 tokens, from the first n that any has."""
    if not len(lengths):
        return {"mean": 0.0, "median": 0.0, "longest": 0, "histogram": []}
    powers = np.frexp(lengths.astype(np.float64))[1] - 1  # exact: a document has fewer than 2⁵³ tokens
    counts = np.bincount(powers)
    first = int(powers.min())
    histogram = [[2**n, 2 ** (n + 1) - 1, int(counts[n])] for n in range(first, len(counts))]
    return {
        "mean": float(lengths.mean()),
        "median": float(np.median(lengths)),
        "longest": int(lengths.max()),
        "histogram": histogram,
    }


def _draw(name: str, documents: int, wanted: int, seed: int) -> list[int]:
    """Numbers of some documents, the same for the same seed whatever other sets there are."""
    key = int.from_bytes(hashlib.sha256(f"{seed}\n{name}".encode()).digest()[:8], "big")
    chosen = np.random.default_rng(key).choice(documents, min(wanted, documents), replace=False)
    return sorted(int(number) for number in chosen)


def _drawn(shards: ShardSet, number: int, tokenizer: PreTrainedTokenizerFast | None) -> dict[str, Any]:
    ids, mask = shards.document(number)
    drawn: dict[str, Any] = {"number": number, "tokens": len(ids)}
    if shards.masked:
        drawn["learned"] = int(mask.sum())
    if tokenizer is None:
        return {**drawn, "ids": ids[:SHOWN].tolist()}
    # A token is at least a byte, and a character at most four: enough tokens for the characters that are shown.
    text = tokenizer.decode(ids[: 4 * SHOWN].tolist(), skip_special_tokens=False)
    return {**drawn, "text": text[:SHOWN], "cut": len(text) > SHOWN or len(ids) > 4 * SHOWN}


def _lines(report: Mapping[str, Any]) -> Iterator[str]:
    for one in report["sets"]:
        yield from _set_lines(one)
        yield ""
    total = report["total"]
    checked = ", checksums verified" if report["verified"] else ""
    yield translated(
        f"{len(report['sets'])} shard sets: {total['documents']:,} documents, {total['tokens']:,} tokens, "
        f"{_size(total['bytes'])} of text, {_size(total['disk_bytes'])} on disk{checked}"
    )
    if report["tokenizer"] is None:
        yield translated("no tokenizer was found near them: --tokenizer FOLDER shows documents as text")


def _set_lines(one: Mapping[str, Any]) -> Iterator[str]:
    what = ", ".join(one[key] for key in ("kind", "language", "licence") if one.get(key))
    yield one_line(f"{one['name']} ({what})" if what else one["name"])
    rate = f", {one['bytes'] / one['tokens']:.2f} bytes per token" if one["tokens"] else ""
    yield translated(
        f"  {one['documents']:,} documents, {one['tokens']:,} tokens ({one['dtype']}), {_size(one['bytes'])} of "
        f"text{rate}"
    )
    learned = f"; {one['learned']:.1%} of the tokens are learned" if one["learned"] < 1 else ""
    yield translated(f"  {_size(one['disk_bytes'])} on disk{learned}")
    lengths = one["lengths"]
    if one["documents"]:
        mean, median, longest = (f"{lengths[key]:,.0f}" for key in ("mean", "median", "longest"))
        yield translated(f"  tokens in a document: mean {mean}, median {median}, longest {longest}")
    yield from _bars(lengths["histogram"])
    for drawn in one["drawn"]:
        learned = f", {drawn['learned']:,} learned" if "learned" in drawn else ""
        yield translated(f"  document {drawn['number']:,} ({drawn['tokens']:,} tokens{learned}):")
        if "ids" in drawn:
            yield f"    {drawn['ids']}"
        else:
            yield "    " + one_line(drawn["text"]) + "…" * drawn["cut"]


def _bars(histogram: Sequence[Sequence[int]]) -> Iterator[str]:
    largest = max((count for *_, count in histogram), default=0)
    width = max((len(f"{most:,}") for _, most, _ in histogram), default=0)
    for least, most, count in histogram:
        yield f"    {least:>{width},}–{most:<{width},} {'█' * round(BAR * count / largest):<{BAR}} {count:,}"


def _size(count: int) -> str:
    """Bytes in the unit that fits."""
    size, unit = float(count), "B"
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if size < 1000 or unit == "TB":
            break
        size /= 1000
    return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
