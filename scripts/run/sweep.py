"""Many runs at once, a failed one reported and the others left alone."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import joblib
from joblib.externals.loky import get_reusable_executor
from tqdm import tqdm

from sb3_relax.errors import one_line
from sb3_relax.processes import status_of, termination_as_interrupt, work_for

#: of joblib; the last two for clusters, whose machines must share the folder of the records
BACKENDS = ("loky", "ray", "dask")


@contextlib.contextmanager
def on_backend(name: str, count: int) -> Iterator[None]:
    """joblib's jobs run there: on this machine (loky), a Ray cluster, or Dask's.

    Ray is joined where ``RAY_ADDRESS`` says, Dask where ``DASK_SCHEDULER_ADDRESS`` does; without, each starts here.

    :raises ImportError: where ray or dask is not installed, saying how to install it
    """
    with contextlib.ExitStack() as stack:
        try:
            if name == "ray":
                from ray.util.joblib import register_ray

                register_ray()
            elif name == "dask":
                from dask.distributed import Client

                stack.enter_context(Client(n_workers=count, threads_per_worker=1, dashboard_address=None))
        except ImportError as error:
            raise ImportError(f"--backend {name} needs {name}: pip install 'sb3_relax[{name}]'") from error
        # a cluster's processes work for others too; those of this machine end with this one, be they at work or not yet
        own = {"initializer": work_for, "initargs": (os.getpid(),)} if name == "loky" else {}
        stack.enter_context(joblib.parallel_config(backend=name, **own))
        yield


def asked_for(
    parser: argparse.ArgumentParser, arguments: argparse.Namespace, protocol: Mapping[str, Any]
) -> dict[str, Any]:
    """A protocol's tasks, of the environments that ``--env`` names, or all; an error for one that it does not have."""
    unknown = set(arguments.env or []) - set(protocol)
    if unknown:
        parser.error(f"{', '.join(sorted(unknown))} not in {arguments.protocol.name}; it has {', '.join(protocol)}")
    return {env_id: task for env_id, task in protocol.items() if not arguments.env or env_id in arguments.env}


def in_parallel(
    run: Callable[..., None],
    jobs: Mapping[str, tuple[Any, ...]],
    count: int,
    what: str,
    backend: str = "loky",
    after_each: Callable[[], None] = lambda: None,
) -> list[str]:
    """Run all; the names and tracebacks of those that failed. What interrupts this ends those that run as well.

    :param run: called with a job's arguments
    :param jobs: their names, which a failure is reported by, and arguments
    :param count: runs at a time
    :param what: they are, for the progress bar
    :param backend: one of ``BACKENDS``
    :param after_each: called here, in this process, whenever a job has ended
    """
    failures = []
    with on_backend(backend, count):
        # Ray's part in joblib hands over nothing before the end: the records do
        parallel = joblib.Parallel(n_jobs=count, return_as="list" if backend == "ray" else "generator_unordered")
        outcomes = parallel(joblib.delayed(failure_of)(name, run, job) for name, job in jobs.items())
        try:
            for failure in tqdm(outcomes, total=len(jobs), desc=what, unit="run"):
                if failure:
                    failures.append(failure)
                    tqdm.write(failure)
                after_each()
        except KeyboardInterrupt:
            if backend == "loky" and count > 1:
                get_reusable_executor().shutdown(wait=True, kill_workers=True)
            raise
    return failures


def failure_of(name: str, run: Callable[..., None], arguments: tuple[Any, ...]) -> str | None:
    """Call it; where it fails, its name, and the traceback of what may be a bug."""
    try:
        run(*arguments)
    except Exception as error:
        return f"{name}:\n{one_line(error) or traceback.format_exc()}"
    return None


def run_command(main: Callable[[], None]) -> None:
    """A script's ``main``, which ends in one line where it is interrupted, or what it was given cannot be used."""
    try:
        with termination_as_interrupt():
            main()
    except KeyboardInterrupt as interrupt:
        print("\nstopped: the same command goes on from here", file=sys.stderr)
        raise SystemExit(status_of(interrupt)) from None
    except Exception as error:
        if (line := one_line(error)) is None:
            raise
        raise SystemExit(line) from None
