"""Mirrored samples of normals: evolution strategies and variational optimisation (Salimans et al. 2017)."""

from __future__ import annotations

import torch
from torch import Tensor

from sb3_relax.estimators.centred import CentredEstimator
from sb3_relax.estimators.estimate import Estimate, expand_to
from sb3_relax.estimators.latents import Gaussian, Latent
from sb3_relax.estimators.objective import Objective, evaluate


class Mirrored(CentredEstimator):
    """ĝ_μ = ½ [f(μ + σε) - f(μ - σε)] ε/σ,   ĝ_log σ = {½ [f(μ + σε) + f(μ - σε)] - m} (ε² - 1).

    REINFORCE of two samples whose noise is each other's mirror image. What of f is even about μ drops out of μ's
    gradient, so that it needs no baseline; σ's has m, the mean of f over earlier batches.

    When to use it: continuous b, a black box that may be called twice, and nothing to train. :func:`perturb` does the
    same to the weights of a network, at one fixed σ. arXiv:1703.03864; variational optimisation: arXiv:1212.4507.

    :param center: whether m is subtracted

    Example::

        estimate = Mirrored()(Gaussian(loc, log_scale), f)  # f: [2, *batch, D] → [2, *batch]
    """

    latents = (Gaussian,)
    evaluations = 2

    def __init__(self, center: bool = True):
        super().__init__(center)

    def estimate(self, latent: Latent, f: Objective, b: Tensor | None, noise: Tensor | None) -> Estimate:
        assert b is not None
        assert isinstance(latent, Gaussian)
        with torch.no_grad():
            scale = latent.wide_theta[..., 1].exp()
            image = latent.at_noise(-latent.score(b)[..., 0] * scale)  # ∂ log p/∂μ is ε/σ
        value = evaluate(f, torch.stack([b, image]), torch.Size([2, *latent.batch_shape]))
        of_both = expand_to(self.centred(value), latent) * torch.stack([latent.score(b), latent.score(image)])
        mean = value.mean(0)
        return Estimate(latent, mean, of_both.mean(0), learn=self.learning(mean))
