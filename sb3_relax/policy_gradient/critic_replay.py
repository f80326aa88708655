"""Earlier rollouts, to which V is fitted again with targets of today."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch as th
from stable_baselines3.common.type_aliases import PyTorchObs

from sb3_relax.policy_gradient.evaluation_mode import evaluation_mode
from sb3_relax.policy_gradient.observations import concatenated, of_parts
from sb3_relax.policy_gradient.policy_view import PolicyView
from sb3_relax.policy_gradient.rollout import Batch, Rollout


def v_trace(
    rewards: np.ndarray,
    values: np.ndarray,
    last_values: np.ndarray,
    ends: np.ndarray,
    ratios: np.ndarray,
    gamma: float,
    gae_lambda: float,
    last_errors: np.ndarray | float = 0.0,
) -> np.ndarray:
    """V's targets from steps of another policy, ``[T, E]``: V-trace with ρ̄ = c̄ = 1.

    With ρ_t = min(1, π(a_t|s_t) / μ(a_t|s_t)), the target is V(s_t) + e_t, where
    e_t = ρ_t [r_t + γ V(s_{t+1}) - V(s_t)] + γ λ ρ_t e_{t+1}, and neither V nor e goes on after an episode's end
    (Espeholt et al. 2018, https://arxiv.org/abs/1802.01561, Eq 1 and Remarks 1 and 2). Where π = μ these are GAE's
    λ-returns, Â_t + V(s_t). Actions that have become rarer draw the target towards V(s_t): what is learned of them is
    the value of a policy between π and μ.

    :param rewards: r, ``[T, E]``
    :param values: V of the states acted in, ``[T, E]``
    :param last_values: V of the states after the last step, ``[E]``
    :param ends: whether an episode ended after the step, ``[T, E]``
    :param ratios: π(a|s) / μ(a|s) of the policy of today and the one that acted, ``[T, E]``
    :param last_errors: e of the states after the last step, ``[E]``: 0 where nothing is known of what came after them
    """
    goes_on = 1.0 - ends
    weights = np.minimum(ratios, 1.0)
    next_values = np.concatenate([values[1:], last_values[None]])
    errors = weights * (rewards + gamma * goes_on * next_values - values)
    carried = gamma * gae_lambda * goes_on * weights
    for step in reversed(range(len(errors))):
        errors[step] += carried[step] * last_errors
        last_errors = errors[step]
    return values + errors


@dataclass(frozen=True)
class EarlierRollout:
    """One rollout as V's fit needs it again, all of it copied.

    :param batch: all of its steps
    :param rewards: the environment's and, where a time limit cut an episode, γV of the state there as it was at the
        time, ``[T, E]``
    :param log_probs: log μ(a|s) of the policy that acted, ``[T, E]``
    :param ends: whether an episode ended after the step, ``[T, E]``
    :param episode_starts: whether its first steps were the first of their episodes, ``[E]``
    :param first_obs: the observations of its first steps, as ``last_obs``
    :param last_obs: the observations after the last step, ``[E, *obs_shape]`` or a dict of such; ``None`` where every
        episode had ended
    :param gamma: γ
    """

    batch: Batch
    rewards: np.ndarray
    log_probs: np.ndarray
    ends: np.ndarray
    episode_starts: np.ndarray
    first_obs: PyTorchObs
    last_obs: PyTorchObs | None
    gamma: float

    @classmethod
    def of(cls, batch: Batch, rollout: Rollout, last_obs: Any, dones: np.ndarray) -> EarlierRollout:
        """What is to be kept of a rollout.

        :param batch: all of its steps, in any order
        :param rollout: that the batch is of
        :param last_obs: the environments' observations after it
        :param dones: whether an episode ended with its last step, ``[E]``
        """
        return cls(
            batch=batch,
            rewards=rollout.rewards.copy(),
            log_probs=rollout.log_probs.copy(),
            ends=np.concatenate([rollout.episode_starts[1:], dones[None]]) > 0,
            episode_starts=rollout.episode_starts[0] > 0,
            first_obs=first_obs(rollout),
            last_obs=None if dones.all() else of_parts(rollout.buffer.to_torch, last_obs),
            gamma=rollout.buffer.gamma,
        )

    def with_targets_of(self, now: Seen, gae_lambda: float, after: Following) -> Batch:
        """Its steps with :func:`v_trace`'s targets.

        :param now: what V and the policy of today make of it
        :param gae_lambda: λ
        :param after: the rollout that was collected next
        """
        values = self.batch.in_time_order(now.values)
        last_values = last_errors = np.zeros_like(values[0])
        if self.last_obs is not None and now.last_values is not None:
            last_values = now.last_values.cpu().numpy()
            # an environment may have been reset in between, which ends no episode; or the steps in between may be of a
            # rollout that a callback stopped, which nobody has
            goes_on = ~after.episode_starts & are_equal(self.last_obs, after.observations)
            last_errors = np.where(goes_on, after.targets - last_values, 0.0)
        # log π - log μ above 0 is cut off by V-trace, and would overflow before
        ratios = np.exp(np.minimum(self.batch.in_time_order(now.log_probs) - self.log_probs, 0.0))
        targets = v_trace(self.rewards, values, last_values, self.ends, ratios, self.gamma, gae_lambda, last_errors)
        returns = th.as_tensor(targets.ravel()[self.batch.index]).to(self.batch.returns)
        return replace(self.batch, returns=returns)


class Seen(NamedTuple):
    """A rollout as V and the policy of today see it."""

    values: th.Tensor  #: V, ``[N]``
    log_probs: th.Tensor  #: log π(a|s), ``[N]``
    last_values: th.Tensor | None  #: V after the last step, ``[E]``; ``None`` where all episodes had ended


class Following(NamedTuple):
    """What a rollout needs to know of the next one: of the first step of each environment, ``[E]``."""

    targets: np.ndarray  #: V's target
    episode_starts: np.ndarray  #: whether it began an episode
    observations: PyTorchObs  #: what was observed there, ``[E, *obs_shape]`` or a dict of such


def first_obs(rollout: Rollout) -> PyTorchObs:
    """The observations of a rollout's first steps, ``[E, *obs_shape]`` or a dict of such."""
    return of_parts(lambda part: rollout.buffer.to_torch(part[0]), rollout.observations)


def are_equal(given: PyTorchObs, kept: PyTorchObs) -> np.ndarray:
    """Whether the observations of each environment are the same, ``[E]``.

    :param given: as the environments gave them
    :param kept: as the buffer keeps them, which gives them its own dtype, and Discrete ones a dimension
    """
    if isinstance(given, dict):
        assert isinstance(kept, dict)
        return np.all([are_equal(part, kept[key]) for key, part in given.items()], axis=0)
    assert isinstance(kept, th.Tensor)
    equal = given.to(kept.dtype).reshape(len(given), -1) == kept.reshape(len(kept), -1)
    return equal.all(dim=1).cpu().numpy()


class CriticReplay:
    """The last rollouts before the newest, for V's further steps.

    Their targets are computed anew at every update: the λ-returns of V-trace (:func:`v_trace`), by V and the policy
    after the joint step. The newest rollout keeps the targets it came with, since its actions are the policy's own.
    Rollouts follow each other in time: a step's return goes on into the next rollout, up to the end of the newest. It
    ends where the next rollout begins with another observation than this one ended with, because steps are missing.

    With λ near 1 the returns of earlier rollouts are long. V then learns in a few updates what it is worth to go on for
    hundreds of steps, where targets that end in V itself after some tens of steps carry an old V on for as many updates
    (λ apart for policy and V: Yuan et al. 2025, https://arxiv.org/abs/2503.01491).

    Two things stay as they were when a rollout was collected. Where a time limit cut an episode, its last reward
    includes γV(s_T) by V at the time, because s_T is not kept. Observations and rewards that ``VecNormalize`` scaled
    stay in the scale of the time, which does no harm as long as the rollouts are few, since its statistics hardly move
    meanwhile. (Observations of ``normalize_observations`` are in the policy's scale of today.)

    With gSDE, which draws the noise of several steps at once, the ratio is that of each step's own distribution, as in
    PPO.

    It is saved with the agent by ``save(..., exact=True)`` alone, as SB3 saves no rollouts: an agent that is loaded
    from another file begins with none. It takes the memory of its rollouts, on the policy's device, and one pass of the
    policy over them at every update.

    :param view: of the policy
    :param n_rollouts: how many are kept; older ones are dropped
    :param gae_lambda: λ of their targets; ``None``: that of the rollouts
    """

    def __init__(self, view: PolicyView, n_rollouts: int, gae_lambda: float | None = None):
        self.view = view
        self.gae_lambda = gae_lambda
        self.rollouts: deque[EarlierRollout] = deque(maxlen=n_rollouts)

    def add(self, rollout: EarlierRollout) -> None:
        """Keep a rollout, after V was fitted to it."""
        self.rollouts.append(rollout)

    def joined_by(self, batch: Batch, rollout: Rollout) -> Batch:
        """The steps that are kept, with targets of today, and those of the newest rollout, as they are.

        :param batch: all steps of the newest
        :param rollout: that the batch is of
        """
        if not self.rollouts:
            return batch
        gae_lambda = rollout.buffer.gae_lambda if self.gae_lambda is None else self.gae_lambda
        joined = [batch]
        after = Following(batch.in_time_order(batch.returns)[0], rollout.episode_starts[0] > 0, first_obs(rollout))
        for earlier, now in reversed(list(zip(self.rollouts, self._seen(), strict=True))):
            joined.insert(0, earlier.with_targets_of(now, gae_lambda, after))
            targets = joined[0].in_time_order(joined[0].returns)[0]
            after = Following(targets, earlier.episode_starts, earlier.first_obs)
        return Batch.joined(joined)

    def _seen(self) -> list[Seen]:
        """What V and the policy make of each rollout that is kept, by one pass over all of them."""
        batches = [kept.batch for kept in self.rollouts]
        known, sizes = Batch.joined(batches), [len(batch.returns) for batch in batches]
        following = [kept.last_obs for kept in self.rollouts if kept.last_obs is not None]
        with th.no_grad(), evaluation_mode(self.view.policy):
            output = self.view.evaluate(known.observations, known.actions, **known.context)
            after = (
                self.view.values_while_fitted(concatenated(following))(None).split(known.shape[1]) if following else ()
            )
        last_values = iter(after)
        return [
            Seen(values, log_probs, None if kept.last_obs is None else next(last_values))
            for kept, values, log_probs in zip(
                self.rollouts, output.values.split(sizes), output.log_prob.split(sizes), strict=True
            )
        ]
