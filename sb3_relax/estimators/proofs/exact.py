"""Oracles without sampling noise: b by enumeration (or Gauss-Hermite), relaxation noise by quadrature."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from sb3_relax.estimators.base import Estimator
from sb3_relax.estimators.estimate import Estimate, expand_to
from sb3_relax.estimators.latents import Gaussian, Joint, KSubset, Latent, RelaxedLatent, require_unbatched
from sb3_relax.estimators.objective import Objective
from sb3_relax.estimators.proofs.quadrature import normal_rule, product_rule, repeated_rule

#: Most nodes of a grid on which every draw of an estimator's noise has dimensions of its own.
MAX_NOISE_NODES = 100_000

#: Fewest draws of a value, on average, for a mean over samples to know what it contributes.
LEAST_DRAWS = 20


def samples_with_probability(latent: Latent, nodes: int = 40, samples: int = 1) -> tuple[Tensor, Tensor]:
    """Every b of a discrete latent, or Gauss-Hermite's of a Gaussian, with their probabilities; of a Joint, all pairs.

    :param latent: a latent without batch (θ is one event)
    :param nodes: Gauss-Hermite nodes a dimension, for a Gaussian
    :param samples: K, the number of independent draws
    :return: ``[M, *event]`` and ``[M]``; for several draws ``[K, M^K, *event]`` and ``[M^K]``
    :raises TypeError: for another latent
    """
    if isinstance(latent, (RelaxedLatent, KSubset)):
        b = latent.support()
        probability = latent.detach().expand(len(b)).log_prob(b).exp()
    elif isinstance(latent, Gaussian):
        theta = latent.theta.detach()
        x, w = zip(*product_rule(normal_rule(nodes), len(theta)), strict=True)
        b, probability = latent.at(theta).at_noise(torch.cat(x).to(theta.dtype)), torch.cat(w).to(theta.dtype)
    elif isinstance(latent, Joint):
        b, probability = _of_parts(latent, nodes)
    else:
        raise TypeError(
            f"no enumeration or quadrature is known for {type(latent).__name__}. bias_z_scores takes any latent, with "
            "the gradient that you know"
        )
    if samples == 1:
        return b, probability
    index = torch.cartesian_prod(*[torch.arange(len(b))] * samples).T
    return b[index], probability[index].prod(0)


def _of_parts(latent: Joint, nodes: int) -> tuple[Tensor, Tensor]:
    """Every combination of what its parts give."""
    each = [samples_with_probability(part, nodes) for part in latent.parts.values()]
    index = torch.cartesian_prod(*(torch.arange(len(probability)) for _, probability in each)).reshape(-1, len(each)).T
    samples = {name: b[i] for name, (b, _), i in zip(latent.parts, each, index, strict=True)}
    probability = torch.stack([probability[i] for (_, probability), i in zip(each, index, strict=True)]).prod(0)
    return latent.pack(samples), probability


class Gradient(NamedTuple):
    """∂θ E[f(b, θ)] in its two parts, each of θ's shape."""

    score: Tensor  #: what moves because the distribution of b does: what ``Estimate.grad`` estimates
    direct: Tensor  #: E[∂θ f(b, θ)], the direct term (Eq 11); zero where f does not depend on θ

    @property
    def total(self) -> Tensor:
        """Their sum: the gradient itself."""
        return self.score + self.direct


def exact_gradient(latent: Latent, f: Objective, nodes: int = 40, estimator: Estimator | None = None) -> Gradient:
    """∂θ E[f(b, θ)] = Σ_b p(b|θ) [f(b) ∂θ log p(b|θ) + ∂θ f(b, θ)].

    :param latent: a latent without batch, float64 for full accuracy
    :param f: ``[..., M, *event]`` → ``[..., M]``; may depend on ``latent.theta``
    :param nodes: Gauss-Hermite nodes a dimension, for a Gaussian
    :param estimator: whose target to take, where it is not the mean of f (VIMCO's bound, PerVariable's sum)

    It warns where a Gauss-Hermite rule of a third fewer nodes gives another gradient, by more than a thousandth: then f
    is no smooth function, but a step, say, and the result is not exact.
    """
    gradient = _exact_gradient(latent, f, nodes, estimator)
    if _by_quadrature(latent):
        size = gradient.total.abs().max()
        apart = (_exact_gradient(latent, f, _fewer(nodes), estimator).total - gradient.total).abs().max()
        if bool(apart > 1e-3 * size) and bool(apart > 1e3 * torch.finfo(size.dtype).eps * _largest(latent, f, nodes)):
            warnings.warn(
                f"exact_gradient is not exact here: quadrature with {nodes} and with {_fewer(nodes)} nodes "
                f"differs by {apart:.2g}, where the gradient is at most {size:.2g}. f is too rough for it, as a step "
                "is. Take more nodes, or the mean over many samples of an estimator that you trust",
                stacklevel=2,
            )
    return gradient


@torch.no_grad()
def _largest(latent: Latent, f: Objective, nodes: int) -> Tensor:
    """The largest Σ_b p |f(b)| |∂θ log p|: what rounding is relative to, where the gradient is next to nothing."""
    b, probability = samples_with_probability(latent, nodes)
    wide = latent.detach().expand(len(probability))
    value = f(b.clone()).abs()
    weight = probability * value.reshape(len(b), -1).sum(-1)  # a cost for each variable is a dimension more
    return (expand_to(weight, wide) * wide.score(b).abs()).sum(0).max()


def _by_quadrature(latent: Latent) -> bool:
    """Whether some of b is continuous, so that its samples cannot all be visited."""
    return (
        any(map(_by_quadrature, latent.parts.values())) if isinstance(latent, Joint) else isinstance(latent, Gaussian)
    )


def _fewer(nodes: int) -> int:
    """Nodes of the rule that tells whether one of ``nodes`` has converged: two thirds."""
    return max(2 * nodes // 3, 1)


def _exact_gradient(latent: Latent, f: Objective, nodes: int, estimator: Estimator | None) -> Gradient:
    samples = 1 if estimator is None else max(estimator.samples, 1)
    b, probability = samples_with_probability(latent, nodes, samples)
    wide = latent.detach().expand(len(probability))
    score = wide.score(b)
    value = f(b.clone())
    if estimator is not None:
        value = estimator.target(value.unsqueeze(0) if samples == 1 else value)
    if samples > 1:
        score = score.sum(0)
    return Gradient(
        (expand_to(probability * value.detach(), wide) * score).sum(0),
        _direct(latent, (probability * value).sum()),
    )


def expected_gradient(estimator: Estimator, latent: Latent, f: Objective, nodes: int = 40) -> Gradient:
    """E[ĝ] and the expected direct term: b enumerated (or Gauss-Hermite), all further noise integrated.

    Uniform noise is integrated by the estimator's own rule (:meth:`Estimator.noise_rule`), a grid over θ's event. Noise
    with further dimensions (several draws, z and z̃ apart) gets a grid over all of them where that has at most
    ``MAX_NOISE_NODES`` nodes (as for one bit). Beyond, every draw walks the same nodes: right for an estimator whose
    draws enter ĝ in separate terms, so that their marginals are enough, but blind to a bias that couples them.

    :param estimator: with K of its draws so few that Σ_b over b^K can be visited
    :param latent: a latent without batch, float64 for full accuracy
    :param f: ``[..., M, *event]`` → ``[..., M]``
    :param nodes: nodes a dimension
    """
    score, direct = torch.zeros_like(latent.theta.detach()), torch.zeros_like(latent.theta.detach())
    for estimate, weight in weighted_estimates(estimator, latent, f, nodes):
        score += (expand_to(weight, estimate.latent) * estimate.grad).sum(0)
        # part by part: the graphs of all values at once would fill the memory
        direct += _direct(latent, (weight * estimate.value).sum())
    return Gradient(score, direct)


def weighted_estimates(
    estimator: Estimator, latent: Latent, f: Objective, nodes: int, chunk: int = 1 << 15
) -> Iterator[tuple[Estimate, Tensor]]:
    """Estimates over batches of all randomness, and the weight of each: an expectation is the sum of products."""
    theta = latent.theta.detach()
    noisy = estimator.noise_shape(latent) is not None
    rows, probability = (
        (None, theta.new_ones(1))
        if estimator.samples == 0
        else samples_with_probability(latent, nodes, estimator.samples)
    )
    if rows is not None and estimator.samples > 1 and isinstance(latent, (RelaxedLatent, KSubset)):
        probability = estimator.probability_of_draws(latent.detach().expand(len(probability)), rows)
    if estimator.samples == 1 and rows is not None:
        rows = rows.unsqueeze(0)
    grid: Iterable[tuple[Tensor, Tensor]] = [(theta.new_zeros(1, latent.noise_shape.numel()), theta.new_ones(1))]
    if noisy:
        chunk = max(chunk // len(probability), 1)
        grid = estimator.noise_rule(latent, nodes, chunk)
        own, size = latent.noise_shape.numel(), math.prod(estimator.noise_shape(latent) or ())
        if size > own and nodes**size <= MAX_NOISE_NODES:
            grid = repeated_rule(grid, size // own, chunk)
    for node, weight in grid:
        n, m = len(node), len(probability)
        wide = latent.detach().expand(m * n)
        b = noise = None
        if rows is not None:
            b = rows.unsqueeze(2).expand(*rows.shape[:2], n, *rows.shape[2:]).flatten(1, 2)
            b = b[0] if estimator.samples == 1 else b
        if noisy:
            shape = estimator.noise_shape(wide)
            assert shape is not None
            # [m·n, draws, *noise] → [*draws, m·n, *noise]; one draw on a shared grid stands for all of them
            apart = node.shape[1] // own if own else 1
            draws = node.to(theta.dtype).repeat(m, 1).reshape(m * n, apart, *latent.noise_shape).movedim(1, 0)
            noise = draws.reshape(shape) if draws.numel() == math.prod(shape) else draws[0].expand(shape)
        # statistics that learn from a batch must not learn from the enumeration
        yield estimator.estimate(wide, f, b, noise), (probability.unsqueeze(1) * weight.to(theta.dtype)).flatten()


def _direct(latent: Latent, expectation: Tensor) -> Tensor:
    if not (expectation.requires_grad and latent.theta.requires_grad):
        return torch.zeros_like(latent.theta)
    (gradient,) = torch.autograd.grad(
        expectation, latent.theta, retain_graph=True, allow_unused=True, materialize_grads=True
    )
    return gradient


class BiasCheck(NamedTuple):
    """What :func:`check_unbiased` found."""

    error: float  #: largest |E[ĝ] + E[∂θ f] - ∂θ E[f]| over the components of θ
    expected: Tensor  #: the estimator's expectation, direct term included
    exact: Tensor  #: the gradient
    tolerance: float

    @property
    def unbiased(self) -> bool:
        """Whether the error is within the tolerance."""
        return self.error <= self.tolerance


def check_unbiased(
    estimator: Estimator, latent: Latent, f: Objective, nodes: int = 48, tolerance: float = 1e-10
) -> BiasCheck:
    """Whether an estimator's expectation is the exact gradient: by enumeration and quadrature, without sampling noise.

    For small problems (three bits, one variable of four classes). For large ones see :func:`bias_z_scores`.
    Several draws of noise are integrated independently up to ``MAX_NOISE_NODES`` nodes, and share theirs beyond
    (:func:`expected_gradient`): a bias that couples them shows on one bit, and may not on more.

    An error beyond the tolerance that changes with the number of nodes is in part the quadrature's; then it warns.

    :param latent: a latent without batch, in float64
    :param f: ``[..., M, *event]`` → ``[..., M]``; may depend on ``latent.theta``
    :param nodes: quadrature nodes a dimension
    :raises TypeError: for a latent the estimator does not take, or one that neither can be enumerated nor has a rule
    :raises ValueError: for a latent with a batch, or in less than float64, which could not show it

    Example::

        assert check_unbiased(RELAX(MLPSurrogate(2).double()), LogisticBernoulli(torch.zeros(2).double()), f).unbiased
    """
    estimator.require_latent(latent)
    require_unbatched(latent)
    if latent.theta.dtype != torch.float64:
        raise ValueError(f"the latent must be float64 for the check to mean anything; got {latent.theta.dtype}")
    check = _check(estimator, latent, f, nodes, tolerance)
    if not check.unbiased and (_by_quadrature(latent) or estimator.noise_shape(latent) is not None):
        coarse = _check(estimator, latent, f, _fewer(nodes), tolerance).error
        if abs(coarse - check.error) > 0.1 * max(coarse, check.error):
            warnings.warn(
                f"the error, {check.error:.2g} with {nodes} nodes, is {coarse:.2g} with {_fewer(nodes)}: quadrature "
                "has not converged, so that the error does not tell whether there is a bias. Take more nodes, a "
                "smoother f, or smaller weights of the control variate, or test by samples: bias_z_scores",
                stacklevel=2,
            )
    return check


def _check(estimator: Estimator, latent: Latent, f: Objective, nodes: int, tolerance: float) -> BiasCheck:
    expected = expected_gradient(estimator, latent, f, nodes).total
    exact = _exact_gradient(latent, f, nodes, estimator).total
    return BiasCheck((expected - exact).abs().max().item(), expected, exact, tolerance)


def bias_z_scores(
    estimator: Estimator,
    latent: Latent,
    f: Objective,
    exact: Tensor,
    samples: int = 20_000,
    generator: torch.Generator | None = None,
) -> Tensor:
    """(mean ĝ - exact) / standard error over independent samples, shape of θ: standard normals where unbiased.

    NaN where it cannot be tested: a bit, class or thing of a subset of which ``samples`` draws hold less than
    ``LEAST_DRAWS`` on average, either as drawn or as not. Its part of the gradient comes from values that were hardly
    seen, or never, and neither the mean nor the standard error knows of them. Take more samples, or
    :func:`check_unbiased`.

    :param latent: a latent without batch
    :param exact: the score part of the gradient
    :param samples: number of estimates
    """
    grad = estimator(latent.detach().expand(samples), f, generator).grad
    # an estimator without variance is as right as rounding lets it be
    info = torch.finfo(grad.dtype)
    floor = (info.eps * exact.abs()).clamp(min=info.tiny)
    grad = grad.double()  # a mean of numbers in bfloat16 is not one of them
    scores = (grad.mean(0) - exact) / (grad.std(0) / math.sqrt(samples)).maximum(floor)
    if estimator.samples == 0 and estimator.noise_shape(latent) is None:
        return scores  # nothing is drawn
    return scores.masked_fill(_hardly_drawn(latent, samples), math.nan)


def _hardly_drawn(latent: Latent, samples: int) -> Tensor:
    """Where θ's bits and classes are drawn, or left out, less than ``LEAST_DRAWS`` times: shape of θ."""
    if isinstance(latent, Joint):
        return torch.cat([_hardly_drawn(part, samples).flatten() for part in latent.parts.values()])
    if not isinstance(latent, (RelaxedLatent, KSubset)):
        return torch.zeros(latent.theta.shape, dtype=torch.bool, device=latent.theta.device)
    p = latent.mean().double()
    return (p > 0) & (p < 1) & (samples * torch.minimum(p, 1 - p) < LEAST_DRAWS)
