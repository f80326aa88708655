"""Latent variables: one distribution a file."""

from sb3_relax.estimators.latents.as_latent import as_latent
from sb3_relax.estimators.latents.base import (
    MASKED_LOGIT,
    MAX_SUPPORT,
    ConditionedLatent,
    Latent,
    RelaxedLatent,
    ReparameterisedLatent,
    masked_logit,
    open_unit,
    require_unbatched,
)
from sb3_relax.estimators.latents.bernoulli import LogisticBernoulli
from sb3_relax.estimators.latents.categorical import GumbelOneHot, require_class
from sb3_relax.estimators.latents.circular import Circular
from sb3_relax.estimators.latents.few_classes import arranged, log_softmax
from sb3_relax.estimators.latents.gaussian import Gaussian, LogGaussian
from sb3_relax.estimators.latents.implicit import Implicit
from sb3_relax.estimators.latents.joint import ConditionedJoint, Joint
from sb3_relax.estimators.latents.k_subset import KSubset
from sb3_relax.estimators.latents.mixture import GaussianMixture
from sb3_relax.estimators.latents.own import require_contract
from sb3_relax.estimators.latents.students_t import StudentsT

__all__ = [
    "MASKED_LOGIT",
    "MAX_SUPPORT",
    "Circular",
    "ConditionedJoint",
    "ConditionedLatent",
    "Gaussian",
    "GaussianMixture",
    "GumbelOneHot",
    "Implicit",
    "Joint",
    "KSubset",
    "Latent",
    "LogGaussian",
    "LogisticBernoulli",
    "RelaxedLatent",
    "ReparameterisedLatent",
    "StudentsT",
    "arranged",
    "as_latent",
    "log_softmax",
    "masked_logit",
    "open_unit",
    "require_class",
    "require_contract",
    "require_unbatched",
]
