"""c_φ: small networks for control variates, with their slope in closed form."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sb3_relax.estimators.functions import SurrogateVJP
from sb3_relax.estimators.latents import ConditionedLatent, Joint, Latent, RelaxedLatent
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
    :raises ValueError: for no hidden layer (a linear c could be no more than a scaled sample), or an unknown squash

    Example::

        c = MLPSurrogate(200)
        c(torch.randn(24, 200)).shape  # [24]
    """

    def __init__(
        self,
        inputs: int,
        hidden: Sequence[int] = (64, 64),
        event_ndim: int = 1,
        squash: str | ConditionedLatent | None = None,
    ):
        super().__init__()
        if squash not in (None, "sigmoid", "softmax") and not isinstance(squash, ConditionedLatent):
            raise ValueError(f"squash must be None, 'sigmoid', 'softmax' or a latent; got {squash!r}")
        self.squash = squash
        if len(hidden) == 0:
            raise ValueError("hidden must name at least one layer's width")
        sizes = [inputs, *hidden]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(sizes))
        self.output = nn.Linear(sizes[-1], 1)
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)
        self.event_ndim = event_ndim

    @classmethod
    def of(cls, latent: Latent, hidden: Sequence[int] = (64, 64)) -> MLPSurrogate:
        """A surrogate of the right size, squash, type and device for ``latent``."""
        squash: str | ConditionedLatent | None = None
        if isinstance(latent, RelaxedLatent):
            squash = "sigmoid" if latent.sample_ndim == 1 else "softmax"
        elif isinstance(latent, Joint):
            # of its θ nothing is needed, nor kept
            squash = latent.at(latent.theta.new_zeros(latent.theta.shape[len(latent.batch_shape) :]))
        surrogate = cls(latent.sample_shape.numel(), hidden, latent.sample_ndim, squash)
        return surrogate.to(latent.theta.device, latent.computing_dtype)

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
        own = [part for layer in self._layers(None) for part in layer]
        weight, bias = self.output.weight, self.output.bias
        if not are_bare([*own, weight, bias]):
            return *self.value_and_slope(z, shift), None
        versions = [p._version for p in (*own, weight)]
        with torch.no_grad():
            seen = self._squash(z)
            x = seen.flatten(-self.event_ndim)
            flat = own if shift is None else [own[0], own[1] + shift, *own[2:]]
            out = forward_pass(x, weight, bias, flat)
            slope = self._through_squash(out.slope.reshape(z.shape), seen)

        @torch.no_grad()
        def vjp(value_bar: Tensor, slope_bar: Tensor) -> list[tuple[Tensor, Tensor]]:
            if versions != [p._version for p in (*own, weight)]:
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
    layers below, so that one c serves every input. :class:`RELAX`, :class:`REBAR` (as residual) and
    :class:`RelaxedDoubleCV` hand it their latent. Parameters as :class:`MLPSurrogate`'s.

    Example::

        estimate = RELAX(ThetaSurrogate(200, squash="sigmoid"))(LogisticBernoulli(encoder(x)), f)
    """

    def __init__(self, inputs: int, hidden: Sequence[int] = (64, 64), event_ndim: int = 1, squash: str | None = None):
        super().__init__(inputs, hidden, event_ndim, squash)
        self.of_theta = nn.Linear(inputs, hidden[0], bias=False)

    def given(self, latent: RelaxedLatent) -> _AtTheta:
        """This surrogate as a function of z alone, at one θ."""
        return _AtTheta(self, latent.mean().flatten(-self.event_ndim))


class _AtTheta:
    def __init__(self, surrogate: ThetaSurrogate, mean: Tensor):
        self.surrogate = surrogate
        self.mean = mean
        self.shift = surrogate.of_theta(mean)

    def __call__(self, z: Tensor) -> Tensor:
        return self.surrogate(z, self.shift)

    def value_and_slope(self, z: Tensor) -> tuple[Tensor, Tensor]:
        return self.surrogate.value_and_slope(z, self.shift)

    def value_slope_vjp(self, z: Tensor) -> tuple[Tensor, Tensor, SurrogateVJP | None]:
        weight = self.surrogate.of_theta.weight
        if not are_bare([weight]):
            return *self.value_and_slope(z), None
        value, slope, of_surrogate = self.surrogate.value_slope_vjp(z, self.shift)
        if of_surrogate is None:
            return value, slope, None

        def vjp(value_bar: Tensor, slope_bar: Tensor) -> list[tuple[Tensor, Tensor]]:
            *others, (_, shift_bar) = of_surrogate(value_bar, slope_bar)
            return [*others, (weight, outer(shift_bar, self.mean))]

        return value, slope, vjp


def are_bare(parameters: Sequence[Tensor]) -> bool:
    """Whether these are parameters with nothing behind them: no parametrisation, no replacement, no hook."""
    return all(type(p) is nn.Parameter and not p._backward_hooks for p in parameters)
