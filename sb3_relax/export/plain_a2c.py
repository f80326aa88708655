"""Trained agents as SB3's own A2C."""

from __future__ import annotations

from copy import deepcopy
from inspect import signature
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3 import A2C
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.vec_env import VecEnv

from sb3_relax.algorithm.a2c import ControlVariateA2C
from sb3_relax.catalogue import family_of
from sb3_relax.errors import UsageError
from sb3_relax.export.controller import EXAMPLE_STEPS, takes_masks, takes_memory
from sb3_relax.export.normalizer import parts_of
from sb3_relax.export.normalizing_env import normalizing
from sb3_relax.policy_gradient.action_spaces import as_sb3_counts
from sb3_relax.policy_gradient.hyperparameters import COEFFICIENTS, value_at
from sb3_relax.policy_gradient.observation_scale import scale_of, weights_behind_scale

#: A2C's arguments that it does not get from the agent: the environment, the seed, which would start every stream of
#: random numbers anew, and the optimizer's settings, which are in policy_kwargs already
NOT_TAKEN = ("policy", "env", "seed", "use_rms_prop", "rms_prop_eps", "stats_window_size", "_init_setup_model")


def to_a2c(model: ControlVariateA2C, env: VecEnv | None = None) -> A2C:
    """The agent as a plain ``stable_baselines3.A2C``, which predicts the same and is loaded without this package.

    It has the agent's policy, optimizer, hyper-parameters of A2C and counts of steps and updates, each its own, so that
    it can also be trained on, by A2C's own gradient: what is left out is the control variate, and an update rule.
    Without ``env`` it has no environment; ``set_env`` gives it one, with as many environments as the agent's for
    training.

    :param model: an agent of LAXA2C or RELAXA2C
    :param env: the environment of the A2C. An agent with ``normalize_observations`` needs it: it is wrapped in a
        VecNormalize that has the agent's statistics, which stay as they are
    :return: A2C
    :raises TypeError: for an agent with a policy that SB3 does not have, naming sb3-contrib's class that has it; and
        for one that is not of this package
    :raises UsageError: (a ``ValueError``) for an agent with ``normalize_observations``, without ``env``; and where A2C
        acts otherwise all the same: in an action space that SB3 misreads (one with a ``start``, or of two dimensions),
        or where the agent's class, or its policy's object, was made to act in a way that is not saved with the policy

    Example::

        to_a2c(model).save("plain")
        # where sb3_relax is not installed
        action, _ = stable_baselines3.A2C.load("plain").predict(observation, deterministic=True)

    With ``normalize_observations``::

        a2c = to_a2c(model, env)
        a2c.save("plain")
        a2c.get_vec_normalize_env().save("vecnormalize.pkl")
        # where sb3_relax is not installed
        env = VecNormalize.load("vecnormalize.pkl", env)
        a2c = stable_baselines3.A2C.load("plain", env=env)
        action, _ = a2c.predict(env.reset(), deterministic=True)
    """
    if not isinstance(model, ControlVariateA2C):
        raise TypeError(f"to_a2c() takes an agent of LAXA2C or RELAXA2C; got {type(model).__name__}")
    if family_of(model.policy_class) is not None:
        raise TypeError(_what_to_do_instead(model))
    if as_sb3_counts(model.action_space) is not model.action_space:
        raise _acts_otherwise(model)
    if env is not None and not isinstance(env, VecEnv):
        raise UsageError(f"env must be a VecEnv, as stable_baselines3.common.env_util.make_vec_env makes it; got {env}")
    scale = scale_of(model.policy)
    if scale is not None:
        if env is None:
            raise UsageError(
                "SB3's A2C does not normalise observations, as this agent does (normalize_observations=True): use "
                "to_a2c(model, env), which wraps env in a VecNormalize that does, and save that beside the A2C: "
                'a2c.get_vec_normalize_env().save("vecnormalize.pkl")'
            )
        env = normalizing(env, scale)
    taken: dict[str, Any] = {name: getattr(model, name) for name in signature(A2C).parameters if name not in NOT_TAKEN}
    taken["policy_kwargs"] = deepcopy(taken["policy_kwargs"])
    taken["normalize_advantage"] = model.normalize_advantage is True  # A2C knows no running scale
    # A2C has no schedules of coefficients
    taken |= {name: value_at(taken[name], max(model._current_progress_remaining, 0.0)) for name in COEFFICIENTS}
    # SB3's policies draw their first weights: that must not change what the agent draws next
    with th.random.fork_rng():
        a2c = A2C(model.policy_class, None, use_rms_prop=False, _init_setup_model=False, **taken)  # type: ignore[arg-type]
        for name in ("observation_space", "action_space", "n_envs", "num_timesteps", "_n_updates"):
            setattr(a2c, name, getattr(model, name))
        if env is not None:
            a2c.n_envs = env.num_envs
        a2c._stats_window_size = model._stats_window_size
        a2c._setup_model()
    a2c.seed = model.seed
    a2c.policy.load_state_dict(model.policy.state_dict() if scale is None else weights_behind_scale(model.policy))
    for optimizer in (model.policy.optimizer, model.critic.optimizer):
        _copy_optimizer_state(optimizer, model.policy, a2c.policy)
    if env is not None:
        a2c.set_env(env)
    _require_equal_actions(model, a2c)
    return a2c


def _require_equal_actions(model: ControlVariateA2C, a2c: A2C) -> None:
    """For observations of zeros, which tells of other weights, bounds or numbers of the actions."""
    space = model.observation_space
    zeros: Any = {
        name: np.zeros((EXAMPLE_STEPS, *(part.shape or ())), part.dtype) for name, part in parts_of(space).items()
    }
    observation = zeros if isinstance(space, spaces.Dict) else zeros[""]
    normalize = None if scale_of(model.policy) is None else a2c.get_vec_normalize_env()
    for_a2c = observation if normalize is None else normalize.normalize_obs(observation)
    ours, theirs = (
        each.predict(given, deterministic=True)[0] for each, given in ((model, observation), (a2c, for_a2c))
    )
    if not np.allclose(ours, theirs, equal_nan=True):
        raise _acts_otherwise(model)


def _acts_otherwise(model: ControlVariateA2C) -> UsageError:
    return UsageError(
        f"SB3's A2C acts otherwise than this {type(model).__name__} with the same weights, in {model.action_space}: "
        "export it with to_onnx() or to_torchscript()"
    )


def _copy_optimizer_state(optimizer: th.optim.Optimizer | None, source: BasePolicy, target: BasePolicy) -> None:
    """What an optimizer remembers of each weight of ``source``, where ``target`` has one of its class."""
    if optimizer is None or type(optimizer) is not type(target.optimizer):
        return
    for old, new in zip(source.parameters(), target.parameters(), strict=True):
        if old in optimizer.state:
            target.optimizer.state[new] = deepcopy(optimizer.state[old])


def _what_to_do_instead(model: ControlVariateA2C) -> str:
    name = type(model).__name__
    message = f"SB3's A2C has no policies like {type(model.policy).__name__}, so that none is equal to this {name}: "
    if scale_of(model.policy) is not None:
        return message + "export it with to_onnx() or to_torchscript(), which keep its normalisation of observations"
    masked, recurrent = takes_masks(model.policy), takes_memory(model.policy)
    if masked == recurrent:
        return message + "export it with to_onnx() or to_torchscript(), since sb3-contrib has none either"
    ppo = "MaskablePPO" if masked else "RecurrentPPO"
    sde = ", use_sde=True" if model.use_sde else ""
    return message + (
        f"sb3_contrib.{ppo} has them, and is loaded without sb3_relax. Use "
        f"plain = {ppo}(model.policy_class, env, policy_kwargs=model.policy_kwargs{sde}), "
        "and plain.policy.load_state_dict(model.policy.state_dict()), where env is the agent's environment"
    )
