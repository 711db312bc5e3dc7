"""A store of snapshots: what was read once needn't be read again by a text that begins alike.

A snapshot's key is the name of all tokens before it (see `Prefix`), so the longest stored beginning of a text is found,
not only a whole one. Snapshots are kept in memory, those that were used longest ago go first, and beside that, where
it is wanted, in a place that outlives the process: `SqliteFile`, or another `Backing`. What goes wrong there is told
once, and texts are read as though they weren't stored.
"""

import contextlib
import logging
import os
import sqlite3
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

from sioconv import __version__
from sioconv.errors import UserError
from sioconv.generate.states.file import StateFormat, pack_state, unpack_state
from sioconv.generate.states.state import SNAPSHOT_EVERY, Prefix, State, next_cut

T = TypeVar("T")
logger = logging.getLogger("sioconv")
MEBIBYTE = 2**20
OVERHEAD = 4096  # bytes that a snapshot in memory takes besides its tensors, at most about
REMEMBERED = 65_536  # keys that were evicted, for the answer to why a text isn't there
NOTED = 4_096  # the same in a file
PAUSE = 30  # seconds after which a backing that has failed is asked again


class BackingError(Exception):
    """A backing can't be reached, read or written; the message says what and why."""


class Backing(Protocol):
    """Keeps bytes by model and key. Each method may raise `BackingError`; methods may be called from several threads.

    What is kept may vanish at any time. It may also be damaged: `StateStore` checks what it gets.
    """

    def first(self, model: str, keys: Sequence[str]) -> tuple[str, bytes] | None:
        """The first of the keys that is there, and its bytes."""

    def put(self, model: str, key: str, data: bytes) -> None:
        """Keeps bytes, in the place of others of the same key."""

    def delete(self, model: str, key: str) -> None:
        """Forgets a key, if it is there."""

    def why_not(self, model: str, keys: Sequence[str]) -> str | None:
        """Why none of the keys is there, as far as that is known: `EVICTED` or `ANOTHER_MODEL`."""

    def forget(self, scope: str) -> None:
        """Forgets all keys of all models that begin with `scope` and a stroke."""

    def expire(self) -> None:
        """Forgets what is older than it may be, where there is such a limit."""


NOTHING = "no beginning of this text is stored"
TOO_SHORT = "the text is too short: snapshots are kept every 256 tokens and at the ends of messages"
EVICTED = "it was evicted: the store's budget is used up"
ANOTHER_MODEL = "it is stored for another model, or another version of this program"
UNKNOWN = "the state that the text goes on from doesn't say what it has read"


def key_of(prefix: Prefix, scope: str) -> str:
    """A snapshot's key: the name of its text, and before that whose it is."""
    return f"{scope}/{prefix.key}" if scope else prefix.key


class Found(NamedTuple):
    """The longest stored beginning of a text, or why there is none."""

    state: State | None
    why: str | None


class StateStore:
    """Snapshots of any number of models, by what was read.

    Args:
        budget: bytes in memory.
        backing: where they are kept besides; None for memory alone.
        ttl: seconds after its last use until a snapshot in memory is forgotten; None for no such limit.

    Methods may be called from several threads.
    """

    def __init__(self, budget: int = 256 * MEBIBYTE, backing: Backing | None = None, ttl: float | None = None) -> None:
        if budget < 0:
            raise UserError(f"the store's budget is {budget}: give 0 or more bytes")
        self._budget, self._backing, self._ttl = budget, backing, ttl
        self._models: set[str] = set()  # of the shelves
        self._used: dict[tuple[str, str], float] = {}  # when a snapshot was used last, in seconds of that clock
        self._states: OrderedDict[tuple[str, str], State] = OrderedDict()  # the latest used last
        self._evicted: OrderedDict[tuple[str, str], None] = OrderedDict()
        self._bytes = 0
        self._lock = threading.RLock()
        self._warned = False
        self._asked_again = 0.0  # when the backing may be asked again, in seconds of the monotonic clock

    @property
    def bytes(self) -> int:
        """Size of what is in memory."""
        return self._bytes

    def __len__(self) -> int:
        """Snapshots in memory."""
        return len(self._states)

    def shelf(self, model: Any, decoder: str) -> "Shelf":
        """The part of the store that holds the snapshots of a model, as it is now, by a kind of decoder."""
        shelf = Shelf(self, StateFormat(model), decoder)
        self._models.add(shelf.model)
        return shelf

    def forget(self, scope: str) -> None:
        """Forgets all snapshots of a scope, of all models, in memory and in the backing."""
        with self._lock:
            for name in [name for name in self._states if name[1].startswith(f"{scope}/")]:
                self._drop(name)
            self._ask(lambda backing: backing.forget(scope))

    def discard(self, keys: Iterable[str]) -> None:
        """Forgets the snapshots of some texts, by `key_of`, of all models that were asked for since the start."""
        with self._lock:
            for model, key in ((model, key) for key in keys for model in self._models):
                if (model, key) in self._states:
                    self._drop((model, key))
                self._ask(lambda backing: backing.delete(model, key))  # noqa: B023

    def expire(self) -> None:
        """Forgets what wasn't used for longer than `ttl`, and what the backing thinks too old."""
        with self._lock:
            self._expire()
            self._ask(lambda backing: backing.expire())

    def _expire(self) -> None:
        if self._ttl is not None:
            oldest = time.monotonic() - self._ttl
            while self._states and self._used[name := next(iter(self._states))] < oldest:
                self._drop(name)

    def _drop(self, name: tuple[str, str]) -> None:
        self._bytes -= self._states.pop(name).bytes + OVERHEAD
        del self._used[name]

    def _touch(self, name: tuple[str, str]) -> None:
        self._states.move_to_end(name)
        self._used[name] = time.monotonic()

    def _find(self, shelf: "Shelf", keys: list[str]) -> Found:
        """The state of the first of the keys that is there; longer texts' keys come first."""
        with self._lock:
            self._expire()
            here = next((i for i, key in enumerate(keys) if (shelf.model, key) in self._states), len(keys))
            if (state := self._from_backing(shelf, keys[:here])) is not None:
                return Found(state, None)
            if here < len(keys):
                self._touch((shelf.model, keys[here]))
                return Found(self._states[shelf.model, keys[here]], None)
            return Found(None, self._why_not(shelf.model, keys))

    def _why_not(self, model: str, keys: list[str]) -> str:
        if any((model, key) in self._evicted for key in keys):
            return EVICTED
        wanted = set(keys)
        if any(key in wanted for _, key in self._states):
            return ANOTHER_MODEL
        return self._ask(lambda backing: backing.why_not(model, keys)) or NOTHING

    def _from_backing(self, shelf: "Shelf", keys: list[str]) -> State | None:
        while keys:
            wanted = keys
            found = self._ask(lambda backing: backing.first(shelf.model, wanted))  # noqa: B023
            if found is None:
                return None
            key, data = found
            try:
                state = unpack_state(shelf.format, data, f"a snapshot of {key[:12]}…")
                if state.prefix is None or state.prefix.key != key.rpartition("/")[2]:
                    raise UserError(f"a snapshot of {key[:12]}… is of another text")
            except UserError as error:
                self._warn(f"a damaged snapshot was dropped: {error}")
                self._ask(lambda backing: backing.delete(shelf.model, key))  # noqa: B023
                keys = keys[keys.index(key) + 1 :]
                continue
            self._remember(shelf.model, key, state)
            return state
        return None

    def _keep(self, shelf: "Shelf", state: State, scope: str) -> None:
        if state.prefix is None or not state.tokens:
            return
        key = key_of(state.prefix, scope)
        with self._lock:
            self._expire()
            if (shelf.model, key) in self._states:
                self._touch((shelf.model, key))
                return
            self._remember(shelf.model, key, state)
            self._ask(lambda backing: backing.put(shelf.model, key, pack_state(shelf.format, state)))

    def _remember(self, model: str, key: str, state: State) -> None:
        self._states[model, key] = state
        self._touch((model, key))
        self._evicted.pop((model, key), None)
        self._bytes += state.bytes + OVERHEAD
        while self._bytes > self._budget:
            gone = next(iter(self._states))
            self._drop(gone)
            if self._backing is None:
                self._evicted[gone] = None
                if len(self._evicted) > REMEMBERED:
                    self._evicted.popitem(last=False)

    def _ask(self, call: Callable[[Backing], T]) -> T | None:
        """Calls the backing; None where there is none, or where it fails."""
        if self._backing is None or time.monotonic() < self._asked_again:
            return None
        try:
            return call(self._backing)
        except BackingError as error:
            self._asked_again = time.monotonic() + PAUSE
            self._warn(f"the state store can't be used: {error}: texts are read anew")
            return None

    def _warn(self, message: str) -> None:
        if not self._warned:
            self._warned = True
            logger.warning(message)


class Shelf:
    """One model's part of a store.

    Args:
        store: the whole.
        format: of the model's state files.
        decoder: what runs the model: other kinds of decoders round otherwise.

    Attributes:
        model: names the weights, the decoder and the version of this program.
    """

    def __init__(self, store: StateStore, format: StateFormat, decoder: str) -> None:
        self._store, self.format = store, format
        self.model = f"{format.weights} {decoder} {__version__}"

    def find(self, state: State, ids: Sequence[int], boundaries: Collection[int], scope: str = "") -> Found:
        """The longest stored beginning of a text that leaves at least one id to read.

        Args:
            state: what is known already.
            ids: what comes after it.
            boundaries: ids that end a message.
            scope: whose text it is; what others have read isn't found.
        """
        if state.prefix is None:
            return Found(None, UNKNOWN)
        keys, prefix, first = [], state.prefix, 0
        while (cut := first + next_cut(state.tokens + first, ids[first : first + SNAPSHOT_EVERY], boundaries)) < len(
            ids
        ):
            prefix, first = prefix.extend(ids[first:cut]), cut
            keys.append(key_of(prefix, scope))
        return self._store._find(self, keys[::-1]) if keys else Found(None, TOO_SHORT)

    def keep(self, state: State, scope: str = "") -> None:
        """Puts a snapshot into the store; one whose text isn't known is left out."""
        self._store._keep(self, state, scope)


SCHEMA = (
    "CREATE TABLE IF NOT EXISTS states (model TEXT, key TEXT, data BLOB, used INTEGER, PRIMARY KEY (model, key))",
    "CREATE TABLE IF NOT EXISTS gone (model TEXT, key TEXT, PRIMARY KEY (model, key))",
    "CREATE INDEX IF NOT EXISTS by_use ON states (used)",
    "CREATE INDEX IF NOT EXISTS by_key ON states (key)",
)


class SqliteFile:
    """A `Backing` in a file of SQLite that several processes may use at once; what a kill leaves is whole.

    Nobody but its owner may read the file: it says what was talked about.

    Args:
        path: the file; it is made where there is none.
        budget: bytes of the file; what was used longest ago goes first.
        ttl: seconds after which what wasn't written or found again is forgotten; None for no such limit.
    """

    def __init__(self, path: str | Path, budget: int = 1024 * MEBIBYTE, ttl: float | None = None) -> None:
        self._path, self._budget, self._ttl = Path(path), budget, ttl
        self._lock = threading.Lock()
        self._database: sqlite3.Connection | None = None
        self._used: set[tuple[str, str]] = set()  # keys whose time of use isn't written yet

    def first(self, model: str, keys: Sequence[str]) -> tuple[str, bytes] | None:
        """See `Backing.first`."""
        with self._open() as database:
            for start in range(0, len(keys), 500):  # SQLite limits the number of a statement's parameters
                some = keys[start : start + 500]
                marks = ",".join("?" * len(some))
                query = f"SELECT key FROM states WHERE model = ? AND used >= ? AND key IN ({marks})"
                there = {key for (key,) in database.execute(query, (model, self._oldest(), *some))}
                for key in some:
                    query = "SELECT data FROM states WHERE model = ? AND key = ?"
                    row = database.execute(query, (model, key)).fetchone() if key in there else None
                    if row is not None:
                        self._used.add((model, key))
                        return key, bytes(row[0]) if isinstance(row[0], bytes) else b""
        return None

    def put(self, model: str, key: str, data: bytes) -> None:
        """See `Backing.put`."""
        with self._open() as database, self._transaction(database):
            self._write_uses(database)
            database.execute("INSERT OR REPLACE INTO states VALUES (?, ?, ?, ?)", (model, key, data, time.time_ns()))
            database.execute("DELETE FROM gone WHERE model = ? AND key = ?", (model, key))
            while self._size(database) > self._budget and self._evict(database):
                pass

    def delete(self, model: str, key: str) -> None:
        """See `Backing.delete`."""
        with self._open() as database, self._transaction(database):
            database.execute("DELETE FROM states WHERE model = ? AND key = ?", (model, key))

    def why_not(self, model: str, keys: Sequence[str]) -> str | None:
        """See `Backing.why_not`."""
        with self._open() as database:
            for key in keys[:100]:
                if database.execute("SELECT 1 FROM gone WHERE model = ? AND key = ?", (model, key)).fetchone():
                    return EVICTED
                if database.execute("SELECT 1 FROM states WHERE key = ?", (key,)).fetchone():
                    return ANOTHER_MODEL
        return None

    def forget(self, scope: str) -> None:
        """See `Backing.forget`."""
        with self._open() as database, self._transaction(database):
            for table in ("states", "gone"):  # all keys that begin with the scope: 0 is the sign after the stroke
                database.execute(f"DELETE FROM {table} WHERE key >= ? AND key < ?", (f"{scope}/", f"{scope}0"))

    def expire(self) -> None:
        """See `Backing.expire`."""
        with self._open() as database, self._transaction(database):
            self._write_uses(database)
            database.execute("DELETE FROM states WHERE used < ?", (self._oldest(),))

    def _oldest(self) -> int:
        return 0 if self._ttl is None else time.time_ns() - int(self._ttl * 1e9)

    def _write_uses(self, database: sqlite3.Connection) -> None:
        used = [(time.time_ns(), *each) for each in self._used]
        database.executemany("UPDATE states SET used = ? WHERE model = ? AND key = ?", used)
        self._used.clear()

    def close(self) -> None:
        """Closes the file; the next call opens it again."""
        with self._lock:
            if self._database is not None:
                self._database.close()
                self._database = None

    @contextlib.contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            try:
                if self._database is None:
                    self._database = self._connect()
                yield self._database
            except (sqlite3.Error, OSError) as error:
                raise BackingError(f"{self._path}: {error}") from error

    def _connect(self) -> sqlite3.Connection:
        with contextlib.suppress(FileExistsError):
            os.close(os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        database = sqlite3.connect(self._path, timeout=1, isolation_level=None, check_same_thread=False)
        try:
            tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            if tables and not {"states", "gone"} <= tables:
                raise BackingError(f"{self._path} is another program's database: give another name")
            if not tables:
                database.execute("PRAGMA journal_mode = WAL")
                with self._transaction(database):  # whole or not at all: another process may open the file now
                    for statement in SCHEMA:
                        database.execute(statement)
            database.execute("PRAGMA synchronous = NORMAL")
            database.execute("PRAGMA secure_delete = ON")  # what is deleted is overwritten
        except BaseException:
            database.close()
            raise
        return database

    @contextlib.contextmanager
    def _transaction(self, database: sqlite3.Connection) -> Iterator[None]:
        database.execute("BEGIN IMMEDIATE")
        try:
            yield
            database.execute("COMMIT")
        except BaseException:
            if database.in_transaction:
                database.execute("ROLLBACK")
            raise

    def _size(self, database: sqlite3.Connection) -> int:
        pages, free, size = (
            database.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size")
        )
        return int((pages - free) * size)

    def _evict(self, database: sqlite3.Connection) -> bool:
        """Removes the 16 rows that were used longest ago, and notes that they were there; False where none is left."""
        oldest = database.execute("SELECT model, key FROM states ORDER BY used LIMIT 16").fetchall()
        database.executemany("DELETE FROM states WHERE model = ? AND key = ?", oldest)
        database.executemany("INSERT OR REPLACE INTO gone VALUES (?, ?)", oldest)
        database.execute("DELETE FROM gone WHERE rowid <= (SELECT max(rowid) FROM gone) - ?", (NOTED,))
        return bool(oldest)
