"""The YAML files of zoo_hyperparams/: where they are, which keys they may have, how their rates are read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.utils import LinearSchedule

from sb3_relax.errors import UnknownName, UsageError, constructor_arguments, require_count, require_within, unknown_name
from sb3_relax.policy_gradient.hyperparameters import COEFFICIENTS, Hyperparameters
from sb3_relax.zoo.settings import read_yaml

#: a link to the checkout's zoo_hyperparams/, and a folder of its own in a built package
FOLDER = Path(__file__).resolve().parent.parent / "zoo_hyperparams"
#: where git made no link of it (on Windows, unless asked to)
CHECKOUT = FOLDER.parent.parent / "zoo_hyperparams"

#: keys that rl_zoo3 reads itself
ZOO_KEYS = frozenset(
    (
        "n_envs",
        "n_timesteps",
        "normalize",
        "env_wrapper",
        "vec_env_wrapper",
        "frame_stack",
        "callback",
        "monitor_kwargs",
        "env_kwargs",
        "noise_type",
        "noise_std",
    )
)
#: arguments that rl_zoo3's command line sets
SET_BY_ZOO = frozenset(["env", "tensorboard_log", "verbose", "seed", "device"])

#: algorithms whose runs without a control variate are runs of a2c_matched
MATCHED = ("laxa2c", "relaxa2c")

#: keys whose values may be ``lin_x``
RATES = ("learning_rate", *COEFFICIENTS, *Hyperparameters.schedules())


def hyperparams_file(algorithm: str) -> Path | None:
    """Our YAML file for an algorithm's short name (laxa2c, relaxa2c, a2c); ``None`` where we have none.

    a2c_matched has a2c's, whose entries are either's.
    """
    folder = FOLDER if FOLDER.is_dir() else CHECKOUT
    path = folder / f"{algorithm.removesuffix('_matched')}.yml"
    return path if path.is_file() else None


def read_entries(path: str | Path) -> dict[str, dict[str, Any]]:
    """Environment → its hyper-parameters, as written.

    :param path: a YAML file in rl-zoo's format
    :raises UsageError: where there is no such file, or it is none in that format
    """
    entries: dict[str, dict[str, Any]] = read_yaml(path)
    if not isinstance(entries, dict) or not all(isinstance(entry, dict) for entry in entries.values()):
        raise UsageError(
            f"{path} must map environments to hyper-parameters, as in 'CartPole-v1: {{policy: MlpPolicy}}'"
        )
    return entries


def check_sizes(hyperparams: dict[str, Any]) -> None:
    """The numbers that rl_zoo3 computes with itself.

    :param hyperparams: of one environment
    :raises UsageError: where one is missing, or no number of at least 1
    """
    require_count("n_envs", hyperparams.get("n_envs", 1))
    require_within("n_timesteps", hyperparams.get("n_timesteps"), 1)


def entry_arguments(algorithm: type[BaseAlgorithm]) -> set[str]:
    """Names that a YAML entry may hand to an algorithm."""
    return constructor_arguments(algorithm) - SET_BY_ZOO


def check_keys(name: str, env: str, keys: set[str], algorithms: dict[str, type[BaseAlgorithm]]) -> None:
    """Every key is an argument of the algorithm or rl_zoo3's own.

    :param name: the algorithm's short name, a key of ``algorithms``
    :param env: whose entry it is
    :param keys: of the entry
    :param algorithms: short name → class
    :raises UnknownName: says what exists, and the nearest
    """
    arguments = entry_arguments(algorithms[name])
    for key in sorted(keys - arguments - ZOO_KEYS):
        if name == "a2c" and key in entry_arguments(algorithms["relaxa2c"]):
            raise UnknownName(
                f"{key} is no argument of SB3's A2C. The matched baseline, which has it, is another algorithm: "
                f"sb3-relax train --algo a2c_matched --env {env}"
            )
        raise unknown_name(f"hyper-parameter of {name}", key, arguments | ZOO_KEYS)


def require_own_name(name: str, hyperparams: dict[str, Any]) -> None:
    """A run without a control variate is none of an algorithm that has one: plots would take it for that.

    :param name: the algorithm's short name
    :param hyperparams: of the run
    :raises UsageError: naming the algorithm to use instead
    """
    rate = to_rate("cv_learning_rate", hyperparams.get("cv_learning_rate"))
    without = hyperparams.get("control_variate") == "none" or rate == 0
    if name in MATCHED and without:
        raise UsageError(
            "these hyper-parameters leave out the control variate. Such a run has a name of its own, so that no plot "
            f"takes it for one of {name}: use --algo a2c_matched"
        )


def to_rate(key: str, value: Any) -> Any:
    """A learning rate as YAML writes it → number or schedule: ``lin_3e-3`` falls from 3e-3 to 0 linearly.

    SB3's own schedule: rl_zoo3's goes below 0 where the last rollout ends after ``n_timesteps``, and an agent saved
    with it loads only where rl_zoo3 is installed.

    :raises UsageError: for any other text
    """
    if not isinstance(value, str):
        return value
    try:
        rate = float(value.removeprefix("lin_"))
    except ValueError:
        raise UsageError(f"{key} must be a number, or lin_ and a number as in lin_3e-3; got {value!r}") from None
    # a number without a dot, as 3e-3, is text to YAML
    return LinearSchedule(rate, 0.0, 1.0) if value.startswith("lin_") else rate
