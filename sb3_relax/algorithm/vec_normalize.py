"""VecNormalize's file: written whole, and read without the code that a pickle may run."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from sb3_relax.errors import NeedsTrust, UsageError
from sb3_relax.files import Named, NotWhole, array_of, read_pickle, write_whole

#: its constructor's arguments that are numbers, and those that are switches
NUMBERS = ("clip_obs", "clip_reward", "gamma", "epsilon")
SWITCHES = ("training", "norm_obs", "norm_reward")


def _name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def save_vec_normalize(statistics: VecNormalize, save_path: str | Path) -> None:
    """What ``statistics.save(save_path)`` writes, whole or not at all: a kill leaves the previous file.

    :raises DiskFull: (an ``OSError``) where there is no space for it
    """
    write_whole(Path(save_path), pickle.dumps(statistics))


def load_vec_normalize(path: str | Path, venv: VecEnv) -> VecNormalize:
    """As ``VecNormalize.load``, of the statistics and the settings alone: nothing that the pickle names is run.

    :param path: of a file that ``VecNormalize.save`` wrote
    :param venv: the environment to wrap
    :raises NeedsTrust: (a ``ValueError``) for a pickle of something else, a subclass included, which only its code can
        read
    :raises UsageError: (a ``ValueError``) for a damaged file, or statistics of other observations

    Example::

        env = load_vec_normalize("vecnormalize.pkl", env)
        model = RELAXA2C.load("agent", env, weights_only=True)
    """
    try:
        said, _ = read_pickle(Path(path).read_bytes())
        if isinstance(said, Named) and said.name != _name(VecNormalize):
            raise NeedsTrust(
                f"{path} is no VecNormalize of Stable-Baselines3 but {said.name}, which only its own code can read. "
                "Where you trust whoever made it, VecNormalize.load() (on the command line, --trust) runs it"
            )
        return _made(said.state, venv)
    except (NeedsTrust, MemoryError, OSError):
        raise
    except Exception as error:  # of a state that is none of VecNormalize, or of its constructor
        raise UsageError(f"{path} holds no VecNormalize that fits the environment ({error!r})") from error


def _made(state: dict[str, Any], venv: VecEnv) -> VecNormalize:
    keys = state.get("norm_obs_keys")
    settings: dict[str, Any] = {name: float(_number(state[name])) for name in NUMBERS}
    settings |= {name: bool(_number(state[name])) for name in SWITCHES}
    made = VecNormalize(venv, **settings, norm_obs_keys=None if keys is None else [str(key) for key in keys])
    said: Any = state.get("obs_rms")
    if said is not None:  # made with norm_obs, which may be off since
        by_name = isinstance(said, dict)
        found: Any = {str(key): _statistics(part) for key, part in said.items()} if by_name else _statistics(said)
        expected = getattr(made, "obs_rms", found)
        if _shapes(found) != _shapes(expected):
            raise NotWhole(f"its statistics have shape {_shapes(found)}, not {_shapes(expected)}")
        made.obs_rms = found
    made.ret_rms = _statistics(state["ret_rms"])
    return made


def _shapes(statistics: Any) -> Any:
    if isinstance(statistics, dict):
        return {key: part.mean.shape for key, part in statistics.items()}
    return statistics.mean.shape


def _statistics(said: Any) -> RunningMeanStd:
    if said.name != _name(RunningMeanStd):
        raise NotWhole(f"{said.name} is no RunningMeanStd")
    mean, var = (np.asarray(_number(said.state[name]), dtype=np.float64) for name in ("mean", "var"))
    if mean.shape != var.shape:
        raise NotWhole(f"a mean has shape {mean.shape}, and its variance {var.shape}")
    made = RunningMeanStd(shape=mean.shape)
    made.mean, made.var, made.count = mean, var, float(_number(said.state["count"]))
    return made


def _number(said: Any) -> Any:
    """A number, or an array of them."""
    return said if isinstance(said, (int, float)) else array_of(said)
