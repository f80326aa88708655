"""What an entry of a YAML file names or writes in Python: taken from explicit lists, so that it runs no other code.

rl_zoo3 imports any name that an entry has, calls it, and evaluates text such as ``dict(net_arch=[64, 64])``. An entry
that passes here asks for nothing but wrappers, callbacks and policies of known packages, and for plain values.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from importlib import import_module
from inspect import isclass
from typing import Any

import gymnasium as gym
import torch as th
from stable_baselines3 import HerReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike
from stable_baselines3.common.vec_env import VecEnvWrapper

from sb3_relax.errors import NeedsTrust

#: keys whose text rl_zoo3 evaluates
EXPRESSIONS = ("normalize", "policy_kwargs", "replay_buffer_class", "replay_buffer_kwargs", "monitor_kwargs")
#: keys whose text it imports → what must come of it
CLASSES: dict[str, type] = {
    "env_wrapper": gym.Wrapper,
    "vec_env_wrapper": VecEnvWrapper,
    "callback": BaseCallback,
    "policy": BasePolicy,
}
#: modules, with those in them, of whose classes any may be named
PACKAGES = (
    "gymnasium.wrappers",
    "minigrid.wrappers",
    "rl_zoo3.callbacks",
    "rl_zoo3.wrappers",
    "sb3_contrib.common",
    "sb3_relax",
    "stable_baselines3.common",
)
#: names in expressions → what they are
NAMES: dict[str, type] = {
    "HerReplayBuffer": HerReplayBuffer,
    "RMSpropTFLike": RMSpropTFLike,
    **{
        f"{torch}nn.{name}": getattr(th.nn.modules.activation, name)
        for name in th.nn.modules.activation.__all__
        for torch in ("", "th.", "torch.")
    },
    **{
        f"{torch}.optim.{name}": kind
        for name, kind in vars(th.optim).items()
        if isclass(kind) and issubclass(kind, th.optim.Optimizer)
        for torch in ("th", "torch")
    },
}

TRUST = "--trust does that, for a file that is yours or that you have read"


def require_known(
    entry: Mapping[str, Any], packages: Sequence[str], file: Any, keys: Sequence[str] = (*EXPRESSIONS, *CLASSES)
) -> None:
    """An entry runs nothing but what the lists above have, and what the user's own packages have.

    :param entry: key → value, as written
    :param packages: modules that the user names, whose code has been run for that
    :param file: that has the entry, for the error
    :param keys: that are looked at
    :raises NeedsTrust: naming what it would run
    """
    for key in keys:
        value = entry.get(key)
        try:
            if key in EXPRESSIONS and isinstance(value, str):
                value_of(value)
            elif key in CLASSES and value is not None:
                for item in value if isinstance(value, list) else [value]:
                    _require_class(key, next(iter(item)) if isinstance(item, dict) and item else item, packages)
        except NeedsTrust as error:
            raise NeedsTrust(f"{file}: {key} {error}") from error


def class_named(name: str, base: type, packages: Sequence[str]) -> Any:
    """A class by its name with its module.

    :param name: as ``gymnasium.wrappers.RescaleAction``
    :param base: of which it is a subclass
    :param packages: whose modules it may be of
    :raises NeedsTrust: for another
    """
    module, _, own = name.rpartition(".")
    if not any(module == package or module.startswith(f"{package}.") for package in packages):
        raise NeedsTrust(
            f"would import and call {name!r}, which is in none of {', '.join(packages)}. Name its module with "
            f"--gym-packages where it is your own; {TRUST}"
        )
    found = getattr(import_module(module), own, None)
    if not (isclass(found) and issubclass(found, base)):
        raise NeedsTrust(f"would call {name!r}, which is no {base.__name__}; {TRUST}")
    return found


def _require_class(key: str, name: Any, packages: Sequence[str]) -> None:
    if not isinstance(name, str):
        raise NeedsTrust(f"is {name!r}, and must be a name; {TRUST}")
    if key != "policy" or "." in name:  # a policy may be one of the algorithm's own
        class_named(name, CLASSES[key], (*PACKAGES, *packages))


def value_of(text: str) -> Any:
    """The value of an expression that has numbers, text, lists, dicts, ``dict(…)`` and names of :data:`NAMES` alone.

    :param text: as ``dict(net_arch=[64, 64], activation_fn=nn.ReLU)``
    :raises NeedsTrust: for any other
    """
    try:
        return _value(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError) as error:
        raise NeedsTrust(
            f"is Python that would be run: {text!r}. Known are numbers, text, lists, dicts, and torch's activations "
            f"and optimizers; {TRUST}"
        ) from error


def _value(node: ast.expr) -> Any:
    if isinstance(node, ast.Call):
        if not isinstance(node.func, ast.Name) or node.func.id != "dict" or node.args:
            raise ValueError(ast.dump(node))
        return dict(_pair(keyword) for keyword in node.keywords)
    if isinstance(node, ast.Dict):
        return {_value(_given(key)): _value(value) for key, value in zip(node.keys, node.values, strict=True)}
    if isinstance(node, ast.List):
        return [_value(item) for item in node.elts]
    if isinstance(node, ast.Tuple):
        return tuple(_value(item) for item in node.elts)
    if isinstance(node, (ast.Name, ast.Attribute)):
        name = ast.unparse(node)
        if name not in NAMES:
            raise ValueError(name)
        return NAMES[name]
    return ast.literal_eval(node)


def _given(node: ast.expr | None) -> ast.expr:
    if node is None:  # of {**other}
        raise ValueError("**")
    return node


def _pair(keyword: ast.keyword) -> tuple[str, Any]:
    if keyword.arg is None:  # of dict(**other)
        raise ValueError("**")
    return keyword.arg, _value(keyword.value)
