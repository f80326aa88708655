"""Reparameterisation less the linear part of its noise (Miller et al. 2017)."""

from __future__ import annotations

import torch
from torch import Tensor

from sb3_relax.estimators.base import Estimator
from sb3_relax.estimators.estimate import Estimate
from sb3_relax.estimators.latents import Gaussian, Latent
from sb3_relax.estimators.objective import Objective, evaluate_with_slope, slope_and_curvature


class LinearisedReparam(Estimator):
    """Reparam's ĝ, less what it would be if f's slope were linear in the noise, whose mean is known (arXiv:1705.07774).

    With h(ε) = f(μ + σε), slopes u = ∂h/∂ε at ε and u₀ at 0, and H = ∂²h/∂ε² at 0::

        ĝ_μ = (u - Hε)/σ,     ĝ_log σ = (u - u₀ - Hε) ε + diag H

    A quadratic f has no noise at all. Two calls of f; besides, one backward pass through its slope for Hε, and D for
    diag H.

    When to use it: normals, and an f that is twice differentiable and nearly quadratic over the width of q, as late in
    training. When not: an f that bends within σ, where it can have more variance than :class:`Reparam`.

    :param diagonal: ``False`` leaves H out of log σ's gradient, ĝ_log σ = (u - u₀) ε, which takes no D passes

    Example::

        estimate = LinearisedReparam()(Gaussian(loc, log_scale), lambda b: b.square().sum(-1))
    """

    needs_grad_f = True
    relaxes_f = True
    pathwise = True
    latents = (Gaussian,)
    evaluations = 2

    def __init__(self, diagonal: bool = True):
        super().__init__()
        self.diagonal = diagonal

    def estimate(self, latent: Latent, f: Objective, b: Tensor | None, noise: Tensor | None) -> Estimate:
        assert b is not None
        assert isinstance(latent, Gaussian)
        fixed = latent.detach()
        score, scale = latent.score(b), fixed.wide_theta[..., 1].exp()
        epsilon = score[..., 0] * scale  # ∂ log p/∂μ is ε/σ
        name = type(self).__name__

        def of_noise(e: Tensor) -> Tensor:
            return f(fixed.at_noise(e))

        value, slope = evaluate_with_slope(of_noise, epsilon, latent.batch_shape, name)
        at_mean, curved = slope_and_curvature(of_noise, torch.zeros_like(epsilon), latent.batch_shape, name)
        along = curved(epsilon)
        if self.diagonal:
            axes = torch.eye(epsilon.shape[-1], dtype=epsilon.dtype, device=epsilon.device)
            diagonal = sum(curved(axis.expand_as(epsilon)) * axis for axis in axes)
            of_log_scale = (slope - at_mean - along) * epsilon + diagonal
        else:
            of_log_scale = (slope - at_mean) * epsilon
        grad = torch.stack([(slope - along) / scale, of_log_scale], dim=-1)
        return Estimate(latent, value, grad, score=score)
