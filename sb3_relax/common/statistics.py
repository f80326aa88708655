"""What is learned from earlier batches without a gradient: the size of the advantages, and how far to trust ĉ."""

from __future__ import annotations

import math
from typing import Any

from torch import nn

from sb3_relax.estimators.moments import ChangeMoments


class RunningStatistics(nn.Module):
    """Averages over *earlier* batches, so that ĉ and its gain are independent of the batch they are used on.

    ``scale`` is the root mean square advantage. ``gain`` is the η in [0, 1] that would have minimised the variance of
    g + η (ĝ - g), g the plain score term and ĝ the estimate with ĉ in full: η = -E⟨g, ĝ - g⟩ / E‖ĝ - g‖². Every batch
    counts the same, since each is divided by its own E‖g‖²: a ĉ that was right when advantages were large would
    otherwise go on adding noise when they have become small (CartPole once it is solved). Before any evidence η = 0,
    which is A2C.

    ``steps`` is the size of a batch, which depends on the actions where batches are whole episodes.

    :param scale_decay: weight of the past in ``scale``
    :param gain_decay: weight of the past in ``gain`` and ``steps``
    """

    def __init__(self, scale_decay: float = 0.95, gain_decay: float = 0.9):
        super().__init__()
        self.scale_decay = scale_decay
        self.gain_decay = gain_decay
        self.scale = 1.0
        self.seen_batches = 0
        self.cross = 0.0
        self.square = 0.0
        self.size = 0.0
        self.steps = 0.0

    @property
    def gain(self) -> float:
        """η, the share of the control variate that is applied."""
        return min(max(-self.cross / self.square, 0.0), 1.0) if self.square > 0 else 0.0

    def update(self, mean_square: float, moments: ChangeMoments, steps: int) -> None:
        """Take in a batch, after it was used.

        :param mean_square: of the advantages
        :param steps: N, the size of the batch
        :param moments: of the plain score term g and of what ĉ in full changes in it
        """
        if self.seen_batches > 0:
            mean_square = self.scale_decay * self.scale**2 + (1 - self.scale_decay) * mean_square
        self.scale = max(math.sqrt(mean_square), 1e-8)
        self.seen_batches += 1

        size, cross, square = moments.square
        # a batch whose advantages happen to vanish says nothing of ĉ: divided by its own size it would drown the others
        divisor = max(size, 0.1 * self.size)
        if divisor > 0 and math.isfinite(square / divisor):
            self.cross = self.gain_decay * self.cross + cross / divisor
            self.square = self.gain_decay * self.square + square / divisor
            self.size = self._mean(self.size, size)
        self.steps = self._mean(self.steps, steps)

    def _mean(self, past: float, new: float) -> float:
        return new if past == 0 else self.gain_decay * past + (1 - self.gain_decay) * new

    def get_extra_state(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("scale", "seen_batches", "cross", "square", "size", "steps")}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            setattr(self, name, value)
