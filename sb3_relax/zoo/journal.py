"""Optuna's journal, which outlives a writer that is killed, or whose disk is full, in the middle of a line."""

from __future__ import annotations

import warnings
from pathlib import Path

from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock
from optuna.storages.journal._file import BaseJournalFileLock  # in no public module

#: bytes that are looked at in one piece for the end of the last whole line
PIECE = 2**16


class Journal(JournalFileBackend):
    """Optuna's, of which a last line without an end is dropped, with a warning, before anything is appended.

    Optuna itself appends to such a line, and can read none of the journal from then on.

    :param file_path: of the journal
    :param lock_obj: as Optuna's
    """

    def __init__(self, file_path: str, lock_obj: BaseJournalFileLock | None = None):
        super().__init__(file_path, MendingLock(Path(file_path), lock_obj or JournalFileSymlinkLock(file_path)))


class MendingLock(BaseJournalFileLock):
    """A journal's lock, which is taken to append alone: who has it finds that the journal ends with a whole line.

    :param path: of the journal
    :param lock: whose holder appends
    """

    def __init__(self, path: Path, lock: BaseJournalFileLock):
        self.path = path
        self.lock = lock

    def acquire(self) -> bool:
        acquired = self.lock.acquire()
        try:
            drop_torn_line(self.path)
        except BaseException:
            self.lock.release()
            raise
        return acquired

    def release(self) -> None:
        self.lock.release()


def drop_torn_line(path: Path) -> None:
    """Cut off what follows the last end of a line. Only who may append does so."""
    with path.open("r+b") as file:
        length = whole = file.seek(0, 2)
        while whole > 0:
            start = max(0, whole - PIECE)
            file.seek(start)
            end = file.read(whole - start).rfind(b"\n")
            if end >= 0:
                whole = start + end + 1
                break
            whole = start
        if whole < length:
            file.truncate(whole)
            warnings.warn(
                f"the last line of {path} had no end, as a process leaves it that is killed or whose disk is full: its "
                f"{length - whole:,} bytes were dropped, and everything before them is kept",
                stacklevel=2,
            )
