"""DisARM / U2G (Dong, Mnih and Tucker 2020; Yin et al. 2020)."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from sb3_relax.estimators.base import Estimator
from sb3_relax.estimators.estimate import Estimate
from sb3_relax.estimators.latents import Latent, LogisticBernoulli
from sb3_relax.estimators.methods.arm import antithetic_pair, antithetic_rule
from sb3_relax.estimators.objective import Objective, evaluate


class DisARM(Estimator):
    """ĝ = ½ [f(b) - f(b̃)] (-1)^b̃ 1[b ≠ b̃] σ(|l|) with antithetic b, b̃: ARM with its u integrated out.

    When to use it: two evaluations of a black box, binary latents, nothing to train. arXiv:2006.10680.

    Example::

        estimate = DisARM()(LogisticBernoulli(logits), f)
    """

    latents = (LogisticBernoulli,)
    samples = 0
    evaluations = 2

    def noise_shape(self, latent: Latent) -> tuple[int, ...]:
        return tuple(latent.theta.shape)

    def noise_rule(self, latent: Latent, nodes: int, chunk: int) -> Iterator[tuple[Tensor, Tensor]]:
        return antithetic_rule(latent, chunk)

    def estimate(self, latent: Latent, f: Objective, b: Tensor | None, noise: Tensor | None) -> Estimate:
        assert noise is not None
        pair = antithetic_pair(latent, noise)
        value = evaluate(f, pair, torch.Size([2, *latent.batch_shape]))
        first, second = value.detach()
        # (-1)^b̃ 1[b ≠ b̃] is b - b̃
        direction = (pair[0] - pair[1]) * latent.wide_theta.detach().abs().sigmoid()
        return Estimate(latent, value.mean(0), 0.5 * (first - second).unsqueeze(-1) * direction)
