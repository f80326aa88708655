"""The layers of environments, wrappers and all, and the state that they are in: to be copied, saved and put back."""

from __future__ import annotations

import copyreg
import io
import pickle
from collections.abc import Sequence
from types import FunctionType
from typing import Any

import cloudpickle
import gymnasium as gym
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils import EzPickle
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecEnvWrapper, VecMonitor

from sb3_relax.errors import UsageError

#: attributes of SB3's wrappers that describe their class
OF_CLASSES = ("class_attributes",)
#: the attribute of SB3's monitors that is an open file
OF_MONITORS = "results_writer"


class NotSaved(UsageError):
    """The state of an environment cannot be saved, or not be put back; the message says why."""


def vec_layers(env: VecEnv) -> list[VecEnv]:
    """SB3's wrappers from the outside in, and the vectorised environment inside them."""
    layers = [env]
    while isinstance(layers[-1], VecEnvWrapper):
        layers.append(layers[-1].venv)
    return layers


def gym_layers(env: gym.Env) -> list[gym.Env]:
    """gymnasium's wrappers from the outside in, and the environment inside them."""
    layers = [env]
    while isinstance(layers[-1], gym.Wrapper):
        layers.append(layers[-1].env)
    return layers


def all_layers(env: VecEnv) -> list[Any]:
    """:func:`vec_layers`, and after them :func:`gym_layers` of each environment that is in this process."""
    layers: list[Any] = vec_layers(env)
    if isinstance(layers[-1], DummyVecEnv):
        layers += [layer for each in layers[-1].envs for layer in gym_layers(each)]
    return layers


def never_changes(name: str, value: Any) -> bool:
    """Whether an attribute of a layer is the same for as long as the layer exists.

    So it is with specifications, and with spaces that nothing was ever sampled from, which have no state, and are slow
    to copy.
    """
    plain = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)
    unused = isinstance(value, plain) and value._np_random is None
    return name in OF_CLASSES or isinstance(value, EnvSpec) or unused


def state_of(layers: Sequence[Any]) -> bytes:
    """The state of layers that belong together, pickled.

    It is what their attributes hold: of the environment itself, of its random numbers, of wrappers that count steps,
    sum rewards or average observations. Attributes that never change (:func:`never_changes`) and open files are left
    out.

    :param layers: the outermost first, as :func:`all_layers` gives them
    :raises NotSaved: where something in it cannot be pickled, naming it

    Example::

        restore(all_layers(other), state_of(all_layers(env)))  # env and other go on alike
    """
    try:
        return _pickled(layers, _kinds(layers), [_attributes(layer) for layer in layers])
    except Exception as error:  # whatever an unknown environment raises when it is pickled
        raise NotSaved(_culprit(layers) or f"{type(error).__name__}: {error}") from error


def _first_difference(given: Sequence[str], saved: Sequence[str]) -> str:
    for ours, theirs in zip(given, saved, strict=False):
        if ours != theirs:
            return f"one of their layers is a {ours}, and saved was a {theirs}"
    return f"they have {len(given)} layers, and saved were {len(saved)}"


def restore(layers: Sequence[Any], state: bytes) -> None:
    """Put layers into a state of others of the same classes. Nothing is changed where that fails.

    It runs what a pickle names: a state is as much to be trusted as a program.

    :param state: of :func:`state_of`
    :raises NotSaved: where it does not fit, or cannot be read in this process
    """
    unpickler = _Unpickler(io.BytesIO(state), layers)
    try:
        kinds = unpickler.load()
        if kinds != _kinds(layers):
            raise NotSaved(_first_difference(_kinds(layers), kinds))
        attributes = unpickler.load()
    except NotSaved:
        raise
    except Exception as error:  # of a class that is not there, or of its __setstate__
        raise NotSaved(f"{type(error).__name__}: {error}") from error
    for layer, found in zip(layers, attributes, strict=True):
        own = {name: value for name, value in vars(layer).items() if _stays(layer, name)}
        vars(layer).clear()
        vars(layer).update({**found, **own})


def _kinds(layers: Sequence[Any]) -> list[str]:
    return [f"{type(layer).__module__}.{type(layer).__qualname__}" for layer in layers]


def _attributes(layer: Any) -> dict[str, Any]:
    return {name: value for name, value in vars(layer).items() if not _stays(layer, name)}


def _stays(layer: Any, name: str) -> bool:
    """Whether an attribute is no part of a state: what is wrapped, a monitor's open file, what describes a class."""
    wrapped = name == "venv" and isinstance(layer, VecEnvWrapper)
    return wrapped or name in OF_CLASSES or (name == OF_MONITORS and isinstance(layer, (Monitor, VecMonitor)))


def _pickled(layers: Sequence[Any], *values: Any) -> bytes:
    file = io.BytesIO()
    pickler = _Pickler(file, layers)
    for value in values:
        pickler.dump(value)
    return file.getvalue()


def _culprit(layers: Sequence[Any]) -> str:
    """The attribute that cannot be pickled, and why; empty where each alone can."""
    for layer in layers:
        for name, value in _attributes(layer).items():
            try:
                _pickled(layers, value)
            except Exception as error:
                return f"{type(layer).__name__}.{name}: {type(error).__name__}: {error}"
    return ""


def _fill(made: Any, attributes: dict[str, Any]) -> None:
    vars(made).update(attributes)


class _Pickler(cloudpickle.Pickler):
    """What is in layers. They themselves, and what never changes in them, are written as the place where they stand.

    Functions written on the spot, as wrappers have them, are written with what they have taken along. Environments in
    others are written by their attributes, since gymnasium's EzPickle would make a *new* one of its arguments.
    """

    def __init__(self, file: io.BytesIO, layers: Sequence[Any]):
        super().__init__(file)
        #: by the id of an object, the number of a layer and, of what is in one, its name there
        self.places = {
            id(value): (index, name)
            for index, layer in enumerate(layers)
            for name, value in vars(layer).items()
            if never_changes(name, value)
        }
        self.places.update({id(layer): (index, "") for index, layer in enumerate(layers)})

    def persistent_id(self, value: Any) -> tuple[int, str] | None:
        return self.places.get(id(value))

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, (gym.Env, EzPickle)):
            return copyreg.__newobj__, (type(value),), vars(value), None, None, _fill  # type: ignore[attr-defined]
        on_the_spot = isinstance(value, FunctionType) and "<" in value.__qualname__
        if on_the_spot or getattr(value, "__module__", "") == "builtins":  # the types of its parts have no other name
            return super().reducer_override(value)
        # all else by name: of a class that was written whole, nothing in the program would be an instance
        return NotImplemented


class _Unpickler(pickle.Unpickler):
    """What :class:`_Pickler` has written, with other layers in the place of those."""

    def __init__(self, file: io.BytesIO, layers: Sequence[Any]):
        super().__init__(file)
        self.layers = layers

    def persistent_load(self, place: tuple[int, str]) -> Any:
        index, name = place
        return vars(self.layers[index])[name] if name else self.layers[index]
