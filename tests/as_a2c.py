"""A pytest plugin: ``stable_baselines3.A2C`` is LAXA2C or RELAXA2C, by the environment's actions.

What a test names ``A2C`` stays a class, to call, to load with, and for ``isinstance``; what it makes is ours.
"""

import inspect
from typing import Any

import stable_baselines3
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm, maybe_make_env
from stable_baselines3.common.save_util import load_from_zip_file

from sb3_relax import LAXA2C, RELAXA2C
from sb3_relax.algorithm.a2c import ControlVariateA2C


def taking(action_space: spaces.Space) -> type[ControlVariateA2C]:
    """The class for these actions, under the name that SB3's tests look for in folders of logs."""
    return type("A2C", (LAXA2C if isinstance(action_space, spaces.Box) else RELAXA2C,), {})


class Ours(type):
    def __call__(cls, policy: Any, env: Any = None, *args: Any, **kwargs: Any) -> ControlVariateA2C:
        space = maybe_make_env(env, 0).action_space if isinstance(env, str) else env.action_space
        return taking(space)(policy, env, *args, **kwargs)

    def __instancecheck__(cls, instance: Any) -> bool:
        return isinstance(instance, ControlVariateA2C)

    def __subclasscheck__(cls, subclass: type) -> bool:
        return issubclass(subclass, ControlVariateA2C)


class A2C(metaclass=Ours):
    policy_aliases = RELAXA2C.policy_aliases

    @staticmethod
    def load(path: Any, *args: Any, **kwargs: Any) -> ControlVariateA2C:
        position = path.tell() if hasattr(path, "tell") else None
        data = load_from_zip_file(path, device="cpu", custom_objects=kwargs.get("custom_objects"))[0]
        if position is not None:
            path.seek(position)
        return taking(data["action_space"]).load(path, *args, **kwargs)


stable_baselines3.A2C = A2C


def concerns_a2c(item: Any) -> bool:
    """Whether a test is of A2C: by its parameters where one is an algorithm, by its text elsewhere."""
    parameters = item.callspec.params.values() if hasattr(item, "callspec") else ()
    algorithms = [p for p in parameters if isinstance(p, type) and (p is A2C or BaseAlgorithm in p.__mro__)]
    if algorithms:
        return A2C in algorithms
    return "[a2c" in item.nodeid or "A2C" in inspect.getsource(item.function)


def pytest_collection_modifyitems(config: Any, items: list[Any]) -> None:
    others = [item for item in items if not concerns_a2c(item)]
    config.hook.pytest_deselected(items=others)
    items[:] = [item for item in items if concerns_a2c(item)]
