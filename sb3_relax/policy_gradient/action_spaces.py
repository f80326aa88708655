"""Discrete actions as the environment counts them, where SB3 takes flat vectors that count from 0."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.distributions import Distribution
from stable_baselines3.common.policies import ActorCriticPolicy

from sb3_relax.errors import ActionsNotTaken


def as_sb3_counts(space: spaces.Space) -> spaces.Space:
    """The space that SB3 makes the same networks, buffers and distributions for, without misreading it.

    :param space: Discrete or MultiDiscrete that may start anywhere, MultiDiscrete of any shape; others are given back
    :return: Discrete from 0, or a vector of MultiDiscrete from 0; ``space`` itself where it is so
    """
    counts_from_zero = not starts_of(space).any()
    if isinstance(space, spaces.Discrete):
        return space if counts_from_zero else spaces.Discrete(int(space.n))
    if isinstance(space, spaces.MultiDiscrete):
        return space if counts_from_zero and space.nvec.ndim == 1 else spaces.MultiDiscrete(space.nvec.flatten())
    return space


def require_flat_bits(space: spaces.Space, name: str = "") -> None:
    """Bits that SB3 takes as actions: their size is one number.

    :param space: of any kind; only MultiBinary can be refused
    :param name: what an error begins with, where the space is a part of an action
    :raises ActionsNotTaken: (a ``ValueError`` and an ``AssertionError``) with SB3's words, and the wrapper to write
    """
    if isinstance(space, spaces.MultiBinary) and not isinstance(space.n, int):
        raise ActionsNotTaken(
            f"{name}Multi-dimensional MultiBinary({space.n}) action space is not supported. "
            "You can flatten it instead: wrap the environment in a gymnasium.ActionWrapper that takes "
            f"MultiBinary({math.prod(space.n)}) in its place, and whose action() hands on bits.reshape({space.n})"
        )


def starts_of(space: spaces.Space) -> np.ndarray:
    """The first action of each variable of a Discrete or MultiDiscrete space, flattened; 0 for any other."""
    start = getattr(space, "start", 0) if isinstance(space, (spaces.Discrete, spaces.MultiDiscrete)) else 0
    return np.asarray(start, dtype=np.int64).flatten()


def act_in(policy: ActorCriticPolicy, space: spaces.Space) -> None:
    """Let a policy that was made for ``as_sb3_counts(space)`` give and take the actions of ``space`` itself.

    Its distribution samples, and gives the probability of, what the environment counts: so do ``forward()``,
    ``predict()``, ``evaluate_actions()`` and whatever is exported of the policy.

    :param policy: whose ``action_space`` and ``action_dist`` are replaced
    """
    policy.action_space = space
    start = starts_of(space)
    if start.any():
        policy.action_dist = counted_from(policy.action_dist, th.as_tensor(start))


class CountedFrom:
    """What is put before one of SB3's distributions over classes among a class's bases: actions that start elsewhere.

    :func:`counted_from` makes one.
    """

    start: th.Tensor

    def sample(self) -> th.Tensor:
        actions: th.Tensor = super().sample()  # type: ignore[misc]
        return actions + self.start.to(actions.device)

    def mode(self) -> th.Tensor:
        actions: th.Tensor = super().mode()  # type: ignore[misc]
        return actions + self.start.to(actions.device)

    def log_prob(self, actions: th.Tensor) -> th.Tensor:
        log_prob: th.Tensor = super().log_prob(actions - self.start.to(actions.device))  # type: ignore[misc]
        return log_prob

    def __reduce__(self) -> tuple[Any, ...]:
        # its class is made when it is asked for: a copy, or what reads a file, makes it again
        plain: Any = object.__new__(type(self).__mro__[2])
        plain.__dict__.update({name: value for name, value in vars(self).items() if name != "start"})
        return counted_from, (plain, self.start)


def counted_from(distribution: Distribution, start: th.Tensor) -> Any:
    """The same distribution over actions that start elsewhere than at 0, still an instance of the same class.

    :param distribution: over classes: Categorical or MultiCategorical, sb3-contrib's maskable ones included
    :param start: the first action of each variable, ``[D]``
    """
    kind = type(distribution)
    shifted: Any = object.__new__(type(f"{kind.__name__}CountedFrom", (CountedFrom, kind), {}))
    shifted.__dict__.update(vars(distribution), start=start)
    return shifted


def to_classes(distribution: Distribution, actions: th.Tensor) -> th.Tensor:
    """Actions as a policy's distribution gives them → numbers of classes, from 0."""
    return actions - distribution.start.to(actions.device) if isinstance(distribution, CountedFrom) else actions
