"""Numbers that are not finite, in an agent or what it learns from: where they are, why, and what to do."""

from __future__ import annotations

from math import isfinite
from typing import Any

import numpy as np
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import VecEnv, unwrap_vec_normalize

from sb3_relax.errors import UsageError, require_finite
from sb3_relax.estimators.checks import are_finite
from sb3_relax.policy_gradient.action_latents import ActionsNotFinite
from sb3_relax.policy_gradient.clipping import not_finite_in

#: more names are not printed
MAX_NAMES = 4


def named(names: list[str]) -> str:
    """Some of the names, and how many more there are, as the subject of "is not" or "are not"."""
    more = len(names) - MAX_NAMES
    listed = ", ".join(names[:MAX_NAMES]) + (f" and {more} more" if more > 0 else "")
    return f"{listed} {'is' if len(names) == 1 else 'are'}"


def require_finite_step(algorithm: Any, rates: dict[str, float], number: int) -> None:
    """Weights that are finite after an update, which began with finite ones.

    :param algorithm: whose ``train()`` it is
    :param rates: that the update was made with, by name
    :param number: of the update
    :raises UsageError: naming the weights that are not, and the rate that made them so
    """
    optimizers = [algorithm.policy.optimizer, algorithm.critic.optimizer]
    groups = [group for optimizer in optimizers if optimizer is not None for group in optimizer.param_groups]
    if are_finite(weight for group in groups for weight in group["params"]):
        return
    names = not_finite_in(algorithm.policy)
    of_critic = [*map(id, algorithm.view.critic_weights)]
    moved_by_critic = algorithm.critic.optimizer is not None and all(
        id(weight) in of_critic for name, weight in algorithm.policy.named_parameters() if name in names
    )
    rate = "critic_learning_rate" if moved_by_critic else "learning_rate"
    raise UsageError(
        f"the policy's weights must be finite, but {named(names)} not after update {number}: its step was "
        f"too long. Lower {rate}, which is {rates[rate]:g} now, or max_grad_norm, which is "
        f"{algorithm.max_grad_norm:g}. This agent cannot go on: load one that was saved before"
    )


def require_finite_policy(policy: BasePolicy, updates: int) -> None:
    """Weights that are finite where no update has just been made.

    :param updates: made so far
    :raises UsageError: naming those that are not
    """
    names = not_finite_in(policy)
    if names:
        raise UsageError(
            f"the policy's weights must be finite, but {named(names)} not after {updates} updates. Where no update has "
            "said so, they were set from outside: by set_parameters(), by a callback or by hand. Load an agent that "
            "was saved before"
        )


def require_finite_advantages(buffer: RolloutBuffer) -> None:
    """Advantages that are finite, of rewards and observations that are.

    :raises UsageError: saying what overflowed
    """
    if isfinite(np.abs(buffer.advantages).max()):
        return
    largest = np.abs(buffer.rewards).max()
    values = np.abs(buffer.values).max()
    raise UsageError(
        f"advantages must be finite, but rewards of up to {largest:.3g} and V(s) of up to {values:.3g} add up to more "
        f"than a {buffer.advantages.dtype} holds; no weight was changed by this rollout. Scale the rewards "
        "down, for example by VecNormalize or gymnasium.wrappers.TransformReward"
    )


def explain(algorithm: Any, env: VecEnv, error: Exception, updates: int) -> None:
    """Raise a better error for one that ended a rollout, where something is not finite; else do nothing.

    Where observations, or VecNormalize's averages, are not finite, the next ``learn()`` resets the environments,
    whatever its ``reset_num_timesteps``.

    :param algorithm: that collected the rollout
    :param env: which it was collected in
    :param error: what ended it
    :param updates: made so far
    :raises UsageError: that says what is not finite, and what to do
    """
    require_finite_policy(algorithm.policy, updates)
    better: Exception = error
    try:
        if algorithm._last_obs is not None:
            require_finite("observations", algorithm._last_obs, steps=False)
    except UsageError as found:
        algorithm._last_obs = None
        if not isinstance(error, UsageError) or isinstance(error, ActionsNotFinite):
            better = found
    spoilt = spoilt_statistics(env)
    if spoilt:
        algorithm._last_obs = None  # its sums of rewards are NaN until it is reset
        raise UsageError(f"{better}\n{spoilt}") from error
    if better is not error:
        raise better from error
    if isinstance(error, ActionsNotFinite):
        raise UsageError(f"{error}. {largest_weight(algorithm.policy)}") from error


def largest_weight(policy: BasePolicy) -> str:
    """Which weight of a policy, all finite, has probably made its actions infinite."""
    sizes = {name: weight.detach().abs().max().item() for name, weight in policy.named_parameters() if weight.numel()}
    name = max(sizes, key=sizes.__getitem__)
    return (
        f"All weights and observations are finite, and the largest number of all weights, {sizes[name]:.3g}, is in "
        f"{name}: the policy has become too extreme. Lower learning_rate or max_grad_norm, or normalise observations, "
        "and load an agent that was saved before"
    )


def spoilt_statistics(env: VecEnv) -> str:
    """What of VecNormalize's statistics is not finite, and how to mend it; empty where they are."""
    normalize = unwrap_vec_normalize(env)
    if normalize is None:
        return ""
    all_of: dict[str, RunningMeanStd] = {"ret_rms": normalize.ret_rms}
    of_observations = getattr(normalize, "obs_rms", None) or {}  # there is none with norm_obs=False
    if isinstance(of_observations, dict):
        all_of |= {f"obs_rms[{key!r}]": statistics for key, statistics in of_observations.items()}
    else:
        all_of["obs_rms"] = of_observations
    spoilt = [name for name, own in all_of.items() if not (np.isfinite(own.mean).all() and np.isfinite(own.var).all())]
    if not spoilt:
        return ""
    remedies = "; ".join(f"vec_normalize.{name} = RunningMeanStd(shape={all_of[name].mean.shape})" for name in spoilt)
    return (
        f"VecNormalize has taken the bad number into its averages, and {named(spoilt)} not finite any more: everything "
        "that it normalises by them will be NaN from now on, in every later learn() too. Mend the environment, and "
        "then the averages: load those that were saved before by VecNormalize.load(path, venv), or begin new ones by\n"
        "from stable_baselines3.common.running_mean_std import RunningMeanStd\n"
        f"{remedies}"
    )
