"""States as the policy visits them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from stable_baselines3.common.policies import ActorCriticPolicy

from sb3_relax.diagnose.acting import act
from sb3_relax.diagnose.parallel import stack
from sb3_relax.diagnose.restore import EnvSource, Snapshot
from sb3_relax.errors import UsageError
from sb3_relax.policy_gradient.action_latents import executable

#: of one alone nothing is independent, and of two nothing that is left out leaves two
LEAST_EPISODES = 3


@dataclass
class States:
    """S states to continue from.

    :param snapshots: S of them
    :param observations: ``[S, *obs_shape]``, or a dict of such
    :param episodes: which episode each comes from, ``[S]``; those of different episodes are independent
    """

    snapshots: list[Snapshot]
    observations: Any
    episodes: np.ndarray


def visit(
    policy: ActorCriticPolicy, source: EnvSource, n_states: int, n_episodes: int, max_steps: int, seed: int
) -> States:
    """``n_states`` drawn from all steps of ``n_episodes`` episodes, every step as likely as any other.

    So long episodes count by their length, as they do in training, where environments are stepped on and on. The draw
    is made on the way (Vitter's reservoir), so that few states are ever held.

    :param max_steps: where an episode is left if it has not ended
    :param seed: of the episodes (one after the other from here on) and of the draw
    :raises ValueError: where the states cannot be continued from, fewer than three episodes are asked for, or the
        states happen to be of fewer
    """
    if source.restore is None:
        raise ValueError("this environment can be continued from a state neither by a copy nor by a replay")
    if n_episodes < LEAST_EPISODES:
        raise ValueError(
            f"n_episodes must be at least {LEAST_EPISODES}, since independence is between episodes; got {n_episodes}"
        )
    rng = np.random.default_rng(seed)
    envs = [source.new(seed + i) for i in range(n_episodes)]
    observations: list[Any] = [env.reset() for env in envs]
    actions: list[list[np.ndarray]] = [[] for _ in envs]
    kept: list[tuple[Snapshot, Any, int]] = []
    seen = 0
    active = list(range(n_episodes))
    for _ in range(max_steps):
        for i in active:
            seen += 1
            place = len(kept) if len(kept) < n_states else int(rng.integers(seen))
            if place < n_states:
                kept[place : place + 1] = [(source.snapshot(envs[i], seed + i, actions[i]), observations[i], i)]
        chosen, _ = act(policy, stack([observations[i] for i in active]))
        for i, action in zip(active, executable(policy, chosen), strict=True):
            observations[i], _, done, _ = envs[i].step(action[None])
            actions[i].append(action[None])
            if done[0]:
                envs[i].close()
                observations[i] = None
        active = [i for i in active if observations[i] is not None]
        if not active:
            break
    snapshots, kept_observations, episodes = zip(*kept, strict=True)
    if len(set(episodes)) < LEAST_EPISODES:
        raise UsageError(
            f"the {n_states} states that were drawn are of {len(set(episodes))} episodes, and standard errors need "
            f"{LEAST_EPISODES}: measure with a larger n_states"
        )
    return States(list(snapshots), stack(kept_observations), np.unique(episodes, return_inverse=True)[1])
