"""LAXA2C: A2C for continuous actions with the LAX estimator."""

from __future__ import annotations

from gymnasium import spaces
from stable_baselines3.common.preprocessing import get_action_dim

from sb3_relax.common.surrogate_a2c import SurrogateA2C
from sb3_relax.estimators import LAX, Estimator
from sb3_relax.estimators.base import Surrogate


class LAXA2C(SurrogateA2C):
    action_spaces = (spaces.Box,)
    other_algorithm = "RELAXA2C"

    def _estimator(self, surrogate: Surrogate) -> Estimator:
        return LAX(surrogate)

    def _cv_action_dim(self) -> int:
        return get_action_dim(self.action_space)
