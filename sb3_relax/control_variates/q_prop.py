"""Q-Prop: a control variate that is linear in the action, so that its mean is known in closed form."""

from __future__ import annotations

import torch as th
from stable_baselines3.common.torch_layers import create_mlp
from torch import nn

from sb3_relax.control_variates.network import ControlVariateNetwork, control_variate_arch
from sb3_relax.control_variates.regressed import RegressedControlVariate
from sb3_relax.estimators import Estimate, Gaussian, RelaxedLatent
from sb3_relax.estimators.estimate import expand_to
from sb3_relax.policy_gradient.hyperparameters import Hyperparameters
from sb3_relax.policy_gradient.policy_view import PolicyOutput, PolicyView

#: the most that η(s) is in size
LARGEST_SHARE = 10.0


class QProp(RegressedControlVariate):
    """ĝ = [Â - η(s) q'·(a - μ)] ∂θ log π(a|s) + η(s) q'·∂θ μ, q' = ∂q/∂a at the mean action μ of the state.

    q(s, a) is expanded at μ to first order, and what is linear in a has the mean's own gradient. Gu et al. 2017
    (https://arxiv.org/abs/1611.02247). For discrete actions μ is the probabilities, and ĝ is MuProp's linear term (Gu
    et al. 2016, https://arxiv.org/abs/1511.05176).

    η(s) = Cov(Â, q'·(a - μ) | s) / Var(q'·(a - μ) | s) is the paper's adaptive form; its conservative form has η(s) = 1
    where the covariance is above 0, and 0 elsewhere. Where it is estimated by the one action that was drawn, η is a
    function of that action, and ĝ is biased. So it is a function of the state alone here, a network that is fitted to
    earlier steps as q is: η(s) is the slope of the regression of Â on q'·(a - μ). The paper fits q by temporal
    differences on a replay of all that was ever done; here it is fitted by regression on recent advantages.

    Public code normalised the advantage and not the correction, which is a bias as well (Tucker et al. 2018,
    https://arxiv.org/abs/1802.10031). Here q has the unit of the Â that it is subtracted from, whatever
    ``normalize_advantage`` is.

    :param view: of the policy
    :param hyperparameters: ``n_cv_steps``

    Example::

        LAXA2C("MlpPolicy", "Pendulum-v1", control_variate="qprop", n_steps=64)
    """

    latents = (Gaussian, RelaxedLatent)
    network: ControlVariateNetwork
    #: whether η is 0 or 1
    conservative = False

    def __init__(self, view: PolicyView, hyperparameters: Hyperparameters):
        super().__init__(ControlVariateNetwork.of(view), hyperparameters)
        arch = control_variate_arch(getattr(view.policy, "net_arch", []))
        self.of_share = nn.Sequential(*create_mlp(view.features_dim, 1, arch, view.policy.activation_fn))
        last = self.of_share[-1]
        assert isinstance(last, nn.Linear)
        nn.init.zeros_(last.weight)
        nn.init.ones_(last.bias)
        self.optimize()

    def slope(self, features: th.Tensor, mean: th.Tensor) -> th.Tensor:
        """q' at the mean action, shape of ``mean``, without a graph."""
        with th.no_grad():
            return self.network.value_and_slope(features, mean.flatten(1))[1].reshape(mean.shape)

    def fitted_share(self, features: th.Tensor) -> th.Tensor:
        """Cov/Var of each state, ``[N]``."""
        return self.of_share(features).squeeze(-1).clamp(-LARGEST_SHARE, LARGEST_SHARE)

    def share(self, features: th.Tensor) -> th.Tensor:
        """η(s), ``[N]``."""
        with th.no_grad():
            share = self.fitted_share(features)
            return (share > 0).to(share) if self.conservative else share

    def gradient(self, output: PolicyOutput, signal: th.Tensor, generator: th.Generator) -> Estimate:
        latent = output.latent
        assert isinstance(latent, (Gaussian, RelaxedLatent))
        mean, score = latent.mean(), latent.score(output.sample)
        share = self.share(output.features).reshape(-1, *(1,) * latent.sample_ndim)
        slope = share * self.slope(output.features, mean)
        linear = latent.inner(slope, output.sample - mean)
        grad = expand_to(signal - linear, latent) * score + latent.mean_gradient(slope)
        return Estimate(latent, signal, grad, score=score)

    def rows(self, output: PolicyOutput, signal: th.Tensor) -> tuple[th.Tensor, ...]:
        return *super().rows(output, signal), output.latent.mean().flatten(1)

    def loss(self, *rows: th.Tensor) -> th.Tensor:
        """That of q, and (Â - η(s) q'·(a - μ))², which leads to Cov/Var."""
        features, action, signal, mean = rows
        linear = (self.slope(features, mean) * (action - mean)).sum(-1)
        of_share = ((signal - self.fitted_share(features) * linear) / self.network.scale).square().mean()
        return super().loss(*rows) + of_share


class ConservativeQProp(QProp):
    """:class:`QProp` with η(s) = 1 where the covariance is above 0, and 0 elsewhere."""

    conservative = True
