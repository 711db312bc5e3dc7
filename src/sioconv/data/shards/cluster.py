"""Running the tasks of a datatrove pipeline on a Slurm or Ray cluster, and waiting for them.

datatrove submits the tasks, keeps the marks of those that are finished and submits only the others when the same line
is run again. Here are the waiting, one clear error, and an end of the jobs when nobody waits for them any more.
"""

import logging
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from datatrove.executor.ray import RayPipelineExecutor
from datatrove.executor.slurm import SlurmPipelineExecutor
from datatrove.utils.logging import logger

from sioconv.data.config import DataConfig
from sioconv.errors import UserError
from sioconv.progress import track

POLL = 5.0  # seconds between looks at what is finished
GRACE = 6  # polls after the last job has gone: a shared file system shows new files late
ERRORS, JOBS = "errors", "slurm_jobs"


def run_on_cluster(label: str, data: DataConfig, options: dict[str, Any]) -> None:
    """Runs the unfinished tasks on the cluster that `data.executor` names and waits for them.

    Raises UserError for what a task refuses, for a cluster that isn't there, and for tasks that end without a result.
    """
    make = _slurm if data.executor == "slurm" else _ray
    executor = make(label, data, options)
    executor.run_and_wait()
    if missing := executor.get_incomplete_ranks():
        logs = Path(executor.logging_dir.resolve_paths(""))
        notes = [logs / ERRORS / f"{rank:05d}" for rank in missing]
        errors = [note.read_text(encoding="utf-8") for note in notes if note.exists()]
        reason = errors[0] if errors else f"see the logs in {logs}"
        raise UserError(f"{label}: {len(missing)} of {executor.world_size} tasks ended without a result: {reason}")


class _Noting:
    """Writes why a task failed where the process that waits can read it."""

    logging_dir: Any

    def _run_for_rank(self, rank: int, local_rank: int = 0, node_rank: int = -1) -> Any:
        name = f"{ERRORS}/{rank:05d}"
        if self.logging_dir.isfile(name):
            self.logging_dir.rm(name)
        try:
            return super()._run_for_rank(rank, local_rank, node_rank)  # type: ignore[misc]
        except Exception as error:
            with self.logging_dir.open(name, "w") as stream:
                stream.write(str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}")
            raise


class SlurmTasks(_Noting, SlurmPipelineExecutor):  # type: ignore[misc]
    """datatrove's executor for Slurm, waited for.

    Args:
        label: what the progress of the work is called.
        options: those of datatrove's executor.
    """

    def __init__(self, label: str, **options: Any) -> None:
        super().__init__(**options)
        self.label = label

    def run_and_wait(self) -> None:
        """Submits the unfinished tasks and returns when all are finished or no job is left.

        Jobs that an earlier call has left behind, because it was killed, are cancelled first.
        """
        jobs = Path(self.logging_dir.resolve_paths(JOBS))
        if jobs.exists():
            _cancel(jobs.read_text(encoding="utf-8").split())
            jobs.unlink()
        waiting = self.get_incomplete_ranks()
        try:
            with _quiet():
                self.run()
            for _ in track(self._finished(waiting, jobs), f"{self.label}, tasks", len(waiting)):
                pass
        except FileNotFoundError as error:
            raise UserError(f"no Slurm here: {error.filename} isn't a command: run it where sbatch is") from error
        except subprocess.CalledProcessError as error:
            raise UserError(f"{self.label}: {shlex.join(error.cmd[:-1])} failed: see its message above") from error
        except BaseException:
            _cancel(jobs.read_text(encoding="utf-8").split() if jobs.exists() else [])
            raise
        jobs.unlink(missing_ok=True)

    def _finished(self, waiting: list[int], jobs: Path) -> Iterator[int]:
        """Yields each task when it is finished, until all are or no job is left."""
        grace = GRACE
        while waiting and grace:
            left = self.get_incomplete_ranks(waiting)
            yield from (rank for rank in waiting if rank not in left)
            waiting = left
            if waiting:
                grace = GRACE if _in_queue(jobs.read_text(encoding="utf-8").split()) else grace - 1
                time.sleep(POLL)

    def launch_merge_stats(self) -> None:
        """Leaves out datatrove's last job, which adds up statistics that nobody reads."""


class RayTasks(_Noting, RayPipelineExecutor):  # type: ignore[misc]
    """datatrove's executor for Ray; its own `run` waits."""

    def run_and_wait(self) -> None:
        """Runs the unfinished tasks on the cluster that RAY_ADDRESS names, or on one that is started here."""
        try:
            import ray
        except ImportError as error:
            raise UserError("data.executor is ray, which isn't installed: pip install ray first") from error
        started = not ray.is_initialized()
        if started:
            try:
                ray.init(log_to_driver=False, logging_level=logging.ERROR)
            except ConnectionError as error:
                raise UserError(f"can't reach the Ray cluster: {error}: check RAY_ADDRESS") from error
        try:
            with _quiet():
                self.run()
        finally:
            if started:
                ray.shutdown()


def _slurm(label: str, data: DataConfig, options: dict[str, Any]) -> SlurmTasks:
    logs = Path(options["logging_dir"][0])
    logs.mkdir(parents=True, exist_ok=True)
    python = shlex.quote(str(Path(sys.executable).parent))
    return SlurmTasks(
        label,
        workers=data.workers,
        partition=data.cluster.partition,
        time=data.cluster.time,
        cpus_per_task=data.cluster.cpus_per_task,
        mem_per_cpu_gb=data.cluster.memory_gb,
        qos=data.cluster.qos,
        env_command=data.cluster.setup or f'export PATH={python}:"$PATH"',
        sbatch_args=dict(data.cluster.options),
        job_name="sioconv",
        job_id_retriever=partial(_note_job, logs / JOBS),
        **options,
    )


def _ray(label: str, data: DataConfig, options: dict[str, Any]) -> RayTasks:  # noqa: ARG001
    cluster = data.cluster
    return RayTasks(
        workers=data.workers, cpus_per_task=cluster.cpus_per_task, mem_per_cpu_gb=cluster.memory_gb, **options
    )


def _note_job(jobs: Path, printed: str) -> str:
    """The id in what sbatch printed, kept in a file for whoever has to cancel the job."""
    job = printed.split()[-1]
    with jobs.open("a", encoding="utf-8") as stream:
        stream.write(job + "\n")
    return job


def _in_queue(jobs: list[str]) -> bool:
    """Whether one of the jobs waits or runs; squeue fails for jobs that it has forgotten."""
    found = subprocess.run(["squeue", "--noheader", f"--jobs={','.join(jobs)}"], capture_output=True, text=True)
    return bool(jobs) and found.returncode == 0 and bool(found.stdout.strip())


def _cancel(jobs: list[str]) -> None:
    if jobs:
        subprocess.run(["scancel", *jobs], capture_output=True)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps datatrove's log off the terminal; each task has its own in a file."""
    logger.disable("datatrove")
    try:
        yield
    finally:
        logger.enable("datatrove")
