"""The one way in which files are written: whole or not at all."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
from pathlib import Path
from typing import BinaryIO

from sb3_relax.errors import NO_SPACE, DiskFull

try:
    import fcntl
except ImportError:  # Windows, where a file that is open cannot be removed
    fcntl = None  # type: ignore[assignment]

#: what is written lies under such a name until it is whole
PARTIAL = re.compile(r"\..+\.[0-9a-f]{16}\.partial", re.DOTALL)
#: folders that this process has searched for what killed writers left
_searched: set[Path] = set()


def write_whole(path: Path, content: bytes | memoryview) -> None:
    """Write a file that has all of its content, or that is not there: a kill or a full disk leaves the previous one.

    The content lies beside ``path`` under a hidden name that no other process uses, is flushed to the disk and then
    renamed. An error removes it, and what a killed process has left is removed by the next one that writes into the
    folder. The folder is made where it is missing.

    :param path: of the file
    :param content: of the file
    :raises DiskFull: (an ``OSError``) where there is no space for it

    Example::

        write_whole(Path("agents/best.zip"), content)
    """
    try:
        _write(path, content)
    except OSError as error:
        if error.errno is None or error.errno not in NO_SPACE:
            raise
        raise DiskFull(error.errno, _without_space(path, len(content), error)) from error


def _write(path: Path, content: bytes | memoryview) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(path.parent)
    partial, file = _opened_beside(path)
    try:
        with file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            if fcntl is not None:  # as long as it is locked, no process takes it for a leftover
                os.replace(partial, path)
        if fcntl is None:
            os.replace(partial, path)
    except BaseException:  # an interrupt too must leave nothing behind
        partial.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def _without_space(path: Path, size: int, error: OSError) -> str:
    folder = next(folder for folder in path.absolute().parents if folder.exists())
    return (
        f"{path} could not be written: {error.strerror} ({size:,} bytes to write, {shutil.disk_usage(folder).free:,} "
        f"free); {'the file that was there before is whole' if path.exists() else 'nothing of it is left'}"
    )


def remove_leftovers(folder: Path) -> None:
    """Remove what killed processes were writing into a folder, once in each process.

    A file that is being written is locked, so that another process's is left alone. Where the system has no such locks,
    nothing is removed.
    """
    folder = folder.absolute()
    if fcntl is None or folder in _searched:
        return
    _searched.add(folder)
    for path in folder.glob(".*.partial"):
        if PARTIAL.fullmatch(path.name):
            # locked by its writer, removed by another process, or not ours to write
            with contextlib.suppress(OSError), path.open("r+b") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()


def _opened_beside(path: Path) -> tuple[Path, BinaryIO]:
    """A new file beside ``path``, locked for as long as it is open."""
    while True:
        partial = path.with_name(f".{path.name}.{secrets.token_hex(8)}.partial")
        file = partial.open("xb")
        if fcntl is None:
            return partial, file
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(file, fcntl.LOCK_EX)
        if partial.exists():  # another process may have taken it for a leftover before it was locked
            return partial, file
        file.close()


def sync_folder(folder: Path) -> None:
    """Bring the names in a folder to the disk, where the system can."""
    if not hasattr(os, "O_DIRECTORY"):
        return  # Windows opens no folder
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
