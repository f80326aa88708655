"""ARM (Yin and Zhou 2019)."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from sb3_relax.estimators.base import Estimator
from sb3_relax.estimators.estimate import Estimate
from sb3_relax.estimators.latents import Latent, LogisticBernoulli
from sb3_relax.estimators.objective import Objective, evaluate
from sb3_relax.estimators.proofs.quadrature import piecewise_rule, product_rule


class ARM(Estimator):
    """ĝ = [f(1[u > 1-p]) - f(1[u < p])] (u - ½) per logit: augment, REINFORCE, merge.

    When to use it: to compare; DisARM integrates u given the two samples and is never worse. arXiv:1807.11143.

    Example::

        estimate = ARM()(LogisticBernoulli(logits), f)
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
        return Estimate(latent, value.mean(0), (first - second).unsqueeze(-1) * (noise - 0.5))


def antithetic_pair(latent: Latent, u: Tensor) -> Tensor:
    """1[u > 1-p] and 1[u < p], ``[2, *batch, D]``: each is a sample of ``latent``, made from one uniform."""
    theta = latent.wide_theta.detach()
    p = theta.sigmoid()
    # u > σ(-l), and not 1-p, which loses small probabilities
    return torch.stack([u > (-theta).sigmoid(), u < p]).to(p.dtype)


def antithetic_rule(latent: Latent, chunk: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Both samples jump at u = p and u = 1-p, between which ĝ is a polynomial of degree 1 in each u."""
    p = latent.wide_theta.detach().sigmoid()
    return product_rule([piecewise_rule(torch.stack([x, 1 - x]), nodes=1) for x in p], p.numel(), chunk)
