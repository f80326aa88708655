"""How much of a correction to apply, by what it did to earlier batches."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch as th
from torch import nn

#: more than that many times ‖g‖² is no ‖d‖² that is averaged: ten of them would be no float32
LARGEST_SQUARE = 1e37

#: of coordinate descent, which halves the error and more in each unless two changes are nearly the same
SWEEPS = 50


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
        # nor does one whose own square no float32 holds
        if not 0 < divisor < LARGEST_SQUARE:
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


class LearnedShares(nn.Module):
    """η_i in [0, 1], the shares of several changes d_i that together would have lowered the variance most.

    They minimise E‖g + Σ_i η_i d_i‖² of earlier gradients g, as :class:`LearnedShare` does for one change: each batch
    is divided by its own E‖g‖², and before any evidence all are 0. A change that is not finite, or whose square is not,
    has a share of 0 after that batch, and what was known of it is forgotten; the others keep what is known of them.

    :param count: of changes
    :param decay: weight of the past
    """

    cross: th.Tensor
    square: th.Tensor
    size: th.Tensor

    def __init__(self, count: int, decay: float = 0.9):
        super().__init__()
        self.decay = decay
        self.register_buffer("cross", th.zeros(count))
        self.register_buffer("square", th.zeros(count, count))
        self.register_buffer("size", th.zeros(()))

    @property
    def shares(self) -> list[float]:
        """η as earlier batches speak for it."""
        cross, square = self.cross.tolist(), self.square.tolist()
        shares = [0.0] * len(cross)
        for _ in range(SWEEPS):
            for i, row in enumerate(square):
                others = sum(row[j] * shares[j] for j in range(len(row)) if j != i)
                best = -(cross[i] + others) / row[i] if row[i] > 0 else 0.0
                shares[i] = min(best, 1.0) if best > 0 else 0.0  # also where the statistics have become NaN
        return shares

    def learn(self, plain: th.Tensor, changes: Sequence[th.Tensor]) -> None:
        """Let η learn from a batch, after it was used.

        :param plain: g per step, ``[N, *event]``
        :param changes: each d_i, as ``plain``
        """
        each = th.stack([part.flatten() for part in (plain, *changes)])
        products = each @ each.T / max(len(plain), 1)
        size, past = products[0, 0].item(), self.size.item()
        divisor = max(size, 0.1 * past)
        if not (divisor > 0 and math.isfinite(divisor)):
            return
        cross, square = products[0, 1:] / divisor, products[1:, 1:] / divisor
        # where two have squares, so has their product
        known = square.diagonal() < LARGEST_SQUARE
        both = known & known.unsqueeze(1)
        self.cross.mul_(self.decay).add_(cross).masked_fill_(~known, 0.0)
        self.square.mul_(self.decay).add_(square).masked_fill_(~both, 0.0)
        self.size.fill_(size if past == 0 else self.decay * past + (1 - self.decay) * size)
