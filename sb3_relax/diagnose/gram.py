"""From the distribution's parameters to the policy's weights: Jacobians, state by state."""

from __future__ import annotations

from operator import itemgetter
from typing import Any, NamedTuple

import numpy as np
import torch as th
from torch import Tensor

from sb3_relax.algorithm.a2c import ControlVariateA2C
from sb3_relax.diagnose.jackknife import Jackknifed, mean_over_pairs
from sb3_relax.estimators import Gaussian, GumbelOneHot, Latent, LogisticBernoulli
from sb3_relax.policy_gradient.observations import of_parts


class AtWeights(NamedTuple):
    """What inner products at the policy's weights need.

    :param gram: J Jᵀ with J = ∂θ/∂w of each state, ``[S, d, d]`` in float64: ⟨Jᵀx, Jᵀy⟩ = xᵀ J Jᵀ y
    :param square_of_mean: ‖E[Jᵀ x]‖² for each of the L fields x
    """

    gram: Tensor
    square_of_mean: list[Jackknifed]


def at_weights(
    model: ControlVariateA2C, observations: Any, actions: Tensor, fields: Tensor, groups: np.ndarray
) -> AtWeights:
    """One pass over the states, holding one Jacobian at a time.

    :param observations: S of them, as tensors (a dict of such for MultiInput)
    :param actions: any of each state, ``[S, ...]``: the policy is evaluated with them, but θ does not depend on them
    :param fields: x, ``[L, S, d]``
    :param groups: ``[S]``; states of different groups are independent
    """
    n_groups = int(groups.max()) + 1
    gram = th.empty(fields.shape[1], fields.shape[2], fields.shape[2], dtype=th.float64)
    sums: Tensor | None = None  # of Jᵀx in every group
    for s, group in enumerate(groups):
        observation = of_parts(itemgetter(slice(s, s + 1)), observations)
        theta = model.view.evaluate(observation, actions[s : s + 1]).latent.theta.flatten()
        weights = model.view.actor_weights
        rows = [th.autograd.grad(each, weights, retain_graph=True, materialize_grads=True) for each in theta]
        jacobian = th.stack([th.cat([part.flatten() for part in row]) for row in rows])
        gram[s] = (jacobian.double() @ jacobian.double().T).cpu()
        if sums is None:
            sums = jacobian.new_zeros(len(fields), n_groups, jacobian.shape[1])
        sums[:, group] += fields[:, s].to(jacobian) @ jacobian
    assert sums is not None
    counts = np.bincount(groups)
    return AtWeights(gram, [mean_over_pairs(of_groups, counts) for of_groups in sums])


def fisher(latent: Latent) -> Tensor:
    """E[∂θ log p ∂θ log pᵀ] in closed form, ``[S, d, d]`` in float64.

    :raises TypeError: for a latent other than SB3's action distributions make
    """
    if isinstance(latent, Gaussian):
        log_scale = latent.theta.detach().double()[..., 1]
        diagonal = th.stack([(-2 * log_scale).exp(), th.full_like(log_scale, 2.0)], dim=-1).flatten(1)
        return th.diag_embed(diagonal)
    if isinstance(latent, LogisticBernoulli):
        p = latent.probabilities.double()
        return th.diag_embed(p * (1 - p))
    if isinstance(latent, GumbelOneHot):
        p = latent.probabilities.double()
        variables = th.diag_embed(p) - p.unsqueeze(-1) * p.unsqueeze(-2)  # [S, D, K, K]
        return th.stack([th.block_diag(*of_state) for of_state in variables])
    raise TypeError(f"no Fisher information is known for {type(latent).__name__}")
