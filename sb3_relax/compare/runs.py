"""The runs of a comparison, each in a process of its own, each with a record that is written when it ends."""

from __future__ import annotations

import argparse
import contextlib
import io
import multiprocessing
import os
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any, NamedTuple

import torch as th

from sb3_relax.compare.arms import Arm, entry_file
from sb3_relax.compare.episodes import Episodes
from sb3_relax.environments import imported_id
from sb3_relax.errors import one_line
from sb3_relax.optional import import_packages
from sb3_relax.processes import work_for
from sb3_relax.tasks.records import provenance, read_record, write_record
from sb3_relax.zoo.registry import ExperimentManager, register

#: why all runs end at once, and what to do
KILLED = (
    "A process was killed, by hand or for want of memory, and that ends all that were running: the same command goes "
    "on, and with fewer --jobs takes less memory"
)


class Job(NamedTuple):
    """One run."""

    arm: Arm
    seed: int
    env: str  #: as the user names it, with its module
    packages: tuple[str, ...]  #: of ``--gym-packages``
    folder: Path  #: of the comparison
    trusted: bool = False  #: whether the entry may run any code

    @property
    def record(self) -> Path:
        """Where its record is, once it has ended."""
        return self.folder / "runs" / f"{self.arm.name}-{self.seed}.json"


def read(job: Job) -> dict[str, Any] | None:
    """A run's record; ``None`` where it has not ended."""
    if not job.record.is_file():
        return None
    return read_record(job.record)


def run(job: Job) -> None:
    """Train as ``sb3-relax train`` with the arm's file would, on one thread of the CPU, and write the record."""
    th.set_num_threads(1)
    import_packages(job.packages)
    env_id = imported_id(job.env)
    register(trusted=job.trusted, packages=(*job.packages, *filter(None, [job.env.rpartition(":")[0]])))
    episodes = Episodes()
    # the manager prints its settings, and lays down monitor files that the record has all of
    with tempfile.TemporaryDirectory() as logs, contextlib.redirect_stdout(io.StringIO()):
        manager = ExperimentManager(
            argparse.Namespace(),
            job.arm.algorithm,
            env_id,
            logs,
            eval_freq=-1,
            seed=job.seed,
            verbose=0,
            device="cpu",
            config=str(entry_file(job.arm, job.folder)),
        )
        experiment = manager.setup_experiment()
        assert experiment is not None  # it is none where hyper-parameters are searched
        model, hyperparams = experiment
        start = time.perf_counter()
        model.learn(manager.n_timesteps, callback=[*manager.callbacks, episodes], log_interval=None)  # type: ignore[arg-type]
        seconds = time.perf_counter() - start
        assert model.env is not None
        model.env.close()
    with_cv, without = (sum(variances) for variances in list(zip(*episodes.variances, strict=True))[1:] or [(), ()])
    write_record(
        job.record,
        {
            "env": env_id,
            "arm": job.arm.name,
            "algorithm": job.arm.algorithm,
            "seed": job.seed,
            "hyperparams": dict(hyperparams),
            "timesteps": model.num_timesteps,
            "seconds": round(seconds, 2),
            "variance_ratio": with_cv / without if without > 0 else None,
            "episode_returns": episodes.returns,
            "episode_steps": episodes.steps,
            **provenance(),
        },
    )


def run_all(jobs: Sequence[Job], count: int, landed: Callable[[Job, str | None], None]) -> None:
    """Run jobs, ``count`` at a time. One that fails does not take the others with it; one that is killed does.

    :param landed: called here whenever one has ended, with the error where it has failed
    """
    # processes are started afresh: a fork would copy the threads' locks that torch holds
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(count, len(jobs)), context, initializer=work_for, initargs=(os.getpid(),)) as pool:
        futures = {pool.submit(failure_of, job): job for job in jobs}
        try:
            for future in as_completed(futures):
                died = future.exception()
                landed(futures[future], future.result() if died is None else f"{died} {KILLED}")
        except BaseException:  # an interrupt: the pool would finish all that it has been given
            for process in multiprocessing.active_children():
                process.terminate()
            raise


def failure_of(job: Job) -> str | None:
    """:func:`run`; where it fails, the error as text: not every error can be handed to another process."""
    try:
        run(job)
    except Exception as error:
        return one_line(error) or traceback.format_exc()
    return None
