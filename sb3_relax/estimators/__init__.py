"""Stochastic gradient estimators, on torch alone. One method a file: the maths in the docstring, then the body."""

from sb3_relax.estimators.base import Estimator, TwoPhaseEstimator
from sb3_relax.estimators.baselines import MLPBaseline
from sb3_relax.estimators.control_variates import MLPSurrogate, ThetaSurrogate
from sb3_relax.estimators.estimate import Estimate
from sb3_relax.estimators.latents import (
    Circular,
    ConditionedJoint,
    ConditionedLatent,
    Gaussian,
    GaussianMixture,
    GumbelOneHot,
    Implicit,
    Joint,
    KSubset,
    Latent,
    LogGaussian,
    LogisticBernoulli,
    RelaxedLatent,
    ReparameterisedLatent,
    StudentsT,
    as_latent,
)
from sb3_relax.estimators.layered import LayeredEstimate, layered
from sb3_relax.estimators.methods.arm import ARM
from sb3_relax.estimators.methods.arms import ARMS
from sb3_relax.estimators.methods.carms import CARMS
from sb3_relax.estimators.methods.concrete import Concrete
from sb3_relax.estimators.methods.coupled_categorical import CoupledCategorical
from sb3_relax.estimators.methods.curvature_lax import CurvatureLAX
from sb3_relax.estimators.methods.disarm import DisARM
from sb3_relax.estimators.methods.dlax import DLAX
from sb3_relax.estimators.methods.double_cv import DoubleCV
from sb3_relax.estimators.methods.enumeration import Exact
from sb3_relax.estimators.methods.exact_correction import ExactCorrection
from sb3_relax.estimators.methods.gumbel_rao import GumbelRao
from sb3_relax.estimators.methods.lax import LAX
from sb3_relax.estimators.methods.linearised_reparam import LinearisedReparam
from sb3_relax.estimators.methods.mirrored import Mirrored
from sb3_relax.estimators.methods.muprop import MuProp
from sb3_relax.estimators.methods.nvil import NVIL
from sb3_relax.estimators.methods.rebar import REBAR
from sb3_relax.estimators.methods.reinforce import Reinforce
from sb3_relax.estimators.methods.reinmax import ReinMax
from sb3_relax.estimators.methods.relax import RELAX
from sb3_relax.estimators.methods.relaxed_double_cv import RelaxedDoubleCV
from sb3_relax.estimators.methods.reparam import Reparam
from sb3_relax.estimators.methods.rloo import RLOO
from sb3_relax.estimators.methods.rodeo import RODEO
from sb3_relax.estimators.methods.simple import SIMPLE
from sb3_relax.estimators.methods.straight_through import StraightThrough
from sb3_relax.estimators.methods.unordered_set import UnorderedSet
from sb3_relax.estimators.methods.vimco import VIMCO
from sb3_relax.estimators.moments import sample_variance
from sb3_relax.estimators.objective import flatten_samples
from sb3_relax.estimators.per_variable import PerVariable
from sb3_relax.estimators.perturb import PerturbedEstimate, perturb
from sb3_relax.estimators.proofs.exact import bias_z_scores, check_unbiased, exact_gradient, expected_gradient
from sb3_relax.estimators.proofs.variance import gradient_variance
from sb3_relax.estimators.registry import ESTIMATORS, estimators_of, make

__all__ = [
    "ARM",
    "ARMS",
    "CARMS",
    "DLAX",
    "ESTIMATORS",
    "LAX",
    "NVIL",
    "REBAR",
    "RELAX",
    "RLOO",
    "RODEO",
    "SIMPLE",
    "VIMCO",
    "Circular",
    "Concrete",
    "ConditionedJoint",
    "ConditionedLatent",
    "CoupledCategorical",
    "CurvatureLAX",
    "DisARM",
    "DoubleCV",
    "Estimate",
    "Estimator",
    "Exact",
    "ExactCorrection",
    "Gaussian",
    "GaussianMixture",
    "GumbelOneHot",
    "GumbelRao",
    "Implicit",
    "Joint",
    "KSubset",
    "Latent",
    "LayeredEstimate",
    "LinearisedReparam",
    "LogGaussian",
    "LogisticBernoulli",
    "MLPBaseline",
    "MLPSurrogate",
    "Mirrored",
    "MuProp",
    "PerVariable",
    "PerturbedEstimate",
    "ReinMax",
    "Reinforce",
    "RelaxedDoubleCV",
    "RelaxedLatent",
    "Reparam",
    "ReparameterisedLatent",
    "StraightThrough",
    "StudentsT",
    "ThetaSurrogate",
    "TwoPhaseEstimator",
    "UnorderedSet",
    "as_latent",
    "bias_z_scores",
    "check_unbiased",
    "estimators_of",
    "exact_gradient",
    "expected_gradient",
    "flatten_samples",
    "gradient_variance",
    "layered",
    "make",
    "perturb",
    "sample_variance",
]
