"""Latent variables: one distribution a file."""

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
from sb3_relax.estimators.latents.categorical import GumbelOneHot
from sb3_relax.estimators.latents.from_distribution import from_distribution
from sb3_relax.estimators.latents.gaussian import Gaussian
from sb3_relax.estimators.latents.implicit import Implicit
from sb3_relax.estimators.latents.joint import Joint

__all__ = [
    "MASKED_LOGIT",
    "MAX_SUPPORT",
    "ConditionedLatent",
    "Gaussian",
    "GumbelOneHot",
    "Implicit",
    "Joint",
    "Latent",
    "LogisticBernoulli",
    "RelaxedLatent",
    "ReparameterisedLatent",
    "from_distribution",
    "masked_logit",
    "open_unit",
    "require_unbatched",
]
