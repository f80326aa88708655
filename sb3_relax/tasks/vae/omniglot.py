"""Omniglot: 1,623 characters of 50 alphabets, each drawn once by 20 people (Lake et al., 2015), as ink on 28 x 28.

The experiments of Burda et al. (2016), and those that followed them, read a MATLAB file of 24,345 training and 8,070
test images that is no longer everywhere to be had. Its sizes tell how it was made: 24,345 = 1,623 × 15 and
8,070 = 1,623 × 5 - 45, and it is known to lack one drawing of each of Glagolitic's 45 characters
(https://github.com/yburda/iwae/issues/3). So every character is in both parts: 15 of its drawings train and the others
test. The same is done here, on Lake's drawings.

**Ours, because nothing published tells**: which drawings. Those of drawers 1-15 train, those of drawers 16-20 test, and
Glagolitic lacks drawer 20. (Within an alphabet a drawer's number is one person, so the test's hands are new to it.)
Lake's own background and evaluation parts are something else: a test on new alphabets.
"""

from __future__ import annotations

import hashlib
import io
import re
import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

from sb3_relax.tasks.vae.files import Published, cache_folder, obtain, require_hash
from sb3_relax.tasks.vae.store import load_or_make

MIRROR = "https://raw.githubusercontent.com/brendenlake/omniglot/master/python/"


class Part(NamedTuple):
    """A published part: Lake's zip of PNG files, or an npz of the same drawings."""

    zip_hash: str
    npz_hash: str


PARTS = {
    "images_background": Part(
        "md5:68d2efa1b9178cc56df9314c21c6e718",
        "sha256:8bf84167413cd00beacdce3fe582f780ab538d8dbef043a6d688f2527bbce199",
    ),
    "images_evaluation": Part(
        "md5:6b91aef0f799c5bb55b94e3f2daec811",
        "sha256:0b84c7ffd94c4841c0040e529c86a82eaaccb986d8eadad5673f7991b7475276",
    ),
}
DRAWERS, SIDE, RESIZED = 20, 105, 28
TRAINING_DRAWERS = 15
#: Glagolitic, counting both parts through: its characters' drawer 20 is left out
GLAGOLITIC = slice(964 + 150, 964 + 195)
VALIDATION = 1_345
#: of the permutation before the last 1,345 are taken to validate; the number is Burda et al.'s
SHUFFLE_SEED = 123
#: part of the cache's name: to be raised whenever other counts would come of the same files
FORMAT = 1
_PNG = re.compile(r"[^/]+/character\d+/(\d+)_(\d+)\.png$")


def load(data_dir: Path | str | None, cache_dir: Path | str | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Training, validation and test intensities, ``[N, 784]`` in [0, 1]; folders as in :func:`~.files.obtain`."""
    parts = [published(name, data_dir, cache_dir) for name in PARTS]

    def make() -> np.ndarray:
        return np.concatenate([ink_counts(read(path, content)) for path, content, _ in parts])

    key = hashlib.sha256(" ".join(file_hash for _, _, file_hash in parts).encode()).hexdigest()[:16]
    return split(load_or_make(cache_folder(cache_dir) / f"omniglot-{RESIZED}-format{FORMAT}-{key}.npz", make))


def split(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Intensities that train, validate and test, of what :func:`ink_counts` gives for all characters."""
    flat = counts.reshape(*counts.shape[:2], -1).astype(np.float32) / 225
    training = flat[:, :TRAINING_DRAWERS].reshape(-1, flat.shape[-1])
    training = training[np.random.default_rng(SHUFFLE_SEED).permutation(len(training))]
    tested = np.ones((len(flat), DRAWERS - TRAINING_DRAWERS), bool)
    tested[GLAGOLITIC, -1] = False
    return training[:-VALIDATION], training[-VALIDATION:], flat[:, TRAINING_DRAWERS:][tested]


def published(name: str, data_dir: Path | str | None, cache_dir: Path | str | None) -> tuple[Path, bytes, str]:
    """The npz or the zip of a part, whichever there is: its path, its content, and the hash they were checked by."""
    url = f"{MIRROR}{name}.zip"
    part = PARTS[name]
    path = obtain(Published("omniglot", (f"{name}.npz", f"{name}.zip"), url, part.zip_hash), data_dir, cache_dir)
    content, file_hash = path.read_bytes(), part.npz_hash if path.suffix == ".npz" else part.zip_hash
    require_hash(path, content, file_hash, url)
    return path, content, file_hash


def read(path: Path, content: bytes) -> np.ndarray:
    """The ink of a part's drawings, ``[characters, 20, 105, 105]`` booleans, in the order of Lake's numbers."""
    return ~(read_npz(content) if path.suffix == ".npz" else read_zip(content))


def read_npz(content: bytes) -> np.ndarray:
    """``images``: ``[characters, 20, 105, 105]``, paper True."""
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        return arrays["images"]


def read_zip(content: bytes) -> np.ndarray:
    """The drawings ``part/Alphabet/characterNN/CCCC_DD.png``, ordered by character CCCC and drawer DD; paper True.

    CCCC counts the characters of all alphabets, and not quite in the order of the alphabets' names.

    :raises ValueError: where a character lacks a drawer
    """
    from PIL import Image

    drawings = {}
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        for member in archive.namelist():
            if match := _PNG.search(member):
                drawing = Image.open(io.BytesIO(archive.read(member)))
                drawings[int(match[1]), int(match[2])] = np.asarray(drawing)
    characters = sorted({character for character, _ in drawings})
    expected = [(character, drawer) for character in characters for drawer in range(1, DRAWERS + 1)]
    if sorted(drawings) != expected:
        odd = sorted(drawings.keys() ^ set(expected))
        raise ValueError(f"drawings (character, drawer) missing, or of a drawer not in 1-{DRAWERS}: {odd[:3]}")
    return np.stack([drawings[key] for key in expected]).reshape(len(characters), DRAWERS, SIDE, SIDE)


def ink_counts(ink: np.ndarray) -> np.ndarray:
    """Drawings averaged over area from 105 x 105 to 28 x 28, times 225: whole numbers, 0 for paper to 225 for ink.

    A pixel of the result covers 3.75 x 3.75 of the drawing's. Cut each of those in 4 x 4, and it covers 15 x 15 pieces:
    its ink is a count out of 225, exact and the same on every machine. (Pillow's BOX filter takes a border pixel whole
    or not at all.)

    :param ink: ``[characters, 20, 105, 105]`` booleans
    :returns: ``[characters, 20, 28, 28]``, uint8
    """
    edges = 4 * np.arange(SIDE)
    starts = 15 * np.arange(RESIZED)[:, None]
    # in quarters: how much of each of 105 pixels lies in each of 28
    overlap = np.clip(np.minimum(edges + 4, starts + 15) - np.maximum(edges, starts), 0, None).astype(np.float32)
    counts = np.empty((*ink.shape[:2], RESIZED, RESIZED), np.uint8)
    for index, character in enumerate(ink):  # one at a time: all at once would need 1.4 GB
        counts[index] = overlap @ (character.astype(np.float32) @ overlap.T)
    return counts
