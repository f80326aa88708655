"""Estimators whose samples are each other's baseline."""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor

from sb3_relax.estimators.base import Estimator, TwoPhaseEstimator, require_samples
from sb3_relax.estimators.estimate import Estimate, expand_to
from sb3_relax.estimators.latents import Latent


class OfSeveralSamples(Estimator):
    """An estimator of K samples for each element of the batch, and so many calls of f.

    :param samples: K, at least 2
    :raises ValueError: for fewer
    """

    samples = 2
    evaluations = 2

    def __init__(self, samples: int = 2):
        super().__init__()
        self.samples = self.evaluations = require_samples(samples)


class SeveralSamplesEstimator(OfSeveralSamples, TwoPhaseEstimator):
    """ĝ = Σ_k w_k ∂θ log p(b_k|θ), with weights that are functions of f(b_1), …, f(b_K) alone.

    The weights belong to whole samples. So one estimator serves all layers of :func:`layered` at once.

    :param samples: K, at least 2
    :raises ValueError: for fewer
    """

    latents = (Latent,)

    @abstractmethod
    def weights(self, value: Tensor) -> Tensor:
        """w, ``[K, *batch]``, of f's values, ``[K, *batch]``, detached."""

    def of_value(self, latent: Latent, b: Tensor, value: Tensor, noise: Tensor | None) -> Estimate:
        weights = expand_to(self.weights(value.detach()), latent)
        return Estimate(latent, self.target(value), (weights * latent.score(b)).sum(0))
