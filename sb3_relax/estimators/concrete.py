"""The Concrete / Gumbel-softmax estimator (Maddison et al. 2017; Jang et al. 2017)."""

from __future__ import annotations

from torch import Tensor

from sb3_relax.estimators.base import Estimate, Estimator
from sb3_relax.estimators.functions import Objective, evaluate_with_slope
from sb3_relax.estimators.latents import GumbelOneHot, Latent, LogisticBernoulli, RelaxedLatent
from sb3_relax.estimators.surrogates import require_temperature


class Concrete(Estimator):
    """ĝ = ∂θ f(σ_τ(z)), z ~ p(z|θ): the reparameterisation gradient of a relaxed problem.

    Biased: it is the gradient of E[f(σ_τ(z))], not of E[f(b)]; the bias vanishes as τ → 0, where the variance grows.
    When to use it: a differentiable f, one evaluation, and bias that does not matter. ``value`` is f(σ_τ(z)).

    :param temperature: τ
    :raises ValueError: for a temperature that is not positive

    Example::

        estimate = Concrete(temperature=0.5)(LogisticBernoulli(logits), f)
    """

    unbiased = False
    needs_grad_f = True
    relaxes_f = True
    latents = (LogisticBernoulli, GumbelOneHot)
    samples = 0

    def __init__(self, temperature: float = 0.5):
        super().__init__()
        self.temperature = require_temperature(temperature)

    @property
    def temperature_between_corners(self) -> float:
        return self.temperature

    def noise_shape(self, latent: Latent) -> tuple[int, ...]:
        return tuple(latent.theta.shape)

    def estimate(self, latent: Latent, f: Objective, b: Tensor | None, noise: Tensor | None) -> Estimate:
        assert noise is not None
        assert isinstance(latent, RelaxedLatent)
        z = latent.natural().detach() + latent.base_noise(noise)
        relaxed = latent.relax(z, self.temperature)
        value, slope = evaluate_with_slope(f, relaxed, latent.batch_shape, "Concrete")
        return Estimate(latent, value, latent.pull_back(latent.relax_gradient(relaxed, slope, self.temperature)))
