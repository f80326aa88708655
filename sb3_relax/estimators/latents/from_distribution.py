"""From torch.distributions to the latents."""

from __future__ import annotations

from torch.distributions import Bernoulli, Beta, Categorical, Dirichlet, Distribution, Gamma, Independent, Normal
from torch.distributions import OneHotCategorical as OneHot

from sb3_relax.estimators.latents.base import Latent
from sb3_relax.estimators.latents.bernoulli import LogisticBernoulli
from sb3_relax.estimators.latents.categorical import GumbelOneHot
from sb3_relax.estimators.latents.gaussian import Gaussian
from sb3_relax.estimators.latents.implicit import Implicit


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
        return LogisticBernoulli(distribution.logits)
    if isinstance(distribution, (Categorical, OneHot)):
        return GumbelOneHot(distribution.logits)
    if isinstance(distribution, (Gamma, Beta, Dirichlet)):
        return Implicit(distribution)
    raise TypeError(f"no relaxation or reparameterisation is known for {distribution!r}")
