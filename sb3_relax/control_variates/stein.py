"""Stein control variates for Box actions, fitted by regression or by the variance."""

from __future__ import annotations

import torch as th
from stable_baselines3.common.torch_layers import create_mlp
from torch import nn

from sb3_relax.control_variates.at_states import FittedAtStates, QAtStates
from sb3_relax.control_variates.learned import LearnedControlVariate
from sb3_relax.control_variates.network import ControlVariateNetwork, ScaledNetwork, control_variate_arch
from sb3_relax.control_variates.regressed import RegressedControlVariate
from sb3_relax.estimators import LAX, Estimate, Gaussian
from sb3_relax.policy_gradient.hyperparameters import Hyperparameters
from sb3_relax.policy_gradient.policy_view import PolicyOutput, PolicyView


class QuadraticNetwork(ScaledNetwork):
    """ĉ(a, s) = scale · [b(s) + Σ_i u_i(s) a_i - ½ Σ_i k_i a_i²], b and u a network of the state, k the same for all.

    :param view: of the policy
    """

    def __init__(self, view: PolicyView):
        super().__init__()
        arch = control_variate_arch(getattr(view.policy, "net_arch", []))
        self.of_features = nn.Sequential(
            *create_mlp(view.features_dim, 1 + view.action_dim, arch, view.policy.activation_fn)
        )
        last = self.of_features[-1]
        assert isinstance(last, nn.Linear)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.curvature = nn.Parameter(th.zeros(view.action_dim))

    def forward(self, features: th.Tensor, actions: th.Tensor) -> th.Tensor:
        """ĉ for ``features [N, F]`` and ``actions [..., N, A]`` → ``[..., N]``."""
        of_features = self.of_features(features)
        of_actions = of_features[..., 1:] * actions - 0.5 * self.curvature * actions.square()
        return self.scale * (of_features[..., 0] + of_actions.sum(-1))


class Stein(RegressedControlVariate):
    """ĝ = [Â - ĉ(a, s)] ∂θ log π(a|s) + ∂θ ĉ(a(ε, s, θ), s), ĉ fitted by regression on recent advantages.

    Stein's identity says that what is subtracted and what is added have one mean. Liu et al. 2018
    (https://arxiv.org/abs/1710.11198); the estimate is LAX's, and the fit is what the paper calls FitQ. Their MLP form
    with their MinVar, the fit by the variance of ĝ, is ``"lax"``.

    :param view: of the policy
    :param hyperparameters: ``n_cv_steps``

    Example::

        LAXA2C("MlpPolicy", "Pendulum-v1", control_variate="stein", n_steps=64)
    """

    latents = (Gaussian,)

    def __init__(self, view: PolicyView, hyperparameters: Hyperparameters):
        super().__init__(self.form(view), hyperparameters)

    def form(self, view: PolicyView) -> ScaledNetwork:
        """ĉ, of features and actions."""
        return ControlVariateNetwork.of(view)

    def gradient(self, output: PolicyOutput, signal: th.Tensor, generator: th.Generator) -> Estimate:
        c = FittedAtStates(self.network, output.latent, output.features)
        return LAX(c, center=False).finish(output.latent, output.sample, signal)  # V centres Â


class QuadraticStein(Stein):
    """:class:`Stein` with a ĉ that is quadratic in the action, :class:`QuadraticNetwork`: the paper's second form."""

    def form(self, view: PolicyView) -> ScaledNetwork:
        return QuadraticNetwork(view)


class QuadraticSteinByVariance(LearnedControlVariate):
    """The quadratic form fitted by the variance of ĝ (Eq 6), what the paper calls MinVar.

    :param view: of the policy
    :param hyperparameters: see :class:`~sb3_relax.control_variates.learned.LearnedControlVariate`
    """

    latents = (Gaussian,)
    draws_noise = False

    def __init__(self, view: PolicyView, hyperparameters: Hyperparameters):
        super().__init__(view, hyperparameters)
        self.network = QuadraticNetwork(view)
        self.optimize(self.network.parameters())

    def gradient(self, output: PolicyOutput, signal: th.Tensor, generator: th.Generator) -> Estimate:
        c = QAtStates(self.network, output.latent, output.features)
        return LAX(c, center=False).finish(output.latent, output.sample, signal)  # V centres Â

    def observe(self, estimate: Estimate) -> None:
        self.network.observe(estimate.value)
