"""What Optuna searches for LAXA2C and RELAXA2C, and how its parameters become constructor arguments."""

from __future__ import annotations

from typing import Any

import optuna
from rl_zoo3.hyperparams_opt import convert_onpolicy_params

from sb3_relax.algorithm.presets import PART_OF
from sb3_relax.policy_gradient.hyperparameters import DiscreteHyperparameters, Hyperparameters, LogRange
from sb3_relax.zoo.matched import WithoutControlVariate


def convert_params(sampled_params: dict[str, Any]) -> dict[str, Any]:
    """A trial's parameters → constructor arguments, also for ``--trial-id`` of an earlier study.

    rl_zoo3's conversion for on-policy algorithms, with ``log_std_init`` joining ``policy_kwargs``.

    :param sampled_params: as suggested below
    """
    hyperparams = convert_onpolicy_params(sampled_params)
    if "log_std_init" in hyperparams:
        hyperparams["policy_kwargs"]["log_std_init"] = hyperparams.pop("log_std_init")
    return hyperparams


def suggest_a2c(trial: optuna.Trial, n_envs: int) -> dict[str, Any]:
    """A2C's arguments.

    Ranges hold rl_zoo3's for A2C and the values of zoo_hyperparams/: short rollouts as well as long, and larger
    learning rates, since φ and the critic's steps have their own.
    """
    params: dict[str, Any] = {
        # 4 to 512 steps of each environment
        "n_steps_pow": trial.suggest_int("n_steps_pow", 2, 9),
        "one_minus_gamma": trial.suggest_float("one_minus_gamma", 1e-4, 0.1, log=True),
        "one_minus_gae_lambda": trial.suggest_float("one_minus_gae_lambda", 1e-3, 0.5, log=True),
        "learning_rate": trial.suggest_float("learning_rate", 1e-5, 1e-2, log=True),
        "ent_coef": trial.suggest_float("ent_coef", 1e-8, 0.1, log=True),
        "vf_coef": trial.suggest_float("vf_coef", 0.01, 1.0, log=True),
        "max_grad_norm": trial.suggest_float("max_grad_norm", 0.3, 5.0, log=True),
        "use_rms_prop": trial.suggest_categorical("use_rms_prop", [True, False]),
        "net_arch": trial.suggest_categorical("net_arch", ["tiny", "small", "medium"]),
        "activation_fn": trial.suggest_categorical("activation_fn", ["tanh", "relu"]),
    }
    trial.set_user_attr("gamma", 1 - params["one_minus_gamma"])
    trial.set_user_attr("gae_lambda", 1 - params["one_minus_gae_lambda"])
    trial.set_user_attr("n_steps", 2 ** params["n_steps_pow"])
    trial.set_user_attr("batch_size", n_envs * 2 ** params["n_steps_pow"])
    return params


def suggest_own(trial: optuna.Trial, hyperparameters: type[Hyperparameters]) -> dict[str, Any]:
    """The arguments that are ours, from the ranges that their dataclass names.

    One that has no effect beside those before it (:data:`~sb3_relax.algorithm.presets.PART_OF`) is not drawn.
    """
    params: dict[str, Any] = {}
    for name, space in hyperparameters.search_spaces().items():
        whole = PART_OF.get(name)
        if whole is not None and params[whole] == getattr(hyperparameters, whole):
            continue
        params[name] = (
            trial.suggest_float(name, space.low, space.high, log=True)
            if isinstance(space, LogRange)
            else trial.suggest_categorical(name, space.values)
        )
    return params


def sample_laxa2c_params(
    trial: optuna.Trial, n_actions: int, n_envs: int, additional_args: dict[str, Any]
) -> dict[str, Any]:
    """Constructor arguments of LAXA2C for a trial, with rl_zoo3's signature of a sampler."""
    params = suggest_a2c(trial, n_envs) | suggest_own(trial, Hyperparameters)
    params["log_std_init"] = trial.suggest_float("log_std_init", -2.0, 0.5)
    return convert_params(params)


def sample_matched_params(
    trial: optuna.Trial, n_actions: int, n_envs: int, additional_args: dict[str, Any]
) -> dict[str, Any]:
    """Constructor arguments of MatchedA2C for a trial: the same, but for ĉ's."""
    params = suggest_a2c(trial, n_envs) | suggest_own(trial, WithoutControlVariate)
    if n_actions > 0:  # which rl_zoo3 counts of Box actions alone
        params["log_std_init"] = trial.suggest_float("log_std_init", -2.0, 0.5)
    return convert_params(params)


def sample_relaxa2c_params(
    trial: optuna.Trial, n_actions: int, n_envs: int, additional_args: dict[str, Any]
) -> dict[str, Any]:
    """Constructor arguments of RELAXA2C for a trial."""
    return convert_params(suggest_a2c(trial, n_envs) | suggest_own(trial, DiscreteHyperparameters))
