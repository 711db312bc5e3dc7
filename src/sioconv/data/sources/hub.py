"""Rows of Hugging Face datasets, by name and configuration, downloaded or streamed.

What comes after `hf:` may also be a folder that is laid out like a dataset of the Hub.
"""

import os
import sys
from collections.abc import Iterator
from itertools import count, islice
from typing import Any

from sioconv.data.config import SourceConfig
from sioconv.errors import UserError


def read_hub(source: SourceConfig, rank: int, world_size: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows that fall to reader `rank`, each with where it is.

    A downloaded dataset is dealt out row by row. A streamed one is dealt out file by file, so that no reader fetches
    what another one reads, or row by row where there are too few files.

    Raises UserError for a dataset, configuration or split that isn't there, and where the network fails.
    """
    dataset, label = _load(source), ""
    names = dataset.column_names or []  # a stream may not know them
    if source.kind == "text" and source.text_column in names:
        dataset = dataset.select_columns([name for name in names if name in (source.text_column, source.id_column)])
    numbers = count(rank + 1, world_size)
    if not source.streaming:
        rows = dataset.shard(world_size, rank, contiguous=False)
    elif dataset.num_shards >= world_size > 1:
        rows = dataset.shard(world_size, rank, contiguous=False)
        numbers, label = count(1), f" (reader {rank + 1} of {world_size})"
    else:
        rows = islice(dataset, rank, None, world_size)
    try:
        for number, row in zip(numbers, rows, strict=False):
            yield f"{source.path}:{source.split}{label}:{number}", row
    except Exception as error:  # of the network, the file formats and Arrow
        raise _failed(source, error) from error


def hub_identity(source: SourceConfig) -> dict[str, Any]:
    """What identifies the dataset's content: its files and their versions; downloads it unless it is streamed."""
    import datasets

    _quiet()
    try:
        builder = datasets.load_dataset_builder(source.name, source.config, revision=source.revision)
        files = builder.config.data_files or {}
        origins = {split: [list(map(str, origin)) for origin in part.origin_metadata] for split, part in files.items()}
    except Exception as error:
        raise _failed(source, error) from error
    if not source.streaming:
        _load(source)  # before several readers want it at once
    return {
        "dataset": source.name,
        "config": builder.config.name,
        "split": source.split,
        "streaming": source.streaming,  # which deals the rows out in another way
        "files": origins.get(source.split.partition("[")[0], origins),
    }


def _load(source: SourceConfig) -> Any:
    import datasets

    _quiet()
    try:
        return datasets.load_dataset(
            source.name,
            source.config,
            split=source.split,
            revision=source.revision,
            streaming=source.streaming,
        )
    except Exception as error:  # the library raises its own, the network's, and bare ValueErrors for wrong names
        raise _failed(source, error) from error


def _quiet() -> None:
    import datasets

    if not sys.stderr.isatty() or os.environ.get("HF_DATASETS_DISABLE_PROGRESS_BARS"):
        datasets.disable_progress_bars()


def _failed(source: SourceConfig, error: Exception) -> UserError:
    name = " ".join(part for part in (source.path, source.config, source.split) if part)
    reason = " ".join(str(error).split())[:300] or type(error).__name__
    return UserError(f"can't read the dataset {name}: {reason}: check path, config and split, and the network")
