"""Functions of state and action less their mean over the policy: ã(s, a) = q(s, a) - E_{a'~π(·|s)} q(s, a')."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch as th
from stable_baselines3.common.torch_layers import create_mlp
from torch import nn

from sb3_relax.control_variates.network import LARGEST, ControlVariateNetwork, control_variate_arch
from sb3_relax.estimators import RelaxedLatent
from sb3_relax.policy_gradient.policy_view import PolicyOutput, PolicyView

#: the least that a score is taken to be: that of an action which is hardly ever drawn is small while it is not drawn
LEAST_SIZE = 0.1


class CentredAction(nn.Module, ABC):
    """ã(s, a), of mean zero over the actions of every state, whatever its weights are: E_{a~π(·|s)} ã(s, a) = 0.

    What it computes ã of is read from a pass of the policy by :meth:`read`, and can be kept: a fit on earlier rollouts
    needs no policy of that time.

    The unit: :class:`~sb3_relax.control_variates.trajectory.Trajectory` multiplies ã by the root mean square of earlier
    advantages, and fits it to advantages that are divided by that. So ã is about 1 in size, whatever the rewards are.

    That its mean is zero is shown, not believed: by :func:`~sb3_relax.control_variates.proofs.measure_mean`, which
    visits every action of one state with its probability, for weights that are anything.

    Example::

        class OfTheFirstNumber(CentredAction):
            # ã(s, a) = a_1 - μ_1 for Box actions, whose mean is zero, and nothing to learn.

            def read(self, output, generator):
                return (output.sample[:, 0], output.latent.mean()[:, 0])

            def forward(self, action, mean):
                return action - mean
    """

    #: whether two readings of the same pass differ
    draws_noise: bool = False

    @abstractmethod
    def read(self, output: PolicyOutput, generator: th.Generator) -> tuple[th.Tensor, ...]:
        """What ã is computed of, detached, each ``[N, ...]``.

        :param output: of the policy that drew the actions
        :param generator: of noise, which is drawn independently of the actions
        """

    @abstractmethod
    def forward(self, *known: th.Tensor) -> th.Tensor:
        """ã, ``[N]``, attached to the weights.

        :param known: what :meth:`read` gave, or some of its rows
        """

    def observe(self, *known: th.Tensor) -> None:
        """Take statistics of a batch that is done with."""


class LinearInScore(CentredAction):
    """ã(s, a) = ⟨∂θ log π(a|s), w_φ(s)⟩, whose mean is zero since the score's is.

    With one discrete action it is any function of s and a, centred. With several, or with bits, it is any sum of
    functions of one of them each. With Box actions it is a quadratic in each action's noise. Functions linear in the
    score are the "compatible" ones of Sutton et al. 2000 (https://papers.nips.cc/paper/1713); w is a network here.

    :param view: of the policy
    :param decay: weight of the past in the size of the score
    """

    size: th.Tensor
    seen_batches: th.Tensor

    def __init__(self, view: PolicyView, decay: float = 0.95):
        super().__init__()
        theta = view.latent.theta
        arch = control_variate_arch(getattr(view.policy, "net_arch", []))
        self.decay = decay
        self.weights = nn.Sequential(*create_mlp(view.features_dim, theta.numel(), arch, view.policy.activation_fn))
        last = self.weights[-1]
        assert isinstance(last, nn.Linear)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        # the score of a narrow Gaussian is large: each entry is divided by its own size in earlier batches
        self.register_buffer("size", th.ones(theta.numel()))
        self.register_buffer("seen_batches", th.zeros(()))

    def read(self, output: PolicyOutput, generator: th.Generator) -> tuple[th.Tensor, ...]:
        return output.features, output.latent.score(output.sample).detach().flatten(1)

    def forward(self, *known: th.Tensor) -> th.Tensor:
        features, score = known
        # a bound by the state alone leaves the mean at zero, and ã finite
        weights = self.weights(features).clamp(-LARGEST, LARGEST)
        return (weights * score / self.size).sum(-1)

    def observe(self, *known: th.Tensor) -> None:
        _, score = known
        square = score.square().mean(0)
        if not bool(square.isfinite().all()):
            return
        past = self.decay if self.seen_batches.item() > 0 else 0.0
        mean_square = past * self.size.square() + (1 - past) * square
        # divided by less, a rare action would have a ã as large as it is rare
        self.size.copy_(mean_square.sqrt().clamp(min=LEAST_SIZE))
        self.seen_batches.add_(1)


class SampledMean(CentredAction):
    """ã(s, a) = q(s, a) - mean_k q(s, a_k), with K actions a_k of the same policy, drawn independently of a.

    For a q of any form, where its mean has no closed form.

    :param view: of the policy
    :param n_samples: K
    :param q: of features ``[N, F]`` and flattened actions ``[..., N, A]`` → ``[..., N]``; ``None``:
        :class:`~sb3_relax.control_variates.network.ControlVariateNetwork`
    """

    draws_noise = True

    def __init__(self, view: PolicyView, n_samples: int = 16, q: nn.Module | None = None):
        super().__init__()
        self.n_samples = n_samples
        self.q = ControlVariateNetwork.of(view) if q is None else q

    def read(self, output: PolicyOutput, generator: th.Generator) -> tuple[th.Tensor, ...]:
        others = output.latent.detach().expand(self.n_samples).sample(generator)
        actions = th.cat([output.sample.unsqueeze(0), others])
        return output.features, actions.flatten(2).transpose(0, 1)

    def forward(self, *known: th.Tensor) -> th.Tensor:
        features, actions = known
        own, *others = self.q(features, actions.transpose(0, 1))
        return own - th.stack(others).mean(0)


class EnumeratedMean(CentredAction):
    """ã(s, a) = q(s, a) - Σ_a' π(a'|s) q(s, a'), the sum over all joint actions.

    For a q of any form, where these are few.

    :param view: of the policy
    :param q: as :class:`SampledMean`'s
    """

    def __init__(self, view: PolicyView, q: nn.Module | None = None):
        super().__init__()
        self.q = ControlVariateNetwork.of(view) if q is None else q
        latent = view.latent
        assert isinstance(latent, RelaxedLatent)
        self.support = latent.support()

    def read(self, output: PolicyOutput, generator: th.Generator) -> tuple[th.Tensor, ...]:
        support = self.support.to(output.sample).unsqueeze(1).expand(-1, *output.sample.shape)
        probability = output.latent.detach().log_prob(support).exp()
        return output.features, output.sample.flatten(1), probability.T

    def forward(self, *known: th.Tensor) -> th.Tensor:
        features, action, probability = known
        everything = self.support.to(action).flatten(1).unsqueeze(1).expand(-1, *action.shape)
        own, *others = self.q(features, th.cat([action.unsqueeze(0), everything]))
        return own - (probability * th.stack(others, dim=1)).sum(1)
