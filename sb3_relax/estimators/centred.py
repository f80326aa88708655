"""A running mean of f, subtracted before anything else is."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from sb3_relax.estimators.base import Estimator

#: weight of the past in a running mean, once it has seen as many batches as it can remember
DECAY = 0.99


@torch.no_grad()
def fade_in(average: Tensor, newest: Tensor, keep: Tensor | float) -> None:
    """``average`` becomes ``keep`` · average + (1 - ``keep``) · newest, in place."""
    average.copy_(keep * average + (1 - keep) * newest)


class RunningMean(nn.Module):
    """m, the mean of f over *earlier* batches.

    The first hundred batches count alike. Later ones fade in with weight 1 - ``DECAY``, so that m follows an f that
    moves, while its own noise stays small beside f's, even where a batch is one sample.
    """

    mean: Tensor
    batches: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("batches", torch.zeros((), dtype=torch.int64))

    def take_in(self, value: Tensor) -> None:
        """Let m take in f's values of one batch, after they were used."""
        if value.numel() == 0:
            return
        newest = value.mean().to(self.mean.dtype)
        known = newest.isfinite()  # one that is not would stay in m for good
        keep = torch.where(known, (self.batches / (self.batches + 1)).clamp(max=DECAY), 1.0)
        fade_in(self.mean, torch.where(known, newest, 0.0), keep)
        self.batches.add_(known)


class CentredEstimator(Estimator):
    """An estimator in which f - m takes f's place, m the mean of f over earlier batches.

    A control variate that starts at c = 0 has E[f] to learn before it is of use, which takes Adam as many steps as the
    mean is large. m knows it after one batch. It is fixed when a batch is drawn, and the mean of the score is zero, so
    that ĝ stays unbiased.

    :param center: whether it is so
    """

    #: estimators saved by versions that had no m go on without
    center: bool = False

    def __init__(self, center: bool):
        super().__init__()
        self.center = center
        if center:
            self.running_mean = RunningMean()

    def mean_before(self, dtype: torch.dtype) -> Tensor | float:
        """m as it is now, 0 where nothing is subtracted."""
        return self.running_mean.mean.to(dtype) if self.center else 0.0

    def centred(self, value: Tensor) -> Tensor:
        """f - m, detached.

        :param value: f(b)
        """
        value = value.detach()
        return value - self.mean_before(value.dtype) if self.center else value

    def learning(self, value: Tensor) -> Callable[[], None] | None:
        """What lets m take in f's values of this batch, for ``Estimate``'s ``learn``."""
        return (lambda: self.running_mean.take_in(value.detach())) if self.center else None
