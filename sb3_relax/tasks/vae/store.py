"""An array that took long to make, kept on disk: whole or not at all, and checked whenever it is read."""

from __future__ import annotations

import hashlib
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from sb3_relax.files import write_atomically


def load_or_make(path: Path, make: Callable[[], np.ndarray]) -> np.ndarray:
    """The array in ``path``, or else ``make()``, which is then kept there for the next time.

    A damaged file is made again, with a warning. Where the folder cannot be written, the array is returned all the
    same: a cache saves time, and must not be what stops a run.

    Example::

        array = load_or_make(cache / "resized-1.npz", lambda: resize(drawings))
    """
    if path.exists():
        try:
            return read(path)
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            warnings.warn(f"{path} is damaged ({error}) and is made again", stacklevel=2)
    array = make()
    try:
        write(path, array)
    except OSError as error:
        warnings.warn(f"{path} could not be kept ({error}); it will be made again the next time", stacklevel=2)
    return array


def read(path: Path) -> np.ndarray:
    """:raises Exception: of several kinds, where the file is not what :func:`write` wrote."""
    with np.load(path, allow_pickle=False) as stored:
        array, checksum = stored["array"], str(stored["checksum"])
    if checksum != checksum_of(array):
        raise ValueError(f"checksum {checksum_of(array)}, not the {checksum} it was written with")
    return array


def write(path: Path, array: np.ndarray) -> None:
    """Write an array and its checksum, whole or not at all."""
    with write_atomically(path) as file:
        np.savez(file, array=array, checksum=np.array(checksum_of(array)))


def checksum_of(array: np.ndarray) -> str:
    """SHA-256 of the type, the shape and the values."""
    digest = hashlib.sha256(f"{array.dtype.str} {array.shape}".encode())
    digest.update(array.tobytes())
    return digest.hexdigest()
