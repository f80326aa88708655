"""Targets beside reconstructions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sb3_relax.tasks.guessing.figures import write_pairs

#: of pixels that both pictures have, that the target alone has, that the guess alone has, and of those that neither has
BOTH, MISSING, TOO_MUCH, NEITHER = (1.0, 1.0, 1.0), (0.25, 0.55, 1.0), (1.0, 0.55, 0.1), (0.0, 0.0, 0.0)


def draw_reconstructions(path: Path, targets: NDArray[np.bool_], guesses: NDArray[np.bool_]) -> None:
    """Pairs: a target, and the guess with what is missing in blue and what is too much in orange.

    :param targets: ``[N, H, W]``
    :param guesses: the same
    """
    wrong = np.select([c[..., None] for c in (targets & guesses, targets, guesses)], [BOTH, MISSING, TOO_MUCH], NEITHER)
    right = np.where(targets[..., None], BOTH, NEITHER)
    write_pairs(path, right, wrong)
