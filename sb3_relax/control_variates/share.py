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


class EarlierBatches(nn.Module):
    """What shares are learned by: averages over earlier batches, each divided by its own E‖g‖².

    So every batch counts the same: a change that was right when advantages were large would otherwise go on adding
    noise when they have become small (CartPole once it is solved).

    :param count: of changes; ``None``: one, without a dimension
    :param decay: weight of the past
    """

    cross: th.Tensor
    square: th.Tensor
    size: th.Tensor

    def __init__(self, count: int | None, decay: float):
        super().__init__()
        self.decay = decay
        dims = () if count is None else (count,)
        for name, shape in (("cross", dims), ("square", 2 * dims), ("size", ())):
            self.register_buffer(name, th.zeros(shape))

    def divisor(self, size: float) -> float | None:
        """What a batch with that ‖g‖² is divided by; ``None`` where it says nothing of any change."""
        # one whose advantages happen to vanish says nothing: divided by its own size it would drown the others
        divisor = max(size, 0.1 * self.size.item())
        # nor does one whose own square no float32 holds
        return divisor if 0 < divisor < LARGEST_SQUARE else None

    def learn_size(self, size: float) -> None:
        """Let the size of later batches be compared with this one's."""
        past = self.size.item()
        self.size.fill_(size if past == 0 else self.decay * past + (1 - self.decay) * size)


class LearnedShare(EarlierBatches):
    """η in [0, 1], the share of a change d that would have lowered the variance of earlier gradients g + η d most.

    η = -E⟨g, d⟩ / E‖d‖². It is fixed before the batch that it is applied to, so that a change of mean zero keeps the
    gradient unbiased. Before any evidence η = 0, and so it is after a batch in which the change was not finite, or so
    large that its square was not.

    :param decay: weight of the past
    """

    def __init__(self, decay: float = 0.9):
        super().__init__(None, decay)

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
        divisor = self.divisor(size)
        if divisor is None:
            return
        cross, square = cross / divisor, square / divisor
        if not (math.isfinite(cross) and square < LARGEST_SQUARE):
            # of what is beyond all measure, no share would be small enough: η = 0, and what was known is forgotten
            self.cross.zero_()
            self.square.zero_()
            return
        self.cross.mul_(self.decay).add_(cross)
        self.square.mul_(self.decay).add_(square)
        self.learn_size(size)


class LearnedShares(EarlierBatches):
    """η_i in [0, 1], the shares of several changes d_i that together would have lowered the variance most.

    They minimise E‖g + Σ_i η_i d_i‖² of earlier gradients g, as :class:`LearnedShare` does for one change. Before any
    evidence all are 0. A change that is not finite, or whose square is not,
    has a share of 0 after that batch, and what was known of it is forgotten; the others keep what is known of them.

    :param count: of changes
    :param decay: weight of the past
    """

    def __init__(self, count: int, decay: float = 0.9):
        super().__init__(count, decay)

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
        size = products[0, 0].item()
        divisor = self.divisor(size)
        if divisor is None:
            return
        cross, square = products[0, 1:] / divisor, products[1:, 1:] / divisor
        # where two have squares, so has their product
        known = square.diagonal() < LARGEST_SQUARE
        both = known & known.unsqueeze(1)
        self.cross.mul_(self.decay).add_(cross).masked_fill_(~known, 0.0)
        self.square.mul_(self.decay).add_(square).masked_fill_(~both, 0.0)
        self.learn_size(size)
