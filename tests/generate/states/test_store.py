import contextlib
import logging
import random
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sioconv.errors import UserError
from sioconv.generate import Engine, Event, Request, SqliteFile, StateStore
from sioconv.generate.states.state import Prefix, State
from sioconv.generate.states.store import ANOTHER_MODEL, EVICTED, NOTHING, TOO_SHORT, UNKNOWN, BackingError
from sioconv.model import SioConvConfig, SioConvForCausalLM

VOCABULARY, END = 61, 60


def build(seed: int = 0, **options: object) -> SioConvForCausalLM:
    torch.manual_seed(seed)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_heads": 4, "intermediate_size": 48}
    model = SioConvForCausalLM(SioConvConfig(**{"vocab_size": VOCABULARY, "y_gain": 1.0, **sizes, **options})).eval()
    with torch.no_grad():
        model.lm_head.weight *= 4
    return model


@pytest.fixture(scope="module")
def model() -> SioConvForCausalLM:
    return build()


def text(length: int, seed: int = 0) -> list[int]:
    chance = random.Random(seed)
    return [chance.randrange(END) for _ in range(length)]


def last(engine: Engine, ids: Sequence[int], **values: object) -> Event:
    *_, event = engine.stream(Request(ids, **{"max_new_tokens": 4, "boundaries": (END,), "logprobs": 1, **values}))
    while engine.step():
        pass
    return event


def reading(event: Event) -> tuple[int, int, str | None]:
    assert event.reading is not None
    return event.reading.reused, event.reading.read, event.reading.why


def same(one: Event, other: Event) -> None:
    assert (one.token, one.logprob, one.top) == (other.token, other.logprob, other.top)
    assert one.place is not None and other.place is not None
    assert one.place.unread == other.place.unread and one.place.state.prefix == other.place.state.prefix
    for name, tensor in one.place.state.tensors.items():
        assert torch.equal(tensor, other.place.state.tensors[name]), name


@given(st.lists(st.integers(0, 2**31), max_size=700), st.integers(0, 700), st.integers(0, 700))
def test_a_name_depends_on_the_ids_alone(ids: list[int], one: int, other: int) -> None:
    first, second = sorted((one, other))
    whole = Prefix().extend(ids)
    assert Prefix().extend(ids[:first]).extend(ids[first:second]).extend(ids[second:]) == whole
    assert len(whole.tail) == 4 * (len(ids) % 256)
    if ids:
        changed = [*ids]
        changed[first % len(ids)] ^= 1
        assert Prefix().extend(changed).key != whole.key != Prefix().extend(ids[:-1]).key


def test_the_longest_stored_beginning_is_found_and_the_bits_are_those_of_reading_all(model: SioConvForCausalLM) -> None:
    ids = text(1000)
    engine = Engine(model, store=StateStore())
    assert reading(last(engine, ids)) == (0, 1000, NOTHING)
    for length, reused in [(1000, 768), (600, 512), (512, 256), (513, 512), (257, 256)]:
        event = last(engine, ids[:length])
        assert reading(event) == (reused, length - reused, None)
        same(event, last(Engine(model), ids[:length]))
    other = [*ids[:400], 1 + ids[400] % (END - 1), *ids[401:]]
    event = last(engine, other)
    assert reading(event) == (256, 744, None)
    same(event, last(Engine(model), other))


def test_messages_that_end_anywhere_are_found(model: SioConvForCausalLM) -> None:
    one, two, three = [*text(30, 1), END], [*text(45, 2), END], text(20, 3)
    engine = Engine(model, store=StateStore())
    last(engine, [*one, *two, 5])
    event = last(engine, [*one, *two, *three])
    assert reading(event) == (77, 20, None)
    same(event, last(Engine(model), [*one, *two, *three]))
    assert reading(last(engine, [*one, *three])) == (31, 20, None)
    assert reading(last(engine, [*one, *three], boundaries=())) == (0, 51, TOO_SHORT)


def test_a_reply_and_its_end_are_found_by_the_next_message(model: SioConvForCausalLM) -> None:
    engine = Engine(model, store=StateStore())
    loud = build()
    with torch.no_grad():
        loud.lm_head.bias[END] += 4
    engine = Engine(loud, store=StateStore())
    ids = [*text(20), END]
    reply = [event.token for event in engine.stream(Request(ids, ending=(END,), boundaries=(END,), max_new_tokens=400))]
    assert reply[-1] == END
    while engine.step():
        pass
    talk = [*ids, *reply, 3, 4]
    event = last(engine, talk)
    assert reading(event) == (len(talk) - 2, 2, None)
    same(event, last(Engine(loud), talk))


def test_why_a_store_does_not_help_is_said(model: SioConvForCausalLM) -> None:
    ids, store = text(600), StateStore()
    assert reading(last(Engine(model), ids)) == (0, 600, None)
    engine = Engine(model, store=store)
    assert reading(last(engine, ids[:100]))[2] == TOO_SHORT
    assert reading(last(engine, ids))[2] == NOTHING
    assert reading(last(Engine(build(1), store=store), ids))[2] == ANOTHER_MODEL
    (read,) = Engine(model).stream(Request(ids[:5], max_new_tokens=0))
    assert read.place is not None
    unnamed = State(read.place.state.tensors, 5)
    assert reading(last(engine, ids, state=unnamed)) == (5, 600, UNKNOWN)
    tight = StateStore(budget=12_000)
    engine = Engine(model, store=tight)
    last(engine, ids)
    last(engine, text(2000, 9))
    assert tight.bytes <= 12_000 and len(tight) == 2
    assert reading(last(engine, ids))[2] == EVICTED


def test_what_was_used_longest_ago_goes_first(model: SioConvForCausalLM) -> None:
    engine = Engine(model, store=StateStore(budget=2 * 5_120))
    for name in (1, 2, 1, 3):
        last(engine, text(300, name), boundaries=())
    assert reading(last(engine, text(300, 1), boundaries=()))[0] == 256
    assert reading(last(engine, text(300, 2), boundaries=())) == (0, 300, EVICTED)


def test_another_process_finds_what_this_one_has_read(model: SioConvForCausalLM, tmp_path: Path) -> None:
    ids = text(700)
    last(Engine(model, store=StateStore(backing=SqliteFile(tmp_path / "s.db"))), ids)
    assert (tmp_path / "s.db").stat().st_mode & 0o777 == 0o600
    engine = Engine(model, store=StateStore(backing=SqliteFile(tmp_path / "s.db")))
    event = last(engine, ids)
    assert reading(event) == (512, 188, None)
    same(event, last(Engine(model), ids))
    other = Engine(build(1), store=StateStore(backing=SqliteFile(tmp_path / "s.db")))
    assert reading(last(other, ids))[2] == ANOTHER_MODEL


def test_a_file_keeps_its_budget(tmp_path: Path) -> None:
    backing = SqliteFile(tmp_path / "s.db", budget=200_000)
    for number in range(300):
        backing.put("m", f"key {number}", bytes([number % 256]) * 3000)
        assert backing.first("m", ["key 0"]) is not None or number > 1  # it is used, so it stays
    assert backing.first("m", ["key 0"]) == ("key 0", bytes(3000))
    assert backing.first("m", ["key 5", "key 299"]) == ("key 299", bytes([299 % 256]) * 3000)
    assert backing.why_not("m", ["key 5"]) == EVICTED and backing.why_not("n", ["key 299"]) == ANOTHER_MODEL
    backing.close()
    assert (tmp_path / "s.db").stat().st_size < 300_000


def test_many_keys_are_looked_for_at_once_and_the_first_one_counts(tmp_path: Path) -> None:
    backing = SqliteFile(tmp_path / "s.db")
    for key in ("700", "1400"):
        backing.put("m", key, key.encode())
    assert backing.first("m", [str(i) for i in range(2000)]) == ("700", b"700")
    assert backing.first("m", [str(i) for i in range(2000, 0, -1)]) == ("1400", b"1400")
    backing.delete("m", "700")
    assert backing.first("m", [str(i) for i in range(1000)]) is None


def test_several_may_write_to_one_file_at_once(tmp_path: Path) -> None:
    path, failed = tmp_path / "s.db", set[int]()

    def write(name: int) -> None:
        backing = SqliteFile(path)
        try:
            for i in range(60):
                backing.put("m", f"{name} {i}", f"{name} {i}".encode() * 500)
        except BackingError:  # a busy machine may make one wait for more than a second
            failed.add(name)

    threads = [threading.Thread(target=write, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    backing = SqliteFile(path)
    for name in set(range(4)) - failed:
        for key in (f"{name} {i}" for i in range(60)):
            assert backing.first("m", [key]) == (key, key.encode() * 500)
    assert len(failed) < 4


@contextlib.contextmanager
def warned(caplog: pytest.LogCaptureFixture, words: str) -> Iterator[None]:
    caplog.clear()
    with caplog.at_level(logging.WARNING, "sioconv"):
        yield
    (record,) = caplog.records  # one, however often it happens
    assert words in record.getMessage() and "\n" not in record.getMessage()


@pytest.mark.parametrize("damage", ["cut", "flipped", "another", "nothing", "number"])
def test_a_damaged_row_is_dropped_and_never_used(
    model: SioConvForCausalLM, tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    path, ids = tmp_path / "s.db", text(600)
    last(Engine(model, store=StateStore(backing=SqliteFile(path))), ids)
    with contextlib.closing(sqlite3.connect(path)) as database, database:
        rows = database.execute("SELECT rowid, data FROM states").fetchall()
        assert len(rows) == 2
        for (row, data), (_, other) in zip(rows, rows[::-1], strict=True):
            flipped = data[:-40] + bytes([data[-40] ^ 1]) + data[-39:]
            bad = {"cut": data[:-1], "flipped": flipped, "another": other, "nothing": b"", "number": 7}[damage]
            database.execute("UPDATE states SET data = ? WHERE rowid = ?", (bad, row))
    engine = Engine(model, store=StateStore(backing=SqliteFile(path)))
    with warned(caplog, "a damaged snapshot was dropped"):
        event = last(engine, ids)
    assert reading(event)[:2] == (0, 600)
    same(event, last(Engine(model), ids))
    again = Engine(model, store=StateStore(backing=SqliteFile(path)))
    assert reading(last(again, ids)) == (512, 88, None)  # what was read anew has taken its place


def broken(path: Path, how: str) -> SqliteFile:
    """A store's file that can't be used."""
    if how == "noise":
        path.write_bytes(b"this is not a database, " * 400)
    elif how == "another program's":
        with contextlib.closing(sqlite3.connect(path)) as database, database:
            database.execute("CREATE TABLE places (name TEXT)")
    elif how == "folder":
        path.mkdir()
    elif how == "no folder":
        path = path / "deep" / "er.db"
    return SqliteFile(path)


@pytest.mark.parametrize("how", ["noise", "another program's", "folder", "no folder"])
def test_a_store_that_can_t_be_used_is_told_once_and_generation_goes_on(
    model: SioConvForCausalLM, tmp_path: Path, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    engine = Engine(model, store=StateStore(backing=broken(tmp_path / "s.db", how)))
    with warned(caplog, "the state store can't be used"):
        for seed in range(3):
            same(last(engine, text(600, seed)), last(Engine(model), text(600, seed)))
    assert reading(last(engine, text(600)))[0] == 512  # from memory


def test_a_locked_file_is_told_once_and_generation_goes_on(
    model: SioConvForCausalLM, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "s.db"
    last(Engine(model, store=StateStore(backing=SqliteFile(path))), text(300))
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute("BEGIN EXCLUSIVE")
        engine = Engine(model, store=StateStore(backing=SqliteFile(path)))
        with warned(caplog, "locked"):
            for seed in (5, 6):
                same(last(engine, text(600, seed)), last(Engine(model), text(600, seed)))


@pytest.mark.parametrize("message", ["database or disk is full", "attempt to write a readonly database"])
def test_a_full_or_read_only_disk_is_told_once_and_what_is_there_is_still_used(
    model: SioConvForCausalLM,
    tmp_path: Path,
    message: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    path, ids = tmp_path / "s.db", text(600)
    last(Engine(model, store=StateStore(backing=SqliteFile(path))), ids)
    backing = SqliteFile(path)
    with backing._open() as database:  # as SQLite says it on such a disk
        pragma = "PRAGMA max_page_count = 1" if "full" in message else "PRAGMA query_only = ON"
        database.execute(pragma)
        database.execute("DELETE FROM states WHERE 0") if "full" in message else None
    engine = Engine(model, store=StateStore(backing=backing))
    assert reading(last(engine, ids[:600]))[0] == 512
    with warned(caplog, message):
        for seed in (5, 6):
            event = last(engine, text(40_000 if "full" in message else 600, seed), max_new_tokens=1)
            assert event.ended == "length"


def test_a_backing_that_has_failed_is_asked_again_later(
    model: SioConvForCausalLM, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now, asked = [1000.0], []

    class Failing(SqliteFile):
        def _connect(self) -> sqlite3.Connection:
            asked.append(1)
            raise OSError("no route to host")

    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    engine = Engine(model, store=StateStore(backing=Failing("nowhere")))
    with warned(caplog, "no route to host"):
        last(engine, text(2000))
        assert len(asked) == 1
        now[0] += 31
        last(engine, text(2000, 3))
        assert len(asked) == 2


def test_a_negative_budget_is_refused() -> None:
    with pytest.raises(UserError, match="budget is -1"):
        StateStore(budget=-1)


KILL = """
import os, random, signal, sys, time
sys.path.insert(0, sys.argv[2])
from test_store import build, last, text
from sioconv.generate import Engine, SqliteFile, StateStore

def write(start, told):
    engine = Engine(build(), store=StateStore(budget=0, backing=SqliteFile(sys.argv[1], budget=400_000)))
    for seed in range(start, 10**9):
        last(engine, text(700, seed % 40), max_new_tokens=1)
        os.write(told, b".")

chance, (read, told) = random.Random(0), os.pipe()
for start in range(int(sys.argv[3])):
    pair = []
    for half in range(2):
        pair.append(os.fork())
        if pair[-1] == 0:
            write(14 * start + 7 * half, told)
    os.read(read, 1)  # both have begun, or soon will
    for process in pair:
        time.sleep(chance.uniform(0, 0.3))
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
"""


def kill_writers(path: Path, pairs: int) -> None:
    """Kills pairs of processes that write to one store at random moments."""
    subprocess.run([sys.executable, "-c", KILL, str(path), str(Path(__file__).parent), str(pairs)], check=True)


def check_store(model: SioConvForCausalLM, path: Path, caplog: pytest.LogCaptureFixture) -> int:
    """All that a store holds gives what reading anew gives; the tokens that it has spared."""
    engine, spared = Engine(model, store=StateStore(budget=0, backing=SqliteFile(path))), 0
    with caplog.at_level(logging.WARNING, "sioconv"):
        for seed in range(40):
            event = last(engine, text(700, seed))
            same(event, last(Engine(model), text(700, seed)))
            spared += reading(event)[0]
    assert not caplog.records
    return spared


def test_writers_that_are_killed_leave_no_wrong_state(
    model: SioConvForCausalLM, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kill_writers(tmp_path / "s.db", 3)
    assert check_store(model, tmp_path / "s.db", caplog) > 0


@pytest.mark.slow
def test_writers_that_are_killed_at_200_moments_leave_no_wrong_state(
    model: SioConvForCausalLM, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kill_writers(tmp_path / "s.db", 100)
    assert check_store(model, tmp_path / "s.db", caplog) > 0
