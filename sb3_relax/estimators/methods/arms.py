"""ARMS: several mutually antithetic samples of bits (Dimitriev and Zhou 2021)."""

from __future__ import annotations

import torch
from torch import Tensor

from sb3_relax.estimators.antithetic_bits import antithetic_bits, inverse_correlation, pattern_probability
from sb3_relax.estimators.base import TwoPhaseEstimator, leave_one_out_mean
from sb3_relax.estimators.estimate import Estimate, expand_to
from sb3_relax.estimators.latents import Latent, LogisticBernoulli
from sb3_relax.estimators.several_samples import OfSeveralSamples


class ARMS(OfSeveralSamples, TwoPhaseEstimator):
    """ĝ_i = 1/K Σ_k [f(b_k) - mean_{j≠k} f(b_j)] (b_ki - p_i) / (1 - ρ_i), of K samples whose bits exclude each other.

    Every bit is drawn K times from a Dirichlet copula, independently of the other bits. ρ_i < 0 is the correlation of
    two of its draws: the leave-one-out baseline knows something of b_k, and the divisor makes up for it. With K = 2 it
    is :class:`DisARM`, with independent draws, ρ = 0, it is :class:`RLOO`. arXiv:2105.14141.

    When to use it: K evaluations of a black box, bits, nothing to train. The rarer value of a bit is hardly ever drawn
    twice, so that K samples see more than K independent ones.

    :param samples: K, at least 2
    :raises ValueError: for fewer

    Example::

        estimate = ARMS(samples=4)(LogisticBernoulli(logits), f)  # f: [4, *batch, D] → [4, *batch]
    """

    latents = (LogisticBernoulli,)

    def draw(self, latent: Latent, generator: torch.Generator | None = None) -> Tensor:
        return antithetic_bits(latent.mean(), self.samples, generator)

    def probability_of_draws(self, latent: Latent, b: Tensor) -> Tensor:
        ones = b.sum(0)
        return pattern_probability(latent.mean(), ones, torch.full_like(ones, self.samples), self.samples).prod(-1)

    def of_value(self, latent: Latent, b: Tensor, value: Tensor, noise: Tensor | None) -> Estimate:
        weight = (value.detach() - leave_one_out_mean(value.detach())) / self.samples
        grad = (expand_to(weight, latent) * latent.score(b)).sum(0) * inverse_correlation(latent.mean(), self.samples)
        return Estimate(latent, value.mean(0), grad)
