"""Stochastic gradient estimators, on torch alone. One method a file: the maths in the docstring, then the body."""

from sb3_relax.estimators.arm import ARM
from sb3_relax.estimators.base import Estimate, Estimator, TwoPhaseEstimator
from sb3_relax.estimators.concrete import Concrete
from sb3_relax.estimators.disarm import DisARM
from sb3_relax.estimators.dlax import DLAX
from sb3_relax.estimators.double_cv import DoubleCV
from sb3_relax.estimators.enumeration import Exact
from sb3_relax.estimators.exact import bias_z_scores, check_unbiased, exact_gradient, expected_gradient
from sb3_relax.estimators.exact_correction import ExactCorrection
from sb3_relax.estimators.gumbel_rao import GumbelRao
from sb3_relax.estimators.latents import GumbelOneHot, Latent, LogisticBernoulli, RelaxedLatent
from sb3_relax.estimators.lax import LAX
from sb3_relax.estimators.layered import LayeredEstimate, layered
from sb3_relax.estimators.muprop import MuProp
from sb3_relax.estimators.nvil import NVIL
from sb3_relax.estimators.rebar import REBAR
from sb3_relax.estimators.registry import ESTIMATORS, estimators_of, make
from sb3_relax.estimators.reinforce import Reinforce
from sb3_relax.estimators.relax import RELAX
from sb3_relax.estimators.relaxed_double_cv import RelaxedDoubleCV
from sb3_relax.estimators.reparam import Reparam
from sb3_relax.estimators.reparameterised import Gaussian, Implicit, ReparameterisedLatent
from sb3_relax.estimators.rloo import RLOO
from sb3_relax.estimators.rodeo import RODEO
from sb3_relax.estimators.straight_through import StraightThrough
from sb3_relax.estimators.surrogates import MLPSurrogate, ThetaSurrogate
from sb3_relax.estimators.variance import gradient_variance, sample_variance
from sb3_relax.estimators.vimco import VIMCO

__all__ = [
    "ARM",
    "DLAX",
    "ESTIMATORS",
    "LAX",
    "NVIL",
    "REBAR",
    "RELAX",
    "RLOO",
    "RODEO",
    "VIMCO",
    "Concrete",
    "DisARM",
    "DoubleCV",
    "Estimate",
    "Estimator",
    "Exact",
    "ExactCorrection",
    "Gaussian",
    "GumbelOneHot",
    "GumbelRao",
    "Implicit",
    "Latent",
    "LayeredEstimate",
    "LogisticBernoulli",
    "MLPSurrogate",
    "MuProp",
    "Reinforce",
    "RelaxedDoubleCV",
    "RelaxedLatent",
    "Reparam",
    "ReparameterisedLatent",
    "StraightThrough",
    "ThetaSurrogate",
    "TwoPhaseEstimator",
    "bias_z_scores",
    "check_unbiased",
    "estimators_of",
    "exact_gradient",
    "expected_gradient",
    "gradient_variance",
    "layered",
    "make",
    "sample_variance",
]
