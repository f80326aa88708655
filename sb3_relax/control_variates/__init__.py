"""What is subtracted from the policy gradient: one idea a file, and a contract to write another."""

from sb3_relax.control_variates.base import ControlVariate
from sb3_relax.control_variates.centred import CentredAction, EnumeratedMean, LinearInScore, SampledMean
from sb3_relax.control_variates.exact import ExactControlVariate
from sb3_relax.control_variates.factorised import Factorised
from sb3_relax.control_variates.from_estimator import FromEstimator
from sb3_relax.control_variates.guard import Guarded
from sb3_relax.control_variates.lax import LAXControlVariate
from sb3_relax.control_variates.learned import LearnedControlVariate
from sb3_relax.control_variates.model_based import ModelBased
from sb3_relax.control_variates.network import ControlVariateNetwork
from sb3_relax.control_variates.one_step_model import OneStepModel
from sb3_relax.control_variates.q_prop import ConservativeQProp, QProp
from sb3_relax.control_variates.registry import CONTROL_VARIATES, make_control_variate
from sb3_relax.control_variates.regressed import RegressedControlVariate
from sb3_relax.control_variates.relax import RELAXControlVariate
from sb3_relax.control_variates.state_baseline import StateBaseline
from sb3_relax.control_variates.stein import QuadraticStein, QuadraticSteinByVariance, Stein
from sb3_relax.control_variates.together import Together
from sb3_relax.control_variates.trajectory import Trajectory
from sb3_relax.control_variates.trajectory_model import TrajectoryByModel
from sb3_relax.control_variates.trajectory_variance import TrajectoryByVariance

__all__ = [
    "CONTROL_VARIATES",
    "CentredAction",
    "ConservativeQProp",
    "ControlVariate",
    "ControlVariateNetwork",
    "EnumeratedMean",
    "ExactControlVariate",
    "Factorised",
    "FromEstimator",
    "Guarded",
    "LAXControlVariate",
    "LearnedControlVariate",
    "LinearInScore",
    "ModelBased",
    "OneStepModel",
    "QProp",
    "QuadraticStein",
    "QuadraticSteinByVariance",
    "RELAXControlVariate",
    "RegressedControlVariate",
    "SampledMean",
    "StateBaseline",
    "Stein",
    "Together",
    "Trajectory",
    "TrajectoryByModel",
    "TrajectoryByVariance",
    "make_control_variate",
]
