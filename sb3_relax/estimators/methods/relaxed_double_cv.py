"""Double control variates with RELAX's learned surrogate on what they leave."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from sb3_relax.estimators.base import leave_one_out_mean
from sb3_relax.estimators.estimate import Estimate, expand_to
from sb3_relax.estimators.functions import Objective, Surrogate, evaluate_with_slope, value_and_slope
from sb3_relax.estimators.latents import Latent, RelaxedLatent
from sb3_relax.estimators.methods.double_cv import DoubleCV
from sb3_relax.estimators.surrogate_estimator import surrogate_for


class RelaxedDoubleCV(DoubleCV):
    """ĝ = mean_k {(r_k - mean_{j≠k} r_j) ∂θ log p(b_k|θ) + D · ∂c(z_k)/∂z} - α ḡ·∂θ μ, r_k = h_k - c_φ(z_k).

    h_k, α and ḡ are :class:`DoubleCV`'s, z_k ~ p(z|b_k, θ) and D are coupled :class:`RELAX`'s. The linear part of f is
    known from its slopes, the baseline from the other samples, and c learns the rest: each part's mean is zero whatever
    the others are, so they add up. New here; it starts as DoubleCV (c = 0).
    When to use it: as DoubleCV, and θ moves slowly enough for c to follow.

    :param surrogate: c_φ of the relaxed sample, ``[..., *batch, *event]`` → ``[..., *batch]``
    :param samples: K, at least 2
    :param scale: α at the start
    :raises ValueError: for fewer samples

    Example::

        estimate = RelaxedDoubleCV(MLPSurrogate(D))(LogisticBernoulli(logits), f)
    """

    context_parts = ("surrogate",)

    def __init__(self, surrogate: Surrogate, samples: int = 2, scale: float = -1.0):
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

    def estimate(self, latent: Latent, f: Objective, b: Tensor | None, noise: Tensor | None) -> Estimate:
        assert b is not None
        assert noise is not None
        assert isinstance(latent, RelaxedLatent)
        shape = torch.Size([self.samples, *latent.batch_shape])
        value, slope = evaluate_with_slope(f, b, shape, "RelaxedDoubleCV")
        linear = latent.inner(leave_one_out_mean(slope), b - latent.mean())
        with torch.no_grad():
            z = latent.conditional(b, noise)
            coupling = latent.coupling(b, z)
        with torch.enable_grad():
            c, c_slope = value_and_slope(self.surrogate, z, latent)
            rest = value.detach() + self.scale * linear - c
            weight = rest - leave_one_out_mean(rest)
            grad = expand_to(weight, latent) * latent.score(b) + latent.pull_back(c_slope * coupling)
            grad = grad.mean(0) - self.scale * latent.mean_gradient(slope.mean(0))
        return Estimate(latent, value.mean(0), grad, phi=tuple(self.parameters()))
