"""Actions of several parts as the flat numbers that SB3's buffers hold, and back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.preprocessing import get_action_dim

from sb3_relax.errors import ActionsNotTaken, UsageError
from sb3_relax.policy_gradient.action_spaces import require_flat_bits


class FlatActions(spaces.Box):
    """A Dict or Tuple of actions as one Box: the numbers of all parts, one after the other, ``[A]``.

    A Box part has its own numbers there, MultiBinary its bits, Discrete the number of the class and MultiDiscrete that
    of each variable, counted from 0 whatever ``start`` is. Parts may be nested. The order is that of the space.

    It equals the space that it flattens, so that SB3 takes an environment and an agent for what they are: of the same
    actions.

    :param structure: a Dict or Tuple of Box (of floating point numbers), Discrete, MultiDiscrete, MultiBinary, and of
        Dict and Tuple of these
    :raises UsageError: for another space, a part of another kind, or a MultiBinary part of several dimensions

    Example::

        flat = FlatActions(spaces.Dict(aim=spaces.Box(-1, 1, (2,)), fire=spaces.Discrete(2)))
        flat.flatten({"aim": np.array([0.5, 0.0]), "fire": 1})  # array([0.5, 0. , 1. ])
        flat.unflatten(np.array([0.5, 0.0, 1.0]))               # {'aim': array([0.5, 0. ]), 'fire': 1}
    """

    def __init__(self, structure: spaces.Dict | spaces.Tuple):
        if not isinstance(structure, (spaces.Dict, spaces.Tuple)):
            raise UsageError(f"FlatActions flattens a Dict or a Tuple of actions; got {structure}")
        self.structure = structure
        self._leaves = dict(_leaves(structure))
        if not self._leaves:
            raise UsageError(f"an action needs at least one part; got {structure}")
        if len(self._leaves) < sum(1 for _ in _leaves(structure)):
            raise UsageError(f"two parts of {structure} have one name, {', '.join(self._leaves)}: rename one of them")
        #: name ("aim", or "hand/aim" of a nested one) → the part as one of SB3's action spaces, counted from 0
        self.parts = {name: _flat(name, leaf) for name, leaf in self._leaves.items()}
        self.sizes = [get_action_dim(part) for part in self.parts.values()]
        bounds = [_bounds(part, size) for part, size in zip(self.parts.values(), self.sizes, strict=True)]
        low, high = (np.concatenate(ends).astype(np.float32) for ends in zip(*bounds, strict=True))
        super().__init__(low, high, dtype=np.float32)

    @classmethod
    def of(cls, space: spaces.Space) -> spaces.Space:
        """The space of one action, flat where it has parts."""
        return cls(space) if isinstance(space, (spaces.Dict, spaces.Tuple)) else space

    def flatten(self, action: Any) -> np.ndarray:
        """An action as the environment takes it → ``[A]``."""
        values = dict(_values(self.structure, action))
        flat = [np.ravel(values[name] - _start(leaf)) for name, leaf in self._leaves.items()]
        return np.concatenate(flat).astype(np.float32)

    def unflatten(self, flat: np.ndarray) -> Any:
        """``[A]`` → an action as the environment takes it, inside its bounds.

        :param flat: ``[A]``, or ``[N, A]``, of which a list of N actions is made: what a VecEnv takes
        """
        if flat.ndim > 1:
            return [self.unflatten(row) for row in flat]
        pieces = np.split(flat, np.cumsum(self.sizes)[:-1])
        made = {name: _value(leaf, piece) for (name, leaf), piece in zip(self._leaves.items(), pieces, strict=True)}
        return _built(self.structure, made)

    def sample(self, mask: Any = None, probability: Any = None) -> np.ndarray:
        """An action at random, ``[A]``.

        :param mask: as that of the space that it flattens takes it
        :param probability: likewise
        """
        options = {} if probability is None else {"probability": probability}
        return self.flatten(self.structure.sample(mask, **options))

    def seed(self, seed: Any = None) -> Any:
        """As that of the space that it flattens."""
        return self.structure.seed(seed)

    def __eq__(self, other: object) -> bool:
        return bool(self.structure == (other.structure if isinstance(other, FlatActions) else other))

    def __repr__(self) -> str:
        return f"FlatActions({self.structure})"


def _children(space: spaces.Dict | spaces.Tuple) -> list[tuple[Any, spaces.Space]]:
    return list(space.spaces.items() if isinstance(space, spaces.Dict) else enumerate(space.spaces))


def _leaves(space: spaces.Space, name: str = "") -> Iterator[tuple[str, spaces.Space]]:
    """Name and space of every part that has no parts."""
    if not isinstance(space, (spaces.Dict, spaces.Tuple)):
        yield name, space
        return
    for key, child in _children(space):
        yield from _leaves(child, f"{name}/{key}" if name else str(key))


def _values(space: spaces.Space, action: Any, name: str = "") -> Iterator[tuple[str, np.ndarray]]:
    """Name and value of every such part of an action."""
    if not isinstance(space, (spaces.Dict, spaces.Tuple)):
        yield name, np.asarray(action)
        return
    for key, child in _children(space):
        yield from _values(child, action[key], f"{name}/{key}" if name else str(key))


def _built(space: spaces.Space, values: dict[str, Any], name: str = "") -> Any:
    """An action of the values of its parts."""
    if not isinstance(space, (spaces.Dict, spaces.Tuple)):
        return values[name]
    made = {key: _built(child, values, f"{name}/{key}" if name else str(key)) for key, child in _children(space)}
    return made if isinstance(space, spaces.Dict) else tuple(made.values())


def _flat(name: str, leaf: spaces.Space) -> spaces.Space:
    """A part with one dimension, counted from 0."""
    if isinstance(leaf, spaces.Box) and np.issubdtype(leaf.dtype, np.floating):
        return spaces.Box(leaf.low.ravel(), leaf.high.ravel(), dtype=leaf.dtype.type)
    if isinstance(leaf, spaces.Discrete):
        return spaces.Discrete(int(leaf.n))
    if isinstance(leaf, spaces.MultiDiscrete):
        return spaces.MultiDiscrete(leaf.nvec.ravel())
    if isinstance(leaf, spaces.MultiBinary):
        require_flat_bits(leaf, f"part {name!r} of an action: ")
        return leaf
    raise ActionsNotTaken(
        f"part {name!r} of an action must be a Box of floating point numbers, Discrete, MultiDiscrete or MultiBinary; "
        f"got {leaf}"
    )


def _bounds(part: spaces.Space, size: int) -> tuple[np.ndarray, np.ndarray]:
    if isinstance(part, spaces.Box):
        return part.low, part.high
    most = part.nvec if isinstance(part, spaces.MultiDiscrete) else getattr(part, "n", 2)
    most = 2 if isinstance(part, spaces.MultiBinary) else most
    return np.zeros(size), np.broadcast_to(np.asarray(most) - 1, (size,))


def _start(leaf: spaces.Space) -> Any:
    return leaf.start if isinstance(leaf, (spaces.Discrete, spaces.MultiDiscrete)) else 0


def _value(leaf: spaces.Space, piece: np.ndarray) -> Any:
    """The numbers of one part as the environment takes them."""
    if isinstance(leaf, spaces.Box):
        return np.clip(piece.reshape(leaf.shape).astype(leaf.dtype), leaf.low, leaf.high)
    value = piece.reshape(leaf.shape).astype(leaf.dtype) + _start(leaf)
    return value.astype(leaf.dtype)[()]  # a Discrete action is a number, not an array
