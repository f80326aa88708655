"""What an algorithm takes, and the errors that name the one to use instead."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import gymnasium
import numpy as np
from gymnasium import spaces
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.torch_layers import FlattenExtractor, NatureCNN
from torch import nn

from sb3_relax.catalogue import HYBRID, POLICY_FAMILIES, family_of, takers
from sb3_relax.errors import ActionsNotTaken, UsageError
from sb3_relax.policy_gradient.action_spaces import require_flat_bits, starts_of

if TYPE_CHECKING:
    from collections.abc import Iterable

#: what SB3's policies act in
KNOWN_SPACES = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)
#: float32 has every whole number up to here
LARGEST_ACTION = 2**24


def require_action_space(cls: Any, action_space: gymnasium.Space) -> None:
    """Actions that an algorithm takes.

    :param cls: with ``action_spaces`` and ``policy_base``
    :raises ActionsNotTaken: (a ``ValueError`` and an ``AssertionError``) naming the class to use instead, or the
        wrapper to write
    :raises UsageError: for a ``start`` too far from 0
    """
    require_flat_bits(action_space)
    if isinstance(action_space, cls.action_spaces):
        _require_exact_in_float32(action_space)
        return
    accepted = ", ".join(kind.__name__ for kind in cls.action_spaces)
    advice = "flatten it to one of them (for Box use LAXA2C, for the discrete ones RELAXA2C)"
    if isinstance(action_space, (spaces.Dict, spaces.Tuple)):
        without = "" if cls.policy_base is None else ", which has neither masks nor a memory"
        advice = f"use sb3_relax.{takers(action_space, HYBRID)[0]} instead{without}"
    elif isinstance(action_space, KNOWN_SPACES):
        # of its own family of policies where there is one
        others = takers(action_space, cls.policy_base) or takers(action_space, None)
        advice = f"use sb3_relax.{others[0]} instead"
    raise ActionsNotTaken(f"{cls.__name__} takes {accepted} action spaces; got {action_space}: {advice}")


def _require_exact_in_float32(action_space: gymnasium.Space) -> None:
    """SB3's buffers hand actions over in float32, which would round large numbers to other actions."""
    if isinstance(action_space, (spaces.Discrete, spaces.MultiDiscrete)):
        first = starts_of(action_space)
        last = first + np.asarray(getattr(action_space, "nvec", getattr(action_space, "n", 1))).flatten() - 1
        if max(abs(first).max(), abs(last).max()) > LARGEST_ACTION:
            raise UsageError(
                f"SB3's buffers hold actions exactly up to {LARGEST_ACTION}; got {action_space}: let the space start "
                "nearer to 0, and add the rest in step()"
            )


def require_own_std(use_sde: bool, policy_kwargs: dict[str, Any]) -> None:
    """That nothing else says how widely actions are tried, beside ``initial_action_std``.

    :raises UsageError: naming what to leave out
    """
    if use_sde:
        raise UsageError(
            "with use_sde=True the standard deviation of actions depends on the state: leave initial_action_std out, "
            "and set log_std_init in policy_kwargs"
        )
    if "log_std_init" in policy_kwargs:
        raise UsageError("initial_action_std takes the place of log_std_init in policy_kwargs: leave out one of them")


def require_observation_space(space: gymnasium.Space, name: str = "observations") -> None:
    """Observations that SB3 reads as they are meant: it counts classes from 0, and takes vectors of them.

    :param name: of the part of a Dict
    :raises UsageError: naming the wrapper to write
    """
    if isinstance(space, spaces.Dict):
        for key, part in space.spaces.items():
            require_observation_space(part, f"observations[{key!r}]")
    elif starts_of(space).any():
        raise UsageError(
            f"{name} must count from 0, as SB3's one-hot encoding does; got {space}: subtract the start in a "
            "gymnasium.ObservationWrapper whose observation_space has none"
        )
    elif isinstance(space, spaces.MultiDiscrete) and space.nvec.ndim > 1:
        raise UsageError(
            f"{name} that are MultiDiscrete must be a vector; got {space}: flatten them in a "
            "gymnasium.ObservationWrapper whose observation_space is MultiDiscrete(nvec.flatten())"
        )


def require_policy_family(cls: Any, policy_class: type | None) -> None:
    """A policy whose methods take what the algorithm hands them. By name, so that sb3-contrib need not be there.

    :param cls: with ``policy_base``
    :param policy_class: ``None`` where it is not known yet, as in load()
    :raises UsageError: naming the algorithm to use instead
    """
    if policy_class is None or not isinstance(policy_class, type):
        return
    family = family_of(policy_class)
    if cls.policy_base is not None and cls.policy_base not in {base.__name__ for base in policy_class.__mro__}:
        raise UsageError(
            f"{cls.__name__} takes policies that derive from {POLICY_FAMILIES[cls.policy_base].home}'s "
            f"{cls.policy_base}; got {policy_class}"
        )
    if family not in (None, cls.policy_base):
        raise UsageError(f"{cls.__name__} does not take {policy_class}: use {_named(takers(None, family))}")


def require_extractor_of_parts(cls: Any, policy: Any) -> None:
    """That a policy for Dict observations has an extractor that reads their parts, and not one array.

    SB3 says so of its own policies, and not of recurrent ones, which fail at the first step.

    :param cls: with ``policy_aliases``
    :raises UsageError: naming the policy to use instead
    """
    extractor = type(policy.features_extractor)
    if isinstance(policy.observation_space, spaces.Dict) and extractor in (FlattenExtractor, NatureCNN):
        others = " or ".join(name for name in cls.policy_aliases if name.startswith("MultiInput"))
        raise UsageError(
            f"observations that are a Dict need {others or 'an extractor that reads them'}: "
            f"{type(policy).__name__}'s {extractor.__name__} reads one array"
        )


def require_long_rollouts(control_variate: nn.Module, n_steps: int) -> None:
    """That rollouts of a fixed number of steps are long enough for what a control variate learns from them.

    :param control_variate: of whose modules each may name its ``least_steps``
    :param n_steps: of one environment
    :raises UsageError: naming the least
    """
    least = max(getattr(module, "least_steps", 1) for module in control_variate.modules())
    if n_steps < least:
        raise UsageError(
            "this control variate learns from a step and the one after it in the same rollout, and would learn nothing "
            f"with n_steps={n_steps}: use n_steps={least} or more, or another control_variate, such as 'relax' or 'lax'"
        )


def require_fresh_noise(control_variate: nn.Module, policy: BasePolicy, use_sde: bool, sde_sample_freq: int) -> None:
    """That actions of different steps are drawn independently, where a control variate of later ones rests on it.

    :param control_variate: of whose modules each may say that it ``needs_fresh_noise``
    :param policy: which may have gSDE whatever the algorithm was told
    :param use_sde: the algorithm's, without which it draws no noise matrices
    :param sde_sample_freq: the algorithm's
    :raises UsageError: for gSDE whose noise lasts for several steps: given the past, its mean is not zero
    """
    lasts = getattr(policy, "use_sde", False) and not (use_sde and sde_sample_freq == 1)
    if lasts and any(getattr(module, "needs_fresh_noise", False) for module in control_variate.modules()):
        raise UsageError(
            "a control variate of later actions needs noise that is drawn anew at every step, and gSDE with "
            f"use_sde={use_sde}, sde_sample_freq={sde_sample_freq} draws it for several: use use_sde=True with "
            "sde_sample_freq=1, a policy without gSDE, or a control_variate for the step's own action alone"
        )


def unknown_policy(cls: Any, name: str) -> UsageError:
    """The error for a policy's name that an algorithm does not have.

    :param cls: with ``policy_aliases``
    """
    message = f"{cls.__name__} has no policy {name!r}; it has {', '.join(cls.policy_aliases)}"
    own = POLICY_FAMILIES[cls.policy_base].words if cls.policy_base is not None else frozenset()
    named = {word for family in POLICY_FAMILIES.values() for word in family.words if word in name}
    for base, family in POLICY_FAMILIES.items():
        if family.words == own | named != own:  # what the class has, and what was asked for
            message += f". For {family.home}'s policies use {_named(takers(None, base))}"
    return UsageError(message)


def _named(names: Iterable[str]) -> str:
    """As an error names them: "sb3_relax.RecurrentLAXA2C or RecurrentRELAXA2C"."""
    return f"sb3_relax.{' or '.join(names)}"
