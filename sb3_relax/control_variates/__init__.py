"""What is subtracted from the policy gradient: one idea a file, and a contract to write another."""

from sb3_relax.control_variates.base import ControlVariate
from sb3_relax.control_variates.centred import CentredAction, EnumeratedMean, LinearInScore, SampledMean
from sb3_relax.control_variates.exact import ExactControlVariate
from sb3_relax.control_variates.from_estimator import FromEstimator
from sb3_relax.control_variates.guard import Guarded
from sb3_relax.control_variates.lax import LAXControlVariate
from sb3_relax.control_variates.learned import LearnedControlVariate
from sb3_relax.control_variates.model_based import ModelBased
from sb3_relax.control_variates.network import ControlVariateNetwork
from sb3_relax.control_variates.one_step_model import OneStepModel
from sb3_relax.control_variates.registry import CONTROL_VARIATES, make_control_variate
from sb3_relax.control_variates.relax import RELAXControlVariate
from sb3_relax.control_variates.state_baseline import StateBaseline
from sb3_relax.control_variates.trajectory import Trajectory
from sb3_relax.control_variates.trajectory_model import TrajectoryByModel

__all__ = [
    "CONTROL_VARIATES",
    "CentredAction",
    "ControlVariate",
    "ControlVariateNetwork",
    "EnumeratedMean",
    "ExactControlVariate",
    "FromEstimator",
    "Guarded",
    "LAXControlVariate",
    "LearnedControlVariate",
    "LinearInScore",
    "ModelBased",
    "OneStepModel",
    "RELAXControlVariate",
    "SampledMean",
    "StateBaseline",
    "Trajectory",
    "TrajectoryByModel",
    "make_control_variate",
]
