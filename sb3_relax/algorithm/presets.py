"""Values that go well together, under one name."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from inspect import signature
from typing import Any, TypeVar

from sb3_relax.errors import require_choice

Constructor = TypeVar("Constructor", bound=Callable[..., None])

#: by name: what an argument is where it is not given
PRESETS: dict[str, dict[str, Any]] = {
    "fast": {
        # the policy: natural gradients of small batches
        "n_steps": 16,
        "update_rule": "kfac",
        "target_kl": 0.002,
        "normalize_advantage": True,
        "normalize_observations": True,
        # V: many steps on what the last rollouts saw
        "use_rms_prop": False,
        "learning_rate": 3e-3,
        "critic_learning_rate": 3e-3,
        "normalize_returns": True,
        "n_critic_steps": 6,
        "critic_replay": 16,
        "critic_batch_size": 256,
        # what is learned
        "gamma": 0.99,
        "gae_lambda": 0.95,
    }
}


def takes_preset(construct: Constructor) -> Constructor:
    """A constructor that takes ``preset=`` besides, the name of one of :data:`PRESETS`.

    The preset's values are those of arguments that are not given, but for ``not_of_presets`` of the class.

    :param construct: ``__init__``, whose last parameter is ``**hyperparameters``
    """
    known = signature(construct)

    @wraps(construct)
    def constructed(self: Any, *args: Any, preset: str | None = None, **kwargs: Any) -> None:
        if preset is not None:
            require_choice("preset", preset, tuple(PRESETS))
            given = known.bind_partial(self, *args, **kwargs).arguments
            not_taken = {*given, *given.get("hyperparameters", {}), *self.not_of_presets}
            kwargs |= {name: value for name, value in PRESETS[preset].items() if name not in not_taken}
        construct(self, *args, **kwargs)

    return constructed  # type: ignore[return-value]
