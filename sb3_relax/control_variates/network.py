"""ĉ_φ(a, s) and ĉ_φ(s): small networks on what the policy knows of the state."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cached_property

import torch as th
from stable_baselines3.common.torch_layers import create_mlp
from torch import nn
from torch.nn import functional as F

from sb3_relax.control_variates.at_states import QAtStates
from sb3_relax.errors import UsageError
from sb3_relax.estimators import ConditionedLatent, Latent
from sb3_relax.estimators.control_variates import are_bare
from sb3_relax.estimators.surrogate import SurrogateVJP, ValueVJP
from sb3_relax.estimators.tanh_network import (
    backward_pass,
    forward_pass,
    outer,
    tanh_backward,
    value_and_slope_of_tanh_network,
)
from sb3_relax.estimators.temperature import inward, learned_temperature
from sb3_relax.policy_gradient.policy_view import PolicyView

#: Hidden layers where the policy's value head has none (as CnnPolicy's): a linear ĉ could not couple a with s.
FALLBACK_ARCH = [64]

#: The most that ĉ and its slope may be, in the scale of the advantages, whatever φ is: far more than could ever be of
#: use, and far less than overflows.
LARGEST = 1e4


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


class ScaledNetwork(nn.Module):
    """What the networks have in common: layers of the state, a last layer that starts at zero, and the scale.

    They read the features of the policy's own extractor, detached: an Mlp, a Cnn, a MultiInput or a user's extractor
    serves without a second copy, and training φ never moves the policy. Where those features are not flat, they read
    the critic's latent, and of a recurrent policy the output of the actor's LSTM.

    ``scale`` is the root mean square of earlier advantages, which makes φ's learning rate independent of the reward's
    scale. With the last layer at zero, training starts as plain A2C.

    :param scale_decay: weight of the past in ``scale``
    """

    scale: th.Tensor
    seen_batches: th.Tensor

    def __init__(self, scale_decay: float = 0.95):
        super().__init__()
        self.scale_decay = scale_decay
        self.register_buffer("scale", th.ones(()))
        self.register_buffer("seen_batches", th.zeros(()))

    def make_state_layers(self, features_dim: int, net_arch: list[int], activation_fn: type[nn.Module]) -> int:
        """The hidden layers, the last of them without its tanh; its width is returned."""
        *encoder, width = net_arch
        self.state_encoder = nn.Sequential(*create_mlp(features_dim, 0, encoder, activation_fn))
        self.state_layer = nn.Linear(encoder[-1] if encoder else features_dim, width)
        return width

    def make_output_layer(self, width: int) -> None:
        """The last layer, at zero."""
        self.output_layer = nn.Linear(width, 1)
        nn.init.zeros_(self.output_layer.weight)
        nn.init.zeros_(self.output_layer.bias)

    def of_state(self, features: th.Tensor) -> th.Tensor:
        """What the state adds to the last hidden layer before its tanh, ``[N, H]``."""
        return self.state_layer(self.state_encoder(features))

    def of_state_vjp(
        self, features: th.Tensor
    ) -> tuple[th.Tensor, Callable[[th.Tensor], list[tuple[th.Tensor, th.Tensor]]]]:
        """:meth:`of_state`, and what its backward pass gives each parameter for a cotangent.

        By hand where every activation is a tanh, SB3's default: three layers are less work than autograd's bookkeeping.
        """
        if not all(type(layer) in (nn.Linear, nn.Tanh) for layer in self.state_encoder):
            of_state = self.of_state(features)
            trained = [
                p for layers in (self.state_encoder, self.state_layer) for p in layers.parameters() if p.requires_grad
            ]

            def by_autograd(bar: th.Tensor) -> list[tuple[th.Tensor, th.Tensor]]:
                if not trained:
                    return []
                return list(zip(trained, th.autograd.grad(of_state, trained, bar, retain_graph=True), strict=True))

            return of_state, by_autograd

        layers = [layer for layer in self.state_encoder if isinstance(layer, nn.Linear)] + [self.state_layer]
        inputs = [features]
        with th.no_grad():
            for layer in layers[:-1]:
                inputs.append(th.tanh(layer(inputs[-1])))
            of_state = self.state_layer(inputs[-1])

        def by_hand(bar: th.Tensor) -> list[tuple[th.Tensor, th.Tensor]]:
            pairs = []
            for depth in range(len(layers) - 1, -1, -1):
                layer, below = layers[depth], inputs[depth]
                pairs += [(layer.weight, bar.T @ below), (layer.bias, bar.sum(0))]
                if depth > 0:
                    bar = tanh_backward(bar @ layer.weight, below)
            return pairs

        return of_state, by_hand

    def output_scale(self) -> th.Tensor:
        """What the last layer is multiplied by, a scalar: ``scale`` or, of large weights, less.

        Less, so that ĉ is bounded for any φ: neither its value nor its slope in an entry of the action is larger than
        :data:`LARGEST` times ``scale``. The last hidden layer being a tanh, ‖w‖ √H + |b| bounds the value of H units,
        and ‖w‖ ‖W‖ the slope, with w and b the last layer and W the weights of the action. All of it is fixed before
        the batch and the same for every action, so that the estimate stays unbiased. φ's gradient is taken at this
        factor, which is held fixed in it.

        :meth:`SideBySide.output_scale` has the same formula for several networks at once: change both.
        """
        weight, bias = self.output_layer.weight.detach(), self.output_layer.bias.detach()
        per_unit = max(math.sqrt(weight.shape[-1]), self.slope_bound())
        bound = th.linalg.vector_norm(weight).item() * per_unit + abs(bias.item())
        return self.scale if bound <= LARGEST else self.scale * (LARGEST / bound)

    def slope_bound(self) -> float:
        """The most that a unit before the last layer's weights adds to the slope of ĉ in an entry of the action."""
        return 0.0

    def output(self) -> tuple[th.Tensor, th.Tensor, th.Tensor]:
        """Weight and bias of the last layer in the advantages' scale, and that factor of both."""
        scale = self.output_scale()
        return scale * self.output_layer.weight, scale * self.output_layer.bias, scale

    def observe(self, signal: th.Tensor) -> None:
        """Let ``scale`` take in the advantages of a batch, after it was used."""
        # in float32 the square would overflow at 1e19; not every device has float64
        norm = th.linalg.vector_norm(signal.detach().cpu(), dtype=th.float64).item()
        mean_square = norm**2 / max(signal.numel(), 1)
        scale, seen_batches = self.scale, self.seen_batches
        if seen_batches.item() > 0:
            mean_square = self.scale_decay * scale.item() ** 2 + (1 - self.scale_decay) * mean_square
        scale.fill_(max(math.sqrt(mean_square), 1e-8))
        seen_batches.add_(1)


class StateNetwork(ScaledNetwork):
    """ĉ_φ(s) = scale · MLP(features(s)), whose last hidden layer is a tanh.

    :param features_dim: F, size of the state features
    :param net_arch: hidden layer sizes, at least one
    :param activation_fn: of the layers before the last
    """

    def __init__(self, features_dim: int, net_arch: list[int], activation_fn: type[nn.Module] = nn.Tanh):
        super().__init__()
        self.make_output_layer(self.make_state_layers(features_dim, net_arch, activation_fn))

    @classmethod
    def of(cls, view: PolicyView) -> StateNetwork:
        """Of the sizes that the policy's ``net_arch`` names, or its value head has."""
        return cls(
            view.features_dim, control_variate_arch(getattr(view.policy, "net_arch", [])), view.policy.activation_fn
        )

    def forward(self, features: th.Tensor) -> th.Tensor:
        """ĉ for ``features [N, F]`` → ``[N]``."""
        weight, bias, _ = self.output()
        return F.linear(th.tanh(self.of_state(features)), weight, bias).squeeze(-1)


class ControlVariateNetwork(ScaledNetwork):
    """ĉ_φ(a, s) = scale · MLP(features(s), relaxed a).

    A relaxed discrete action enters as softmax(z/τ) or sigmoid(z/τ), with the temperature τ part of φ; a Box action
    enters as it is before any tanh.

    The action joins at the last hidden layer, a tanh, as in DDPG's critic (Lillicrap et al. 2016). The slope ∂ĉ/∂a that
    LAX and RELAX need is then a closed form, so that training φ on Eq 6 takes one backward pass instead of a second one
    through the gradient of the first.

    :param features_dim: F, size of the state features
    :param action_dim: size of the flattened action as the network sees it
    :param net_arch: hidden layer sizes, at least one
    :param activation_fn: of the layers before the last, which see the state alone
    :param init_temperature: τ at the start; ``None`` where actions enter unrelaxed (Box, exact correction)
    """

    def __init__(
        self,
        features_dim: int,
        action_dim: int,
        net_arch: list[int],
        activation_fn: type[nn.Module] = nn.Tanh,
        init_temperature: float | None = None,
    ):
        super().__init__()
        width = self.make_state_layers(features_dim, net_arch, activation_fn)
        # one layer on (encoded state, action), kept in two so that one encoding serves many actions of the same state
        self.action_layer = nn.Linear(action_dim, width, bias=False)
        self.make_output_layer(width)
        self.log_temperature: nn.Parameter | None
        self.register_parameter(
            "log_temperature", None if init_temperature is None else nn.Parameter(th.tensor(math.log(init_temperature)))
        )

    @classmethod
    def of(cls, view: PolicyView, init_temperature: float | None = None) -> ControlVariateNetwork:
        """As :meth:`StateNetwork.of`, for the policy's actions."""
        arch = control_variate_arch(getattr(view.policy, "net_arch", []))
        return cls(view.features_dim, view.action_dim, arch, view.policy.activation_fn, init_temperature)

    def slope_bound(self) -> float:
        return th.linalg.vector_norm(self.action_layer.weight.detach()).item()

    def forward(self, features: th.Tensor, actions: th.Tensor) -> th.Tensor:
        """ĉ for ``features [N, F]`` and ``actions [..., N, A]`` → ``[..., N]``."""
        hidden = th.tanh(self.of_state(features) + self.action_layer(actions))
        weight, bias, _ = self.output()
        return F.linear(hidden, weight, bias).squeeze(-1)

    def value_and_slope(self, features: th.Tensor, actions: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        """ĉ and ∂ĉ/∂a, ``[..., N]`` and ``[..., N, A]``."""
        layers = [(self.action_layer.weight, self.of_state(features))]
        weight, bias, _ = self.output()
        return value_and_slope_of_tanh_network(actions, layers, weight, bias)

    @cached_property
    def own_parameters(self) -> list[nn.Parameter]:
        """``parameters()``, which walks all modules every time."""
        return list(self.parameters())

    def at_states(self, latent: Latent, features: th.Tensor) -> AtStates:
        """The core's c at fixed states: samples ``[..., N, *event]`` → ``[..., N]``."""
        return AtStates(self, latent, features)


class AtStates(QAtStates):
    """ĉ at the states of a batch, with its derivatives in closed form, and a temperature that may be learned.

    :class:`~sb3_relax.control_variates.learned.LearnedControlVariate` trains it.
    """

    def __init__(self, network: ControlVariateNetwork, latent: Latent, features: th.Tensor):
        super().__init__(network, latent, features)
        self.network = network

    @property
    def temperature(self) -> th.Tensor | None:
        log_temperature = self.network.log_temperature
        return None if log_temperature is None else learned_temperature(log_temperature)

    def value_and_slope(self, z: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        """c(z) and ∂c/∂z, both of z's leading shape, in closed form: the chain rule through the relaxation."""
        temperature = self.temperature
        action = self.relaxed(z, temperature)
        value, slope = self.network.value_and_slope(self.features, self.flat(action))
        return value, self._through_relaxation(slope.reshape(action.shape), action, temperature)

    def value_vjp(self, action: th.Tensor) -> tuple[th.Tensor, ValueVJP | None]:
        """ĉ of an action as it is, without a graph, and a function that does what its backward pass would."""
        network = self.network
        if network.log_temperature is not None or not are_bare(network.own_parameters):
            return self(action), None
        of_state, of_state_vjp = network.of_state_vjp(self.features)
        with th.no_grad():
            x = self.flat(action)
            hidden = th.tanh(F.linear(x, network.action_layer.weight) + of_state)
            weight, bias, scale = network.output()
            value = F.linear(hidden, weight, bias).squeeze(-1)

        def vjp(value_bar: th.Tensor) -> list[tuple[th.Tensor, th.Tensor]]:
            value_bar = value_bar.unsqueeze(-1)
            before_tanh = tanh_backward(value_bar * weight, hidden)
            return [
                (network.output_layer.weight, scale * outer(value_bar, hidden)),
                (network.output_layer.bias, scale * value_bar.sum().reshape(1)),
                (network.action_layer.weight, outer(before_tanh, x)),
                *of_state_vjp(before_tanh.sum_to_size(of_state.shape)),
            ]

        return value, vjp

    def value_slope_vjp(self, z: th.Tensor) -> tuple[th.Tensor, th.Tensor, SurrogateVJP | None]:
        """As :meth:`value_and_slope`, without graphs, and a function that does what their backward pass would."""
        network = self.network
        if not are_bare(network.own_parameters):
            return *self.value_and_slope(z), None
        of_state, of_state_vjp = network.of_state_vjp(self.features)
        with th.no_grad():
            temperature = self.temperature
            action = self.relaxed(z, temperature)
            x = self.flat(action)
            weight, bias, scale = network.output()
            layers = [network.action_layer.weight, of_state]
            out = forward_pass(x, weight, bias, layers)
            action_slope = out.slope.reshape(action.shape)
            slope = self._through_relaxation(action_slope, action, temperature)

        def vjp(value_bar: th.Tensor, slope_bar: th.Tensor) -> list[tuple[th.Tensor, th.Tensor]]:
            # the relaxation's Jacobian is symmetric
            inner_bar = self.flat(self._through_relaxation(slope_bar, action, temperature))
            x_bar, weight_bar, bias_bar, (action_bar, state_bar) = backward_pass(
                out, x, weight, layers, value_bar, inner_bar, of_input=temperature is not None
            )
            pairs = [
                (network.output_layer.weight, scale * weight_bar),
                (network.output_layer.bias, scale * bias_bar),
                (network.action_layer.weight, action_bar),
            ]
            pairs += of_state_vjp(state_bar)
            if temperature is not None:
                assert x_bar is not None
                assert isinstance(self.latent, ConditionedLatent)
                latent = self.latent
                # through the action, relax(z, τ), and through the slope's own 1/τ
                action_bar = x_bar.reshape(action.shape)
                action_bar = action_bar + latent.relax_curvature(action, action_slope, slope_bar, temperature)
                cooled_action, cooled_slope = latent.cool(action, z, slope, temperature)
                log_temperature = network.log_temperature
                assert log_temperature is not None
                temperature_bar = -(action_bar * cooled_action + cooled_slope * slope_bar).sum()
                pairs.append((log_temperature, inward(log_temperature, temperature_bar)))
            return pairs

        return out.value, slope, vjp

    def _through_relaxation(self, slope: th.Tensor, action: th.Tensor, temperature: th.Tensor | None) -> th.Tensor:
        """A derivative in the action as one in z."""
        if temperature is None:
            return slope
        assert isinstance(self.latent, ConditionedLatent)
        return self.latent.relax_gradient(action, slope, temperature)
