"""The policy at many states at once, as it acts in a rollout."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.utils import obs_as_tensor


@th.no_grad()
def act(policy: ActorCriticPolicy, observations: Any) -> tuple[np.ndarray, np.ndarray]:
    """Actions as a rollout stores them, ``[N, ...]``, and V, ``[N]``; gSDE with a noise matrix of its own for each."""
    if policy.use_sde:
        policy.reset_noise(len(next(iter(observations.values())) if isinstance(observations, dict) else observations))
    actions, values, _ = policy(obs_as_tensor(observations, policy.device))
    return actions.cpu().numpy(), values.flatten().double().cpu().numpy()


@th.no_grad()
def value_of(policy: ActorCriticPolicy, observation: Any) -> float:
    """V at one observation without a leading dimension, as ``infos`` hold the last of an episode."""
    return policy.predict_values(policy.obs_to_tensor(observation)[0]).item()
