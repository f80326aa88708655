"""What the estimators with a surrogate c_φ of the sample have in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

from sb3_relax.estimators.base import TwoPhaseEstimator
from sb3_relax.estimators.centred import CentredEstimator
from sb3_relax.estimators.control_variates import MLPSurrogate
from sb3_relax.estimators.latents import Latent
from sb3_relax.estimators.surrogate import Surrogate

SelfEstimator = TypeVar("SelfEstimator", bound="SurrogateEstimator")


class SurrogateEstimator(CentredEstimator, TwoPhaseEstimator):
    """An estimator that subtracts c_φ of a sample from f, and adds c_φ's mean again.

    :param surrogate: c_φ
    :param center: as :class:`CentredEstimator`'s
    """

    context_parts = ("surrogate",)

    def __init__(self, surrogate: Surrogate, center: bool):
        super().__init__(center)
        self.surrogate = surrogate

    @classmethod
    def make(
        cls: type[SelfEstimator],
        latent: Latent,
        surrogate: Surrogate | None = None,
        hidden: Sequence[int] | None = None,
        context: int | None = None,
        **kwargs: Any,
    ) -> SelfEstimator:
        """With ``surrogate``, or, where it is left out, with an MLPSurrogate of these settings."""
        return cls(surrogate_for(latent, surrogate, hidden, context), **kwargs)


def surrogate_for(
    latent: Latent, surrogate: Surrogate | None, hidden: Sequence[int] | None, context: int | None
) -> Surrogate:
    """A surrogate that was given, or one that fits ``latent``.

    :raises TypeError: for settings of a network, and a surrogate that was given
    """
    settings: dict[str, Any] = {"hidden": hidden, "context": context}
    settings = {name: value for name, value in settings.items() if value is not None}
    if surrogate is None:
        return MLPSurrogate.of(latent, **settings)
    if settings:
        raise TypeError(f"{', '.join(settings)} would shape the default surrogate: leave out, or leave out surrogate=")
    return surrogate
