"""Optuna's database, opened by several workers at once."""

from __future__ import annotations

import time

import optuna
import sqlalchemy.exc

ATTEMPTS = 20
SECONDS = 0.25


def prepare_database(url: str) -> None:
    """Create Optuna's tables where there are none, also when another process is doing so at the same moment.

    Optuna looks whether a table exists and then creates it: of two workers that start together, one fails. Trying again
    finds what the other has made.

    :param url: of the database, as ``sqlite:///study.db``
    :raises sqlalchemy.exc.DBAPIError: where the database cannot be opened
    """
    for attempt in range(1, ATTEMPTS + 1):
        try:
            optuna.storages.RDBStorage(url)
            return
        except sqlalchemy.exc.DBAPIError:
            if attempt == ATTEMPTS:
                raise
            time.sleep(SECONDS)
