"""What follows an action: the policy's own future, as GAE sees it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, Protocol

import numpy as np
from stable_baselines3.common.policies import ActorCriticPolicy

from sb3_relax.diagnose.acting import act, value_of
from sb3_relax.diagnose.parallel import stack
from sb3_relax.diagnose.restore import Snapshot
from sb3_relax.diagnose.states import States
from sb3_relax.policy_gradient.action_latents import executable
from sb3_relax.policy_gradient.observations import of_parts

#: Environments held at a time.
CHUNK = 512


class OfLaterActions(Protocol):
    """M control variates of later actions."""

    def __len__(self) -> int:
        """M."""

    def __call__(self, observations: Any, actions: np.ndarray) -> np.ndarray:
        """What each takes of N steps at each λ, ``[M, lambdas, N]``."""


@dataclass
class Sample:
    """S states, A actions of each, C futures of each of those.

    :param observations: ``[S, *obs_shape]``, or a dict of such
    :param actions: as a rollout stores them, ``[S, A, ...]``
    :param advantages: Â(λ) = Σ (γλ)^l δ_l up to the end of the rollout, ``[lambdas, S, A, C]``
    :param values: V(s), ``[S]``
    :param episodes: ``[S]``
    :param luck: Σ_{l≥1} (γλ)^l of what M control variates take of the actions that follow,
        ``[M, lambdas, S, A, C]``
    """

    observations: Any
    actions: np.ndarray
    advantages: np.ndarray
    values: np.ndarray
    episodes: np.ndarray
    luck: np.ndarray


def repeat(observations: Any, times: int) -> Any:
    """Every observation ``times`` times in a row."""
    return of_parts(lambda part: part.repeat(times, 0), observations)


def continue_states(
    policy: ActorCriticPolicy,
    states: States,
    n_actions: int,
    n_futures: int,
    lambdas: Sequence[float],
    gamma: float,
    n_steps: int | None,
    rng: np.random.Generator,
    bootstrap_truncated: bool = True,
    of_later: OfLaterActions | None = None,
) -> Sample:
    """Draw actions at every state, independently, and futures of every action, independently.

    A training rollout ends, and bootstraps, after ``n_steps``; where in it a state stands is a matter of chance. So
    every state gets a number of steps up to there, uniform on 1 ... ``n_steps``, which counts as part of the state.

    :param n_steps: of a rollout; ``None`` for whole episodes
    :param rng: source of futures and of the places in the rollout; the policy's actions come from torch's generator
    :param bootstrap_truncated: add γV where a time limit ends an episode, as the agent's rollouts do
    :param of_later: control variates of later actions
    """
    size = len(states.snapshots)
    actions, values = act(policy, repeat(states.observations, n_actions))
    left = rng.integers(1, n_steps + 1, size=size) if n_steps is not None else np.full(size, np.iinfo(np.int64).max)
    flat = [
        (states.snapshots[s], actions[s * n_actions + a], int(left[s]))
        for s in range(size)
        for a in range(n_actions)
        for _ in range(n_futures)
    ]
    first = values.repeat(n_futures)
    parts = [
        _advantages(
            policy,
            flat[i : i + CHUNK],
            first[i : i + CHUNK],
            np.asarray(lambdas),
            gamma,
            rng,
            bootstrap_truncated,
            of_later,
        )
        for i in range(0, len(flat), CHUNK)
    ]
    advantages, luck = (np.concatenate(each, axis=-1) for each in zip(*parts, strict=True))
    by_state = actions.reshape(size, n_actions, *actions.shape[1:])
    shape = (len(lambdas), size, n_actions, n_futures)
    return Sample(
        states.observations,
        by_state,
        advantages.reshape(shape),
        values[::n_actions],
        states.episodes,
        luck.reshape(len(luck), *shape),
    )


def _advantages(
    policy: ActorCriticPolicy,
    starts: list[tuple[Snapshot, np.ndarray, int]],
    values: np.ndarray,
    lambdas: np.ndarray,
    gamma: float,
    rng: np.random.Generator,
    bootstrap_truncated: bool,
    of_later: OfLaterActions | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Σ (γλ)^l δ_l for each start, side by side, ``[lambdas, N]``, and the same of what is taken of later actions."""
    envs = [snapshot.resume(rng) for snapshot, _, _ in starts]
    left = np.array([steps for _, _, steps in starts])
    actions = np.stack([action for _, action, _ in starts])
    total = np.zeros((len(lambdas), len(starts)))
    weight = np.ones(len(lambdas))
    luck = np.zeros((0 if of_later is None else len(of_later), *total.shape))
    active = np.arange(len(starts))
    while len(active) > 0:
        observations, rewards, ended = [], np.zeros(len(active)), np.zeros(len(active), dtype=bool)
        for k, (i, action) in enumerate(zip(active, executable(policy, actions), strict=True)):
            observation, reward, done, info = envs[i].step(action[None])
            observations.append(observation)
            rewards[k], ended[k] = reward[0], done[0]
            if bootstrap_truncated and ended[k] and info[0].get("TimeLimit.truncated", False):
                rewards[k] += gamma * value_of(policy, info[0]["terminal_observation"])
        observed = stack(observations)
        actions, following = act(policy, observed)
        delta = rewards + gamma * np.where(ended, 0.0, following) - values[active]
        total[:, active] += weight[:, None] * delta
        weight = weight * gamma * lambdas
        values[active] = following
        left[active] -= 1
        going_on = ~ended & (left[active] > 0)
        for i in active[~going_on]:
            envs[i].close()
        active, actions = active[going_on], actions[going_on]
        if of_later is not None and len(active) > 0:
            observed = of_parts(itemgetter(going_on), observed)
            luck[:, :, active] += weight[:, None] * of_later(observed, actions)
    return total, luck
