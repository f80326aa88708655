"""Hierarchical latents: one estimator per stochastic layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sb3_relax.estimators.base import (
    Estimator,
    TwoPhaseEstimator,
    computing,
    require_estimator,
    require_finite_parameters,
    watched,
)
from sb3_relax.estimators.estimate import Estimate, backward_of, expand_to, mean_of
from sb3_relax.estimators.latents import Gaussian, Latent, RelaxedLatent
from sb3_relax.estimators.methods.concrete import Concrete
from sb3_relax.estimators.objective import evaluate
from sb3_relax.estimators.precision import in_dtype
from sb3_relax.estimators.several_samples import SeveralSamplesEstimator
from sb3_relax.estimators.stack import Costs, Layer, Stack, Walk, expanded


class Randomness:
    """Where :func:`layered` gets its random numbers; a test may put quadrature in its place."""

    def __init__(self, generator: torch.Generator | None = None):
        self.generator = generator

    def sample(self, latent: Latent) -> Tensor:
        """b of one layer."""
        return latent.sample(self.generator).detach()

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
    f: Costs,
    generator: torch.Generator | None = None,
    temperature: float = 0.5,
    randomness: Randomness | None = None,
    context: Tensor | None = None,
    state: Any = None,
    flatten: bool = False,
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

    **A state.** With ``state=``, layer l is ``layer(state, b_{l-1})``, and returns its latent and the state that the
    next one gets; f is called ``f(state, b_1, …, b_L)``, with the last layer's state. L layers then cost L steps of a
    recurrent network. With hard samples, log p(b_l|b_{<l}) depends on the network's weights through every state up to
    it, so that ∂ E[f] = E[Σ_l ĝ_l · ∂θ_l + ∂f], where the derivatives run back through all states with the samples held
    fixed. ``backward()`` does so. A state that a layer detaches cuts them off, and the gradient is another one's.

    **Costs of layers.** f may be a sequence of L functions, whose sum is meant, and the l-th is called with ``b_1 …
    b_l`` alone (with ``state=``, after the state that layer l returned). What was paid before b_l was drawn does not
    depend on it: layer l's estimator gets the sum from the l-th cost on, its cost to go.

    :param layers: layer l maps the samples ``b_1 … b_{l-1}`` (none for the first) to its latent. A latent made
        ``with_context`` brings a context of its own for its layer's control variate or baseline, such as the state
    :param estimators: one for each layer (each may be the estimator of several layers only if its φ fits them all), or
        one RLOO or VIMCO of all
    :param f: ``b_1, …, b_L`` → ``[*batch]``; may depend on every θ and on its own parameters (Eq 11). Where an
        estimator evaluates several values of b_l at once, all samples, states, and f's values, have one leading
        dimension more. Or one such function for each layer
    :param generator: source of all randomness
    :param temperature: τ of the smooth samples above a layer whose estimator has none of its own (MuProp)
    :param randomness: replaces ``generator``, for tests
    :param context: what is known of the input before anything is drawn, ``[*batch, ...]``, for the control variates and
        baselines of all layers whose latents have no context of their own
    :param state: what the first layer gets: a tensor, or tuples, lists and dicts of tensors, ``()`` for nothing yet.
        Every tensor of a state that a layer returns begins with the batch's dimensions. None may be changed in place
    :param flatten: where an estimator evaluates several values of b_l at once (RLOO), layers and f get them in the
        batch's first dimension, ``[K · B, ...]``, instead of in one before it, ``[K, B, ...]``: for networks that take
        one dimension, as recurrent cells do. What they read of the input must then come by the state, which is expanded
        like b
    :raises TypeError: for what is no estimator, a layer or f that takes other arguments, a context that no layer's
        estimator would read, an estimator that does not take its layer's latent, one whose target is not the mean of f
        (VIMCO), a pathwise one (Reparam) below a discrete layer, one that needs ∂f/∂b_l at the corners where f depends
        on b_l only through the layers above, and a layer that returns something else than it should
    :raises ValueError: for another number of estimators or costs than layers, a state without the batch's dimensions,
        a layer or f that fails with several samples at once and not with one, one that writes into its samples, and
        what f's values are refused for

    Example::

        estimate = layered([lambda: q1, lambda b1: LogisticBernoulli(net(b1))], [RELAX(c1), RELAX(c2)], f)
        estimate.backward()
        layered([lambda: q1, lambda b1: LogisticBernoulli(net(b1))], RLOO(samples=2), f).backward()

        def step(h, b):
            h = cell(x if b is None else look(x, b), h)
            return GumbelOneHot(locate(h)), h

        layered([step] * 6, [NVIL() for _ in range(6)], lambda h, *b: loss(h, b), state=h0).backward()
    """
    source = randomness or Randomness(generator)
    stack = Stack(layers, f, state, flatten)
    for estimator in [estimators] if isinstance(estimators, (Estimator, str, type)) else estimators:
        require_estimator(estimator)
    if isinstance(estimators, Estimator):
        return _of_joint_samples(stack, estimators, source, context)
    if len(layers) != len(estimators):
        raise ValueError(f"one estimator per layer is needed; got {len(estimators)} for {len(layers)} layers")
    if context is not None and not any(estimator.reads_context for estimator in estimators):
        raise TypeError("no layer's estimator has a surrogate or a baseline that could read the context: leave it out")
    relaxing = [e for e in estimators if isinstance(e, Concrete) and not e.hard_value]
    if len(relaxing) == len(layers):
        return LayeredEstimate(_relaxed_value(stack, relaxing, source), [])
    walk = Walk()
    drawn: list[_Drawn] = []
    for estimator in estimators:
        latent = stack.latent(walk)
        estimator.require_latent(latent)
        require_finite_parameters(latent)
        if context is not None and latent.context is None and estimator.reads_context:
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
        drawn.append(_Drawn(latent, b, made_of))
        walk.add(_as_seen(b, latent))
    for number, estimator in enumerate(estimators):
        if estimator.pathwise and any(isinstance(above.latent, RelaxedLatent) for above in drawn[number + 1 :]):
            raise TypeError(
                f"{type(estimator).__name__} differentiates f through the layers above, and one of them is discrete: "
                "use LAX, Reinforce or RLOO below it"
            )
    to_go = _costs_to_go(stack, walk, drawn[0].b, drawn[0].latent.batch_shape)

    estimates = []
    for number, ((latent, b, _), estimator) in enumerate(zip(drawn, estimators, strict=True)):
        noise, value = source.noise(estimator, latent), to_go[number].detach()
        if isinstance(estimator, TwoPhaseEstimator) and estimator.samples == 1:
            estimates.append(estimator.finish(latent, b, value, noise))
            continue
        own_temperature = estimator.temperature_between_corners
        tau = temperature if own_temperature is None else own_temperature
        above = _FromLayer(number, stack, walk, drawn, value, source, tau)
        own = b if estimator.relaxes_f and estimator.samples == 1 else source.draw(estimator, latent)
        of_b = above.smooth if estimator.relaxes_f else above.drawn
        with computing(estimator, latent):
            estimates.append(watched(estimator, estimator.estimate(latent, of_b, own, noise)))
    return LayeredEstimate(to_go[0], estimates)


def _costs_to_go(stack: Stack, walk: Walk, b: Tensor, shape: torch.Size) -> list[Tensor]:
    """For each layer, the sum of the costs from its own on, ``[*batch]``: f itself for the first.

    :param b: a sample, in the type that costs are brought into
    """
    to_go: list[Tensor] = []
    total: Tensor | None = None
    for number in reversed(range(len(walk.samples))):
        if number in stack.costs:
            cost = evaluate(lambda _: stack.cost(number, walk), b, shape)  # noqa: B023
            total = cost if total is None else total + cost
        assert total is not None  # the last layer has a cost
        to_go.append(total)
    stack.require_unwritten(walk)
    return to_go[::-1]


def _of_joint_samples(
    stack: Stack, estimator: Estimator, source: Randomness, context: Tensor | None
) -> LayeredEstimate:
    """K samples of all layers, which are each other's baseline in every layer.

    :raises TypeError: for an estimator whose weights are not those of whole samples, a context, which none reads, or
        costs of layers where the estimator's objective is no sum of them
    """
    if not isinstance(estimator, SeveralSamplesEstimator):
        raise TypeError(
            f"one estimator for all layers must be RLOO or VIMCO; got {type(estimator).__name__}: give one for each, "
            f"[{type(estimator).__name__}(...), ...]"
        )
    if context is not None:
        raise TypeError(f"{type(estimator).__name__} has nothing that could read the context: leave it out")
    if len(stack.costs) > 1 and type(estimator).target is not Estimator.target:
        raise TypeError(
            f"{type(estimator).__name__}'s objective is a bound of whole samples, and no sum of costs: give one f"
        )
    walk = Walk()
    drawn: list[_Drawn] = []
    for _ in stack.layers:
        latent = stack.latent(walk)
        require_finite_parameters(latent)
        # a layer that reads those below has the K samples in its own batch; any other is drawn K times
        apart = bool(drawn) and len(latent.batch_shape) > len(drawn[0].latent.batch_shape)
        b = source.sample(latent) if apart else source.draw(estimator, latent)
        assert b is not None
        if not drawn:
            walk = expanded(walk, [estimator.samples], latent.batch_shape)
        drawn.append(_Drawn(latent, b, None))
        walk.add(_as_seen(b, latent))
    shape = torch.Size([estimator.samples, *drawn[0].latent.batch_shape])
    to_go = _costs_to_go(stack, walk, drawn[0].b, shape)
    target = estimator.target(to_go[0])
    estimates = []
    for (latent, b, _), value in zip(drawn, to_go, strict=True):
        grad = expand_to(estimator.weights(value.detach()).to(b.dtype), latent) * latent.score(b)
        # θ_l of every sample has a gradient of its own, of which the batch mean is taken: K times its share
        grad = estimator.samples * grad if latent.theta.dim() == grad.dim() else grad.sum(0)
        estimates.append(Estimate(latent, target.detach(), grad))
    return LayeredEstimate(target, estimates)


def _relaxed_value(stack: Stack, estimators: Sequence[Concrete], source: Randomness) -> Tensor:
    """f of relaxed samples of all layers, each a function of those below."""
    walk = Walk()
    for estimator in estimators:
        latent = stack.latent(walk)
        estimator.require_latent(latent)
        require_finite_parameters(latent)
        noise = source.noise(estimator, latent)
        assert noise is not None
        relaxed = estimator.relaxed(latent, noise)
        walk.add(_as_seen(relaxed, latent))
    return _costs_to_go(stack, walk, relaxed, latent.batch_shape)[0]


def _as_seen(b: Tensor, latent: Latent) -> Tensor:
    """A sample as the layers above and f get it: in θ's own type."""
    return in_dtype(b, latent.theta.dtype)


class _Drawn(NamedTuple):
    """A layer in the pass that f saw."""

    latent: Latent
    b: Tensor
    noise: Tensor | None  # of a Gaussian, whose b is made from it


class _FromLayer:
    """A layer's cost to go as a function of its b alone: the layers below as drawn, and those above made of it."""

    def __init__(
        self,
        number: int,
        stack: Stack,
        walk: Walk,
        drawn: Sequence[_Drawn],
        value: Tensor,
        source: Randomness,
        temperature: Tensor | float,
    ):
        self.number = number
        self.latent, self.own, _ = drawn[number]
        # a layer of one estimator calls the others and f as they were called before: under the caller's autocast
        self.stack = stack.keeping_autocast(self.latent.theta.device)
        self.below = walk.until(number)
        self.drawn_above = drawn[number + 1 :]
        self.value = value
        self.source = source
        self.temperature = temperature
        self._noise: list[Tensor] = []  # of the smooth samples above, drawn once

    def _walk_to(self, b: Tensor) -> Walk:
        """The walk as far as this layer, with b in the place of what was drawn."""
        leading = b.shape[: b.dim() - self.own.dim()]
        walk = self.below.until(self.number)  # the very tensors, so that an f may keep what it knows of them
        if leading:  # several values of b_l are asked for at once
            walk = expanded(walk, leading, self.latent.batch_shape)
        walk.add(_as_seen(b, self.latent))
        return walk

    def drawn(self, b: Tensor) -> Tensor:
        """f with every layer above drawn anew."""
        walk = self._walk_to(b)
        for _ in self.drawn_above:
            latent = self.stack.latent(walk)
            walk.add(self._above(self.source.sample(latent), latent, walk))
        return self.stack.cost_to_go(walk, self.number)

    def smooth(self, b: Tensor) -> Tensor:
        """f with every layer above a smooth function of b_l; at the b_l that was drawn, f as it was."""
        if b is self.own:
            return self.value
        walk = self._walk_to(b)
        for number, drawn in enumerate(self.drawn_above):
            if number == len(self._noise):
                self._noise.append(self._noise_of(drawn))
            latent = self.stack.latent(walk)
            walk.add(self._above(self._smooth_sample(latent, self._noise[number]), latent, walk))
        return self.stack.cost_to_go(walk, self.number)

    def _above(self, b: Tensor, latent: Latent, walk: Walk) -> Tensor:
        """A sample of a layer above, with the dimensions of several values of b_l where it does not depend on them."""
        b = _as_seen(b, latent)
        if walk.several is None or len(latent.batch_shape) > len(walk.several.batch):
            return b
        return b.expand(*walk.several.leading, *b.shape)

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
