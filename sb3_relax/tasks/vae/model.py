"""Sigmoid belief networks with Bernoulli latents: the three models of Table 1."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

#: name in Table 1 → (stochastic layers, hidden tanh layers between two of them)
MODELS: dict[str, tuple[int, int]] = {
    "linear1": (1, 0),
    "linear2": (2, 0),
    "nonlinear": (1, 2),
}


class DiscreteVAE(nn.Module):
    """q(b_1|x) q(b_2|b_1) … and p(x|b_1) p(b_1|b_2) … p(b_L), every factor independent Bernoullis given by logits.

    Networks see pixels as 2(x - data mean) and bits as 2b - 1. The prior's logits are learned; the bias of the pixels'
    logits starts at the logits of the data mean.

    :param data_mean: mean image of the training set, ``[D]``, in [0, 1]
    :param layers: L, the number of stochastic layers
    :param hidden_layers: tanh layers between two stochastic ones, on both sides
    :param units: bits a layer, and width of the hidden layers
    :raises ValueError: for a data mean that is no vector of probabilities, or sizes below their least

    Example::

        model = DiscreteVAE.of("linear1", x.mean(0))
    """

    data_mean: Tensor
    minus_one: Tensor

    def __init__(self, data_mean: Tensor, layers: int = 1, hidden_layers: int = 0, units: int = 200):
        super().__init__()
        if data_mean.dim() != 1 or not bool(((data_mean >= 0) & (data_mean <= 1)).all()):
            raise ValueError(f"data_mean must be a vector of numbers in [0, 1]; got shape {tuple(data_mean.shape)}")
        if layers < 1 or hidden_layers < 0 or units < 1:
            raise ValueError(
                "layers and units must be at least 1, hidden_layers at least 0; "
                f"got {layers}, {units} and {hidden_layers}"
            )
        self.register_buffer("data_mean", data_mean.clone())
        self.register_buffer("minus_one", data_mean.new_tensor(-1.0))
        sizes = [len(data_mean), *[units] * layers]
        between = [units] * hidden_layers
        self.encoders = nn.ModuleList(network([a, *between, b]) for a, b in itertools.pairwise(sizes))
        self.decoders = nn.ModuleList(network([b, *between, a]) for a, b in itertools.pairwise(sizes))
        self.prior = nn.Parameter(data_mean.new_zeros(units))
        self.to(data_mean.device, data_mean.dtype)
        pixels = list(self.decoders[0].children())[-1]
        assert isinstance(pixels, nn.Linear)
        # authors' clip: a pixel that is always off keeps finite logits
        pixels.bias.data.copy_(data_mean.clamp(0.001, 0.999).logit())

    @classmethod
    def of(cls, name: str, data_mean: Tensor, units: int = 200) -> DiscreteVAE:
        """A model of :data:`MODELS` by name.

        :raises ValueError: for an unknown name, listing those that exist
        """
        if name not in MODELS:
            raise ValueError(f"unknown model {name!r}; there are {', '.join(MODELS)}")
        layers, hidden_layers = MODELS[name]
        return cls(data_mean, layers, hidden_layers, units)

    @property
    def layers(self) -> int:
        """Number of stochastic layers."""
        return len(self.encoders)

    @property
    def units(self) -> int:
        """Bits in each layer."""
        return len(self.prior)

    def encode(self, layer: int, below: Tensor) -> Tensor:
        """Logits of q(b_{layer+1} | what is below it): pixels for layer 0, else the bits of the layer below."""
        seen = 2 * (below - self.data_mean) if layer == 0 else self.signs(below)
        return self.encoders[layer](seen)

    def decode(self, layer: int, b: Tensor) -> Tensor:
        """Logits of what is below the bits (or their relaxation) of a layer: pixels for layer 0."""
        return self.decoders[layer](self.signs(b))

    def signs(self, b: Tensor) -> Tensor:
        """2b - 1, in one operation."""
        return torch.add(self.minus_one, b, alpha=2)

    @torch.no_grad()
    def sample(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """Mean images p(x=1|b_1) of ``count`` ancestral samples, ``[count, D]``."""
        logits = self.prior.expand(count, -1)
        for layer in reversed(range(self.layers)):
            uniform = torch.rand(logits.shape, dtype=logits.dtype, device=logits.device, generator=generator)
            logits = self.decode(layer, (uniform < logits.sigmoid()).to(logits.dtype))
        return logits.sigmoid()


def network(sizes: Sequence[int]) -> nn.Sequential:
    """Linear layers with tanh between them, Glorot's uniform weights, biases of zero."""
    modules: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(sizes):
        if modules:
            modules.append(nn.Tanh())
        linear = nn.Linear(inputs, outputs)
        nn.init.xavier_uniform_(linear.weight)
        nn.init.zeros_(linear.bias)
        modules.append(linear)
    return nn.Sequential(*modules)
