"""The variance of one step's policy gradient, by the law of total variance."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch as th
from torch import Tensor

from sb3_relax.diagnose.jackknife import Jackknifed, mean


class Split(NamedTuple):
    """Σ_i Var(ĝ_i) at the policy's weights, over one step of the policy's visitation, in four parts.

    ``future`` is E Var(ĝ | s, a), from what follows the action; ``noise`` the same from the relaxation; ``action`` is
    E Var(E[ĝ | s, a] | s); ``state`` is Var E[ĝ | s]. Tucker et al. 2018 (1802.10031), section 3: Σ_τ, Σ_a, Σ_s.
    """

    future: Jackknifed
    noise: Jackknifed
    action: Jackknifed
    state: Jackknifed

    @property
    def total(self) -> Jackknifed:
        """Their sum: the variance itself."""
        return self.future + self.noise + self.action + self.state


class Terms(NamedTuple):
    """Per-step gradients ĝ = Â ∂θ log π(a|s) + h(a, s, u) at the distribution's parameters (d numbers), and what
    carries their inner products to the policy's weights.

    :param advantages: ``[S, A, C]``: states, actions of each, futures of each of those
    :param score: ∂θ log π(a|s), ``[S, A, d]``
    :param correction: h, ``[S, A, U, d]`` for U draws of the relaxation's noise; independent of the future given s, a
    :param gram: J Jᵀ with J = ∂θ/∂w, ``[S, d, d]``
    :param square_of_mean: ‖E ĝ‖² at the weights
    :param groups: ``[S]``; states of different groups (episodes) are independent
    """

    advantages: Tensor
    score: Tensor
    correction: Tensor
    gram: Tensor
    square_of_mean: Jackknifed
    groups: np.ndarray


def _square(x: Tensor, gram: Tensor) -> Tensor:
    """‖Jᵀx‖² for ``x [S, ..., d]`` and ``gram [S, d, d]``."""
    return th.einsum("s...i,sij,s...j->s...", x, gram, x)


def split(terms: Terms) -> Split:
    """Unbiased estimates of the four parts (nested analysis of variance), with a jackknife over groups of states.

    Each level's sample variance holds the levels below it divided by their number of samples, which is taken off. The
    squares of expectations are means over pairs of independent samples: ‖E[ĝ | s]‖² of different actions at a state,
    ‖E ĝ‖² of states of different groups (given: it is the same for all unbiased estimators).

    :raises ValueError: for fewer than two states, actions, futures or groups
    """
    n_states, n_actions, n_futures = terms.advantages.shape
    n_draws = terms.correction.shape[2]
    if min(n_states, n_actions, n_futures, int(terms.groups.max()) + 1) < 2:
        raise ValueError("at least two states (of different episodes), two actions and two futures are needed")
    gram = terms.gram
    future = terms.advantages.var(2) * _square(terms.score, gram)  # [S, A]
    spread = terms.correction - terms.correction.mean(2, keepdim=True)
    noise = _square(spread, gram).sum(2) / max(n_draws - 1, 1)

    # E[ĝ | s, a], still with what C futures and U draws leave of their noise
    of_action = terms.advantages.mean(2).unsqueeze(-1) * terms.score + terms.correction.mean(2)
    of_state = of_action.mean(1)
    between = _square(of_action - of_state.unsqueeze(1), gram).sum(1) / (n_actions - 1)
    action = between - future.mean(1) / n_futures - noise.mean(1) / n_draws
    square_of_state = _square(of_state, gram) - between / n_actions  # pairs of different actions

    def average(of_states: Tensor) -> Jackknifed:
        return mean(of_states.numpy(), terms.groups)

    return Split(
        average(future.mean(1)),
        average(noise.mean(1)),
        average(action),
        average(square_of_state) - terms.square_of_mean,
    )


def removed_by_optimal_baseline(terms: Terms, fisher: Tensor) -> Jackknifed:
    """What the best baseline b(s) would take off ``action``: E[(E[‖k‖² Â | s])² / E[‖k‖² | s]], k = Jᵀ ∂θ log π.

    The state includes the steps left in the rollout: b(s, steps left). It minimises E‖(Â - b) k‖² state by state
    (Greensmith et al. 2004). No fitted baseline can do better, and none is fitted here: the square is a mean over pairs
    of different actions.

    :param fisher: E[∂θ log π ∂θ log πᵀ], ``[S, d, d]``, which with the Gram matrix gives E‖k‖²
    """
    gram = terms.gram
    n_actions = terms.advantages.shape[1]
    x = terms.advantages.mean(2) * _square(terms.score, gram)
    pairs = (x.sum(1).square() - x.square().sum(1)) / (n_actions * (n_actions - 1))
    size = th.einsum("sij,sji->s", fisher, gram)
    # a state whose policy cannot be moved has no variance to remove
    return mean(th.where(size > 0, pairs / size, 0.0).numpy(), terms.groups)
