"""An array that took long to make, kept on disk: whole or not at all, and checked whenever it is read."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np

from sb3_relax.files import NotWhole, array_in, read_archive, remove_leftovers, sealed, write_whole


def load_or_make(path: Path, make: Callable[[], np.ndarray]) -> np.ndarray:
    """The array in ``path``, or else ``make()``, which is then kept there for the next time.

    A damaged file, or one of an earlier version, is made again, with a warning. Where the folder cannot be written, the
    array is returned all the same: a cache saves time, and must not be what stops a run.

    Example::

        array = load_or_make(cache / "resized-1.npz", lambda: resize(drawings))
    """
    if path.exists():
        remove_leftovers(path.parent)
        try:
            return read(path)
        except (OSError, NotWhole) as error:
            warnings.warn(f"{path} is damaged ({error}) and is made again", stacklevel=2)
    array = make()
    try:
        write(path, array)
    except OSError as error:
        warnings.warn(f"{path} could not be kept ({error}); it will be made again the next time", stacklevel=2)
    return array


def read(path: Path) -> np.ndarray:
    """:raises NotWhole: where the file is not what :func:`write` wrote."""
    members = read_archive(path.read_bytes(), needs_digest=True)
    if members.keys() != {"array.npy"}:
        raise NotWhole(f"it has {', '.join(sorted(members)) or 'nothing'}, and not the array")
    return array_in(members["array.npy"])


def write(path: Path, array: np.ndarray) -> None:
    """Write an array and its digest, whole or not at all. NumPy reads the file as well."""
    archive = io.BytesIO()
    np.savez(archive, array=array)
    write_whole(path, sealed(archive.getvalue()))
