"""From options to a service."""

import os
from collections.abc import Sequence
from pathlib import Path

from sioconv.errors import UserError
from sioconv.generate.states.store import Backing, BackingError, SqliteFile, StateStore
from sioconv.hardware import pick_device
from sioconv.serve.access.keys import Keys
from sioconv.serve.access.limits import Limits
from sioconv.serve.config import ServeConfig
from sioconv.serve.memory.in_memory import InMemory
from sioconv.serve.memory.records import Records
from sioconv.serve.models import load_models
from sioconv.serve.service import Service
from sioconv.serve.telemetry.metrics import Metrics
from sioconv.serve.telemetry.tracing import provider_from_environment
from sioconv.train.config import set_threads

SECRET = "SIOCONV_STORE_KEY"


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
        store: a file or a `redis://` address for states; empty for memory alone, None for nothing at all.
        device: where models run.
        threads: of the CPU; None for all.

    Raises:
        UserError: something can't be loaded or opened.
    """
    config = config or ServeConfig()
    set_threads(threads)
    backing = _backing(store, config) if store else None
    states = None if store is None else StateStore(config.memory, backing, config.ttl)
    records = None if store is None else Records(backing or InMemory(config.memory, config.ttl))
    served = load_models(models, personas, states, config, pick_device(device))
    tracer_provider = provider_from_environment()
    return Service(served, config, states, records, keys, Limits(config), Metrics(), tracer_provider=tracer_provider)


def _backing(store: str, config: ServeConfig) -> Backing:
    """Where states outlive the process. Raises UserError where its key can't be used."""
    backing: Backing
    if store.startswith(("redis://", "rediss://", "unix://")):
        from sioconv.serve.memory.redis import RedisPlace

        backing = RedisPlace(store, config.ttl)
    else:
        backing = SqliteFile(store, config.disk, config.ttl)
        try:
            backing.expire()  # opens it
        except BackingError as error:
            raise UserError(f"can't keep states in {error}: choose another --store") from error
    secret = _secret()
    if secret is None:
        return backing
    from sioconv.serve.memory.encrypted import Encrypted

    return Encrypted(backing, secret)


def _secret() -> str | None:
    """What the store is encrypted with: an environment variable, or the content of a file that one names."""
    if (file := os.environ.get(f"{SECRET}_FILE")) is not None:
        try:
            return Path(file).read_text("utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"can't read {SECRET}_FILE: {error}: check the name") from error
    return os.environ.get(SECRET)
