"""The trajectory-wise control variate whose ã is fitted by the variance that it leaves."""

from __future__ import annotations

from functools import partial

import torch as th

from sb3_relax.control_variates.trajectory import Corrected, Trajectory, continuation, descend_of
from sb3_relax.policy_gradient.rollout import Rollout, by_environment


class TrajectoryByVariance(Trajectory):
    """:class:`Trajectory` whose ã is fitted by the variance that it leaves: E[(Â_t - Σ_{l≥0} (γλ)^l ã_{t+l})²].

    Â_t is that of A2C, before it was corrected. The objective is that of direct advantage estimation (Pan et al. 2022,
    https://arxiv.org/abs/2109.06093), which goes on to use ã in the advantage's place, and is biased by that. Here ã is
    subtracted and nothing else.

    A regression on Â_t, as of :class:`Trajectory`, fits each step's ã to all the noise of the steps that follow. Here
    their own ã explain a part of it.
    """

    def prepare(self, rollout: Rollout, generator: th.Generator) -> None:
        self.goes_on = by_environment(continuation(rollout)).astype(rollout.values.dtype)
        super().prepare(rollout, generator)

    def learn(self, done: Corrected, generator: th.Generator) -> dict[str, float]:
        """Of recent steps in their order."""
        self.scale.observe(done.plain)
        self.centred.observe(*done.known)
        if all(bool(part.isfinite().all()) for part in (*done.known, done.plain)):
            self.recent.add(*done.known, done.plain, th.as_tensor(self.goes_on).to(done.plain))
        return self.descend(generator)

    def descend(self, generator: th.Generator) -> dict[str, float]:
        return descend_of(self, partial(self.recent.draw_in_order, -1, generator))

    def loss(self, *rows: th.Tensor) -> th.Tensor:
        *known, target, goes_on = rows
        return (sums_in_order(self.centred(*known), goes_on) - target / self.unit).square().mean()


def sums_in_order(x: th.Tensor, goes_on: th.Tensor) -> th.Tensor:
    """Σ_{l≥0} (Π_{j<l} c_{t+j}) x_{t+l} for every t, differentiable in x, in log N operations.

    :param x: ``[N]``
    :param goes_on: c, ``[N]``
    """
    shift = 1
    while shift < len(x):
        x = x + goes_on * _later(x, shift)
        goes_on = goes_on * _later(goes_on, shift)
        shift *= 2
    return x


def _later(x: th.Tensor, shift: int) -> th.Tensor:
    return th.cat([x[shift:], x.new_zeros(shift)])
