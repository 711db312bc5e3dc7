"""Making the next batches while the current one is computed."""

import threading
from collections.abc import Generator, Iterable
from queue import SimpleQueue
from typing import TypeVar

T = TypeVar("T")


def prefetch(items: Iterable[T], depth: int = 2) -> Generator[T, None, None]:
    """Yields `items` in their order while a thread makes up to `depth` of them ahead.

    The thread starts with the first item that is asked for. It ends when the items do, when the generator is closed,
    or with the process. Making batches spends its time in numpy, and training in kernels that let other threads run:
    a thread is enough and needs no copies between processes.

    Raises what making an item raises, in that item's place, and ValueError for a depth below 1.
    """
    if depth < 1:
        raise ValueError(f"depth >= 1 expected, got {depth}")
    return _prefetch(items, depth)


def _prefetch(items: Iterable[T], depth: int) -> Generator[T, None, None]:
    ready: SimpleQueue[tuple[T] | BaseException | None] = SimpleQueue()  # an item, an error, or the end
    room, stopped = threading.Semaphore(depth), threading.Event()

    def work() -> None:
        try:
            iterator = iter(items)
            while True:
                room.acquire()  # before an item is made: `depth` of them wait at most
                if stopped.is_set():
                    return
                ready.put((next(iterator),))
        except StopIteration:
            ready.put(None)
        except BaseException as error:  # whatever it is belongs to whoever waits for the item
            ready.put(error)

    worker = threading.Thread(target=work, name="prefetch", daemon=True)
    worker.start()
    try:
        while (item := ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            room.release()
            yield item[0]
    finally:
        stopped.set()
        room.release()
        worker.join()
