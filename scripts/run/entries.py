"""An entry of a zoo file, as the arguments of an algorithm."""

from __future__ import annotations

from typing import Any

import torch as th

from sb3_relax.zoo.hyperparams import RATES, to_rate

#: keys that are no arguments of an algorithm
OF_THE_RUN = ("n_envs", "n_timesteps", "normalize", "policy", "env_wrapper")


def model_arguments(hyperparams: dict[str, Any]) -> dict[str, Any]:
    """rl-zoo's spellings → constructor arguments."""
    arguments = {k: v for k, v in hyperparams.items() if k not in OF_THE_RUN}
    arguments |= {key: to_rate(key, arguments[key]) for key in (*RATES, "clip_range") if key in arguments}
    if isinstance(arguments.get("policy_kwargs"), str):
        arguments["policy_kwargs"] = eval(arguments["policy_kwargs"], {"nn": th.nn})  # rl-zoo's own way of writing them
    return arguments
