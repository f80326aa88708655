"""Moments of per-sample gradients over a batch."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


def sample_variance(grad: Tensor, event_ndim: int) -> Tensor:
    """Trace of the covariance of per-sample gradients over a batch: Σ_i Var(ĝ_i), a scalar.

    The variance is taken over samples and summed over components, never across the components of one gradient.

    :param grad: ĝ per sample, ``[*batch, *event]``
    :param event_ndim: number of trailing dimensions that make one gradient
    :return: unbiased estimate; 0 for fewer than two samples
    """
    flat = grad.reshape(grad.shape[: grad.dim() - event_ndim].numel(), -1)
    if len(flat) < 2:
        return flat.new_zeros(())
    return flat.var(0).sum()


class ChangeMoments(NamedTuple):
    """What a batch says, as numbers, of an estimate g and of the change d that would make another estimate of it.

    Enough for the variance of every mixture g + η d, so that one pass serves all that is logged or learned of it.
    """

    square: tuple[float, float, float]  #: batch means of ‖g‖², ⟨g, d⟩ and ‖d‖²
    covariance: tuple[float, float, float]  #: Σ_i Var(g_i), Σ_i Cov(g_i, d_i) and Σ_i Var(d_i) over the batch

    def square_at(self, share: float) -> float:
        """Batch mean of ‖g + η d‖² at η = ``share``."""
        return _quadratic(self.square, share)

    def at_share(self, share: float) -> ChangeMoments:
        """Those of g and η d, at η = ``share``."""
        (gg, gd, dd), (vg, vgd, vd) = self.square, self.covariance
        return ChangeMoments((gg, share * gd, share**2 * dd), (vg, share * vgd, share**2 * vd))

    def variance_at(self, share: float) -> float:
        """Σ_i Var of g + η d over the batch at η = ``share``."""
        return _quadratic(self.covariance, share)


def _quadratic(moments: tuple[float, float, float], share: float) -> float:
    own, cross, other = moments
    return max(own + 2 * share * cross + share**2 * other, 0.0)  # rounding alone can make it negative


def change_moments(plain: Tensor, changed: Tensor, event_ndim: int) -> ChangeMoments:
    """:class:`ChangeMoments` of g = ``plain`` and d = ``changed - plain``.

    :param plain: per-sample gradients, ``[*batch, *event]``
    :param changed: the other estimate, as ``plain``
    :param event_ndim: number of trailing dimensions that make one gradient
    """
    samples = plain.shape[: plain.dim() - event_ndim].numel()
    pair = torch.stack([plain, changed - plain]).reshape(2, samples, plain.shape[plain.dim() - event_ndim :].numel())
    flat = torch.cat([pair, pair - pair.mean(1, keepdim=True)]).flatten(1)
    # every product of g, d, and the two less their means, of which half is used: one product of matrices, read once
    (gg, gd, *_), (_, dd, *_), (*_, vg, vgd), (*_, vd) = (flat @ flat.T).tolist()
    n, degrees = max(samples, 1), max(samples - 1, 1)
    return ChangeMoments((gg / n, gd / n, dd / n), (vg / degrees, vgd / degrees, vd / degrees))
