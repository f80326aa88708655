"""Straight-through Gumbel-softmax with its noise averaged out (Jang et al. 2017; Paulus et al. 2021)."""

from __future__ import annotations

from torch import Tensor

from sb3_relax.estimators.base import Estimator, require_samples
from sb3_relax.estimators.estimate import Estimate
from sb3_relax.estimators.latents import GumbelOneHot, Latent, LogisticBernoulli, RelaxedLatent
from sb3_relax.estimators.objective import Objective, evaluate_with_slope
from sb3_relax.estimators.temperature import require_temperature


class GumbelRao(Estimator):
    """ĝ = ∂f/∂b · mean_k ∂θ σ_τ(z_k), z_k ~ p(z|b,θ) with its noise z_k - θ held: forward b, backward the relaxation.

    ``draws=1`` is the straight-through Gumbel-softmax; more have the same mean and less variance, for one evaluation
    of f. Biased: as τ → 0 its mean goes to the trapezoid rule for f along each edge, which is right for quadratics.

    :param temperature: τ
    :param draws: K of the average
    :raises ValueError: for a temperature or number of draws that is not positive

    Example::

        estimate = GumbelRao(temperature=0.5, draws=10)(GumbelOneHot(logits), f)
    """

    unbiased = False
    needs_grad_f = True
    latents = (LogisticBernoulli, GumbelOneHot)

    def __init__(self, temperature: float = 0.5, draws: int = 10):
        super().__init__()
        self.temperature = require_temperature(temperature)
        self.draws = require_samples(draws, least=1, what="draws")

    def noise_shape(self, latent: Latent) -> tuple[int, ...]:
        return (self.draws, *latent.theta.shape)

    def estimate(self, latent: Latent, f: Objective, b: Tensor | None, noise: Tensor | None) -> Estimate:
        assert b is not None
        assert noise is not None
        assert isinstance(latent, RelaxedLatent)
        value, slope = evaluate_with_slope(f, b, latent.batch_shape, "GumbelRao")
        relaxed = latent.relax(latent.detach().conditional(b, noise), self.temperature)
        grad = latent.pull_back(latent.relax_gradient(relaxed, slope.expand_as(relaxed), self.temperature)).mean(0)
        return Estimate(latent, value, grad, score=latent.score(b))
