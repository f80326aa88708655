"""Trials whose process was killed: Optuna would count them as running for ever."""

from __future__ import annotations

import contextlib
import os
import platform
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import TrialState

#: the attribute that says which process a trial is run by
WORKER = "worker"


def this_process() -> dict[str, Any]:
    """What tells this process from all others: its machine, number and start, by which a reused number is known."""
    return {"machine": platform.node(), "process": os.getpid(), "started": _start_of(os.getpid())}


def mark(trial: optuna.Trial) -> None:
    """Note who runs a trial."""
    trial.set_user_attr(WORKER, this_process())


def fail_killed(study: optuna.Study) -> None:
    """Trials that are said to run, and whose process on this machine is no more, have failed.

    So they count neither towards ``--max-total-trials`` nor as tried. What runs on other machines, or was begun by an
    earlier version, is left as it is.
    """
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        worker = trial.user_attrs.get(WORKER)
        if isinstance(worker, dict) and worker.get("machine") == platform.node() and not _is_alive(worker):
            with contextlib.suppress(ValueError, RuntimeError):  # another process was first
                study.tell(trial.number, state=TrialState.FAIL)


def _is_alive(worker: dict[str, Any]) -> bool:
    if os.name != "posix":  # elsewhere, to ask for a process is to send it a signal
        return True
    number = worker["process"]
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    except OSError:  # another user's
        return True
    return bool(worker["started"] == _start_of(number))


def _start_of(number: int) -> str | None:
    """When a process was started, in the system's own units; ``None`` where the system does not say so in /proc."""
    try:
        # its name, in brackets, may hold anything
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError, UnicodeDecodeError):
        return None
