"""How much of a correction to apply, by what it did to earlier batches."""

from __future__ import annotations

import math

import torch as th
from torch import nn

#: more than that many times ‖g‖² is no ‖d‖² that is averaged: ten of them would be no float32
LARGEST_SQUARE = 1e37


class LearnedShare(nn.Module):
    """η in [0, 1], the share of a change d that would have lowered the variance of earlier gradients g + η d most.

    η = -E⟨g, d⟩ / E‖d‖². It is fixed before the batch that it is applied to, so that a change of mean zero keeps the
    gradient unbiased. Every batch counts the same, since each is divided by its own E‖g‖²: a change that was right when
    advantages were large would otherwise go on adding noise when they have become small (CartPole once it is solved).
    Before any evidence η = 0, and so it is after a batch in which the change was not finite, or so large that its
    square was not.

    :param decay: weight of the past
    """

    cross: th.Tensor
    square: th.Tensor
    size: th.Tensor

    def __init__(self, decay: float = 0.9):
        super().__init__()
        self.decay = decay
        for name in ("cross", "square", "size"):
            self.register_buffer(name, th.zeros(()))

    @property
    def share(self) -> float:
        """η as earlier batches speak for it."""
        square = self.square.item()
        best = -self.cross.item() / square if square > 0 else 0.0
        return min(best, 1.0) if best > 0 else 0.0  # also where the statistics have become NaN

    def learn_share(self, size: float, cross: float, square: float) -> None:
        """Let η learn from a batch, after it was used.

        :param size: ‖g‖², a mean over the batch
        :param cross: ⟨g, d⟩, as ``size``
        :param square: ‖d‖², as ``size``
        """
        past = self.size.item()
        # a batch whose advantages happen to vanish says nothing of d: divided by its own size it would drown the others
        divisor = max(size, 0.1 * past)
        # nor does one whose own square overflows
        if not (divisor > 0 and math.isfinite(divisor)):
            return
        cross, square = cross / divisor, square / divisor
        if not (math.isfinite(cross) and square < LARGEST_SQUARE):
            # of what is beyond all measure, no share would be small enough: η = 0, and what was known is forgotten
            self.cross.zero_()
            self.square.zero_()
            return
        self.cross.mul_(self.decay).add_(cross)
        self.square.mul_(self.decay).add_(square)
        self.size.fill_(size if past == 0 else self.decay * past + (1 - self.decay) * size)
