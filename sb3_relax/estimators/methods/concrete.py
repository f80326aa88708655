"""The Concrete / Gumbel-softmax estimator (Maddison et al. 2017; Jang et al. 2017)."""

from __future__ import annotations

from torch import Tensor

from sb3_relax.estimators.base import Estimator
from sb3_relax.estimators.estimate import Estimate
from sb3_relax.estimators.latents import GumbelOneHot, Latent, LogisticBernoulli, RelaxedLatent
from sb3_relax.estimators.objective import Objective, evaluate, evaluate_with_slope
from sb3_relax.estimators.temperature import require_temperature


class Concrete(Estimator):
    """ĝ = ∂θ f(σ_τ(z)), z ~ p(z|θ): the reparameterisation gradient of a relaxed problem.

    Biased: it is the gradient of E[f(σ_τ(z))], not of E[f(b)]; the bias vanishes as τ → 0, where the variance grows.
    When to use it: a differentiable f, one evaluation, and bias that does not matter. ``value`` is f(σ_τ(z)), so that
    f's own parameters learn on relaxed samples; where every layer of :func:`layered` has one, all are relaxed at once.

    :param temperature: τ
    :param hard_value: ``value`` is f(H(z)) instead, for one evaluation more: f's own parameters, and its direct
        dependence on θ, then learn on samples as they are
    :raises ValueError: for a temperature that is not positive

    Example::

        estimate = Concrete(temperature=0.5)(LogisticBernoulli(logits), f)
    """

    unbiased = False
    needs_grad_f = True
    relaxes_f = True
    latents = (LogisticBernoulli, GumbelOneHot)
    samples = 0

    def __init__(self, temperature: float = 0.5, hard_value: bool = False):
        super().__init__()
        self.temperature = require_temperature(temperature)
        self.hard_value = hard_value
        self.evaluations = 2 if hard_value else 1

    @property
    def temperature_between_corners(self) -> float:
        return self.temperature

    def noise_shape(self, latent: Latent) -> tuple[int, ...]:
        return tuple(latent.theta.shape)

    def relaxed(self, latent: Latent, noise: Tensor) -> Tensor:
        """σ_τ(z), a smooth function of θ."""
        assert isinstance(latent, RelaxedLatent)
        return latent.relax(latent.natural() + latent.base_noise(noise), self.temperature)

    def estimate(self, latent: Latent, f: Objective, b: Tensor | None, noise: Tensor | None) -> Estimate:
        assert noise is not None
        assert isinstance(latent, RelaxedLatent)
        z = latent.natural().detach() + latent.base_noise(noise)
        relaxed = latent.relax(z, self.temperature)
        value, slope = evaluate_with_slope(f, relaxed, latent.batch_shape, "Concrete")
        if self.hard_value:
            value = evaluate(f, latent.hard(z), latent.batch_shape)
        return Estimate(latent, value, latent.pull_back(latent.relax_gradient(relaxed, slope, self.temperature)))
