"""Variance of a gradient estimate."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from sb3_relax.estimators.latents import Latent, require_unbatched

if TYPE_CHECKING:
    from sb3_relax.estimators.base import Estimator
    from sb3_relax.estimators.functions import Objective


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


class VarianceEstimate(NamedTuple):
    """A variance and how well it is known."""

    variance: float  #: Σ_i Var(ĝ_i)
    standard_error: float


def gradient_variance(
    estimator: Estimator,
    latent: Latent,
    f: Objective,
    n: int = 10_000,
    generator: torch.Generator | None = None,
    chunk: int = 1_000,
) -> VarianceEstimate:
    """Σ_i Var(ĝ_i) of one estimate, over n independent ones at the same θ, with its standard error.

    Over samples and summed over components, never across the components of one gradient, nor across steps of training.

    :param latent: a latent without batch; for a batch, one of its elements
    :param f: as the estimator calls it, with one batch dimension
    :param n: number of estimates, at least 2
    :param chunk: estimates at a time
    :raises ValueError: for a latent with a batch, or n below 2

    Example::

        variance, error = gradient_variance(RLOO(), LogisticBernoulli(torch.zeros(10)), f, n=20_000)
    """
    require_unbatched(latent)
    if n < 2:
        raise ValueError(f"n must be at least 2; got {n}")
    parts = []
    for start in range(0, n, chunk):
        wide = latent.detach().expand(min(chunk, n - start))
        parts.append(estimator(wide, f, generator).grad.flatten(1).double())
    grad = torch.cat(parts)
    deviation = (grad - grad.mean(0)).square().sum(1)
    return VarianceEstimate(deviation.sum().item() / (n - 1), deviation.std().item() / math.sqrt(n))


class ChangeMoments(NamedTuple):
    """What a batch says, as numbers, of an estimate g and of the change d that would make another estimate of it.

    Enough for the variance of every mixture g + η d, so that one pass serves all that is logged or learned of it.
    """

    square: tuple[float, float, float]  #: batch means of ‖g‖², ⟨g, d⟩ and ‖d‖²
    covariance: tuple[float, float, float]  #: Σ_i Var(g_i), Σ_i Cov(g_i, d_i) and Σ_i Var(d_i) over the batch

    def square_at(self, share: float) -> float:
        """Batch mean of ‖g + η d‖² at η = ``share``."""
        return _quadratic(self.square, share)

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
    centred = pair - pair.mean(1, keepdim=True)
    (gg, gd), (_, dd) = _gram(pair, samples)
    (vg, vgd), (_, vd) = _gram(centred, samples - 1)
    return ChangeMoments((gg, gd, dd), (vg, vgd, vd))


def _gram(pair: Tensor, divisor: int) -> list[list[float]]:
    flat = pair.flatten(1)
    return (flat @ flat.T / max(divisor, 1)).tolist()
