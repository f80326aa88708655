"""Values that go well together, under one name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import wraps
from inspect import signature
from typing import Any, NamedTuple, TypeVar

from stable_baselines3.common.utils import LinearSchedule

from sb3_relax.errors import require_choice
from sb3_relax.policy_gradient.hyperparameters import Hyperparameters

Constructor = TypeVar("Constructor", bound=Callable[..., None])


class Setting(NamedTuple):
    """What an argument is, and why."""

    value: Any
    why: str


#: by name of the preset and of the argument
PRESETS: dict[str, dict[str, Setting]] = {
    "fast": {
        "n_steps": Setting(64, "batches of 512 steps, with the eight environments that it is meant for"),
        "gamma": Setting(0.995, "a horizon of two hundred steps"),
        "gae_lambda": Setting(0.95, "advantages from some twenty steps: less noise, and more of it the action's"),
        "ent_coef": Setting(0.003, "actions go on being tried"),
        "normalize_advantage": Setting(True, "the entropy's share is the same for rewards of any size"),
        "normalize_observations": Setting(True, "inputs of the size that networks are made for"),
        "update_rule": Setting("kfac", "short steps, of one length in what they change of the policy"),
        "use_rms_prop": Setting(False, "Adam for V"),
        "learning_rate": Setting(
            LinearSchedule(3e-3, 0.0, 1.0), "the policy's steps of `target_kl` become shorter with it"
        ),
        "critic_learning_rate": Setting(3e-3, "an optimizer of V's own, whose steps do not become shorter"),
        "normalize_returns": Setting(True, "one rate of V suits rewards of any size"),
        "n_critic_steps": Setting(20, "V's error is most of the gradient's noise"),
        "critic_replay": Setting(8, "V learns from more than the newest steps"),
        "critic_lambda": Setting(1.0, "V finds out soon what hundreds of steps are worth"),
        "critic_batch_size": Setting(512, "V's further steps take the same time for a long replay"),
        "initial_action_std": Setting(0.4, "Box actions are tried inside their bounds, whatever these are"),
    }
}

#: arguments that have no effect while another one has its default, and that one
PART_OF = {
    "target_kl": "update_rule",
    "momentum": "update_rule",
    "normalize_returns": "critic_learning_rate",
    "critic_batch_size": "n_critic_steps",
    "critic_replay": "n_critic_steps",
    "critic_lambda": "critic_replay",
}


def has_own_std(given: Mapping[str, Any]) -> bool:
    """Whether given arguments say how widely Box actions are tried."""
    return bool(given.get("use_sde")) or "log_std_init" in (given.get("policy_kwargs") or {})


def values_for(preset: str, given: Mapping[str, Any], cls: Any) -> dict[str, Any]:
    """A preset's values for what is not given.

    What has no effect beside the given arguments (:data:`PART_OF`) is left out: an agent with
    ``critic_replay=1`` would refuse a ``critic_lambda``, and one with ``log_std_init`` an ``initial_action_std``.
    So are ``not_of_presets`` of the class.

    :param preset: a name of :data:`PRESETS`
    :param given: argument → value
    :param cls: the algorithm
    :raises UsageError: for another name
    """
    require_choice("preset", preset, tuple(PRESETS))
    defaults: type[Hyperparameters] = cls.hyperparameters
    given = {**{name: getattr(defaults, name) for name in cls.not_of_presets}, **given}
    values = {name: own.value for name, own in PRESETS[preset].items() if name not in given}
    if has_own_std(given):
        values.pop("initial_action_std", None)

    def has_effect(name: str) -> bool:
        whole = PART_OF.get(name)
        if whole is None:
            return True
        default = getattr(defaults, whole)
        return {**values, **given}.get(whole, default) != default and has_effect(whole)

    return {name: value for name, value in values.items() if has_effect(name)}


def takes_preset(construct: Constructor) -> Constructor:
    """A constructor that takes ``preset=`` besides, the name of one of :data:`PRESETS`.

    The preset's values are those of arguments that are not given (:func:`values_for`).

    :param construct: ``__init__``, whose last parameter is ``**hyperparameters``
    """
    known = signature(construct)

    @wraps(construct)
    def constructed(self: Any, *args: Any, preset: str | None = None, **kwargs: Any) -> None:
        if preset is not None:
            given = known.bind_partial(self, *args, **kwargs).arguments
            kwargs |= values_for(preset, {**given, **given.get("hyperparameters", {})}, type(self))
        construct(self, *args, **kwargs)

    return constructed  # type: ignore[return-value]
