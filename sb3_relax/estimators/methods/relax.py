"""RELAX (Eq 8; Grathwohl et al. 2018), with independent noise or coupled in closed form."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from sb3_relax.estimators.base import require_samples
from sb3_relax.estimators.estimate import Estimate, expand_to
from sb3_relax.estimators.latents import (
    ConditionedJoint,
    ConditionedLatent,
    GumbelOneHot,
    Latent,
    LogisticBernoulli,
)
from sb3_relax.estimators.objective import Objective, evaluate
from sb3_relax.estimators.surrogate import Surrogate, SurrogateVJP, value_slope_vjp
from sb3_relax.estimators.surrogate_estimator import SurrogateEstimator


class RELAX(SurrogateEstimator):
    """ĝ = [f(b) - c_φ(z̃)] ∂θ log p(b|θ) + ∂θ c_φ(z) - ∂θ c_φ(z̃), with b = H(z) and z̃ ~ p(z|b,θ) (Eq 8).

    The path of θ through z̃ is part of the estimator. In the coordinates where z = natural + noise, ∂z̃/∂natural is a
    known diagonal 1 - D(b, z̃) (``ConditionedLatent.coupling``), so nothing is differentiated through the sampler.

    ``coupled=False`` draws z and z̃ independently given b. ``coupled=True`` uses one draw as the value of both: both
    keep their marginals, and only their θ-derivatives differ::

        ĝ = [f(b) - c(z)] ∂θ log p(b|θ) + D · ∂c/∂z

    so c is evaluated once. Any direct dependence of c on θ is held fixed, in both.

    In the continuous parts of a :class:`ConditionedJoint` it is LAX, with the same c: there z is b itself, and D = 1.

    When to use it: one evaluation of a black box, and a surrogate that can be trained as the problem moves slowly. When
    not: f may be called K times (RLOO), or is differentiable and cheap (REBAR, DoubleCV).

    :param surrogate: c_φ of the relaxed sample, ``[..., *batch, *event]`` → ``[..., *batch]``. Its parameters are φ: a
        module, or a function without parameters
    :param coupled: whether z̃ shares z's value
    :param draws: relaxed draws per sample; ĝ is their average, which costs no evaluation of f
    :param center: whether the mean of f over earlier batches is subtracted from f, so that c need not learn it first
    :raises ValueError: for ``draws`` below 1

    Example::

        estimate = RELAX(MLPSurrogate(D))(LogisticBernoulli(logits), f)
    """

    latents = (LogisticBernoulli, GumbelOneHot, ConditionedJoint)

    def __init__(self, surrogate: Surrogate, coupled: bool = True, draws: int = 1, center: bool = True):
        super().__init__(surrogate, center)
        self.coupled = coupled
        self.draws = require_samples(draws, least=1, what="draws")

    def noise_shape(self, latent: Latent) -> tuple[int, ...]:
        """``[draws, *latent.noise_shape]``, with a leading 2 (for z and z̃) where they are drawn independently."""
        return relaxation_shape(latent, self.coupled, self.draws)

    def draw_and_estimate(self, latent: Latent, f: Objective, generator: torch.Generator | None) -> Estimate:
        """As every estimator's; where one z serves for both, it is drawn first and b = H(z)."""
        if not self.coupled or self.draws > 1:
            return super().draw_and_estimate(latent, f, generator)
        b, z = draw_relaxed(latent, generator)
        return self._at(latent, b, evaluate(f, b, latent.batch_shape), z, z)

    def of_value(self, latent: Latent, b: Tensor, value: Tensor, noise: Tensor | None) -> Estimate:
        assert noise is not None
        return self._at(latent, b, value, *condition(latent, b, noise, self.coupled))

    def _at(self, latent: Latent, b: Tensor, value: Tensor, z: Tensor, z_tilde: Tensor) -> Estimate:
        c = partial(value_slope_vjp, self.surrogate, latent=latent)
        phi = tuple(self.parameters())
        return relax_estimate(c, latent, b, value, self.centred(value), z, z_tilde, phi, self.learning(value))


def relaxation_shape(latent: Latent, coupled: bool, draws: int) -> tuple[int, ...]:
    """Shape of the uniforms behind z (and z̃)."""
    shape = (draws, *latent.noise_shape)
    return shape if coupled else (2, *shape)


def draw_relaxed(latent: Latent, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
    """z ~ p(z|θ) and b = H(z): ``(b, z)``."""
    assert isinstance(latent, ConditionedLatent)
    z = latent.sample_relaxed(generator)
    return latent.hard(z), z


def condition(latent: Latent, b: Tensor, noise: Tensor, coupled: bool) -> tuple[Tensor, Tensor]:
    """z and z̃ given b, ``[draws, *b.shape]``: one tensor for both where they are coupled (``b.shape`` for one draw)."""
    assert isinstance(latent, ConditionedLatent)
    if coupled and len(noise) == 1:
        noise = noise[0]  # every operation on what has a dimension more takes a few views more
    with torch.no_grad():
        z = latent.conditional(b, noise)
    return (z, z) if coupled else (z[0], z[1])


def relax_estimate(
    c_of: Callable[[Tensor], tuple[Tensor, Tensor, SurrogateVJP | None]],
    latent: Latent,
    b: Tensor,
    value: Tensor,
    signal: Tensor,
    z: Tensor,
    z_tilde: Tensor,
    phi: tuple[Tensor, ...],
    learn: Callable[[], None] | None,
) -> Estimate:
    """Eq 8 for a given c, b, f(b), z and z̃, averaged over a leading dimension of draws where there is one.

    :param c_of: c, its slope, and their backward pass, as :func:`value_slope_vjp`
    :param value: f(b)
    :param signal: what stands for f(b) in Eq 8, detached: f(b), or f(b) less what was known before b was drawn
    :param learn: as :class:`Estimate`'s
    """
    assert isinstance(latent, ConditionedLatent)
    coupled = z_tilde is z
    with torch.no_grad():
        coupling = latent.coupling(b, z_tilde)
    with torch.enable_grad():
        if coupled:
            c, slope, vjp = c_of(z)
            slope = slope * coupling
        else:
            both, slopes, vjp = c_of(torch.stack([z, z_tilde]))
            c, slope = both[1], slopes[0] - (1 - coupling) * slopes[1]
        score = latent.score(b)
        grad = torch.addcmul(latent.path_gradient(b, slope), expand_to(signal - c, latent), score)
        draws = grad.shape[: grad.dim() - latent.theta.dim()].numel()
        if grad.dim() > latent.theta.dim():
            grad = grad[0] if draws == 1 else grad.mean(0)

    def phi_vjp(grad_bar: Tensor) -> list[tuple[Tensor, Tensor]]:
        """The lines above backwards."""
        assert vjp is not None
        leading = z.shape[: z.dim() - latent.sample_ndim - len(latent.batch_shape)]
        each = (grad_bar if draws == 1 else grad_bar / draws).expand(*leading, *latent.theta.shape)
        value_bar = -(each * score).flatten(-latent.event_ndim).sum(-1)
        slope_bar = latent.path_change(b, each)
        if coupled:
            return vjp(value_bar, slope_bar * coupling)
        return vjp(
            torch.stack([torch.zeros_like(value_bar), value_bar]),
            torch.stack([slope_bar, (coupling - 1) * slope_bar]),
        )

    return Estimate(latent, value, grad, score=score, phi=phi, phi_vjp=None if vjp is None else phi_vjp, learn=learn)
