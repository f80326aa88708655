"""A baseline for each of several action variables, which reads the others."""

from __future__ import annotations

import torch as th

from sb3_relax.control_variates.network import ControlVariateNetwork
from sb3_relax.control_variates.regressed import RegressedControlVariate
from sb3_relax.errors import UsageError
from sb3_relax.estimators import Estimate, Gaussian, GumbelOneHot, Latent, LogisticBernoulli
from sb3_relax.policy_gradient.hyperparameters import Hyperparameters
from sb3_relax.policy_gradient.policy_view import PolicyOutput, PolicyView

#: numbers that are held at once, whatever the size of batch and action
MOST_HELD = 2**23


class Factorised(RegressedControlVariate):
    """ĝ_i = [Â - b_i(s, a_{-i})] ∂θ_i log π_i(a_i|s) for each action variable i, a_{-i} being all the others.

    The variables are drawn independently of each other, given the state. So b_i is fixed as far as a_i goes, whatever
    it makes of the others, and no mean needs to be added again. Wu et al. 2018 (https://arxiv.org/abs/1803.07246).

    All b_i are made of one q(s, a), fitted by regression on recent advantages: with s_i the score of variable i,

        b_i(s, a_{-i}) = E_{a_i}[‖s_i‖² q(s, a)] / E_{a_i}[‖s_i‖²],

    the best there is if q is right (the paper's equation for the optimal baseline). It is a sum over the values of a
    discrete variable, and the mean of q at μ_i - σ_i and μ_i + σ_i for a number. If q is right, then a bit's score
    leaves no variance that is its own.

    :param view: of the policy
    :param hyperparameters: ``n_cv_steps``
    :raises UsageError: for actions of one variable, of which nothing is left but a state baseline

    Example::

        RELAXA2C("MlpPolicy", env_of_many_switches, control_variate="factorised", n_steps=64)
    """

    latents = (GumbelOneHot, LogisticBernoulli, Gaussian)
    network: ControlVariateNetwork

    def __init__(self, view: PolicyView, hyperparameters: Hyperparameters):
        if view.latent.variables < 2:
            raise UsageError(
                "control_variate 'factorised' takes actions of several variables, whose baselines read each other; "
                f"{view.policy.action_space} has one: use 'state', or the algorithm's own"
            )
        super().__init__(ControlVariateNetwork.of(view), hyperparameters)

    def gradient(self, output: PolicyOutput, signal: th.Tensor, generator: th.Generator) -> Estimate:
        latent = output.latent
        score = latent.score(output.sample)
        weight = signal.unsqueeze(-1) - self.baselines(output)
        grad = weight.reshape(*weight.shape, *(1,) * (latent.event_ndim - 1)) * score
        return Estimate(latent, signal, grad, score=score)

    @th.no_grad()
    def baselines(self, output: PolicyOutput) -> th.Tensor:
        """b_i(s, a_{-i}), ``[N, D]``."""
        values, weights = alternatives(output.latent)
        n_rows, variables = weights.shape[:2]
        # of variable i, the weights of its own numbers: [H, D, k]
        layer = self.network.action_layer.weight
        layer = layer.reshape(len(layer), variables, -1)
        of_state = self.network.of_state(output.features)
        action = output.sample.reshape(n_rows, variables, -1)
        weight, bias, _ = self.network.output()
        found = []
        for part in th.arange(n_rows, device=action.device).split(
            max(MOST_HELD // (weights[0].numel() * len(layer)), 1)
        ):
            own = th.einsum("ndk,hdk->ndh", action[part], layer)
            before_tanh = (of_state[part] + own.sum(1)).unsqueeze(1) - own  # without variable i, [n, D, H]
            of_values = th.einsum("ndvk,hdk->ndvh", values[part if len(values) > 1 else [0]], layer)
            q = th.tanh(before_tanh.unsqueeze(2) + of_values) @ weight[0] + bias
            found.append((weights[part] * q).sum(-1) / weights[part].sum(-1).clamp(min=th.finfo(q.dtype).tiny))
        return th.cat(found)


def alternatives(latent: Latent) -> tuple[th.Tensor, th.Tensor]:
    """What each variable may be, as ``[N or 1, D, V, k]``, and the weight of each in its baseline, ``[N, D, V]``.

    The weight is the probability times the square of the score, up to a factor for each variable.
    """
    if isinstance(latent, Gaussian):
        loc, log_scale = latent.wide_theta.detach().unbind(-1)
        ends = th.stack([loc - log_scale.exp(), loc + log_scale.exp()], dim=-1)
        return ends.unsqueeze(-1), th.ones_like(ends)
    assert isinstance(latent, (GumbelOneHot, LogisticBernoulli))
    p = latent.mean()
    if isinstance(latent, LogisticBernoulli):
        bits = th.tensor([[0.0], [1.0]], dtype=p.dtype, device=p.device)
        return bits.expand(1, p.shape[-1], 2, 1), th.stack([(1 - p) * p.square(), p * (1 - p).square()], dim=-1)
    classes = th.eye(p.shape[-1], dtype=p.dtype, device=p.device)
    square_of_score = 1 - 2 * p + p.square().sum(-1, keepdim=True)
    return classes.expand(1, p.shape[-2], *classes.shape), p * square_of_score
