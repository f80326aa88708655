"""Many runs at once, a failed one reported and the others left alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import joblib
from tqdm import tqdm


def in_parallel(run: Callable[..., str | None], jobs: Sequence[tuple[Any, ...]], count: int, what: str) -> list[str]:
    """Run all; the errors of those that failed.

    :param run: called with a job's arguments; returns the error's text where it fails
    :param count: runs at a time
    :param what: they are, for the progress bar
    """
    failures = []
    parallel = joblib.Parallel(n_jobs=count, return_as="generator_unordered")
    for failure in tqdm(parallel(joblib.delayed(run)(*job) for job in jobs), total=len(jobs), desc=what, unit="run"):
        if failure:
            failures.append(failure)
            tqdm.write(failure)
    return failures
