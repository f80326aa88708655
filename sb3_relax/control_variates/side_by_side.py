"""Networks of one shape that are trained in one go, each on its own block of a batch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch as th
from torch import nn

from sb3_relax.control_variates.network import (
    LARGEST,
    AtStates,
    ControlVariateNetwork,
    ScaledNetwork,
    StateNetwork,
)
from sb3_relax.estimators import Latent
from sb3_relax.estimators.surrogate import SurrogateVJP, ValueVJP
from sb3_relax.estimators.tanh_network import tanh_backward
from sb3_relax.estimators.temperature import learned_temperature


class SideBySide(nn.Module):
    """L networks ĉ_φ(s), or ĉ_φ(a, s), of one shape, with their weights in one tensor for each kind of them.

    A batch has L blocks of as many rows, one after the other, and each network sees its own. Every row is what its
    network would give. Small networks cost mostly bookkeeping, which this does once for all of them.

    :param networks: for each of which :func:`can_stand_side_by_side`; they keep their weights until :meth:`hand_back`

    Example::

        together = SideBySide(networks)
        together(features_of_all)          # [L · B]
        together.hand_back()
    """

    #: each has its own
    log_temperature = None

    def __init__(self, networks: Sequence[ScaledNetwork]):
        super().__init__()
        self.networks = list(networks)
        first = self.networks[0]
        assert isinstance(first, (StateNetwork, ControlVariateNetwork))
        self.stacked = nn.ParameterDict(
            {
                _key(name): nn.Parameter(th.stack([dict(each.named_parameters())[name].detach() for each in networks]))
                for name, _ in first.named_parameters()
            }
        )
        self.scale: th.Tensor
        self.register_buffer("scale", th.stack([each.scale for each in networks]))

    @property
    def count(self) -> int:
        """L."""
        return len(self.networks)

    def forward(self, features: th.Tensor, *actions: th.Tensor) -> th.Tensor:
        """ĉ for ``features [L · B, F]`` and, of ĉ(a, s), ``actions [..., L · B, A]`` → ``[..., L · B]``."""
        hidden = self.of_state(features)
        if actions:
            hidden = hidden + self.affine(self.in_blocks(actions[0]), "action_layer")
        return self.value(th.tanh(hidden))

    def value_and_slope(self, features: th.Tensor, actions: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        """ĉ(a, s) and ∂ĉ/∂a, ``[..., L · B]`` and ``[..., L · B, A]``."""
        hidden = th.tanh(self.of_state(features) + self.affine(self.in_blocks(actions), "action_layer"))
        weight, _ = self.output()
        slope = tanh_backward(weight.expand_as(hidden), hidden) @ self.stacked[_key("action_layer.weight")]
        return self.value(hidden), slope.flatten(-3, -2)

    def at_states(self, latent: Latent, features: th.Tensor) -> AtBlocks:
        """The core's c at fixed states, as that of each network."""
        return AtBlocks(self, latent, features)

    def in_blocks(self, x: th.Tensor) -> th.Tensor:
        """``[..., L · B, X]`` → ``[..., L, B, X]``."""
        return x.unflatten(-2, (self.count, -1))

    def of_state(self, features: th.Tensor) -> th.Tensor:
        """What the state adds to the last hidden layer before its tanh, ``[L, B, H]``."""
        x = self.in_blocks(features)
        for place, layer in enumerate(self.networks[0].state_encoder):
            x = self.affine(x, f"state_encoder.{place}") if isinstance(layer, nn.Linear) else layer(x)
        return self.affine(x, "state_layer")

    def affine(self, x: th.Tensor, layer: str) -> th.Tensor:
        """A layer of that name, ``[..., L, B, in]`` → ``[..., L, B, out]``."""
        weight, bias = self.stacked[_key(f"{layer}.weight")].mT, _key(f"{layer}.bias")
        if bias not in self.stacked:
            return x @ weight
        return th.baddbmm(self.stacked[bias].unsqueeze(1), x, weight)

    def value(self, hidden: th.Tensor) -> th.Tensor:
        """The last layer, ``[..., L, B, H]`` → ``[..., L · B]``."""
        weight, bias = self.output()
        return (hidden @ weight.mT + bias).flatten(-3)

    def output(self) -> tuple[th.Tensor, th.Tensor]:
        """Weight and bias of the last layer in the advantages' scale, ``[L, 1, H]`` and ``[L, 1, 1]``."""
        scale = self.output_scale().reshape(-1, 1, 1)
        weight, bias = (self.stacked[_key(f"output_layer.{part}")] for part in ("weight", "bias"))
        return scale * weight, scale * bias.unsqueeze(-1)

    def output_scale(self) -> th.Tensor:
        """What each last layer is multiplied by, ``[L]``.

        The formula of :meth:`ScaledNetwork.output_scale`, which says why, for all networks at once: change both.
        """
        weight, bias = (self.stacked[_key(f"output_layer.{part}")].detach().flatten(1) for part in ("weight", "bias"))
        per_unit = th.full_like(self.scale, math.sqrt(weight.shape[-1]))
        action = _key("action_layer.weight")
        if action in self.stacked:
            per_unit = th.maximum(per_unit, th.linalg.vector_norm(self.stacked[action].detach().flatten(1), dim=1))
        bound = th.linalg.vector_norm(weight, dim=1) * per_unit + bias.abs().squeeze(1)
        return self.scale * (LARGEST / bound.clamp(min=LARGEST))

    def hand_back(self) -> None:
        """Give each network its weights."""
        with th.no_grad():
            for place, network in enumerate(self.networks):
                for name, weight in network.named_parameters():
                    weight.copy_(self.stacked[_key(name)][place])


class AtBlocks(AtStates):
    """The networks' ĉ at the states of a batch, trained by autograd."""

    def __init__(self, networks: SideBySide, latent: Latent, features: th.Tensor):
        of_network: Any = networks
        super().__init__(of_network, latent, features)
        self.networks = networks

    @property
    def temperature(self) -> th.Tensor | None:
        stacked = self.networks.stacked
        if "log_temperature" not in stacked:
            return None
        n_rows = len(self.features) // self.networks.count
        of_rows = learned_temperature(stacked["log_temperature"]).repeat_interleave(n_rows)
        return of_rows.reshape(-1, *[1] * self.latent.sample_ndim)

    def value_vjp(self, action: th.Tensor) -> tuple[th.Tensor, ValueVJP | None]:
        return self(action), None

    def value_slope_vjp(self, z: th.Tensor) -> tuple[th.Tensor, th.Tensor, SurrogateVJP | None]:
        return *self.value_and_slope(z), None


def can_stand_side_by_side(network: Any) -> bool:
    """Whether a network is one of those that :class:`SideBySide` takes, with no weights but those of its layers."""
    if type(network) not in (StateNetwork, ControlVariateNetwork):
        return False
    return not any(list(layer.parameters()) for layer in network.state_encoder if not isinstance(layer, nn.Linear))


def _key(name: str) -> str:
    """A parameter's name as one that a ParameterDict takes."""
    return name.replace(".", "_")
