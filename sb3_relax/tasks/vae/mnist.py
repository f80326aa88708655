"""MNIST: handwritten digits, 28 x 28, from the IDX files everyone serves."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path

import numpy as np

from sb3_relax.tasks.vae.files import Published, not_as_published, obtain, require_hash

MIRROR = "https://ossci-datasets.s3.amazonaws.com/mnist/"
#: MD5 of the files' content. Gzip wraps the same content in many ways, so this is what tells MNIST from something else.
CONTENT_MD5 = {
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}
#: MD5 of the .gz files as the mirrors serve them
GZIP_MD5 = {
    "train-images-idx3-ubyte": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
    "t10k-images-idx3-ubyte": "9fb629c4189551a2d022fa330f9573f3",
    "train-labels-idx1-ubyte": "d53e105ee54ea40749a09fcbcd1e9432",
    "t10k-labels-idx1-ubyte": "ec29112dd5afa0611ce80d1b7f02629c",
}
#: training and test file of each kind
IMAGES = ("train-images-idx3-ubyte", "t10k-images-idx3-ubyte")
LABELS = ("train-labels-idx1-ubyte", "t10k-labels-idx1-ubyte")
#: the last so many images of the training file validate
VALIDATION = 10_000
#: what an IDX file of bytes begins with; the number of dimensions is added
BYTES_MAGIC = 2048
#: the longest of the files; more is never unpacked
MOST_BYTES = 16 + 60_000 * 28 * 28


def load(data_dir: Path | str | None, cache_dir: Path | str | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Training, validation and test intensities, ``[N, 784]`` in [0, 1]; folders as in :func:`~.files.obtain`."""
    train, test = (read(name, data_dir, cache_dir) for name in IMAGES)
    train, test = (x.reshape(len(x), -1).astype(np.float32) / 255 for x in (train, test))
    return train[:-VALIDATION], train[-VALIDATION:], test


def load_labels(data_dir: Path | str | None, cache_dir: Path | str | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Which digit each image of :func:`load` is, ``[N]``."""
    train, test = (read(name, data_dir, cache_dir) for name in LABELS)
    return train[:-VALIDATION], train[-VALIDATION:], test


def read(name: str, data_dir: Path | str | None, cache_dir: Path | str | None) -> np.ndarray:
    """The bytes of one published file, checked: ``[N, 28, 28]`` of images, ``[N]`` of labels."""
    url = f"{MIRROR}{name}.gz"
    path = obtain(Published("mnist", (name, f"{name}.gz"), url, f"md5:{GZIP_MD5[name]}"), data_dir, cache_dir)
    content = read_content(path, url)
    values = parse(path, content, url, 1 if name in LABELS else 3)
    require_hash(path, content, f"md5:{CONTENT_MD5[name]}", url)
    return values


def read_content(path: Path, url: str) -> bytes:
    """What a plain or a gzip file holds.

    :raises ValueError: where gzip's own checks fail, or it holds more than any of the files
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise not_as_published(path, "a gzip file", f"{error} ({path.stat().st_size:,} bytes)", url) from error
    if len(content) > MOST_BYTES:
        raise not_as_published(path, f"at most {MOST_BYTES:,} bytes", "more", url)
    return content


def parse(path: Path, content: bytes, url: str, dimensions: int) -> np.ndarray:
    """IDX: big-endian numbers, 2048 + the number of dimensions and the size of each, then a byte for each value.

    :raises ValueError: where the first number, or the length that the others give, is not so
    """
    header = 4 * (1 + dimensions)
    magic, *shape = (int.from_bytes(content[i : i + 4], "big") for i in range(0, header, 4))
    size = header + math.prod(shape)
    if magic != BYTES_MAGIC + dimensions or len(content) != size:
        came = f"magic number {magic}, shape {shape}, {len(content):,} bytes"
        expected = f"magic number {BYTES_MAGIC + dimensions} and the {size:,} bytes of its shape"
        raise not_as_published(path, expected, came, url)
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)
