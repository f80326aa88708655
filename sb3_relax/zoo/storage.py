"""Where Optuna's studies are kept, opened by several workers at once."""

from __future__ import annotations

import time
from pathlib import Path

import optuna
import sqlalchemy.exc
from optuna.storages import BaseStorage, JournalStorage, RDBStorage

from sb3_relax.errors import UsageError
from sb3_relax.zoo.journal import Journal

ATTEMPTS = 20
SECONDS = 0.25

ALLOWED = "it must be a journal, a file whose name ends in .log, or the URL of a database, as sqlite:///study.db"


def open_storage(place: str) -> BaseStorage:
    """A journal, created with its folder where there is none, or a database.

    Of a database, Optuna looks whether a table exists and then creates it: of two workers that start together, one
    fails. Trying again finds what the other has made.

    :param place: as rl_zoo3's ``--storage``: ``study.log`` or ``sqlite:///study.db``
    :raises UsageError: for what is neither, or cannot be opened
    """
    if place.endswith(".log"):
        Path(place).parent.mkdir(parents=True, exist_ok=True)
        return JournalStorage(Journal(place))
    attempts = 0
    while True:
        attempts += 1
        try:
            return RDBStorage(place)
        except (sqlalchemy.exc.ArgumentError, ImportError) as error:  # no URL; no driver for it
            raise UsageError(f"--storage {place}: {str(error).splitlines()[0]}; {ALLOWED}") from error
        except sqlalchemy.exc.DBAPIError as error:
            if attempts == ATTEMPTS:
                raise UsageError(f"--storage {place}: {str(error).splitlines()[0]}") from error
            time.sleep(SECONDS)


def require_trial(place: str, study_name: str, trial: int) -> None:
    """A trial to take hyper-parameters from exists.

    :param place: as of :func:`open_storage`
    :param study_name: of the study
    :param trial: its number
    :raises UsageError: saying what there is
    """
    if place.endswith(".log") and not Path(place).is_file():
        raise UsageError(f"--storage {place}: there is no such file; sb3-relax tune --storage {place} writes one")
    storage = open_storage(place)
    names = sorted(study.study_name for study in storage.get_all_studies())
    if study_name not in names:
        raise UsageError(f"--study-name {study_name}: {place} has {', '.join(names) or 'no study'}")
    count = len(optuna.load_study(study_name=study_name, storage=storage).trials)
    if not 0 <= trial < count:
        raise UsageError(
            f"--trial-id {trial}: {study_name} has trials 0 to {count - 1}" if count else f"{study_name} is empty"
        )
