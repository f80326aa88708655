"""A second model with the same policy, to measure with: nothing of the first is touched."""

from __future__ import annotations

from inspect import signature
from typing import Any

import torch as th
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from sb3_relax.common.surrogate_a2c import SurrogateA2C


def algorithm_of(action_space: spaces.Space) -> type[SurrogateA2C]:
    """LAXA2C for Box actions, RELAXA2C for the others.

    :raises ValueError: by the algorithm's constructor, for spaces that neither takes
    """
    from sb3_relax.laxa2c import LAXA2C
    from sb3_relax.relaxa2c import RELAXA2C

    return LAXA2C if isinstance(action_space, spaces.Box) else RELAXA2C


def require_plain_policy(model: BaseAlgorithm) -> None:
    """Refuse agents whose policy needs more than observations: masks or recurrent states would silently be left out.

    :raises TypeError: for an agent that is not an on-policy actor-critic, or a maskable or recurrent one
    """
    takes = "it takes LAXA2C, RELAXA2C, A2C and PPO"
    if not isinstance(model, OnPolicyAlgorithm):
        raise TypeError(f"the agent must be on-policy with an actor and a critic: {takes}; got {type(model).__name__}")
    needs = {"action_masks": "action masks", "lstm_states": "recurrent states"}
    # by what the policy is called with: so it holds for sb3-contrib's agents and subclasses, installed or not
    for name in signature(model.policy.forward).parameters:
        if name in needs:
            raise TypeError(
                f"the policy of {type(model).__name__} needs {needs[name]}, which measuring the variance of the "
                f"gradient does not support: {takes}. For other policies: every algorithm of sb3_relax logs "
                "train/grad_variance_ratio while it trains, which is below 1 where the control variate helps"
            )


def frozen_copy(model: OnPolicyAlgorithm, seed: int, **overrides: Any) -> SurrogateA2C:
    """The model's policy in a LAXA2C or RELAXA2C of its own, with ĉ, its scale and its share where the model has them.

    Neither the model nor any stream of random numbers is touched: the copy has weights, buffers and relaxation noise of
    its own. It has no environment; ``set_env`` gives it one.

    :param model: an agent with an ``ActorCriticPolicy``: LAXA2C, RELAXA2C, A2C, PPO
    :param seed: of the copy's relaxation noise
    :param overrides: attributes of the copy, such as ``correction="exact"``; ĉ then starts anew at zero
    :raises TypeError: for an agent without such a policy, or with a maskable or recurrent one
    """
    require_plain_policy(model)
    kind = type(model) if isinstance(model, SurrogateA2C) else algorithm_of(model.action_space)
    own = {
        name: getattr(model, name)
        for name in (
            "observation_space", "action_space", "n_envs", "n_steps", "gamma", "gae_lambda", "use_sde",
            "sde_sample_freq", "normalize_advantage", "policy_kwargs", "rollout_buffer_class", "rollout_buffer_kwargs",
        )
    }  # fmt: skip
    if isinstance(model, SurrogateA2C):
        names = ("cv_learning_rate", "cv_guard", "cv_action_dependent", "n_episodes", "bootstrap_truncated",
                 "max_episode_steps", "correction", "n_relaxed", "init_temperature")  # fmt: skip
        own |= {name: getattr(model, name) for name in names if hasattr(model, name)}
    with th.random.fork_rng():
        copy = kind(model.policy_class, None, device=model.device, _init_setup_model=False)  # type: ignore[arg-type]
        for name, value in {**own, **overrides}.items():
            setattr(copy, name, value)
        copy._setup_model()
    copy.policy.load_state_dict(model.policy.state_dict())
    copy.policy.set_training_mode(False)
    if isinstance(model, SurrogateA2C) and not overrides:
        copy.control_variate.load_state_dict(model.control_variate.state_dict())
    copy._seed_noise(seed)
    return copy
