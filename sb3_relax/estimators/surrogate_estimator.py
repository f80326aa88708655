"""What the estimators with a surrogate c_φ of the sample have in common."""

from __future__ import annotations

from typing import Any, TypeVar

from sb3_relax.estimators.base import TwoPhaseEstimator
from sb3_relax.estimators.centred import CentredEstimator
from sb3_relax.estimators.control_variates import MLPSurrogate
from sb3_relax.estimators.functions import Surrogate
from sb3_relax.estimators.latents import Latent

SelfEstimator = TypeVar("SelfEstimator", bound="SurrogateEstimator")


class SurrogateEstimator(CentredEstimator, TwoPhaseEstimator):
    """An estimator that subtracts c_φ of a sample from f, and adds c_φ's mean again.

    :param surrogate: c_φ
    :param center: as :class:`CentredEstimator`'s
    """

    def __init__(self, surrogate: Surrogate, center: bool):
        super().__init__(center)
        self.surrogate = surrogate

    @classmethod
    def make(cls: type[SelfEstimator], latent: Latent, **kwargs: Any) -> SelfEstimator:
        return cls(MLPSurrogate.of(latent), **kwargs)
