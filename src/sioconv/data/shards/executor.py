"""Running the tasks of a datatrove pipeline on this machine."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from datatrove.executor.local import LocalPipelineExecutor
from datatrove.pipeline.base import PipelineStep
from datatrove.utils.logging import logger
from fsspec.implementations.local import LocalFileSystem

from sioconv.data.config import DataConfig
from sioconv.data.interruptible import LOOK
from sioconv.errors import UserError
from sioconv.progress import track


def run_pipeline(label: str, steps: list[PipelineStep], tasks: int, logs: Path, data: DataConfig) -> None:
    """Runs a pipeline's unfinished tasks to their end, wherever the recipe says.

    Args:
        label: what the progress of the work is called.
        steps: the pipeline; what it does must not depend on who runs it.
        tasks: how many there are.
        logs: folder of the marks of finished tasks and of logs; on a cluster it must be shared by all machines.
        data: says who runs the tasks.

    Raises:
        UserError: from a task, or where a task ended without a result.
    """
    # With its file system a folder is never taken for a URL.
    options: dict[str, Any] = {"pipeline": steps, "tasks": tasks, "logging_dir": (str(logs), LocalFileSystem())}
    if data.executor == "local":
        TaskExecutor(label, workers=data.workers, **options).run()
        return
    from sioconv.data.shards.cluster import run_on_cluster  # which few need

    run_on_cluster(label, data, options)


class TaskExecutor(LocalPipelineExecutor):  # type: ignore[misc]
    """datatrove's local executor with other processes around the tasks; marks of finished tasks stay datatrove's.

    datatrove's own `run` waits forever for a worker that was killed, as happens where memory runs out, and leaves a
    process behind for good when it is killed itself. Here the one is an error, and the workers end with their parent.
    One worker means no process beside this one. Nothing is logged to the terminal.

    Args:
        label: what the progress of the work is called.
        options: those of datatrove's executor.
    """

    def __init__(self, label: str, **options: Any) -> None:
        super().__init__(**options)
        self.label = label

    def run(self) -> None:
        """Runs the tasks that aren't finished yet; the first error ends all of them and is raised as it is.

        Raises UserError where a worker was killed.
        """
        ranks = self.get_incomplete_ranks()
        if self.workers == 1 or len(ranks) <= 1:
            for rank in ranks:
                self._run_for_rank(rank)
            return
        context = multiprocessing.get_context("spawn")  # forking a process that has threads can hang it
        lifeline, held = context.Pipe(duplex=False)
        workers = min(self.workers, len(ranks))
        others, threads = multiprocessing.active_children(), set(threading.enumerate())
        with lifeline, held, ProcessPoolExecutor(workers, context, _start_worker, (lifeline,)) as pool:
            try:
                with _without_ctrl_c():
                    tasks = [pool.submit(self._run_for_rank, rank) for rank in ranks]
                ended = _as_completed(tasks, {each for each in threading.enumerate() if not each.daemon} - threads)
                for task in track(ended, f"{self.label}, tasks", len(ranks)):
                    task.result()
            except BaseException as error:
                # Killed, not asked: one that is still starting, or deep in a library, would answer late.
                for worker in multiprocessing.active_children():
                    if worker not in others:
                        worker.kill()
                pool.shutdown(cancel_futures=True)
                if isinstance(error, BrokenProcessPool):
                    raise UserError(
                        "a worker was killed or couldn't start, perhaps because memory, processes or threads ran out: "
                        "lower data.workers and run again"
                    ) from error
                raise

    def _run_for_rank(self, rank: int, local_rank: int = 0, node_rank: int = -1) -> Any:
        logger.disable("datatrove")
        try:
            return super()._run_for_rank(rank, local_rank, node_rank)
        finally:
            logger.enable("datatrove")


def _as_completed(tasks: list[Future[Any]], threads: set[threading.Thread]) -> Iterator[Future[Any]]:
    """The tasks as they end. Raises BrokenProcessPool where none will: the pool's own threads are dead.

    They end when they can't start a thread or process, and the pool doesn't notice.
    """
    waiting = set(tasks)
    while waiting:
        alive = any(thread.is_alive() for thread in threads)
        done, waiting = wait(waiting, LOOK, FIRST_COMPLETED)
        yield from done
        if not alive and not done:
            raise BrokenProcessPool


@contextmanager
def _without_ctrl_c() -> Iterator[None]:
    """Keeps Ctrl-C back while workers are started; they inherit that, so it reaches only their parent, a little later.

    Elsewhere a worker that is still starting would print a traceback.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start_worker(lifeline: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which then ends its workers
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # each worker has a core
    try:
        threading.Thread(target=_end_with_parent, args=(lifeline,), daemon=True).start()
    except RuntimeError:  # no more threads: the parent says so
        os._exit(1)


def _end_with_parent(lifeline: Connection) -> None:
    """Ends this process at once when the other end of `lifeline` is closed, on purpose or because its process died."""
    with suppress(EOFError, OSError):
        lifeline.recv_bytes()
    os._exit(1)
