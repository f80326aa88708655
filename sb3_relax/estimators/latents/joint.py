"""Several latents as one: mixed discrete and continuous variables."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor

from sb3_relax.estimators.latents.base import ConditionedLatent, Latent

SelfJoint = TypeVar("SelfJoint", bound="Joint")


class Joint(Latent):
    """Independent parts that make one event: one f of all of them, one control variate, one baseline.

    θ, b and z are the parts' own, flattened, one after the other in the order in which the parts are given.
    :meth:`unpack` gives each part its own again.

    A discrete part is relaxed, and a continuous part is its own relaxation. So RELAX with one c of all parts is LAX
    (Eq 5) in the continuous ones, where z = b = T(θ, ε) and z̃, which is given b, is held fixed, and RELAX (Eq 8) in
    the discrete ones::

        ĝ = [f(b) - c(z̃)] ∂θ log p(b|θ) + ∂θ c(z) - ∂θ c(z̃)

    Where every part is relaxed or reparameterised, what is made is a :class:`ConditionedJoint`. A part may have no
    relaxation, as :class:`KSubset`. Then the estimators of any latent take the whole: Reinforce, NVIL, RLOO, VIMCO.

    :param parts: by name: latents of one batch shape, type and device
    :raises ValueError: for no part, or parts of different batch shapes
    :raises TypeError: for a part that is no latent

    Example::

        q = Joint(where=Gaussian(loc, log_scale), what=GumbelOneHot(logits))

        def f(b):
            part = q.unpack(b)
            return cost(part["where"], part["what"])

        RELAX(MLPSurrogate.of(q))(q, f).backward()
    """

    event_ndim = 1
    sample_ndim = 1

    parts: Mapping[str, Latent]

    def __new__(cls, *args: Any, **parts: Any) -> Joint:
        # what of z a whole has follows from what its parts have; a subclass has said so, and may take anything
        conditioned = cls is Joint and bool(parts) and all(isinstance(p, ConditionedLatent) for p in parts.values())
        return super().__new__(ConditionedJoint if conditioned else cls)

    def __init__(self, /, **parts: Latent):
        if not parts:
            raise ValueError("Joint needs at least one part, such as Joint(a=Gaussian(loc, log_scale))")
        for name, part in parts.items():
            if not isinstance(part, Latent):
                raise TypeError(f"part {name!r} must be a latent; got {type(part).__name__}")
            if part.context is not None:
                raise ValueError(
                    f"part {name!r} has a context, which nothing would read: the whole has one, "
                    "Joint(...).with_context(h)"
                )
        shapes = {name: tuple(part.batch_shape) for name, part in parts.items()}
        if len({*shapes.values()}) > 1:
            raise ValueError(f"the parts must have one batch shape; got {shapes}")
        types = {name: part.theta.dtype for name, part in parts.items()}
        if len({*types.values()}) > 1:
            raise TypeError(f"the parts must be of one type; got {types}: bring their parameters into one")
        self._of(_joined((part.theta, part.event_ndim) for part in parts.values()), parts)

    def _of(self: SelfJoint, theta: Tensor, parts: Mapping[str, Latent]) -> SelfJoint:
        """θ is one tensor, and the parts are made of pieces of it."""
        self.theta = theta
        pieces = _split(theta, [_event(part) for part in parts.values()])
        self.parts = {name: part.at(piece) for (name, part), piece in zip(parts.items(), pieces, strict=True)}
        return self

    def at(self: SelfJoint, theta: Tensor) -> SelfJoint:
        return object.__new__(type(self))._of(theta, self.parts)

    def select(self: SelfJoint, index: Tensor | int) -> SelfJoint:
        # masks have a batch as well
        parts = {name: part.select(index) for name, part in self.parts.items()}
        latent = object.__new__(type(self))._of(self.theta[index], parts)
        return self._keeping_context(latent, lambda context: context[index])

    @property
    def variables(self) -> int:
        return sum(part.variables for part in self.parts.values())

    def _apart(self) -> Joint:
        raise TypeError("the parts of a Joint are not alike: take an estimate of each part that has a cost of its own")

    @property
    def sample_shape(self) -> torch.Size:
        return torch.Size([sum(part.sample_shape.numel() for part in self.parts.values())])

    def unpack(self, b: Tensor) -> dict[str, Tensor]:
        """The parts of b (or of z) by name, ``[..., *event of the part]``.

        :param b: ``[..., *sample_shape]``
        :raises ValueError: for a tensor of another width
        """
        if b.shape[-1:] != self.sample_shape:
            sizes = {name: part.sample_shape.numel() for name, part in self.parts.items()}
            raise ValueError(
                f"a sample of this Joint has {self.sample_shape[0]} numbers, {sizes}; got a tensor of shape "
                f"{tuple(b.shape)}"
            )
        return dict(zip(self.parts, _split(b, [part.sample_shape for part in self.parts.values()]), strict=True))

    def pack(self, samples: Mapping[str, Tensor]) -> Tensor:
        """b, ``[..., *sample_shape]``, of its parts: the inverse of :meth:`unpack`.

        :param samples: of every part by name, ``[..., *event of the part]``
        """
        return _joined((samples[name], part.sample_ndim) for name, part in self.parts.items())

    def _samples(self, of_part: Callable[..., Tensor], *packed: Tensor) -> Tensor:
        """Something of b's shape, made of every part and its pieces of ``packed``."""
        pieces = [self.unpack(x).values() for x in packed]
        return _joined(
            (of_part(part, *own), part.sample_ndim) for part, *own in zip(self.parts.values(), *pieces, strict=True)
        )

    def _parameters(self, of_part: Callable[..., Tensor], *packed: Tensor) -> Tensor:
        """Something of θ's shape, made likewise."""
        pieces = [self.unpack(x).values() for x in packed]
        return _joined(
            (of_part(part, *own), part.event_ndim) for part, *own in zip(self.parts.values(), *pieces, strict=True)
        )

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        return self._samples(lambda part: part.sample(generator))

    def log_prob(self, b: Tensor) -> Tensor:
        samples = self.unpack(b)
        batch = torch.broadcast_shapes(b.shape[:-1], self.batch_shape)
        return _total("log_prob", {name: part.log_prob(samples[name]) for name, part in self.parts.items()}, batch)

    def kl(self, other: Latent) -> Tensor:
        assert isinstance(other, Joint)
        return _total("kl", {name: part.kl(other.parts[name]) for name, part in self.parts.items()}, self.batch_shape)

    def entropy(self) -> Tensor:
        return _total("entropy", {name: part.entropy() for name, part in self.parts.items()}, self.batch_shape)

    def mean(self) -> Tensor:
        return self._samples(lambda part: part.mean())

    def mode(self) -> Tensor:
        return self._samples(lambda part: part.mode())

    def score(self, b: Tensor) -> Tensor:
        return self._parameters(lambda part, b: part.score(b), b)


class ConditionedJoint(Joint, ConditionedLatent):
    """A :class:`Joint` all of whose parts are relaxed or reparameterised, as RELAX needs.

    ``Joint(...)`` of such parts makes it. A subclass of your own that RELAX is to take is one of this class.

    :param parts: by name: relaxed or reparameterised latents of one batch shape, type and device
    :raises TypeError: for a part that is none
    """

    parts: Mapping[str, ConditionedLatent]

    def __init__(self, /, **parts: ConditionedLatent):
        super().__init__(**parts)
        for name, part in parts.items():
            if not isinstance(part, ConditionedLatent):
                raise TypeError(
                    f"part {name!r} must be relaxed or reparameterised; got {type(part).__name__}: Joint(...) takes "
                    "any latent, and NVIL, RLOO and Reinforce take such a Joint"
                )

    @property
    def noise_shape(self) -> torch.Size:
        return torch.Size([*self.batch_shape, sum(shape.numel() for shape in self._noise_events())])

    def _noise_events(self) -> list[torch.Size]:
        return [part.noise_shape[len(self.batch_shape) :] for part in self.parts.values()]

    def hard(self, z: Tensor) -> Tensor:
        return self._samples(lambda part, z: part.hard(z), z)

    def sample_relaxed(self, generator: torch.Generator | None = None) -> Tensor:
        return self._samples(lambda part: part.sample_relaxed(generator))

    def conditional(self, b: Tensor, u: Tensor) -> Tensor:
        noise = iter(_split(u, self._noise_events()))
        return self._samples(lambda part, b: part.conditional(b, next(noise)), b)

    def coupling(self, b: Tensor, z: Tensor) -> Tensor:
        return self._samples(lambda part, b, z: part.coupling(b, z), b, z)

    def path_gradient(self, b: Tensor, slope: Tensor) -> Tensor:
        return self._parameters(lambda part, b, slope: part.path_gradient(b, slope), b, slope)

    def path_change(self, b: Tensor, v: Tensor) -> Tensor:
        changes = iter(_split(v, [_event(part) for part in self.parts.values()]))
        return self._samples(lambda part, b: part.path_change(b, next(changes)), b)

    def relax(self, z: Tensor, temperature: Tensor | float) -> Tensor:
        return self._samples(lambda part, z: part.relax(z, temperature), z)

    def relax_gradient(self, relaxed: Tensor, slope: Tensor, temperature: Tensor | float) -> Tensor:
        return self._samples(lambda part, x, slope: part.relax_gradient(x, slope, temperature), relaxed, slope)

    def relax_curvature(self, relaxed: Tensor, slope: Tensor, direction: Tensor, temperature: Tensor | float) -> Tensor:
        def of_part(part: ConditionedLatent, x: Tensor, slope: Tensor, direction: Tensor) -> Tensor:
            return part.relax_curvature(x, slope, direction, temperature)

        return self._samples(of_part, relaxed, slope, direction)

    def cool(self, relaxed: Tensor, z: Tensor, slope: Tensor, temperature: Tensor | float) -> tuple[Tensor, Tensor]:
        def change(which: int) -> Tensor:
            return self._samples(
                lambda part, x, z, slope: part.cool(x, z, slope, temperature)[which], relaxed, z, slope
            )

        return change(0), change(1)


def _event(part: Latent) -> torch.Size:
    """Shape of one θ of a part."""
    return part.theta.shape[len(part.batch_shape) :]


def _joined(pieces: Iterable[tuple[Tensor, int]]) -> Tensor:
    """Tensors ``[..., *event]``, each with its number of event dimensions → ``[..., Σ size of an event]``."""
    return torch.cat([piece.flatten(piece.dim() - event_ndim) for piece, event_ndim in pieces], dim=-1)


def _split(x: Tensor, events: list[torch.Size]) -> list[Tensor]:
    """``[..., Σ size of an event]`` → one tensor ``[..., *event]`` for each of ``events``."""
    pieces = x.split([event.numel() for event in events], dim=-1)
    return [piece.unflatten(-1, event) for piece, event in zip(pieces, events, strict=True)]


def _total(what: str, of_parts: dict[str, Tensor], batch: torch.Size) -> Tensor:
    """The sum over the parts of what each has for a whole sample.

    :param batch: of which shape it must be
    :raises ValueError: where a part has it for each of its variables, or with a dimension too many
    """
    for name, value in of_parts.items():
        if value.shape != batch:
            raise ValueError(
                f"{what}() of every part of this Joint must be {list(batch)}, one number for a whole sample; that of "
                f"{name!r} is {list(value.shape)}"
            )
    return torch.stack(list(of_parts.values())).sum(0)
