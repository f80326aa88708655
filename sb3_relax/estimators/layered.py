"""Hierarchical latents: one estimator per stochastic layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from sb3_relax.estimators.base import Estimator, TwoPhaseEstimator, require_finite_parameters
from sb3_relax.estimators.estimate import Estimate, backward_of, expand_to, mean_of
from sb3_relax.estimators.functions import evaluate
from sb3_relax.estimators.latents import Gaussian, Latent, RelaxedLatent
from sb3_relax.estimators.methods.concrete import Concrete
from sb3_relax.estimators.precision import in_dtype, keep_autocast
from sb3_relax.estimators.several_samples import SeveralSamplesEstimator

#: Layer l: the samples of the layers below, ``b_1 … b_{l-1}``, → the latent of layer l.
Layer = Callable[..., Latent]


class Randomness:
    """Where :func:`layered` gets its random numbers; a test may put quadrature in its place."""

    def __init__(self, generator: torch.Generator | None = None):
        self.generator = generator

    def sample(self, latent: Latent) -> Tensor:
        """b of one layer."""
        return latent.sample(self.generator)

    def draw(self, estimator: Estimator, latent: Latent) -> Tensor | None:
        """What an estimator asks for beside the b of its layer."""
        return estimator.draw(latent, self.generator)

    def noise(self, estimator: Estimator, latent: Latent) -> Tensor | None:
        """An estimator's uniforms."""
        return estimator.draw_noise(latent, self.generator)

    def uniform(self, latent: RelaxedLatent) -> Tensor:
        """Uniforms of the shape of θ: what makes a relaxed sample of a discrete one."""
        theta = latent.theta
        return torch.rand(theta.shape, dtype=latent.computing_dtype, device=theta.device, generator=self.generator)


class LayeredEstimate:
    """The gradients of all layers.

    :param value: f(b_1, …, b_L), ``[*batch]``, attached to f's own graph
    :param layers: one estimate per layer, each of its own θ_l; none where ``value`` is attached to every θ_l
    """

    def __init__(self, value: Tensor, layers: Sequence[Estimate]):
        self.value = value
        self.layers = layers

    def loss(self) -> Tensor:
        """A scalar, the batch mean of f, whose ``backward()`` is :meth:`backward`, as :meth:`Estimate.loss`."""
        loss = mean_of(self.value)
        for estimate in self.layers:
            loss = estimate.carried_by(loss)
        return loss

    def backward(self, weight: float | Tensor = 1.0, retain_graph: bool = False) -> None:
        """ĝ_l into what made θ_l alone, the direct term of f once, and the sum of Eq 6 over layers into each φ_l.

        :param weight: as :meth:`Estimate.backward`'s
        :param retain_graph: as :meth:`Estimate.backward`'s
        :raises RuntimeError: where θ, f and φ of all layers are frozen, and there are no statistics to learn
        :raises ValueError: where ĝ, or φ's gradient, of a layer is not finite; nothing is accumulated
        """
        backward_of(self.layers, self.value, weight, retain_graph)


def layered(
    layers: Sequence[Layer],
    estimators: Sequence[Estimator] | Estimator,
    f: Callable[..., Tensor],
    generator: torch.Generator | None = None,
    temperature: float = 0.5,
    randomness: Randomness | None = None,
    context: Tensor | None = None,
) -> LayeredEstimate:
    """∂ E[f(b_1, …, b_L)] with b_l ~ p(b_l | b_1, …, b_{l-1}), one estimator per layer.

    One pass draws b_1 … b_L and f once. Layer l keeps b_{<l} as drawn and estimates the gradient at θ_l, which goes
    into what made θ_l and no further. An estimator that needs f's value alone, at one sample, is finished with that
    pass's value. Any other calls f as a function of b_l: the layers above are drawn again for each value of b_l; where
    f is called between the corners (Concrete, MuProp, REBAR, Reparam) they are made smooth, at the estimator's own τ,
    with the noise of the very samples that f saw: a control variate then follows f through the layers above. Drawn
    samples carry no derivative: the slopes that DoubleCV and RODEO take at the corners are those of f's direct
    dependence on b_l. Any slope leaves them unbiased; where there is none at all, they refuse: take RLOO.

    Where every layer has a Concrete, the relaxed problem is the whole one (Maddison et al. 2017): f and the layers
    above see relaxed samples, and are differentiated through them. With ``hard_value`` they see b, as with all others.

    In place of one estimator a layer there may be one RLOO or VIMCO for all of them: K joint samples ``b_1, …, b_L``
    are each other's baseline in every layer, for K calls of f. One RLOO a layer costs K calls in each, and one besides.

    :param layers: layer l maps the samples ``b_1 … b_{l-1}`` (none for the first) to its latent
    :param estimators: one for each layer (each may be the estimator of several layers only if its φ fits them all), or
        one RLOO or VIMCO of all
    :param f: ``b_1, …, b_L`` → ``[*batch]``; may depend on every θ and on its own parameters (Eq 11). Where an
        estimator evaluates several values of b_l at once, all samples, and f's values, have one leading dimension more
    :param generator: source of all randomness
    :param temperature: τ of the smooth samples above a layer whose estimator has none of its own (MuProp)
    :param randomness: replaces ``generator``, for tests
    :param context: what is known of the input before anything is drawn, ``[*batch, ...]``, for the control variates and
        baselines of all layers that have one
    :raises TypeError: for a context that no layer's estimator would read, an estimator that does not take its layer's
        latent, one whose target is not the mean of f (VIMCO), a pathwise one (Reparam) below a discrete layer, and one
        that needs ∂f/∂b_l at the corners where f depends on b_l only through the layers above
    :raises ValueError: for another number of estimators than layers, and what f's values are refused for

    Example::

        estimate = layered([lambda: q1, lambda b1: LogisticBernoulli(net(b1))], [RELAX(c1), RELAX(c2)], f)
        estimate.backward()
        layered([lambda: q1, lambda b1: LogisticBernoulli(net(b1))], RLOO(samples=2), f).backward()
    """
    source = randomness or Randomness(generator)
    if isinstance(estimators, Estimator):
        return _of_joint_samples(layers, estimators, f, source, context)
    if len(layers) != len(estimators) or not layers:
        raise ValueError(f"one estimator per layer is needed; got {len(estimators)} for {len(layers)} layers")
    if context is not None and not any(estimator.reads_context for estimator in estimators):
        raise TypeError("no layer's estimator has a surrogate or a baseline that could read the context: leave it out")
    relaxing = [e for e in estimators if isinstance(e, Concrete) and not e.hard_value]
    if len(relaxing) == len(layers):
        return LayeredEstimate(_relaxed_value(layers, relaxing, f, source), [])
    drawn: list[_Drawn] = []
    for layer, estimator in zip(layers, estimators, strict=True):
        latent = layer(*(below.seen for below in drawn))
        estimator.require_latent(latent)
        require_finite_parameters(latent)
        if context is not None and estimator.reads_context:
            latent = latent.with_context(context)
        if type(estimator).target is not Estimator.target:
            raise TypeError(
                f"{type(estimator).__name__} estimates another objective than E[f], and cannot be a layer's: give one "
                "of all layers, in place of one for each"
            )
        if isinstance(latent, Gaussian):
            made_of = latent.base_noise(source.generator)
            b = latent.at_noise(made_of).detach()
        else:
            made_of, b = None, source.sample(latent)
        drawn.append(_Drawn(latent, b, _as_seen(b, latent), made_of))
    for number, estimator in enumerate(estimators):
        if estimator.pathwise and any(isinstance(above.latent, RelaxedLatent) for above in drawn[number + 1 :]):
            raise TypeError(
                f"{type(estimator).__name__} differentiates f through the layers above, and one of them is discrete: "
                "use LAX, Reinforce or RLOO below it"
            )
    samples = [layer.seen for layer in drawn]
    value = evaluate(lambda _: f(*samples), drawn[0].b, drawn[0].latent.batch_shape)

    estimates = []
    for number, ((latent, b, _, _), estimator) in enumerate(zip(drawn, estimators, strict=True)):
        noise = source.noise(estimator, latent)
        if isinstance(estimator, TwoPhaseEstimator) and estimator.samples == 1:
            estimates.append(estimator.finish(latent, b, value.detach(), noise))
            continue
        own_temperature = estimator.temperature_between_corners
        tau = temperature if own_temperature is None else own_temperature
        above = _FromLayer(number, layers, drawn, value.detach(), f, source, tau)
        own = b if estimator.relaxes_f and estimator.samples == 1 else source.draw(estimator, latent)
        of_b = above.smooth if estimator.relaxes_f else above.drawn
        with estimator.computing(latent):
            estimates.append(estimator.estimate(latent, of_b, own, noise))
    return LayeredEstimate(value, estimates)


def _of_joint_samples(
    layers: Sequence[Layer], estimator: Estimator, f: Callable[..., Tensor], source: Randomness, context: Tensor | None
) -> LayeredEstimate:
    """K samples of all layers, whose weights are the same in every layer.

    :raises TypeError: for an estimator whose weights are not those of whole samples, or a context, which none reads
    """
    if not isinstance(estimator, SeveralSamplesEstimator):
        raise TypeError(
            f"one estimator for all layers must be RLOO or VIMCO; got {type(estimator).__name__}: give one for each, "
            f"[{type(estimator).__name__}(...), ...]"
        )
    if context is not None:
        raise TypeError(f"{type(estimator).__name__} has nothing that could read the context: leave it out")
    drawn: list[_Drawn] = []
    for layer in layers:
        latent = layer(*(below.seen for below in drawn))
        require_finite_parameters(latent)
        # a layer that reads those below has the K samples in its own batch; any other is drawn K times
        apart = bool(drawn) and len(latent.batch_shape) > len(drawn[0].latent.batch_shape)
        b = source.sample(latent) if apart else source.draw(estimator, latent)
        assert b is not None
        drawn.append(_Drawn(latent, b, _as_seen(b, latent), None))
    shape = torch.Size([estimator.samples, *drawn[0].latent.batch_shape])
    samples = [layer.seen for layer in drawn]
    value = evaluate(lambda _: f(*samples), drawn[0].b, shape)
    target, weights = estimator.target(value), estimator.weights(value.detach())
    estimates = []
    for latent, b, _, _ in drawn:
        grad = expand_to(weights.to(b.dtype), latent) * latent.score(b)
        # θ_l of every sample has a gradient of its own, of which the batch mean is taken: K times its share
        grad = estimator.samples * grad if latent.theta.dim() == grad.dim() else grad.sum(0)
        estimates.append(Estimate(latent, target.detach(), grad))
    return LayeredEstimate(target, estimates)


def _relaxed_value(
    layers: Sequence[Layer], estimators: Sequence[Concrete], f: Callable[..., Tensor], source: Randomness
) -> Tensor:
    """f of relaxed samples of all layers, each a function of those below."""
    samples: list[Tensor] = []
    for layer, estimator in zip(layers, estimators, strict=True):
        latent = layer(*samples)
        estimator.require_latent(latent)
        require_finite_parameters(latent)
        noise = source.noise(estimator, latent)
        assert noise is not None
        relaxed = estimator.relaxed(latent, noise)
        samples.append(_as_seen(relaxed, latent))
    return evaluate(lambda _: f(*samples), relaxed, latent.batch_shape)


def _as_seen(b: Tensor, latent: Latent) -> Tensor:
    """A sample as the layers above and f get it: in θ's own type."""
    return in_dtype(b, latent.theta.dtype)


class _Drawn(NamedTuple):
    """A layer in the pass that f saw."""

    latent: Latent
    b: Tensor
    seen: Tensor  # b as the layers above and f got it
    noise: Tensor | None  # of a Gaussian, whose b is made from it


class _FromLayer:
    """f as a function of b_l alone, with the layers below as drawn and those above made from it."""

    def __init__(
        self,
        number: int,
        layers: Sequence[Layer],
        drawn: Sequence[_Drawn],
        value: Tensor,
        f: Callable[..., Tensor],
        source: Randomness,
        temperature: Tensor | float,
    ):
        # a layer of one estimator calls the others and f as they were called before: under the caller's autocast
        device = drawn[number].latent.theta.device
        self.below = [layer.seen for layer in drawn[:number]]
        self.latent, self.own = drawn[number].latent, drawn[number].b
        self.above = [keep_autocast(layer, device) for layer in layers[number + 1 :]]
        self.drawn_above = drawn[number + 1 :]
        self.value = value
        self.f = keep_autocast(f, device)
        self.source = source
        self.temperature = temperature
        self._noise: list[Tensor] = []  # of the smooth samples above, drawn once

    def _below(self, b: Tensor) -> list[Tensor]:
        # one leading dimension more where several values of b_l are asked for at once
        leading = b.shape[: b.dim() - self.own.dim()]
        seen = _as_seen(b, self.latent)
        if not leading:
            # the very tensors, so that an f may keep what it knows of them
            return [*self.below, seen]
        return [*(sample.expand(*leading, *sample.shape) for sample in self.below), seen]

    def drawn(self, b: Tensor) -> Tensor:
        """f with every layer above drawn anew."""
        samples = self._below(b)
        for layer in self.above:
            latent = layer(*samples)
            samples.append(_as_seen(self.source.sample(latent), latent))
        return self.f(*samples)

    def smooth(self, b: Tensor) -> Tensor:
        """f with every layer above a smooth function of b_l; at the b_l that was drawn, f as it was."""
        if b is self.own:
            return self.value
        samples = self._below(b)
        for number, layer in enumerate(self.above):
            if number == len(self._noise):
                self._noise.append(self._noise_of(self.drawn_above[number]))
            latent = layer(*samples)
            samples.append(_as_seen(self._smooth_sample(latent, self._noise[number]), latent))
        return self.f(*samples)

    def _noise_of(self, drawn: _Drawn) -> Tensor:
        """The noise with which a layer's b was drawn, so that c's samples above are those of f, made smooth."""
        if drawn.noise is not None:
            return drawn.noise
        if not isinstance(drawn.latent, RelaxedLatent):
            name = type(drawn.latent).__name__
            raise TypeError(f"no smooth sample of {name} is known: use it in the last layer alone")
        with torch.no_grad():
            # given b; without it, it is independent of the layers below, as noise must be
            return drawn.latent.conditional_noise(drawn.b, self.source.uniform(drawn.latent))

    def _smooth_sample(self, latent: Latent, noise: Tensor) -> Tensor:
        if isinstance(latent, Gaussian):
            return latent.at_noise(noise)
        assert isinstance(latent, RelaxedLatent)
        return latent.relax(latent.natural() + noise, self.temperature)
