"""Values that go well together, under one name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import wraps
from inspect import signature
from typing import Any, NamedTuple, TypeVar

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
        "n_steps": Setting(16, "an update after few steps; meant for eight environments"),
        "gae_lambda": Setting(0.95, "advantages from some twenty steps: less noise, and more of it the action's"),
        "ent_coef": Setting(0.003, "actions go on being tried"),
        "normalize_advantage": Setting(True, "the entropy's share is the same for rewards of any size"),
        "normalize_observations": Setting(True, "inputs of the size that networks are made for"),
        "update_rule": Setting("kfac", "steps of one length on every task, in what they change of the policy"),
        "target_kl": Setting(0.001, "steps so short that batches of a hundred steps do"),
        "use_rms_prop": Setting(False, "Adam for V"),
        "learning_rate": Setting(3e-3, "V's, since the policy's steps have `target_kl`"),
        "critic_learning_rate": Setting(3e-3, "an optimizer of V's own, whose gradient is clipped apart"),
        "normalize_returns": Setting(True, "one rate of V suits rewards of any size"),
        "n_critic_steps": Setting(10, "V's error is most of the gradient's noise"),
        "critic_replay": Setting(16, "V learns from more than the newest steps"),
        "critic_lambda": Setting(1.0, "V finds out soon what hundreds of steps are worth"),
        "critic_batch_size": Setting(256, "V's further steps take the same time for a long replay"),
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


def values_for(preset: str, given: Mapping[str, Any], defaults: type[Hyperparameters]) -> dict[str, Any]:
    """A preset's values for what is not given.

    What has no effect beside the given arguments (:data:`PART_OF`) is left out: an agent with
    ``update_rule="optimizer"`` would refuse a ``target_kl``.

    :param preset: a name of :data:`PRESETS`
    :param given: argument → value
    :param defaults: of the class, as its attributes
    """
    values = {name: own.value for name, own in PRESETS[preset].items() if name not in given}

    def has_effect(name: str) -> bool:
        whole = PART_OF.get(name)
        if whole is None:
            return True
        default = getattr(defaults, whole)
        return {**values, **given}.get(whole, default) != default and has_effect(whole)

    return {name: value for name, value in values.items() if has_effect(name)}


def takes_preset(construct: Constructor) -> Constructor:
    """A constructor that takes ``preset=`` besides, the name of one of :data:`PRESETS`.

    The preset's values are those of arguments that are not given (:func:`values_for`), but for ``not_of_presets`` of
    the class.

    :param construct: ``__init__``, whose last parameter is ``**hyperparameters``
    """
    known = signature(construct)

    @wraps(construct)
    def constructed(self: Any, *args: Any, preset: str | None = None, **kwargs: Any) -> None:
        if preset is not None:
            require_choice("preset", preset, tuple(PRESETS))
            given = known.bind_partial(self, *args, **kwargs).arguments
            refused = {name: getattr(self.hyperparameters, name) for name in self.not_of_presets}
            given = {**refused, **given, **given.get("hyperparameters", {})}
            kwargs |= values_for(preset, given, self.hyperparameters)
        construct(self, *args, **kwargs)

    return constructed  # type: ignore[return-value]
