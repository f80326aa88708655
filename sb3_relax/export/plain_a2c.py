"""Trained agents as SB3's own A2C."""

from __future__ import annotations

from copy import deepcopy
from inspect import signature
from typing import Any

import torch as th
from stable_baselines3 import A2C
from stable_baselines3.common.policies import BasePolicy

from sb3_relax.algorithm.a2c import ControlVariateA2C
from sb3_relax.export.controller import takes_masks, takes_memory

#: A2C's arguments that it does not get from the agent: the environment, the seed, which would start every stream of
#: random numbers anew, and the optimizer's settings, which are in policy_kwargs already
NOT_TAKEN = ("policy", "env", "seed", "use_rms_prop", "rms_prop_eps", "stats_window_size", "_init_setup_model")


def to_a2c(model: ControlVariateA2C) -> A2C:
    """The agent as a plain ``stable_baselines3.A2C``, which predicts the same and is loaded without this package.

    It has the agent's policy, optimizer, hyper-parameters of A2C and counts of steps and updates, each its own, so that
    it can also be trained on, by A2C's own gradient: what is left out is the control variate, and an update rule. It
    has no environment; ``set_env`` gives it one, with as many environments as the agent's for training.

    :param model: an agent of LAXA2C or RELAXA2C
    :return: A2C
    :raises TypeError: for a maskable or recurrent agent, which no A2C is equal to, naming sb3-contrib's class that is;
        and for one that is not of this package

    Example::

        to_a2c(model).save("plain")
        # where sb3_relax is not installed
        action, _ = stable_baselines3.A2C.load("plain").predict(observation, deterministic=True)
    """
    if not isinstance(model, ControlVariateA2C):
        raise TypeError(f"to_a2c() takes an agent of LAXA2C or RELAXA2C; got {type(model).__name__}")
    if takes_masks(model.policy) or takes_memory(model.policy):
        raise TypeError(_what_to_do_instead(model))
    taken: dict[str, Any] = {name: getattr(model, name) for name in signature(A2C).parameters if name not in NOT_TAKEN}
    taken["policy_kwargs"] = deepcopy(taken["policy_kwargs"])
    # SB3's policies draw their first weights: that must not change what the agent draws next
    with th.random.fork_rng():
        a2c = A2C(model.policy_class, None, use_rms_prop=False, _init_setup_model=False, **taken)  # type: ignore[arg-type]
        for name in ("observation_space", "action_space", "n_envs", "num_timesteps", "_n_updates"):
            setattr(a2c, name, getattr(model, name))
        a2c._stats_window_size = model._stats_window_size
        a2c._setup_model()
    a2c.seed = model.seed
    a2c.policy.load_state_dict(model.policy.state_dict())
    _copy_optimizer_state(model.policy, a2c.policy)
    return a2c


def _copy_optimizer_state(source: BasePolicy, target: BasePolicy) -> None:
    """What an optimizer remembers of each weight, where both are of one class."""
    if type(source.optimizer) is not type(target.optimizer):
        return
    for old, new in zip(source.parameters(), target.parameters(), strict=True):
        if old in source.optimizer.state:
            target.optimizer.state[new] = deepcopy(source.optimizer.state[old])


def _what_to_do_instead(model: ControlVariateA2C) -> str:
    masked, recurrent = takes_masks(model.policy), takes_memory(model.policy)
    needs = " and ".join(["action masks"] * masked + ["LSTM states"] * recurrent)
    message = f"SB3's A2C takes no {needs}, so that none is equal to this {type(model).__name__}: "
    if masked and recurrent:
        return message + "export it with to_onnx() or to_torchscript(), since no class of sb3-contrib takes both either"
    ppo = "MaskablePPO" if masked else "RecurrentPPO"
    sde = ", use_sde=True" if model.use_sde else ""
    return message + (
        f"sb3_contrib.{ppo} has the same policies, and is loaded without sb3_relax. Use "
        f"plain = {ppo}(model.policy_class, model.get_env(), policy_kwargs=model.policy_kwargs{sde}), "
        "and plain.policy.load_state_dict(model.policy.state_dict())"
    )
