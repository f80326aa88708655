"""Blocks of the Fisher matrix for the parameters of a Gaussian's standard deviation, which no layer has."""

from __future__ import annotations

from collections.abc import Sequence

import torch as th
from stable_baselines3.common.distributions import StateDependentNoiseDistribution

from sb3_relax.policy_gradient.update_rules.natural_gradient.block import Block


class LogStdBlock(Block):
    """log σ of each action, the same in all states: F = 2 · 1, and nothing in common with the mean.

    :param log_std: ``[D]``
    """

    def __init__(self, log_std: th.nn.Parameter):
        super().__init__([log_std])

    def statistics(self, gradient: th.Tensor | None) -> list[th.Tensor]:
        return []

    def solve(self, statistics: Sequence[th.Tensor], gradients: Sequence[th.Tensor], damping: float) -> list[th.Tensor]:
        return [gradients[0] / (2 + damping)]


class StateDependentNoiseBlock(Block):
    """gSDE's parameters L of the noise: σ_j² = Σ_i x_i² std(L_ij)², x the inputs of the mean's layer (Raffin 2022).

    Of log σ_j the Fisher information is 2, so that F = 2 E[r_j r_jᵀ] for each action j, with r_ij = ∂ log σ_j / ∂L_ij;
    between two actions it is zero. Without ``full_std`` all actions share L, and their blocks are summed. It is exact.

    :param log_std: L, ``[H, D]``, or ``[H, 1]`` without ``full_std``
    :param distribution: the policy's
    :param inputs: x, ``[N, H]``
    :param log_scale: log σ, ``[N, D]``
    """

    def __init__(
        self,
        log_std: th.nn.Parameter,
        distribution: StateDependentNoiseDistribution,
        inputs: th.Tensor,
        log_scale: th.Tensor,
    ):
        super().__init__([log_std])
        with th.enable_grad():
            leaf = log_std.detach().requires_grad_()
            std = distribution.get_std(leaf)
            (slope,) = th.autograd.grad(std.square().sum(), leaf)
        slope = slope * (leaf.shape[1] / std.shape[1])  # of one action, where all share L
        variance = (2 * log_scale.detach()).exp()
        self.r = inputs.square().unsqueeze(-1) * slope / (2 * variance).unsqueeze(1)  # [N, H, D]

    def statistics(self, gradient: th.Tensor | None) -> list[th.Tensor]:
        blocks = th.einsum("nid,nkd->dik", self.r, self.r) * (2 / len(self.r))
        return [blocks if self.weights[0].shape[1] == len(blocks) else blocks.sum(0, keepdim=True)]

    def solve(self, statistics: Sequence[th.Tensor], gradients: Sequence[th.Tensor], damping: float) -> list[th.Tensor]:
        (blocks,) = statistics
        damped = blocks + damping * th.eye(blocks.shape[-1], dtype=blocks.dtype, device=blocks.device)
        return [th.cholesky_solve(gradients[0].T.unsqueeze(-1), th.linalg.cholesky(damped)).squeeze(-1).T]
