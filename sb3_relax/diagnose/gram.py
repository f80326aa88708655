"""Inner products of gradients at the policy's weights, without holding the gradients."""

from __future__ import annotations

from collections.abc import Sequence

import torch as th
from torch import Tensor

from sb3_relax.estimators import Gaussian, GumbelOneHot, Latent, LogisticBernoulli

#: Most rows of the Gram matrix (states × parameters of the action distribution): 1.6 GB of it.
MAX_ROWS = 14_000
#: Numbers held in one block of Jacobian rows.
BLOCK = 2**26


def jacobian_gram(theta: Tensor, weights: Sequence[Tensor]) -> Tensor:
    """K = J Jᵀ with J = ∂θ/∂w, of all states: a gradient ĝ at θ is Jᵀĝ at the weights, and ⟨Jᵀx, Jᵀy⟩ = xᵀ K y.

    :param theta: the action distribution's parameters, ``[S, *event]``, attached to ``weights``
    :param weights: those that θ depends on
    :return: ``[S, d, S, d]`` in float64, d the size of an event
    :raises ValueError: where that is too large
    """
    states, rows = theta.shape[0], theta.numel()
    if rows > MAX_ROWS:
        raise ValueError(
            f"{states} states of {rows // states} distribution parameters make {rows} rows, more than {MAX_ROWS}: "
            f"use at most {MAX_ROWS * states // rows} states"
        )
    flat = theta.flatten()
    size = max(1, BLOCK // sum(w.numel() for w in weights))
    blocks = [range(start, min(start + size, rows)) for start in range(0, rows, size)]
    gram = th.empty(rows, rows, dtype=th.float64, device=theta.device)

    def jacobian(block: range) -> Tensor:
        of_rows = (th.autograd.grad(flat[i], weights, retain_graph=True, materialize_grads=True) for i in block)
        return th.stack([th.cat([g.flatten() for g in row]) for row in of_rows]).double()

    for i, block in enumerate(blocks):
        own = jacobian(block)
        for other in blocks[i:]:
            product = own @ (own if other is block else jacobian(other)).T
            gram[block.start : block.stop, other.start : other.stop] = product
            gram[other.start : other.stop, block.start : block.stop] = product.T
    return gram.reshape(states, rows // states, states, rows // states).cpu()


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
