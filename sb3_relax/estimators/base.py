"""The contract of an estimator: what it consumes, and what it gives."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from inspect import isabstract
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from sb3_relax.estimators.checks import is_checked, require_finite, under_transform
from sb3_relax.estimators.estimate import Estimate
from sb3_relax.estimators.latents import Latent, require_contract
from sb3_relax.estimators.objective import Objective, as_written, computed, evaluate
from sb3_relax.estimators.precision import in_dtype, without_autocast
from sb3_relax.estimators.proofs.quadrature import product_rule, unit_interval_rule
from sb3_relax.estimators.unstepped import Unstepped

SelfEstimator = TypeVar("SelfEstimator", bound="Estimator")


class Estimator(nn.Module, ABC):
    """A gradient estimator: ``estimator(latent, f)`` gives an :class:`Estimate` of ∂θ E[f(b)].

    Its parameters, as a module, are φ. What it consumes is declared, so that tests and tools need no special cases:
    ``samples`` draws of b (0: b is made from the noise), independent unless it has a
    :meth:`draw` of its own, uniforms of shape :meth:`noise_shape`, and
    ``evaluations`` calls of f per element of the batch.
    """

    #: whether E[ĝ] is the exact gradient
    unbiased: ClassVar[bool] = True
    #: whether ∂f/∂b is needed: f must then be differentiable torch code that accepts relaxed samples
    needs_grad_f: ClassVar[bool] = False
    #: the latents it takes
    latents: ClassVar[tuple[type[Latent], ...]]
    #: calls of f per element of the batch
    evaluations: float = 1
    #: draws of b
    samples: int = 1
    #: whether f is evaluated between the corners (which :func:`layered` must know)
    relaxes_f: ClassVar[bool] = False
    #: its attributes that read the context, where they are not ``None``
    context_parts: ClassVar[tuple[str, ...]] = ()
    #: made when it is needed, since estimators saved by earlier versions have none
    unstepped: Unstepped | None = None
    #: whether ĝ is f's own derivative along the sample's path, so that f must be differentiable whole
    pathwise: ClassVar[bool] = False

    @property
    def temperature_between_corners(self) -> Tensor | float | None:
        """τ at which f is evaluated between the corners, where it is: :func:`layered` makes the layers above alike."""
        return None

    @classmethod
    def make(cls: type[SelfEstimator], latent: Latent, **kwargs: Any) -> SelfEstimator:
        """This estimator with default parts (surrogate, baseline, temperature) fitting ``latent``."""
        return cls(**kwargs)

    @abstractmethod
    def estimate(self, latent: Latent, f: Objective, b: Tensor | None, noise: Tensor | None) -> Estimate:
        """The estimate for given randomness, all of it in the latent's ``computing_dtype``.

        :param latent: the distribution, θ ``[*batch, *event]``
        :param f: the objective, ``[..., *batch, *event of b]`` → ``[..., *batch]``, called with samples of that type
        :param b: ``samples`` draws, ``[*batch, *event]`` (with a leading dimension where there are several)
        :param noise: uniforms of shape :meth:`noise_shape`
        """

    def forward(
        self,
        latent: Latent,
        f: Objective,
        generator: torch.Generator | None = None,
        context: Tensor | None = None,
    ) -> Estimate:
        """Draw, evaluate f and estimate.

        θ may be of any floating-point type, and f's values of any type. In float16 and bfloat16 samples are drawn and
        scored in float32; f gets them in θ's type, and ĝ is returned in it. Autocast is left on for f alone.

        :param latent: the distribution, θ ``[*batch, *event]``, attached to whatever made it
        :param f: ``[*batch, *event of b]`` → ``[*batch]``; estimators with several samples (or evaluations in one call)
            put them in a leading dimension. It may depend on θ and on parameters of its own (Eq 11)
        :param generator: source of all randomness
        :param context: what is known of the input before b is drawn, ``[*batch, ...]``: control variates and learned
            baselines read it, and hold it fixed
        :raises TypeError: for a latent this estimator does not take, an f without the gradient it needs, a φ in
            another type than ĝ is computed in, or a context that nothing would read
        :raises ValueError: for a θ, or a value of f, that is not finite, or a value of the wrong shape
        """
        self.require_latent(latent)
        if generator is not None and not isinstance(generator, torch.Generator):
            raise TypeError(
                f"generator must be a torch.Generator; got {type(generator).__name__}. A context is given by its name: "
                "estimator(q, f, context=h)"
            )
        require_finite_parameters(latent)
        warn_of_one_sample(latent)
        latent = given_context(latent, context, self)
        f = as_written(f, latent)
        with computing(self, latent):
            return watched(self, self.draw_and_estimate(latent, f, generator))

    @property
    def reads_context(self) -> bool:
        """Whether one of its parts is there to read a context."""
        return any(getattr(self, part) is not None for part in self.context_parts)

    def draw_and_estimate(self, latent: Latent, f: Objective, generator: torch.Generator | None) -> Estimate:
        """The estimate at randomness of its own; overridden where there is a cheaper order to draw in."""
        return self.estimate(latent, f, self.draw(latent, generator), self.draw_noise(latent, generator))

    def draw(self, latent: Latent, generator: torch.Generator | None = None) -> Tensor | None:
        """``samples`` independent draws of b, in a leading dimension where there are several; ``None`` for none.

        They are detached, also where a latent of the user's own gives samples with a graph to θ: f would be
        differentiated along it, and θ would get a gradient twice.
        """
        if self.samples == 0:
            return None
        drawn = latent if self.samples == 1 else latent.expand(self.samples)
        return drawn.sample(generator).detach()

    def probability_of_draws(self, latent: Latent, b: Tensor) -> Tensor:
        """p(b_1, …, b_K) of what :meth:`draw` gives, ``[*batch]``: for proofs, and overridden where it is no product.

        :param b: ``samples`` draws, in a leading dimension where there are several
        """
        log_prob = latent.log_prob(b)
        return (log_prob if self.samples == 1 else log_prob.sum(0)).exp()

    def noise_shape(self, latent: Latent) -> tuple[int, ...] | None:
        """Shape of the uniform noise one estimate consumes beyond b; ``None`` where there is none."""
        return None

    def draw_noise(self, latent: Latent, generator: torch.Generator | None = None) -> Tensor | None:
        """Uniform noise of shape :meth:`noise_shape`."""
        shape = self.noise_shape(latent)
        if shape is None:
            return None
        return torch.rand(shape, dtype=latent.computing_dtype, device=latent.theta.device, generator=generator)

    def noise_rule(self, latent: Latent, nodes: int, chunk: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Nodes ``[n, size of latent.noise_shape]`` and weights ``[n]`` that integrate ĝ over its noise, for one θ.

        Tanh-sinh, for integrands that are smooth inside (0, 1); overridden where they have jumps.
        """
        return product_rule(unit_interval_rule(nodes), latent.noise_shape.numel(), chunk)

    def target(self, values: Tensor) -> Tensor:
        """Whose expectation is differentiated, of f's values at the samples ``[K, *batch]``: their mean."""
        return values.mean(0)

    def require_latent(self, latent: Latent) -> None:
        """Refuse a latent this estimator does not take, naming what would do.

        :raises TypeError: listing the latents of this estimator, and the estimators of this latent; for what is no
            latent, saying how to make one
        """
        require_is_latent(latent)
        if not isinstance(latent, self.latents):
            accepted = ", ".join(kind.__name__ for kind in self.latents)
            takers = sorted(kind.__name__ for kind in concrete_estimators() if isinstance(latent, kind.latents))
            raise TypeError(
                f"{type(self).__name__} takes {accepted}; got {type(latent).__name__}, "
                f"which these take: {', '.join(takers)}"
            )


class TwoPhaseEstimator(Estimator):
    """An estimator that needs no more of f than its value: the caller may draw b first and know f(b) later.

    Subclasses write :meth:`of_value`.
    """

    @abstractmethod
    def of_value(self, latent: Latent, b: Tensor, value: Tensor, noise: Tensor | None) -> Estimate:
        """The estimate for what :meth:`finish` has checked, and brought into the latent's ``computing_dtype``.

        :param latent: the distribution b was drawn from
        :param b: samples, detached
        :param value: f(b), ``[*batch]`` (with b's leading dimension, where there are several samples)
        :param noise: uniforms of shape :meth:`noise_shape`, ``None`` where there is none
        """

    def finish(
        self,
        latent: Latent,
        b: Tensor,
        value: Tensor,
        noise: Tensor | None = None,
        generator: torch.Generator | None = None,
        context: Tensor | None = None,
    ) -> Estimate:
        """The estimate for samples already drawn and evaluated.

        :param latent: the distribution b was drawn from
        :param b: samples, detached, as :meth:`draw` gave them
        :param value: f(b) in any type, ``[*batch]`` (with b's leading dimension, where there are several samples)
        :param noise: uniforms of shape :meth:`noise_shape`; drawn from ``generator`` where ``None``
        :param generator: source of the noise
        :param context: as in a call with f at hand
        :raises TypeError: for a latent this estimator does not take, a value that is no tensor of real numbers, or a
            context that nothing would read
        :raises ValueError: for a value or noise of the wrong shape, or a θ or a value that is not finite
        """
        self.require_latent(latent)
        require_finite_parameters(latent)
        latent = given_context(latent, context, self)
        dtype, expected = latent.computing_dtype, self._value_shape(latent)
        value = computed(value, dtype)
        if value.shape != expected:
            raise ValueError(f"f(b) must have the batch's shape {tuple(expected)}; got {tuple(value.shape)}")
        shape = self.noise_shape(latent)
        if noise is None:
            noise = self.draw_noise(latent, generator)
        elif shape is not None and noise.shape != shape:
            raise ValueError(f"noise must have shape {shape}; got {tuple(noise.shape)}")
        with computing(self, latent):
            return watched(self, self.of_value(latent, in_dtype(b, dtype), value, noise))

    def estimate(self, latent: Latent, f: Objective, b: Tensor | None, noise: Tensor | None) -> Estimate:
        assert b is not None
        return self.of_value(latent, b, evaluate(f, b, self._value_shape(latent)), noise)

    def _value_shape(self, latent: Latent) -> torch.Size:
        return latent.batch_shape if self.samples == 1 else torch.Size([self.samples, *latent.batch_shape])


@contextmanager
def computing(estimator: Estimator, latent: Latent) -> Iterator[None]:
    """What ĝ is computed in: without autocast, and with an error that says so where φ has the wrong type.

    :raises TypeError: for a φ in another type than the latent's ``computing_dtype``, where that does not work
    """
    try:
        with without_autocast(latent.theta.device):
            yield
    except RuntimeError as error:
        dtype = latent.computing_dtype
        # a single number takes on any type
        others = {str(p.dtype) for p in estimator.parameters() if p.dim() > 0 and p.dtype != dtype}
        if others and ("dtype" in str(error) or "scalar type" in str(error)):
            raise TypeError(
                f"with θ in {latent.theta.dtype}, ĝ is computed in {dtype}, but parameters of "
                f"{type(estimator).__name__} are in {', '.join(sorted(others))}: call its to({dtype})"
            ) from error
        raise


def watched(estimator: Estimator, estimate: Estimate) -> Estimate:
    """An estimate whose backward pass is counted, where its estimator is in training mode: see :class:`Unstepped`."""
    if estimator.training and not torch.compiler.is_compiling():
        if estimator.unstepped is None:
            estimator.unstepped = Unstepped(type(estimator).__name__)
        estimator.unstepped.estimated()
        estimate.watched_by = estimator.unstepped
    return estimate


def given_context(latent: Latent, context: Tensor | None, estimator: Estimator) -> Latent:
    """``latent`` with the context that the estimator's parts read, where there is one.

    :raises TypeError: where none of them would read it
    """
    if context is None:
        return latent
    if not estimator.reads_context:
        parts = " or ".join(f"{part}=" for part in estimator.context_parts)
        raise TypeError(
            f"{type(estimator).__name__} has nothing that could read the context: leave it out, or "
            + (f"give {parts}" if parts else "take an estimator with a surrogate or a baseline, such as RELAX")
        )
    return latent.with_context(context)


def require_is_latent(latent: object) -> None:
    """Refuse what is no latent: a tensor, or one of torch's distributions, or a latent that is not as it must be.

    :raises TypeError: saying how to make one
    :raises ValueError: for a latent of the user's own whose samples or scores have other shapes than they must
    """
    if isinstance(latent, Latent):
        if is_checked():
            require_contract(latent)
        return
    remedy = "as_latent(distribution)" if isinstance(latent, torch.distributions.Distribution) else ""
    raise TypeError(f"a latent is needed, such as {remedy or 'LogisticBernoulli(logits)'}; got {type(latent).__name__}")


def require_finite_parameters(latent: Latent) -> None:
    """Refuse a θ with NaN or infinity in it.

    :raises ValueError: saying where, and what to do about logits of -inf
    """
    require_finite(
        "the latent's parameters",
        latent.theta,
        "clamp them, or say which classes may be drawn: GumbelOneHot(logits, mask=logits > -torch.inf)",
    )


def warn_of_one_sample(latent: Latent) -> None:
    """Say so where a θ without a batch is read as one sample of several variables, and a batch may have been meant.

    An f that returns a batch mean would hide it.
    """
    if len(latent.batch_shape) > 0 or latent.variables < 2 or under_transform():
        return
    warnings.warn(
        f"{type(latent).__name__} of shape {tuple(latent.theta.shape)} is one sample of {latent.variables} variables, "
        "without a batch. Where the first dimension is the batch, each sample needs a dimension for its variables: "
        "logits.unsqueeze(-2) for one-hots, unsqueeze(-1) for bits and numbers. Where it is one sample, unsqueeze(0) "
        "makes a batch of one, and no warning",
        stacklevel=5,  # the call of the estimator, beyond two of torch.nn.Module's
    )


def require_estimator(estimator: object) -> None:
    """Refuse what is no estimator: a name, or a class.

    :raises TypeError: saying how to make one
    """
    if isinstance(estimator, Estimator):
        return
    if isinstance(estimator, str):
        raise TypeError(
            f"an estimator is needed, not its name: make({estimator!r}, q) makes one that fits the latent q"
        )
    got = f"the class {estimator.__name__}" if isinstance(estimator, type) else f"a {type(estimator).__name__}"
    raise TypeError(f'an estimator is needed, such as RLOO() or make("relax", q); got {got}')


def require_samples(samples: int, least: int = 2, what: str = "samples") -> int:
    """A number of samples or draws.

    :raises ValueError: where it is not a whole number of at least ``least``
    """
    if not isinstance(samples, int) or samples < least:
        raise ValueError(f"{what} must be a whole number of at least {least}; got {samples!r}")
    return samples


def leave_one_out_mean(values: Tensor) -> Tensor:
    """mean_{j≠k} v_j for every k along the first dimension, whose size K must be at least 2."""
    return (values.sum(0, keepdim=True) - values) / (len(values) - 1)


def concrete_estimators() -> Iterator[type[Estimator]]:
    """Every estimator that is defined so far and not private, whoever defined it."""
    to_visit: list[type[Estimator]] = Estimator.__subclasses__()
    for kind in to_visit:
        # a class of several bases is among the subclasses of each
        to_visit.extend(other for other in kind.__subclasses__() if other not in to_visit)
        if not isabstract(kind) and not kind.__name__.startswith("_"):
            yield kind
