"""Whose a saved agent is, for the error where it is loaded as another class's."""

from __future__ import annotations

import pathlib
from typing import TYPE_CHECKING, Any

from gymnasium import spaces
from stable_baselines3.common.save_util import load_from_zip_file

from sb3_relax.common.checks import POLICY_FAMILIES
from sb3_relax.common.errors import UsageError

if TYPE_CHECKING:
    from sb3_relax.common.surrogate_a2c import SurrogateA2C


def require_own_file(
    cls: type[SurrogateA2C], path: Any, custom_objects: dict[str, Any] | None, cv_action_dependent: bool | None = None
) -> None:
    """An agent's file that could not be loaded is this class's, as far as can be told from what it holds.

    :param path: as SB3's ``load()`` takes it
    :param cv_action_dependent: as it was to be loaded; ``None``: as saved
    :raises UsageError: naming the class that saved it, or the ``cv_action_dependent`` where that differs
    """
    try:
        data: dict[str, Any] = load_from_zip_file(path, device="cpu", custom_objects=custom_objects)[0] or {}
    except Exception:  # no agent's file at all: the error there was says so
        return
    if not isinstance(data.get("policy_class"), type) or "action_space" not in data:
        return
    policy, action_space = data["policy_class"], data["action_space"]
    bases = {base.__name__ for base in policy.__mro__}
    family = next((family for family in POLICY_FAMILIES if family in bases), None)
    same_spaces = family == cls.policy_base and isinstance(action_space, cls.action_spaces)
    file = path if isinstance(path, (str, pathlib.Path)) else "the file"
    if "cv_learning_rate" in data and same_spaces:
        saved = data.get("cv_action_dependent", True)
        if cv_action_dependent not in (None, saved):
            raise UsageError(
                f"{file} holds an agent with cv_action_dependent={saved}, whose ĉ cannot be loaded as one with "
                f"cv_action_dependent={cv_action_dependent}: leave it out"
            )
        return
    saver = _saver(data, family)
    message = (
        f"{file} holds an agent of {saver or 'another class'} ({policy.__module__}.{policy.__name__}, {action_space}), "
        f"which {cls.__name__} cannot load: use "
        + (f"{saver}.load()" if saver else "load() of the class that it was saved from")
    )
    if saver and "cv_learning_rate" not in data and same_spaces:
        message += f". Its policy alone may serve: model.policy.load_state_dict({saver}.load(path).policy.state_dict())"
    raise UsageError(message)


def _saver(data: dict[str, Any], family: str | None) -> str | None:
    """The class, by attributes that no other has; ``None`` where they leave it open."""
    prefix = "" if family is None else family.removesuffix("ActorCriticPolicy")
    if "cv_learning_rate" in data:
        return f"sb3_relax.{prefix}{'LAXA2C' if isinstance(data['action_space'], spaces.Box) else 'RELAXA2C'}"
    if "clip_range" in data:
        return f"sb3_contrib.{prefix}PPO" if prefix else "stable_baselines3.PPO"
    if "cg_max_steps" in data:
        return "sb3_contrib.TRPO"
    return "stable_baselines3.A2C" if "gae_lambda" in data and not prefix else None
