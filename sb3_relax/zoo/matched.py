"""The matched baseline: A2C with those arguments of ours that are not the control variate's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from gymnasium import spaces
from stable_baselines3.common.type_aliases import Schedule

from sb3_relax.algorithm.a2c import ControlVariateA2C
from sb3_relax.errors import UsageError
from sb3_relax.policy_gradient.hyperparameters import Hyperparameters


@dataclass(frozen=True, kw_only=True)
class WithoutControlVariate(Hyperparameters):
    """What is left of the hyper-parameters where there is no ĉ; what is ĉ's is not searched."""

    control_variate: Any = "none"
    cv_learning_rate: float | Schedule = 0.0
    n_cv_steps: int = 1

    def check(self, action_space: spaces.Space, n_envs: int) -> None:
        if self.control_variate != "none" or self.cv_learning_rate != 0:
            raise UsageError("a2c_matched has no control variate: use --algo laxa2c (Box actions) or relaxa2c")
        super().check(action_space, n_envs)


class MatchedA2C(ControlVariateA2C):
    """A2C with critic steps, update rules and whole episodes as LAXA2C and RELAXA2C have them, and no ĉ.

    It is what a control variate is compared with. A class of its own gives its runs a folder and a name of their own,
    so that no plot takes them for runs of the algorithm that they are compared with.

    Arguments: A2C's, and those of :class:`~sb3_relax.policy_gradient.Hyperparameters` that are not ĉ's.

    :raises UsageError: for a control variate
    """

    action_spaces: ClassVar[tuple[type[spaces.Space], ...]] = (
        spaces.Box,
        spaces.Discrete,
        spaces.MultiDiscrete,
        spaces.MultiBinary,
    )
    hyperparameters = WithoutControlVariate
