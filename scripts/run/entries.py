"""An entry of a zoo file, as the arguments of an algorithm and the wrappers of its environment.

Protocols run no code of their own: what they name comes from explicit lists, and their expressions are read by
:func:`~sb3_relax.zoo.entries.value_of`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym

from sb3_relax.zoo.entries import PACKAGES, class_named, value_of
from sb3_relax.zoo.hyperparams import RATES, to_rate

#: keys that are no arguments of an algorithm
OF_THE_RUN = ("n_envs", "n_timesteps", "normalize", "policy", "env_wrapper")


def model_arguments(hyperparams: dict[str, Any]) -> dict[str, Any]:
    """rl-zoo's spellings → constructor arguments."""
    arguments = {k: v for k, v in hyperparams.items() if k not in OF_THE_RUN}
    arguments |= {key: to_rate(key, arguments[key]) for key in (*RATES, "clip_range") if key in arguments}
    if isinstance(arguments.get("policy_kwargs"), str):
        arguments["policy_kwargs"] = value_of(arguments["policy_kwargs"])  # rl-zoo's own way of writing them
    return arguments


def wrapper_of(hyperparams: dict[str, Any]) -> Callable[[gym.Env], gym.Env] | None:
    """What puts the wrappers of ``env_wrapper`` around an environment; ``None`` where there are none.

    :raises NeedsTrust: for a name that is neither in ``WRAPPERS`` nor of a known package
    """
    from scripts.run.environments import WRAPPERS  # registers the environments, in this process

    given = hyperparams.get("env_wrapper") or []
    pairs = [
        next(iter(item.items())) if isinstance(item, dict) else (item, {})
        for item in (given if isinstance(given, list) else [given])
    ]
    kinds = [(WRAPPERS.get(name) or class_named(name, gym.Wrapper, PACKAGES), kwargs) for name, kwargs in pairs]

    def wrapped(env: gym.Env) -> gym.Env:
        for kind, kwargs in kinds:
            env = kind(env, **kwargs)
        return env

    return wrapped if kinds else None
