"""Canvases of 4 x 4 cells: a digit in one of them, fragments of other digits in up to four others."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from sb3_relax.tasks.vae.data import load_dataset, load_labels

#: cells along a side, pixels along the side of a cell, of a fragment, and of the view
GRID, CELL, FRAGMENT, VIEW = 4, 14, 7, 8
CELLS = GRID * GRID
#: most fragments on a canvas
FRAGMENTS = 4


class Canvases(NamedTuple):
    """A batch of B canvases.

    :param cells: what is seen where one looks, ``[B, 16, 196]``, in [0, 1]
    :param view: the whole canvas in 8 x 8 pixels, ``[B, 64]``
    :param label: which digit it is, ``[B]``
    :param place: the cell that it is in, ``[B]``
    """

    cells: Tensor
    view: Tensor
    label: Tensor
    place: Tensor


class Digits(NamedTuple):
    """Digits to put on canvases: ``[N, 14, 14]`` in [0, 1], and which they are, ``[N]``."""

    images: Tensor
    labels: Tensor


def load_digits(dataset: str, data_dir: Path | str | None, cache_dir: Path | str | None) -> dict[str, Digits]:
    """The parts ``train``, ``validation`` and ``test`` of a labelled data set, each digit brought to 14 x 14 pixels.

    Parameters and errors as :func:`~sb3_relax.tasks.vae.data.load_labels`.
    """
    labels = load_labels(dataset, data_dir, cache_dir)
    data = load_dataset(dataset, data_dir, "dynamic", cache_dir)
    parts = zip((data.train, data.validation, data.test), labels, strict=True)
    # a mean over area for MNIST's 28 x 28; the 8 x 8 of digits are enlarged by it
    images = [(F.adaptive_avg_pool2d(x.reshape(-1, 1, *data.shape), CELL).squeeze(1), y) for x, y in parts]
    return {name: Digits(*part) for name, part in zip(("train", "validation", "test"), images, strict=True)}


def canvases(digits: Digits, chosen: Tensor, generator: torch.Generator) -> Canvases:
    """A canvas for each of the chosen digits; everything else on it is drawn.

    The number of fragments is uniform from 0 to 4. A fragment is a square of 7 x 7 pixels of any digit, wherever it is
    in that digit, and wherever it comes to lie in a cell of its own.

    :param chosen: numbers of digits, ``[B]``
    """
    images, size = digits.images, len(chosen)
    order = torch.rand(size, CELLS, generator=generator).argsort(-1)  # the digit's cell, then those of fragments
    count = torch.randint(FRAGMENTS + 1, (size,), generator=generator)
    source = torch.randint(len(images), (size, FRAGMENTS), generator=generator)
    corners = torch.randint(CELL - FRAGMENT + 1, (4, size, FRAGMENTS, 1), generator=generator)
    top, left, to_top, to_left = corners + torch.arange(FRAGMENT)

    cells = torch.zeros(size, CELLS, CELL, CELL)
    row = torch.arange(size)
    cells[row, order[:, 0]] = images[chosen]
    fragments = images[source[..., None, None], top[..., :, None], left[..., None, :]]
    there = torch.arange(FRAGMENTS) < count[:, None]
    place = order[:, 1 : 1 + FRAGMENTS, None, None]
    cells[row[:, None, None, None], place, to_top[..., :, None], to_left[..., None, :]] = (
        fragments * there[..., None, None]
    )
    view = F.avg_pool2d(sheets(cells).unsqueeze(1), GRID * CELL // VIEW)
    return Canvases(cells.flatten(2), view.flatten(1), digits.labels[chosen], order[:, 0])


def sheets(cells: Tensor) -> Tensor:
    """Whole canvases, ``[B, 56, 56]``, of their cells, ``[B, 16, ...]``."""
    rows = cells.reshape(-1, GRID, GRID, CELL, CELL).transpose(2, 3)
    return rows.reshape(-1, GRID * CELL, GRID * CELL)
