"""c_φ: small networks for control variates, with their slope in closed form."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sb3_relax.estimators.checks import require_widths
from sb3_relax.estimators.latents import ConditionedJoint, ConditionedLatent, Latent, RelaxedLatent
from sb3_relax.estimators.surrogate import Surrogate, SurrogateVJP
from sb3_relax.estimators.tanh_network import backward_pass, forward_pass, outer, value_and_slope_of_tanh_network


class MLPSurrogate(nn.Module):
    """c_φ(z): a tanh network on the flattened event, ``[..., *event]`` → ``[...]``, that starts at c = 0.

    Its slope ∂c/∂z is known in closed form (:mod:`~sb3_relax.estimators.tanh_network`), so that training φ on Eq 6
    takes one backward pass, where autograd would differentiate its own gradient.

    :param inputs: size of the flattened event (D, or D·K for one-hots)
    :param hidden: widths of the hidden layers
    :param event_ndim: dimensions of an event: 1, or 2 for one-hots
    :param squash: what the network sees of z: z itself (``None``), or its relaxation ``"sigmoid"`` or ``"softmax"``
        (over the last dimension), which keeps the inputs bounded whatever the logits; or that of a latent, ``relax(z,
        1)``, whose parts differ in it
    :param context: size of the context h that the first hidden layer sees besides, ``[*batch, context]``; 0 for none.
        c is then a function of z and of what ``estimator(q, f, context=h)`` was given
    :raises ValueError: for no hidden layer (a linear c could be no more than a scaled sample), or an unknown squash

    Example::

        c = MLPSurrogate(200)
        c(torch.randn(24, 200)).shape  # [24]
    """

    context: int = 0
    reads_theta: ClassVar[bool] = False

    def __init__(
        self,
        inputs: int,
        hidden: Sequence[int] = (64, 64),
        event_ndim: int = 1,
        squash: str | ConditionedLatent | None = None,
        context: int = 0,
    ):
        super().__init__()
        if squash not in (None, "sigmoid", "softmax") and not isinstance(squash, ConditionedLatent):
            raise ValueError(f"squash must be None, 'sigmoid', 'softmax' or a latent; got {squash!r}")
        self.squash = squash
        require_widths(context, hidden)
        if len(hidden) == 0:
            raise ValueError("hidden must name at least one layer's width")
        sizes = [inputs, *hidden]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(sizes))
        self.output = nn.Linear(sizes[-1], 1)
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)
        self.event_ndim = event_ndim
        self.context = context
        if context:
            self.of_context = nn.Linear(context, hidden[0], bias=False)

    @classmethod
    def of(cls, latent: Latent, hidden: Sequence[int] = (64, 64), context: int = 0) -> MLPSurrogate:
        """A surrogate of the right size, squash, type and device for ``latent``.

        :param hidden: widths of the hidden layers
        :param context: size of the context, 0 for none

        Example::

            estimate = RELAX(MLPSurrogate.of(q, context=64, hidden=[128]))(q, f, context=h)
        """
        squash: str | ConditionedLatent | None = None
        if isinstance(latent, RelaxedLatent):
            squash = "sigmoid" if latent.sample_ndim == 1 else "softmax"
        elif isinstance(latent, ConditionedJoint):
            # of its θ nothing is needed, nor kept
            squash = latent.at(latent.theta.new_zeros(latent.theta.shape[len(latent.batch_shape) :]))
        surrogate = cls(latent.sample_shape.numel(), hidden, latent.sample_ndim, squash, context)
        return surrogate.to(latent.theta.device, latent.computing_dtype)

    def given(self, latent: Latent) -> Surrogate:
        """This surrogate as a function of z alone, at one context; itself, where it reads none.

        :raises TypeError: for a context that it does not read, or none where it reads one
        :raises ValueError: for samples, or a context, of another size
        """
        self._require_samples_of(latent)
        read = self.read_beside_z(latent)
        return AtInput(self, read) if read else self

    def _require_samples_of(self, latent: Latent) -> None:
        numbers, event = self.layers[0].in_features, latent.sample_shape
        if (numbers, self.event_ndim) == (event.numel(), len(event)):
            return
        name = type(self).__name__
        raise ValueError(
            f"this {name} reads samples of {numbers} numbers in {self.event_ndim} dimensions, and those of the latent "
            f"have shape {tuple(event)}: make it by {name}.of(q). PerVariable's estimator is one of a single variable: "
            'PerVariable(make("relax", q.each_variable()))'
        )

    def read_beside_z(self, latent: Latent) -> list[tuple[nn.Linear, Tensor]]:
        """What the first hidden layer sees beside z: layers without bias, and the input of each."""
        if not self.context:
            if latent.context is None:
                return []
            name = type(self).__name__
            raise TypeError(
                f"a context was given, but this {name} reads none: make it by "
                f"{name}.of(q, context={latent.context.shape[-1]}), or leave the context out"
            )
        return [(self.of_context, latent.context_for(self, self.context))]

    def forward(self, z: Tensor, shift: Tensor | None = None) -> Tensor:
        (weight, bias), *others = self._layers(shift)
        x = torch.tanh(F.linear(self._squash(z).flatten(-self.event_ndim), weight) + bias)
        for weight, bias in others:
            x = torch.tanh(F.linear(x, weight, bias))
        return self.output(x).squeeze(-1)

    def value_and_slope(self, z: Tensor, shift: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """c(z) ``[...]`` and ∂c/∂z, shape of z.

        :param shift: added to what the first hidden layer's tanh sees
        """
        seen = self._squash(z)
        value, slope = value_and_slope_of_tanh_network(
            seen.flatten(-self.event_ndim), self._layers(shift), self.output.weight, self.output.bias
        )
        return value, self._through_squash(slope.reshape(z.shape), seen)

    def value_slope_vjp(self, z: Tensor, shift: Tensor | None = None) -> tuple[Tensor, Tensor, SurrogateVJP | None]:
        """As :meth:`value_and_slope`, without graphs, and a function that does what their backward pass would.

        With graphs, and ``None``, where there is more to that pass: parametrised weights, or hooks.
        """
        own: list[Tensor] = [part for layer in self.layers for part in (layer.weight, layer.bias)]  # type: ignore[misc]
        weight, bias = self.output.weight, self.output.bias
        if not are_bare([*own, weight, bias]):
            return *self.value_and_slope(z, shift), None
        # torch.compile traces no version, and no step of φ between the estimate and its use either
        versions = [] if torch.compiler.is_compiling() else [p._version for p in (*own, weight)]
        with torch.no_grad():
            seen = self._squash(z)
            x = seen.flatten(-self.event_ndim)
            flat = [part for layer in self._layers(shift) for part in layer]
            out = forward_pass(x, weight, bias, flat)
            slope = self._through_squash(out.slope.reshape(z.shape), seen)

        def vjp(value_bar: Tensor, slope_bar: Tensor) -> list[tuple[Tensor, Tensor]]:
            if versions and versions != [p._version for p in (*own, weight)]:
                raise RuntimeError("the surrogate's parameters were changed in place between the estimate and its use")
            # the squash's Jacobian is symmetric
            inner_bar = self._through_squash(slope_bar, seen).reshape(x.shape)
            _, weight_bar, bias_bar, bars = backward_pass(out, x, weight, flat, value_bar, inner_bar)
            of_shift = []
            if shift is not None:  # both went into the first layer's bias
                of_shift = [(shift, bars[1].sum_to_size(shift.shape))]
                bars[1] = bars[1].sum_to_size(own[1].shape)
            return [(weight, weight_bar), (bias, bias_bar), *zip(own, bars, strict=True), *of_shift]

        return out.value, slope, vjp

    def _layers(self, shift: Tensor | None) -> list[tuple[Tensor, Tensor]]:
        layers: list[tuple[Tensor, Tensor]] = [(layer.weight, layer.bias) for layer in self.layers]  # type: ignore[misc]
        if shift is not None:
            layers[0] = (layers[0][0], layers[0][1] + shift)
        elif self.context or self.reads_theta:
            raise TypeError(f"this {type(self).__name__} reads more than z: call given(latent)(z)")
        return layers

    def _through_squash(self, slope: Tensor, seen: Tensor) -> Tensor:
        """``slope`` times the Jacobian of what the network sees of z."""
        if self.squash == "sigmoid":
            return torch.ops.aten.sigmoid_backward(slope, seen)
        if isinstance(self.squash, ConditionedLatent):
            return self.squash.relax_gradient(seen, slope, 1.0)
        return slope if self.squash is None else seen * (slope - (seen * slope).sum(-1, keepdim=True))

    def _squash(self, z: Tensor) -> Tensor:
        if self.squash is None:
            return z
        if isinstance(self.squash, ConditionedLatent):
            return self.squash.relax(z, 1.0)
        return z.sigmoid() if self.squash == "sigmoid" else z.softmax(-1)


class ThetaSurrogate(MLPSurrogate):
    """c_φ(z, θ): an :class:`MLPSurrogate` whose first hidden layer also sees E[b|θ], held fixed.

    For problems with an input (amortised inference): θ is all that the distribution knows of the input, and of the
    layers below, so that one c serves every input. For discrete latents; of any other, what made θ can be the context
    of an :class:`MLPSurrogate`. Parameters as :class:`MLPSurrogate`'s.

    Example::

        estimate = RELAX(ThetaSurrogate(200, squash="sigmoid"))(LogisticBernoulli(encoder(x)), f)
    """

    reads_theta = True

    def __init__(
        self,
        inputs: int,
        hidden: Sequence[int] = (64, 64),
        event_ndim: int = 1,
        squash: str | ConditionedLatent | None = None,
        context: int = 0,
    ):
        super().__init__(inputs, hidden, event_ndim, squash, context)
        self.of_theta = nn.Linear(inputs, hidden[0], bias=False)

    def read_beside_z(self, latent: Latent) -> list[tuple[nn.Linear, Tensor]]:
        if not isinstance(latent, RelaxedLatent):
            raise TypeError(
                f"ThetaSurrogate reads E[b|θ] of a discrete latent; got {type(latent).__name__}: use "
                "MLPSurrogate.of(q, context=...), and give what made θ as the context"
            )
        return [(self.of_theta, latent.mean().flatten(-self.event_ndim)), *super().read_beside_z(latent)]


class AtInput:
    """An :class:`MLPSurrogate` as a function of z alone, at what else it reads."""

    def __init__(self, surrogate: MLPSurrogate, read: Sequence[tuple[nn.Linear, Tensor]]):
        self.surrogate = surrogate
        self.read = read
        first, *others = (layer(x) for layer, x in read)
        self.shift = sum(others, first)

    def __call__(self, z: Tensor) -> Tensor:
        return self.surrogate(z, self.shift)

    def value_and_slope(self, z: Tensor) -> tuple[Tensor, Tensor]:
        return self.surrogate.value_and_slope(z, self.shift)

    def value_slope_vjp(self, z: Tensor) -> tuple[Tensor, Tensor, SurrogateVJP | None]:
        if not are_bare([layer.weight for layer, _ in self.read]):
            return *self.value_and_slope(z), None
        value, slope, of_surrogate = self.surrogate.value_slope_vjp(z, self.shift)
        if of_surrogate is None:
            return value, slope, None

        def vjp(value_bar: Tensor, slope_bar: Tensor) -> list[tuple[Tensor, Tensor]]:
            *others, (_, shift_bar) = of_surrogate(value_bar, slope_bar)
            return [*others, *((layer.weight, outer(shift_bar, x)) for layer, x in self.read)]

        return value, slope, vjp


def are_bare(parameters: Sequence[Tensor]) -> bool:
    """Whether these are parameters with nothing behind them: no parametrisation, no replacement, no hook."""
    return all(type(p) is nn.Parameter and not p._backward_hooks for p in parameters)
