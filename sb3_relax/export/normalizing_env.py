"""An environment that normalises observations as an agent does, for agents that do not."""

from __future__ import annotations

from typing import Any

from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from sb3_relax.policy_gradient.observation_scale import CLIP, EPSILON, ObservationScale


def normalizing(env: VecEnv, scale: ObservationScale) -> VecNormalize:
    """A VecNormalize with the statistics of a policy, which stay as they are; rewards stay the environment's.

    :param env: of the policy's observations
    :param scale: the policy's
    """
    keys = scale.names if isinstance(env.observation_space, spaces.Dict) else None
    wrapped = VecNormalize(env, training=False, norm_reward=False, clip_obs=CLIP, epsilon=EPSILON, norm_obs_keys=keys)
    running: Any = wrapped.obs_rms
    for name, moments in scale.named():
        of_part = running[name] if keys else running
        of_part.mean, of_part.var, of_part.count = (part.cpu().numpy().copy() for part in moments.buffers())
    return wrapped
