"""Control variates of later actions: fitted on rollouts in time order, and read along continuations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch as th

from sb3_relax.algorithm.a2c import ControlVariateA2C
from sb3_relax.control_variates import Guarded, Trajectory
from sb3_relax.control_variates.trajectory import Luck, in_advantages, luck_in
from sb3_relax.diagnose.rollout_gradients import RolloutSteps
from sb3_relax.diagnose.variates import falling_rates, fit
from sb3_relax.policy_gradient.policy_view import PolicyOutput
from sb3_relax.policy_gradient.rollout import by_environment


def trajectory_in(model: ControlVariateA2C) -> Trajectory | None:
    """The model's control variate without its guard, where it is one of later actions."""
    guard = model.control_variate
    variate = guard.variate if isinstance(guard, Guarded) else guard
    return variate if isinstance(variate, Trajectory) else None


def fit_with_later(
    model: ControlVariateA2C,
    batches: Sequence[RolloutSteps],
    n_seen: int,
    output: PolicyOutput,
    at: int,
    n_updates: int,
    generator: th.Generator,
) -> None:
    """Train ã of a control variate of later actions, find its share, and fit what it has for the step's own action.

    :param model: has seen the first rollouts (:func:`~sb3_relax.diagnose.variates.see`)
    :param batches: all rollouts
    :param n_seen: how many of them it has seen; the others give the share
    :param output: all their steps
    :param at: which of the λ's the advantages are of
    :param n_updates: steps of Adam, of ã and then of the step's own control variate
    :param generator: draws the steps of each
    """
    variate, noise = trajectory_in(model), model.noise_generator
    assert variate is not None
    for _ in falling_rates(model, n_updates):
        variate.descend(noise)
    learn_share(variate, [luck_in(variate, batch.at(at), noise) for batch in batches[n_seen:]])
    advantages = th.cat([corrected(variate, batch, at, noise) for batch in batches])
    fit(model, output, advantages, n_updates, generator)
    # a model of one step that both share has learned only now
    learn_share(variate, [luck_in(variate, batch.at(at), noise) for batch in batches[n_seen:]])


def learn_share(variate: Trajectory, held_out: Sequence[Luck]) -> None:
    """The share of ã that rollouts speak for that it has not seen, as the algorithm finds it."""
    assert variate.learned_share is not None
    square, cross, change = np.mean([(luck.square, luck.cross, luck.change) for luck in held_out], axis=0)
    variate.learned_share.learn_share(float(square), float(cross), float(change))


def corrected(variate: Trajectory, steps: RolloutSteps, at: int, generator: th.Generator) -> th.Tensor:
    """Â of a rollout without the share of later luck that is applied, ``[N]``; the control variate keeps nothing."""
    rollout = steps.at(at)
    later = luck_in(variate, rollout, generator).later
    plain = steps.advantages[at]
    if not np.isfinite(later).all():
        return plain
    return plain - variate.share * th.as_tensor(by_environment(later)).to(plain)


class LaterLuck:
    """What several control variates take out of the advantage for an action that comes later.

    :param base: whose policy acts
    :param fitted: name → a model for each λ, of those that are of later actions
    """

    def __init__(self, base: ControlVariateA2C, fitted: Mapping[str, Sequence[ControlVariateA2C]]):
        self.base = base
        self.models = list(fitted.values())

    def __len__(self) -> int:
        return len(self.models)

    def __call__(self, observations: Any, actions: np.ndarray) -> np.ndarray:
        """The share of ã(s, a) that is applied, in the unit of the advantages, ``[names, lambdas, N]``.

        :param observations: N of them
        :param actions: that the policy has drawn there, as a rollout stores them
        """
        base = self.base
        flat = th.as_tensor(actions.reshape(len(actions), -1), device=base.device)
        with th.no_grad():
            output = base.view.evaluate(base.policy.obs_to_tensor(observations)[0], flat)
        taken = [[self._taken(model, output) for model in of_lambdas] for of_lambdas in self.models]
        return np.array(taken).reshape(len(self.models), -1, len(actions))

    def _taken(self, model: ControlVariateA2C, output: PolicyOutput) -> np.ndarray:
        variate = trajectory_in(model)
        assert variate is not None
        of_action = in_advantages(variate, output, model.noise_generator)[1].double().cpu().numpy()
        return variate.share * of_action
