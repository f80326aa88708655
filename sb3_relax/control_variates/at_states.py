"""A fitted q(s, a) at the states of a batch, as the core's estimators take it."""

from __future__ import annotations

from collections.abc import Callable

import torch as th

from sb3_relax.estimators import ConditionedLatent, Latent
from sb3_relax.estimators.surrogate import SurrogateVJP, ValueVJP

#: q of features ``[N, F]`` and flattened actions ``[..., N, A]`` → ``[..., N]``
ActionValue = Callable[[th.Tensor, th.Tensor], th.Tensor]


class QAtStates:
    """q at the states of a batch, as the core's c: of the relaxed action where there is a temperature.

    Whoever fits q does so elsewhere.

    :param q: fixed before the batch
    :param latent: of the batch
    :param features: of its states, ``[N, F]``
    :param temperature: τ of softmax(z/τ) and sigmoid(z/τ); ``None`` where actions enter as they are
    """

    trained_elsewhere = True

    def __init__(self, q: ActionValue, latent: Latent, features: th.Tensor, temperature: float | None = None):
        self.q, self.latent, self.features, self._given_temperature = q, latent, features, temperature

    @property
    def temperature(self) -> th.Tensor | float | None:
        """τ, as it is now."""
        return self._given_temperature

    def __call__(self, z: th.Tensor) -> th.Tensor:
        return self.q(self.features, self.flat(self.relaxed(z, self.temperature)))

    def relaxed(self, z: th.Tensor, temperature: th.Tensor | float | None) -> th.Tensor:
        """The action of z."""
        if temperature is None:
            return z
        assert isinstance(self.latent, ConditionedLatent)
        return self.latent.relax(z, temperature)

    def flat(self, action: th.Tensor) -> th.Tensor:
        """As q takes it."""
        return action.flatten(-self.latent.sample_ndim)


class FittedAtStates(QAtStates):
    """The same of a q that is fitted by regression, not by the variance of ĝ: what is given here has no graph to it."""

    def value_vjp(self, z: th.Tensor) -> tuple[th.Tensor, ValueVJP]:
        """c, and that it has nothing to learn from it."""
        with th.no_grad():
            return self(z), lambda value_bar: []

    def value_slope_vjp(self, z: th.Tensor) -> tuple[th.Tensor, th.Tensor, SurrogateVJP]:
        """c and ∂c/∂z, and that it has nothing to learn from them."""
        with th.enable_grad():
            z = z.detach().requires_grad_()
            value = self(z)
            (slope,) = th.autograd.grad(value.sum(), z)
        return value.detach(), slope, lambda value_bar, slope_bar: []
