"""The ELBO's integrand as the f of the estimators, and the bounds used for evaluation."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sb3_relax.estimators import Estimate, Estimator, LayeredEstimate, LogisticBernoulli, layered
from sb3_relax.tasks.vae.model import DiscreteVAE


class LogWeight:
    """f(b_1, …, b_L) = log p(x, b) - log q(b|x) for one batch x, per example.

    Its mean over q is the ELBO. It depends on θ, the encoder's logits, through log q: the direct term of Eq 11. Between
    the corners every Bernoulli's log-probability is continued linearly in its bit.

    What was computed for one tensor of samples is kept for as long as the batch lives, so that an estimator of a higher
    layer, which holds the layers below as drawn, pays for the layers it moves alone.

    :param model: the model
    :param x: pixels, ``[*batch, D]``
    :param shift: subtracted from f. A constant changes no expected gradient, and most control variates fit a centred f
        better

    Example::

        f = LogWeight(model, x)
        estimate = layered(f.posterior(), estimators, f)
    """

    def __init__(self, model: DiscreteVAE, x: Tensor, shift: Tensor | None = None):
        self.model = model
        self.x = x
        self.shift = shift
        # id of the samples → the samples (so that the id stays theirs) and what follows from them
        self._logits: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}
        self._likelihood: dict[int, tuple[Tensor, Tensor]] = {}

    def posterior(self) -> list[Callable[..., LogisticBernoulli]]:
        """For each layer: the bits of the layers below → q of its bits."""
        return [lambda *below, n=n: LogisticBernoulli(self.logits(n, *below)) for n in range(self.model.layers)]

    def logits(self, layer: int, *below: Tensor) -> Tensor:
        """θ of a layer given the bits of the layers below it."""
        source = below[layer - 1] if layer else self.x
        key = (layer, id(source))
        if key not in self._logits:
            self._logits[key] = (source, self.model.encode(layer, source))
        return self._logits[key][1]

    def __call__(self, *b: Tensor) -> Tensor:
        total = self.likelihood(b[0])
        for layer, bits in enumerate(b):
            q = self.logits(layer, *b[:layer])
            p = self.model.prior if layer + 1 == len(b) else self.model.decode(layer + 1, b[layer + 1])
            # log p(bits) - log q(bits)
            total = total + ((bits * (p - q)).sum(-1) + (F.softplus(q) - F.softplus(p)).sum(-1))
        return total if self.shift is None else total - self.shift

    def likelihood(self, b: Tensor) -> Tensor:
        """log p(x|b_1)."""
        if id(b) not in self._likelihood:
            logits = self.model.decode(0, b)
            self._likelihood[id(b)] = (b, (self.x * logits - F.softplus(logits)).sum(-1))
        return self._likelihood[id(b)][1]


def binarise(x: Tensor, generator: torch.Generator) -> Tensor:
    """Bits with the pixels as their probabilities."""
    return (torch.rand(x.shape, dtype=x.dtype, device=x.device, generator=generator) < x).to(x.dtype)


def estimate_gradient(
    model: DiscreteVAE,
    estimators: Sequence[Estimator] | nn.ModuleList,
    x: Tensor,
    generator: torch.Generator | None = None,
    shift: Tensor | None = None,
) -> Estimate | LayeredEstimate:
    """The estimate of one batch's ELBO gradient: ``.backward()`` accumulates it, uphill, and Eq 6's for every φ.

    :param estimators: one for each layer
    :param x: pixels, ``[*batch, D]``
    :param generator: source of all randomness
    :param shift: as :class:`LogWeight`'s
    """
    f = LogWeight(model, x, shift)
    posterior, each = f.posterior(), [cast(Estimator, estimator) for estimator in estimators]
    if len(posterior) == 1:
        # the estimator's own way of drawing, which may be cheaper than b first
        return each[0](posterior[0](), f, generator)
    return layered(posterior, each, f, generator)


def accumulate_gradient(
    model: DiscreteVAE,
    estimators: nn.ModuleList,
    x: Tensor,
    generator: torch.Generator | None = None,
    shift: Tensor | None = None,
) -> Tensor:
    """:func:`estimate_gradient`, accumulated into ``.grad``: f, ``[*batch]``, detached."""
    estimate = estimate_gradient(model, estimators, x, generator, shift)
    estimate.backward()
    return estimate.value.detach()


@torch.no_grad()
def bound(
    model: DiscreteVAE, x: Tensor, samples: int = 1, generator: torch.Generator | None = None, rows: int = 12_000
) -> Tensor:
    """log 1/K Σ_k p(x, b_k)/q(b_k|x), per example: the ELBO's integrand for K = 1, the IWAE bound of K samples.

    :param x: pixels, ``[N, D]``
    :param samples: K (arXiv:1509.00519)
    :param rows: examples times samples at a time, which limits the memory
    :raises ValueError: for fewer than one sample

    Example::

        bound(model, x, samples=100).mean()
    """
    if samples < 1:
        raise ValueError(f"samples must be at least 1; got {samples}")
    parts = []
    for chunk in x.split(max(rows // samples, 1)):
        wide = chunk.repeat_interleave(samples, 0) if samples > 1 else chunk
        f = LogWeight(model, wide)
        b: list[Tensor] = []
        for layer in f.posterior():
            b.append(layer(*b).sample(generator))
        parts.append(f(*b).reshape(len(chunk), samples).logsumexp(1) - math.log(samples))
    return torch.cat(parts)
