"""Double control variates with RELAX's learned surrogate on what they leave."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from sb3_relax.estimators.base import leave_one_out_mean
from sb3_relax.estimators.estimate import VJP, expand_to
from sb3_relax.estimators.latents import Latent, RelaxedLatent
from sb3_relax.estimators.methods.double_cv import DoubleCV
from sb3_relax.estimators.surrogate import Surrogate, value_slope_vjp
from sb3_relax.estimators.surrogate_estimator import surrogate_for


class RelaxedDoubleCV(DoubleCV):
    """ĝ = mean_k {(r_k - mean_{j≠k} r_j) ∂θ log p(b_k|θ) + D · ∂c(z_k)/∂z} - α ḡ·∂θ μ, r_k = h_k - c_φ(z_k).

    h_k, α and ḡ are :class:`DoubleCV`'s, z_k ~ p(z|b_k, θ) and D are coupled :class:`RELAX`'s. The linear part of f is
    known from its slopes, the baseline from the other samples, and c learns the rest: each part's mean is zero whatever
    the others are, so they add up. New here; it starts as DoubleCV (c = 0).
    When to use it: as DoubleCV, and θ moves slowly enough for c to follow.

    :param surrogate: c_φ of the relaxed sample, ``[..., *batch, *event]`` → ``[..., *batch]``
    :param samples: K, at least 2
    :param scale: as :class:`DoubleCV`'s
    :raises ValueError: for fewer samples

    Example::

        estimate = RelaxedDoubleCV(MLPSurrogate(D))(LogisticBernoulli(logits), f)
    """

    context_parts = ("surrogate",)

    def __init__(self, surrogate: Surrogate, samples: int = 2, scale: float | None = None):
        super().__init__(samples, scale)
        self.surrogate = surrogate

    @classmethod
    def make(
        cls,
        latent: Latent,
        surrogate: Surrogate | None = None,
        hidden: Sequence[int] | None = None,
        context: int | None = None,
        **kwargs: Any,
    ) -> RelaxedDoubleCV:
        """With ``surrogate``, or, where it is left out, with an MLPSurrogate of these settings."""
        return cls(surrogate_for(latent, surrogate, hidden, context), **kwargs)

    def noise_shape(self, latent: Latent) -> tuple[int, ...]:
        return (self.samples, *latent.theta.shape)

    def rest(self, latent: RelaxedLatent, b: Tensor, noise: Tensor | None, score: Tensor) -> tuple[Tensor, VJP]:
        assert noise is not None
        with torch.no_grad():
            z = latent.conditional(b, noise)
            coupling = latent.coupling(b, z)
        with torch.enable_grad():
            c, slope, of_surrogate = value_slope_vjp(self.surrogate, z, latent)
            weight = leave_one_out_mean(c) - c
            rest = (expand_to(weight, latent) * score + latent.pull_back(slope * coupling)).mean(0)

        def vjp(grad_bar: Tensor) -> list[tuple[Tensor, Tensor]]:
            """The lines above backwards, where they have no graph."""
            if of_surrogate is None:
                return []
            grad_bar = grad_bar / self.samples
            weight_bar = (grad_bar * score).flatten(-latent.event_ndim).sum(-1)
            return of_surrogate(leave_one_out_mean(weight_bar) - weight_bar, latent.push_forward(grad_bar) * coupling)

        return rest, vjp
