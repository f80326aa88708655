"""Where a data set's published files come from (a folder of the user's, or the mirror), and that they are whole."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import NamedTuple

#: names a folder with the files; then nothing is downloaded
DATA_VARIABLE = "SB3_RELAX_DATA"


class Published(NamedTuple):
    """A file of a data set, under the names it may have in a user's folder.

    :param folder: of the data set, below the user's folder (or the files lie in that folder itself)
    :param names: any one of these files serves; the first that is there is read
    :param url: of the file that is downloaded
    :param download_hash: of that file as the mirror serves it, ``"md5:..."`` or ``"sha256:..."``
    """

    folder: str
    names: tuple[str, ...]
    url: str
    download_hash: str


def obtain(wanted: Published, data_dir: Path | str | None, cache_dir: Path | str | None) -> Path:
    """The path of a published file: in ``data_dir``, else in the folder that SB3_RELAX_DATA names, else downloaded.

    A folder that is named is only read. A file it lacks is an error, not a reason to download: who names a folder
    means the files in it.

    :param data_dir: holds the files, or a folder ``wanted.folder`` that does
    :param cache_dir: for downloads; default ``pooch.os_cache("sb3_relax")``
    :raises FileNotFoundError: the folder lacks the file, or the mirror cannot be reached
    :raises ValueError: what the mirror served is not the published file; nothing of it is kept
    """
    named = data_dir or os.environ.get(DATA_VARIABLE)
    return find(wanted, Path(named).expanduser()) if named else download(wanted, cache_folder(cache_dir))


def find(wanted: Published, folder: Path) -> Path:
    """:raises FileNotFoundError: where neither ``folder`` nor its subfolder has the file; says where to get it."""
    for path in (place / name for name in wanted.names for place in (folder, folder / wanted.folder)):
        if path.is_file():
            return path
    raise FileNotFoundError(
        f"no {' or '.join(wanted.names)} in {folder} or {folder / wanted.folder}. Get it from {wanted.url} and name "
        f"its folder with data_dir (--data-dir) or the environment variable {DATA_VARIABLE}; with neither it is "
        "downloaded."
    )


def download(wanted: Published, cache: Path) -> Path:
    """From the mirror, once: a copy already in the cache is used where its hash is still right."""
    import pooch

    name = wanted.url.rsplit("/", 1)[-1]
    try:
        # pooch writes to a temporary file and moves it into place only when the hash is right
        return Path(pooch.retrieve(wanted.url, wanted.download_hash, fname=name, path=cache / wanted.folder))
    except ValueError as error:
        raise ValueError(
            f"{wanted.url} did not serve the published file, and nothing of it was kept: {error} Load again; if it "
            f"stays so, get {name} elsewhere and name its folder with data_dir (--data-dir) or {DATA_VARIABLE}."
        ) from error
    except OSError as error:  # the network's errors are OSErrors
        raise FileNotFoundError(
            f"{wanted.url} could not be downloaded to {cache / wanted.folder}: {error}. Get it in another way and name "
            f"its folder with data_dir (--data-dir) or the environment variable {DATA_VARIABLE}."
        ) from error


def cache_folder(cache_dir: Path | str | None) -> Path:
    """``cache_dir``, or the user's cache folder of this operating system."""
    import pooch

    return Path(cache_dir).expanduser() if cache_dir else Path(pooch.os_cache("sb3_relax"))


def not_as_published(path: Path, expected: str, came: str, url: str) -> ValueError:
    """The error for a file that was found and is truncated, damaged or another one."""
    return ValueError(
        f"{path} is not the published file: expected {expected}, got {came}. Delete it and load again, or get it from "
        f"{url}."
    )


def require_hash(path: Path, content: bytes, expected: str, url: str) -> None:
    """:raises ValueError: where the hash of ``content`` is not ``expected`` (``"md5:..."`` or ``"sha256:..."``)."""
    algorithm, _, digest = expected.partition(":")
    came = hashlib.new(algorithm, content, usedforsecurity=False).hexdigest()
    if came != digest:
        raise not_as_published(path, expected, f"{algorithm}:{came} ({len(content):,} bytes)", url)
