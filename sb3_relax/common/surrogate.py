"""ĉ_φ(a, s): the action-dependent part of the control variate."""

from __future__ import annotations

import math
from typing import Any

import torch as th
from stable_baselines3.common.torch_layers import create_mlp
from torch import nn
from torch.nn import functional as F

from sb3_relax.common.errors import UsageError
from sb3_relax.common.statistics import RunningStatistics
from sb3_relax.estimators import Latent, RelaxedLatent
from sb3_relax.estimators.tanh_network import value_and_slope_of_tanh_network

#: Hidden layers where the policy's value head has none (as CnnPolicy's): a linear ĉ could not couple a with s.
FALLBACK_ARCH = [64]


def control_variate_arch(net_arch: list[int] | dict[str, list[int]]) -> list[int]:
    """The ``cv`` entry of ``policy_kwargs["net_arch"]``; ``vf``'s where there is none.

    :raises UsageError: for a ``cv`` that is empty or holds anything but positive whole numbers
    """
    if isinstance(net_arch, dict):
        arch = net_arch.get("cv")
        if arch is not None and not (
            isinstance(arch, (list, tuple)) and len(arch) > 0 and all(isinstance(n, int) and n > 0 for n in arch)
        ):
            raise UsageError(f"net_arch['cv'] must be a non-empty list of positive layer sizes; got {arch!r}")
        return list(arch if arch is not None else net_arch.get("vf", [])) or FALLBACK_ARCH
    return list(net_arch) or FALLBACK_ARCH


class ControlVariate(nn.Module):
    """ĉ_φ(a, s) = scale · MLP(features(s), relaxed a), a module of the algorithm with an optimizer of its own.

    It reads the features of the policy's own extractor, detached: an Mlp, a Cnn, a MultiInput or a user's extractor
    serves without a second copy, and training φ never moves the policy. A relaxed discrete action enters as
    softmax(z/τ) or sigmoid(z/τ), with the temperature τ part of φ; a Box action enters as it is before any tanh.

    The action joins at the last hidden layer, a tanh, as in DDPG's critic (Lillicrap et al. 2016). The slope ∂ĉ/∂a that
    LAX and RELAX need is then a closed form, so that training φ on Eq 6 takes one backward pass instead of a second one
    through the gradient of the first.

    The last layer starts at zero, so that training starts as plain A2C. ``statistics.scale`` follows the size of the
    advantages, which makes φ's learning rate independent of the reward's scale.

    :param features_dim: F, size of the state features
    :param action_dim: size of the flattened action as the network sees it
    :param net_arch: hidden layer sizes, at least one
    :param activation_fn: of the layers before the last, which see the state alone
    :param init_temperature: τ at the start; ``None`` where actions enter unrelaxed (Box, exact correction)
    :param action_dependent: switched off, what the actions add stays zero: ĉ(s)
    """

    def __init__(
        self,
        features_dim: int,
        action_dim: int,
        net_arch: list[int],
        activation_fn: type[nn.Module] = nn.Tanh,
        init_temperature: float | None = None,
        action_dependent: bool = True,
    ):
        super().__init__()
        *encoder, width = net_arch
        self.state_encoder = nn.Sequential(*create_mlp(features_dim, 0, encoder, activation_fn))
        # one layer on (encoded state, action), kept in two so that one encoding serves many actions of the same state
        self.state_layer = nn.Linear(encoder[-1] if encoder else features_dim, width)
        self.action_layer = nn.Linear(action_dim, width, bias=False)
        self.output_layer = nn.Linear(width, 1)
        self.action_dependent = action_dependent
        if not action_dependent:
            nn.init.zeros_(self.action_layer.weight).requires_grad_(False)
        nn.init.zeros_(self.output_layer.weight)
        nn.init.zeros_(self.output_layer.bias)
        self.log_temperature: nn.Parameter | None
        self.register_parameter(
            "log_temperature", None if init_temperature is None else nn.Parameter(th.tensor(math.log(init_temperature)))
        )
        self.statistics = RunningStatistics()

    def forward(self, features: th.Tensor, actions: th.Tensor) -> th.Tensor:
        """ĉ for ``features [N, F]`` and ``actions [..., N, A]`` → ``[..., N]``."""
        hidden = th.tanh(self._of_state(features) + self.action_layer(actions))
        return F.linear(hidden, *self._output()).squeeze(-1)

    def _of_state(self, features: th.Tensor) -> th.Tensor:
        """What the state adds to the last hidden layer before its tanh, ``[N, H]``."""
        return self.state_layer(self.state_encoder(features))

    def _output(self) -> tuple[th.Tensor, th.Tensor]:
        """Weight and bias of the last layer, in the advantages' scale."""
        scale = self.statistics.scale
        return scale * self.output_layer.weight, scale * self.output_layer.bias

    def value_and_slope(self, features: th.Tensor, actions: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        """ĉ and ∂ĉ/∂a, ``[..., N]`` and ``[..., N, A]``."""
        layers = [(self.action_layer.weight, self._of_state(features))]
        return value_and_slope_of_tanh_network(actions, layers, *self._output())

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        # here rather than after loading: nothing has been copied yet
        action_weight = state_dict.get(f"{prefix}action_layer.weight")
        if not self.action_dependent and action_weight is not None and action_weight.any():
            raise UsageError(
                "weights of a ĉ(a, s) cannot be loaded into a ĉ(s), which must not read the actions: set "
                "cv_action_dependent=True, or take the weights of an agent with cv_action_dependent=False"
            )
        super()._load_from_state_dict(state_dict, prefix, *args)

    def bind(self, latent: Latent, features: th.Tensor) -> BoundControlVariate:
        """The core's c at fixed states: samples ``[..., N, *event]`` → ``[..., N]``."""
        return BoundControlVariate(self, latent, features)


class BoundControlVariate:
    """ĉ at the states of a batch, as the core's surrogate: of the relaxed action where there is a temperature."""

    def __init__(self, control_variate: ControlVariate, latent: Latent, features: th.Tensor):
        self.control_variate = control_variate
        self.latent = latent
        self.features = features

    def _temperature(self) -> th.Tensor | None:
        log_temperature = self.control_variate.log_temperature
        return None if log_temperature is None else log_temperature.exp()

    def _relax(self, z: th.Tensor, temperature: th.Tensor | None) -> th.Tensor:
        if temperature is None:
            return z
        assert isinstance(self.latent, RelaxedLatent)
        return self.latent.relax(z, temperature)

    def _flat(self, action: th.Tensor) -> th.Tensor:
        return action.flatten(-self.latent.sample_ndim)

    def __call__(self, z: th.Tensor) -> th.Tensor:
        return self.control_variate(self.features, self._flat(self._relax(z, self._temperature())))

    def value_and_slope(self, z: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        """c(z) and ∂c/∂z, both of z's leading shape, in closed form: the chain rule through the relaxation."""
        temperature = self._temperature()
        action = self._relax(z, temperature)
        value, slope = self.control_variate.value_and_slope(self.features, self._flat(action))
        slope = slope.reshape(action.shape)
        if temperature is not None:
            assert isinstance(self.latent, RelaxedLatent)
            slope = self.latent.relax_gradient(action, slope, temperature)
        return value, slope
