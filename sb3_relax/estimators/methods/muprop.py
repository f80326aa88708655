"""MuProp (Gu et al. 2016)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sb3_relax.estimators.baselines import BaselineEstimator, baseline_of
from sb3_relax.estimators.estimate import Estimate, expand_to
from sb3_relax.estimators.latents import GumbelOneHot, Latent, LogisticBernoulli, RelaxedLatent
from sb3_relax.estimators.objective import Objective, evaluate, evaluate_with_slope


class MuProp(BaselineEstimator):
    """ĝ = [f(b) - η₀ f(μ) - η₁ f'(μ)·(b - μ) - C_ψ] ∂θ log p(b|θ) + η₁ f'(μ)·∂θ μ, μ = E[b]: a Taylor control variate.

    φ is η₀ and η₁, which start at 1 (the expansion itself), and ψ, all trained on Eq 6. The paper fits C_ψ by squared
    error and leaves η at 1.
    When to use it: f nearly linear, two evaluations. When not: f(μ) says little about f at the corners, as where
    probabilities are near ½; REBAR and RELAX fit better. arXiv:1511.05176.

    :param baseline: C_ψ of the context, or, where none is given, of the detached θ, which then stands for the input:
        ``[*batch, ...]`` → ``[*batch]``;
        ``None``: none

    Example::

        estimate = MuProp()(LogisticBernoulli(logits), f)
    """

    needs_grad_f = True
    relaxes_f = True  # μ lies between the corners
    evaluations = 2
    latents = (LogisticBernoulli, GumbelOneHot)
    context_parts = ("baseline",)

    def __init__(self, baseline: nn.Module | None = None):
        super().__init__()
        self.value_scale = nn.Parameter(torch.ones(()))
        self.slope_scale = nn.Parameter(torch.ones(()))
        self.baseline = baseline

    def estimate(self, latent: Latent, f: Objective, b: Tensor | None, noise: Tensor | None) -> Estimate:
        assert b is not None
        assert isinstance(latent, RelaxedLatent)
        value = evaluate(f, b, latent.batch_shape)
        mean = latent.mean()
        at_mean, slope = evaluate_with_slope(f, mean, latent.batch_shape, "MuProp")
        score = latent.score(b)
        with torch.no_grad():
            along, of_mean = latent.inner(slope, b - mean), latent.mean_gradient(slope)
            weight = value.detach() - self.value_scale * at_mean.detach() - self.slope_scale * along
            of_slope = self.slope_scale * of_mean
        if self.baseline is not None:
            with torch.enable_grad():  # φ is trained under no_grad too
                weight = weight - baseline_of(self.baseline, latent)
        with torch.enable_grad():
            grad = expand_to(weight, latent) * score + of_slope

        def vjp(grad_bar: Tensor) -> list[tuple[Tensor, Tensor]]:
            """The lines above backwards, to both scales; the baseline has a graph."""
            weight_bar = (grad_bar * score).flatten(-latent.event_ndim).sum(-1)
            of_slope_scale = (grad_bar * of_mean).sum() - (weight_bar * along).sum()
            return [(self.value_scale, -(weight_bar * at_mean.detach()).sum()), (self.slope_scale, of_slope_scale)]

        return Estimate(latent, value, grad, score=score, phi=tuple(self.parameters()), phi_vjp=vjp)
