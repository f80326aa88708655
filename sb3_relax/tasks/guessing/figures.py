"""Pairs of pictures on one sheet."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

#: pairs in a row, and pixels of the margin around every picture
COLUMNS, MARGIN = 8, 1
#: brightness of the margins
BETWEEN = 0.35


def write_pairs(path: Path, left: NDArray[np.floating], right: NDArray[np.floating]) -> None:
    """Pairs of pictures in colour, in rows, every pixel as a square of three by three.

    :param left: ``[N, H, W, 3]``, numbers from 0 to 1
    :param right: the same
    """
    import matplotlib.image

    margins = ((0, 0), (MARGIN, MARGIN), (MARGIN, MARGIN), (0, 0))
    pairs = np.concatenate([np.pad(x, margins, constant_values=BETWEEN) for x in (left, right)], axis=2)
    rows = [np.concatenate([*pairs[start : start + COLUMNS]], axis=1) for start in range(0, len(pairs), COLUMNS)]
    sheet = np.concatenate(rows).repeat(3, axis=0).repeat(3, axis=1)
    path.parent.mkdir(parents=True, exist_ok=True)
    matplotlib.image.imsave(path, sheet)
