"""The YAML files of zoo_hyperparams/: where they are, which keys they may have, how their rates are read."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import yaml
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.utils import LinearSchedule

from sb3_relax.common.names import UnknownName, unknown_name

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
SET_BY_ZOO = frozenset(["self", "env", "tensorboard_log", "verbose", "seed", "device", "_init_setup_model"])

#: keys whose values may be ``lin_x``
RATES = ("learning_rate", "cv_learning_rate")


def hyperparams_file(algorithm: str) -> Path | None:
    """Our YAML file for an algorithm's short name (laxa2c, relaxa2c, a2c); ``None`` where we have none."""
    folder = FOLDER if FOLDER.is_dir() else CHECKOUT
    path = folder / f"{algorithm}.yml"
    return path if path.is_file() else None


def read_entries(path: str | Path) -> dict[str, dict[str, Any]]:
    """Environment → its hyper-parameters, as written.

    :param path: a YAML file in rl-zoo's format
    """
    entries: dict[str, dict[str, Any]] = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    return entries


def constructor_arguments(algorithm: type[BaseAlgorithm]) -> set[str]:
    """Names that a YAML entry may hand to an algorithm, those its ``**kwargs`` passes on to its bases included."""
    names: set[str] = set()
    for cls in algorithm.__mro__:
        if "__init__" not in vars(cls):
            continue
        parameters = inspect.signature(vars(cls)["__init__"]).parameters.values()
        names |= {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break
    return names - SET_BY_ZOO


def check_keys(name: str, keys: set[str], algorithms: dict[str, type[BaseAlgorithm]]) -> None:
    """Every key is an argument of the algorithm or rl_zoo3's own.

    :param name: the algorithm's short name, a key of ``algorithms``
    :param keys: of one environment's entry
    :param algorithms: short name → class
    :raises UnknownName: says what exists, and the nearest
    """
    arguments = constructor_arguments(algorithms[name])
    for key in sorted(keys - arguments - ZOO_KEYS):
        others = [other for other in ("laxa2c", "relaxa2c") if key in constructor_arguments(algorithms[other])]
        if name == "a2c" and others:
            raise UnknownName(
                f"{key} is no argument of a2c: an entry of a2c.yml with arguments of ours is run as our class with "
                f"cv_learning_rate 0: --algo {' or '.join(others)} --conf-file {hyperparams_file('a2c')}"
            )
        raise unknown_name(f"hyper-parameter of {name}", key, arguments | ZOO_KEYS)


def to_rate(key: str, value: Any) -> Any:
    """A learning rate as YAML writes it → number or schedule: ``lin_3e-3`` falls from 3e-3 to 0 linearly.

    SB3's own schedule: rl_zoo3's goes below 0 where the last rollout ends after ``n_timesteps``, and an agent saved
    with it loads only where rl_zoo3 is installed.

    :raises ValueError: for any other text
    """
    if not isinstance(value, str):
        return value
    try:
        return LinearSchedule(float(value.removeprefix("lin_")), 0.0, 1.0)
    except ValueError:
        raise ValueError(f"{key} must be a number, or lin_ and a number as in lin_3e-3; got {value!r}") from None
