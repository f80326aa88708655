"""Stochastic gradient estimators, on torch alone. One method a file: the maths in the docstring, then the body."""

from sb3_relax.estimators.base import Estimate, Estimator
from sb3_relax.estimators.exact import exact_gradient, expected_gradient
from sb3_relax.estimators.exact_correction import ExactCorrection
from sb3_relax.estimators.latents import Gaussian, GumbelOneHot, Latent, LogisticBernoulli, RelaxedLatent
from sb3_relax.estimators.lax import LAX
from sb3_relax.estimators.reinforce import Reinforce
from sb3_relax.estimators.relax import RELAX
from sb3_relax.estimators.variance import sample_variance

__all__ = [
    "LAX",
    "RELAX",
    "Estimate",
    "Estimator",
    "ExactCorrection",
    "Gaussian",
    "GumbelOneHot",
    "Latent",
    "LogisticBernoulli",
    "Reinforce",
    "RelaxedLatent",
    "exact_gradient",
    "expected_gradient",
    "sample_variance",
]
