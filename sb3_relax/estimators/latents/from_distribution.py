"""From torch.distributions to the latents."""

from __future__ import annotations

from torch import Tensor
from torch.distributions import Bernoulli, Beta, Categorical, Dirichlet, Distribution, Gamma, Independent, Normal
from torch.distributions import OneHotCategorical as OneHot

from sb3_relax.estimators.latents.base import Latent
from sb3_relax.estimators.latents.bernoulli import LogisticBernoulli
from sb3_relax.estimators.latents.categorical import GumbelOneHot
from sb3_relax.estimators.latents.gaussian import Gaussian
from sb3_relax.estimators.latents.implicit import Implicit
from sb3_relax.estimators.precision import computing_dtype


def from_distribution(distribution: Distribution) -> Latent:
    """The latent of a distribution, its θ attached to whatever made the distribution's parameters.

    The last dimension of the distribution's batch holds the D variables of one sample (``Independent`` around it or
    not): ``Bernoulli`` and ``Normal`` ``[*batch, D]``, ``Categorical`` and ``OneHotCategorical`` logits
    ``[*batch, D, K]``, ``Gamma`` and ``Beta`` ``[*batch, D]``. A ``Dirichlet`` is one event already.

    :param distribution: one of torch.distributions'
    :return: a latent whose samples are bits, one-hots or numbers
    :raises TypeError: for a distribution without a relaxation or a reparameterisation that is known here

    Example::

        q = from_distribution(torch.distributions.Bernoulli(logits=encoder(x)))
    """
    if isinstance(distribution, Independent):
        return from_distribution(distribution.base_dist)
    if isinstance(distribution, Normal):
        return Gaussian(distribution.mean, distribution.stddev.log())
    if isinstance(distribution, Bernoulli):
        return LogisticBernoulli(_logits(distribution))
    if isinstance(distribution, (Categorical, OneHot)):
        return GumbelOneHot(_logits(distribution))
    if isinstance(distribution, (Gamma, Beta, Dirichlet)):
        return Implicit(distribution)
    raise TypeError(f"no relaxation or reparameterisation is known for {distribution!r}")


def _logits(distribution: Bernoulli | Categorical | OneHot) -> Tensor:
    """Its logits, of probabilities that were given in float16 or bfloat16 as well.

    torch keeps probabilities from 0 and 1 by the type's rounding, which makes .0078 of one of .001 in bfloat16.
    """
    if isinstance(distribution, OneHot):
        return _logits(distribution._categorical)
    given = vars(distribution)
    if "logits" in given or given["probs"].dtype == computing_dtype(given["probs"].dtype):
        return distribution.logits
    probs = given["probs"]
    wide = type(distribution)(probs=probs.to(computing_dtype(probs.dtype)), validate_args=False)
    return wide.logits.to(probs.dtype)
