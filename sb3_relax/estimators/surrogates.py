"""c_φ: small networks for control variates, with their slope in closed form."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sb3_relax.estimators.latents import Latent, RelaxedLatent
from sb3_relax.estimators.tanh_network import value_and_slope_of_tanh_network


class MLPSurrogate(nn.Module):
    """c_φ(z): a tanh network on the flattened event, ``[..., *event]`` → ``[...]``, that starts at c = 0.

    Its slope ∂c/∂z is known in closed form (:mod:`~sb3_relax.estimators.tanh_network`), so that training φ on Eq 6
    takes one backward pass, where autograd would differentiate its own gradient.

    :param inputs: size of the flattened event (D, or D·K for one-hots)
    :param hidden: widths of the hidden layers
    :param event_ndim: dimensions of an event: 1, or 2 for one-hots
    :param squash: what the network sees of z: z itself (``None``), or its relaxation ``"sigmoid"`` or ``"softmax"``
        (over the last dimension), which keeps the inputs bounded whatever the logits
    :raises ValueError: for no hidden layer (a linear c could be no more than a scaled sample), or an unknown squash

    Example::

        c = MLPSurrogate(200)
        c(torch.randn(24, 200)).shape  # [24]
    """

    def __init__(self, inputs: int, hidden: Sequence[int] = (64, 64), event_ndim: int = 1, squash: str | None = None):
        super().__init__()
        if squash not in (None, "sigmoid", "softmax"):
            raise ValueError(f"squash must be None, 'sigmoid' or 'softmax'; got {squash!r}")
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
        theta = latent.theta
        # θ of a continuous latent may hold several parameters for each variable
        inputs = theta.shape[theta.dim() - latent.event_ndim :][: latent.sample_ndim].numel()
        squash = None
        if isinstance(latent, RelaxedLatent):
            squash = "sigmoid" if latent.sample_ndim == 1 else "softmax"
        return cls(inputs, hidden, latent.sample_ndim, squash).to(theta.device, theta.dtype)

    def forward(self, z: Tensor) -> Tensor:
        x = self._squash(z).flatten(-self.event_ndim)
        for layer in self.layers:
            x = torch.tanh(layer(x))
        return self.output(x).squeeze(-1)

    def value_and_slope(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """c(z) ``[...]`` and ∂c/∂z, shape of z."""
        seen = self._squash(z)
        value, slope = value_and_slope_of_tanh_network(
            seen.flatten(-self.event_ndim),
            [(layer.weight, layer.bias) for layer in self.layers],  # type: ignore[misc]
            self.output.weight,
            self.output.bias,
        )
        slope = slope.reshape(z.shape)
        if self.squash == "sigmoid":
            slope = slope * (seen * (1 - seen))
        elif self.squash == "softmax":
            slope = seen * (slope - (seen * slope).sum(-1, keepdim=True))
        return value, slope

    def _squash(self, z: Tensor) -> Tensor:
        if self.squash is None:
            return z
        return z.sigmoid() if self.squash == "sigmoid" else z.softmax(-1)


def require_temperature(temperature: float) -> float:
    """A temperature τ.

    :raises ValueError: where it is not a positive number
    """
    if not (math.isfinite(temperature) and temperature > 0):
        raise ValueError(f"temperature must be positive and finite; got {temperature}")
    return float(temperature)
