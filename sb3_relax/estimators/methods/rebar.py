"""REBAR (Tucker et al. 2017): RELAX with c(z) = η f(σ_τ(z)), and a learned residual where wanted."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from sb3_relax.estimators.base import require_samples
from sb3_relax.estimators.baselines import BaselineEstimator, baseline_of
from sb3_relax.estimators.centred import CentredEstimator
from sb3_relax.estimators.estimate import Estimate
from sb3_relax.estimators.latents import GumbelOneHot, Latent, LogisticBernoulli, RelaxedLatent
from sb3_relax.estimators.methods.relax import condition, draw_relaxed, relax_estimate, relaxation_shape
from sb3_relax.estimators.objective import Objective, evaluate, evaluate_with_slope
from sb3_relax.estimators.surrogate import Surrogate, SurrogateVJP, value_slope_vjp
from sb3_relax.estimators.temperature import learned_temperature, require_temperature


class REBAR(BaselineEstimator, CentredEstimator):
    """RELAX with c(z) = η f(σ_τ(z)) + r_ρ(z): f itself, relaxed, is the control variate (Eq 8; arXiv:1703.07370).

    φ is η, log τ, ρ and ψ. Without ``residual`` it is REBAR; with one, what Grathwohl et al. call RELAX on the VAE.
    When to use it: f differentiable and defined between the corners, two evaluations (three with independent noise).

    :param temperature: τ at the start
    :param scale: η at the start
    :param residual: r_ρ, ``[..., *batch, *event]`` → ``[..., *batch]``
    :param baseline: C_ψ of the context, or, where none is given, of the detached θ, which then stands for the input:
        ``[*batch, ...]`` → ``[*batch]``; added to c, as Tucker et al. have it; ``None``: none
    :param coupled: as in :class:`RELAX`
    :param draws: as in :class:`RELAX`; here each costs an evaluation of f
    :param center: whether the mean of f over earlier batches is subtracted from f, in c as well. Not by default, since
        c has f's mean from its start
    :raises ValueError: for a temperature or number of draws that is not positive

    Example::

        estimate = REBAR()(LogisticBernoulli(logits), f)
        estimate = REBAR(residual=MLPSurrogate(D))(LogisticBernoulli(logits), f)
    """

    needs_grad_f = True
    relaxes_f = True
    latents = (LogisticBernoulli, GumbelOneHot)
    context_parts = ("residual", "baseline")
    evaluations = 2

    def __init__(
        self,
        temperature: float = 0.5,
        scale: float = 1.0,
        residual: Surrogate | None = None,
        baseline: nn.Module | None = None,
        coupled: bool = True,
        draws: int = 1,
        center: bool = False,
    ):
        super().__init__(center)
        self.log_temperature = nn.Parameter(torch.tensor(math.log(require_temperature(temperature))))
        self.scale = nn.Parameter(torch.tensor(float(scale)))
        self.residual = residual
        self.baseline = baseline
        self.coupled = coupled
        self.draws = require_samples(draws, least=1, what="draws")
        self.evaluations = 1 + draws * (1 if coupled else 2)

    @property
    def temperature_between_corners(self) -> Tensor:
        with torch.enable_grad():  # φ is trained under no_grad too
            return learned_temperature(self.log_temperature)

    def noise_shape(self, latent: Latent) -> tuple[int, ...]:
        """``[draws, *theta.shape]``, with a leading 2 (for z and z̃) where they are drawn independently."""
        return relaxation_shape(latent, self.coupled, self.draws)

    def draw_and_estimate(self, latent: Latent, f: Objective, generator: torch.Generator | None) -> Estimate:
        """As every estimator's; where one z serves for both, it is drawn first and b = H(z)."""
        if not self.coupled or self.draws > 1:
            return super().draw_and_estimate(latent, f, generator)
        b, z = draw_relaxed(latent, generator)
        return self._at(latent, f, b, z, z)

    def estimate(self, latent: Latent, f: Objective, b: Tensor | None, noise: Tensor | None) -> Estimate:
        assert b is not None
        assert noise is not None
        return self._at(latent, f, b, *condition(latent, b, noise, self.coupled))

    def _at(self, latent: Latent, f: Objective, b: Tensor, z: Tensor, z_tilde: Tensor) -> Estimate:
        assert isinstance(latent, RelaxedLatent)
        value = evaluate(f, b, latent.batch_shape)
        relaxed = RelaxedObjective(
            f, latent, self.temperature_between_corners, self.scale, self.mean_before(value.dtype)
        )

        def c_of(z: Tensor) -> tuple[Tensor, Tensor, SurrogateVJP | None]:
            c, slope = relaxed.value_and_slope(z)
            if self.baseline is not None:
                with torch.enable_grad():
                    c = c + baseline_of(self.baseline, latent)
            if self.residual is None:
                return c, slope, None
            r, r_slope, vjp = value_slope_vjp(self.residual, z, latent)
            return c + r, slope + r_slope, vjp

        phi = tuple(self.parameters())
        return relax_estimate(c_of, latent, b, value, self.centred(value), z, z_tilde, phi, self.learning(value))


class RelaxedObjective:
    """c(z) = η (f(σ_τ(z)) - m) for one f and latent, with its slope.

    :param mean: m
    """

    def __init__(
        self, f: Objective, latent: RelaxedLatent, temperature: Tensor, scale: Tensor, mean: Tensor | float = 0.0
    ):
        self.f = f
        self.latent = latent
        self.temperature = temperature
        self.scale = scale
        self.mean = mean

    def value_and_slope(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """c(z) and ∂c/∂z, the chain rule through the relaxation, all draws in one call of f."""
        relaxed = self.latent.relax(z, self.temperature)
        leading = relaxed.shape[: relaxed.dim() - self.latent.theta.dim()]
        # f sees one leading dimension of draws, and none where there is one draw
        shape = (
            self.latent.batch_shape if leading.numel() == 1 else torch.Size([leading.numel(), *self.latent.batch_shape])
        )
        batched = relaxed.reshape(shape + relaxed.shape[relaxed.dim() - self.latent.sample_ndim :])
        value, slope = evaluate_with_slope(self.f, batched, shape, "REBAR", create_graph=True)
        c = self.scale * (value - self.mean).reshape(leading + self.latent.batch_shape)
        slope = self.scale * self.latent.relax_gradient(relaxed, slope.reshape(relaxed.shape), self.temperature)
        return c, slope
