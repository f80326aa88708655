"""Images to train an autoencoder on: MNIST, Omniglot, and scikit-learn's digits, which need no download.

    pip install sb3_relax[tasks]

The files are read from ``data_dir``, or from the folder that the environment variable SB3_RELAX_DATA names, or else
downloaded once, and are checked against published hashes wherever they come from.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from sb3_relax.tasks.vae import mnist, omniglot

Splits = tuple[np.ndarray, np.ndarray, np.ndarray]

#: of the Bernoulli draws of fixed binarisation
BINARISATION_SEED = 0
#: of the permutation of digits before they are split
DIGITS_SEED = 0
DIGITS_VALIDATION, DIGITS_TEST = 200, 300


class Dataset(NamedTuple):
    """Images, one a row, in three parts that share none.

    :param name: a key of :data:`DATASETS`
    :param train: ``[N, D]``, float32 in [0, 1]
    :param validation: the same, to choose by
    :param test: the same, to report
    :param shape: rows and columns, whose product is D
    :param description: where they come from, the parts' sizes, the binarisation: in words, for records
    :param binarised: whether the values are bits; where not, they are intensities to draw bits from
    """

    name: str
    train: Tensor
    validation: Tensor
    test: Tensor
    shape: tuple[int, int]
    description: str
    binarised: bool


class Source(NamedTuple):
    """How a data set is loaded, and what is to be said of it."""

    load: Callable[[Path | str | None, Path | str | None], Splits]
    shape: tuple[int, int]
    description: str


def load_digits(data_dir: Path | str | None, cache_dir: Path | str | None) -> Splits:
    """scikit-learn's digits come with it: no folder is read. They are shuffled, as they are sorted by writer."""
    from sklearn import datasets

    return split_digits(datasets.load_digits().data.astype(np.float32) / 16)


def load_digits_labels(data_dir: Path | str | None, cache_dir: Path | str | None) -> Splits:
    """Which digit each image of :func:`load_digits` is, ``[N]``."""
    from sklearn import datasets

    return split_digits(datasets.load_digits().target)


def split_digits(values: np.ndarray) -> Splits:
    """One value for each digit, in the order of scikit-learn, shuffled and split."""
    values = values[np.random.default_rng(DIGITS_SEED).permutation(len(values))]
    train, validation, test = np.split(values, [-DIGITS_VALIDATION - DIGITS_TEST, -DIGITS_TEST])
    return train, validation, test


DATASETS = {
    "mnist": Source(
        mnist.load,
        (28, 28),
        "MNIST (LeCun et al., 1998), intensities / 255; the last images of the training file validate, the t10k file "
        "tests",
    ),
    "omniglot": Source(
        omniglot.load,
        (28, 28),
        "Omniglot (Lake et al., 2015), ink averaged over area from 105 x 105 to 28 x 28; of every character, drawers "
        f"1-15 train and validate (shuffled by NumPy's default_rng({omniglot.SHUFFLE_SEED}), the last ones validate) "
        "and drawers 16-20 test, without drawer 20 of Glagolitic: the sizes of Burda et al. (2016), whose choice of "
        "drawings is not published",
    ),
    "digits": Source(
        load_digits,
        (8, 8),
        "digits of scikit-learn (the test part of UCI's optical digits), intensities / 16; shuffled by NumPy's "
        f"default_rng({DIGITS_SEED}), then split in the order train, validation, test",
    ),
}
#: data sets whose images are of known classes
LABELS: dict[str, Callable[[Path | str | None, Path | str | None], Splits]] = {
    "mnist": mnist.load_labels,
    "digits": load_digits_labels,
}
#: how bits come of intensities
BINARISATIONS = {
    "fixed": "each pixel drawn once, as a Bernoulli of its intensity "
    f"(NumPy's default_rng({BINARISATION_SEED}), in the order train, validation, test)",
    "dynamic": "intensities, from which the caller draws each batch's bits anew",
}


def load_dataset(
    name: str,
    data_dir: Path | str | None = None,
    binarisation: str = "fixed",
    cache_dir: Path | str | None = None,
) -> Dataset:
    """A data set, split and binarised, as its ``description`` says.

    ============ ======== ========== ====== ==========================================================================
    name         training validation test   choice
    ============ ======== ========== ====== ==========================================================================
    ``mnist``    50,000   10,000     10,000 the last 10,000 of the training file validate
    ``omniglot`` 23,000   1,345      8,070  drawers 1-15 of every character train, 16-20 test: see :mod:`~.omniglot`
    ``digits``   1,297    200        300    8 x 8; shuffled with a fixed seed
    ============ ======== ========== ====== ==========================================================================

    :param name: a key of :data:`DATASETS`
    :param data_dir: the folder with the files (or with a folder ``mnist`` or ``omniglot`` that has them), which is only
        read; default: the environment variable SB3_RELAX_DATA, and without it the files are downloaded
    :param binarisation: ``"fixed"``: bits, drawn once with a fixed seed, the same for everyone; ``"dynamic"``:
        intensities, and the caller draws bits for each batch
    :param cache_dir: for downloads and for resized images; default ``pooch.os_cache("sb3_relax")``
    :raises ValueError: for a name or a binarisation there is not, and for a file that is not the published one
    :raises FileNotFoundError: for a file that is nowhere; says where to get it

    Example::

        data = load_dataset("digits")
        data.train.shape    # [1297, 64]
    """
    require_name("data set", name, DATASETS)
    require_name("binarisation", binarisation, BINARISATIONS)
    source = DATASETS[name]
    parts = source.load(data_dir, cache_dir)
    if binarisation == "fixed":
        parts = binarise(parts)
    train, validation, test = map(torch.from_numpy, parts)
    sizes = f"{len(train):,} training, {len(validation):,} validation, {len(test):,} test images"
    description = f"{source.description}. {sizes}. Binarisation: {binarisation}: {BINARISATIONS[binarisation]}."
    return Dataset(name, train, validation, test, source.shape, description, binarisation == "fixed")


def load_labels(
    name: str, data_dir: Path | str | None = None, cache_dir: Path | str | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """The classes of the training, validation and test images of :func:`load_dataset`, ``[N]``, whole numbers from 0.

    Parameters and errors as there.

    :param name: a key of :data:`LABELS`
    """
    require_name("labelled data set", name, LABELS)
    train, validation, test = (torch.from_numpy(part.astype(np.int64)) for part in LABELS[name](data_dir, cache_dir))
    return train, validation, test


def binarise(parts: Splits) -> Splits:
    """Each pixel a Bernoulli of its intensity: 0 stays 0, 1 stays 1.

    The draws are NumPy's, whose stream for a seed does not change with the version of torch or the number of threads.
    """
    generator = np.random.default_rng(BINARISATION_SEED)
    train, validation, test = ((generator.random(p.shape, np.float32) < p).astype(np.float32) for p in parts)
    return train, validation, test


def require_name(kind: str, name: str, known: Mapping[str, object]) -> None:
    """:raises ValueError: where ``name`` is not known; lists those that are, and guesses which was meant."""
    if name not in known:
        nearest = difflib.get_close_matches(str(name).lower(), known, n=1)
        guess = f"; did you mean {nearest[0]!r}?" if nearest else ""
        raise ValueError(f"unknown {kind} {name!r}; there are {', '.join(map(repr, known))}{guess}")
