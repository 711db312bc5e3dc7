"""From options to a service."""

from collections.abc import Sequence

import torch

from sioconv.errors import UserError
from sioconv.generate.states.store import SqliteFile, StateStore
from sioconv.hardware import pick_device
from sioconv.serve.config import ServeConfig
from sioconv.serve.keys import Keys
from sioconv.serve.limits import Limits
from sioconv.serve.metrics import Metrics
from sioconv.serve.models import load_models
from sioconv.serve.service import Service
from sioconv.train.config import MOST_THREADS


def make_service(
    models: Sequence[str],
    personas: Sequence[str] = (),
    config: ServeConfig | None = None,
    keys: Keys | None = None,
    store: str | None = "",
    device: str = "cpu",
    threads: int | None = None,
) -> Service:
    """Loads models and opens the store.

    Args:
        models: folders, Hub ids, `NAME=MODEL`.
        personas: `NAME=FILE` each.
        config: the limits.
        keys: who may ask; None for everybody.
        store: a file for states; empty for memory alone, None for nothing at all.
        device: where models run.
        threads: of the CPU; None for all.

    Raises:
        UserError: something can't be loaded or opened.
    """
    config = config or ServeConfig()
    if threads is not None:
        if not 1 <= threads <= MOST_THREADS:
            raise UserError(f"threads out of range: {threads}: give a number from 1 to {MOST_THREADS}")
        torch.set_num_threads(threads)
    backing = SqliteFile(store, config.disk, config.ttl) if store else None
    states = None if store is None else StateStore(config.memory, backing, config.ttl)
    served = load_models(models, personas, states, config, pick_device(device))
    return Service(served, config, states, keys, Limits(config), Metrics())
