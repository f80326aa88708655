"""A learned model of one step: what it pays, where it leads, and whether the episode ends there."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import torch as th
from stable_baselines3.common.torch_layers import create_mlp
from torch import nn
from torch.nn import functional as F

from sb3_relax.control_variates.network import LARGEST, control_variate_arch
from sb3_relax.control_variates.recent_steps import RecentSteps
from sb3_relax.control_variates.regression import descend_on
from sb3_relax.policy_gradient.evaluation_mode import evaluation_mode
from sb3_relax.policy_gradient.policy_view import PolicyView, require_value_of_features
from sb3_relax.policy_gradient.rollout import Rollout

#: of d̂ before anything is learned, before the sigmoid: episodes are long
ENDS_AT_FIRST = -4.0
#: inputs are clipped there, in standard deviations, as VecNormalize clips
CLIP = 10.0


class Transitions(NamedTuple):
    """Steps whose next state is known, M of them."""

    features: th.Tensor  #: ``[M, F]``
    actions: th.Tensor  #: flattened, ``[M, A]``
    rewards: th.Tensor  #: ``[M]``
    ended: th.Tensor  #: 1 where the episode ended with the step, ``[M]``
    following: th.Tensor  #: features of the state after it, ``[M, F]``; where it ended, those of the next episode


class OneStepModel(nn.Module):
    """q(s, a) = r̂(s, a) + γ (1 - d̂(s, a)) V(ŝ'(s, a)) - V(s), with the policy's V: what δ is expected to be.

    One network predicts the reward, the probability that the episode ends, and the features of the next state, each by
    a loss of its own, from the steps of recent rollouts. A step tells as many numbers as there are features, where a
    regression on the advantage hears of one, and that one has the noise of all that comes later.

    A step whose next state is not known is not learned from: the last one of each rollout, and one after which a time
    limit cut the episode. So rollouts need at least two steps. Features of an extractor that is itself trained, such as
    ``CnnPolicy``'s, are kept as they were.

    :param view: of the policy
    :raises UsageError: for a policy whose V is no function of its features, such as a recurrent one
    """

    #: steps of an environment that a rollout must have; whoever makes an agent asks all modules of a control variate
    least_steps = 2

    mean: th.Tensor
    spread: th.Tensor
    change_square: th.Tensor
    reward_square: th.Tensor
    weight: th.Tensor
    gamma: th.Tensor

    def __init__(self, view: PolicyView, decay: float = 0.99):
        super().__init__()
        require_value_of_features(view)
        self.view, self.decay = view, decay
        size = view.features_dim
        arch = control_variate_arch(getattr(view.policy, "net_arch", []))
        self.network = nn.Sequential(*create_mlp(size + view.action_dim, 2 + size, arch, view.policy.activation_fn))
        last = self.network[-1]
        assert isinstance(last, nn.Linear)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        with th.no_grad():
            last.bias[1] = ENDS_AT_FIRST
        # averages over earlier steps, of which the scales of what goes in and comes out are made
        for name, number in (("mean", size), ("spread", size), ("change_square", size), ("reward_square", 1)):
            self.register_buffer(name, th.zeros(number))
        self.register_buffer("weight", th.zeros(()))
        self.register_buffer("gamma", th.zeros(()))
        self.recent = RecentSteps()
        self.seen: Rollout | None = None
        self.transitions: Transitions | None = None

    def forward(self, features: th.Tensor, actions: th.Tensor) -> th.Tensor:
        """q, in the unit of the environment's rewards.

        :param features: ``[N, F]``
        :param actions: one-hots, bits or numbers, flattened, relaxed or not, ``[..., N, A]``
        :return: ``[..., N]``
        """
        reward, ends, change = self.predict(features, actions)
        reward_scale, change_scale = self.scales()
        value_of, policy = self.view.reader.value_of, self.view.policy
        with evaluation_mode(policy):  # V as in a rollout: no state may tell of the others of its batch
            now, after = value_of(policy, features), value_of(policy, features + change_scale * change)
        return reward_scale * reward + self.gamma * (1 - ends.sigmoid()) * after - now

    def predict(self, features: th.Tensor, actions: th.Tensor) -> tuple[th.Tensor, th.Tensor, th.Tensor]:
        """The reward and the change of the features, each in its scale, and the end's logit."""
        weight = self.weight.clamp(min=1e-8)
        deviation = (self.spread / weight).clamp(min=1e-8).sqrt()
        state = ((features - self.mean / weight) / deviation).clamp(-CLIP, CLIP)
        inputs = th.cat([state.expand(*actions.shape[:-1], state.shape[-1]), actions], dim=-1)
        # a bound that is fixed before the batch keeps everything finite
        out = self.network(inputs).clamp(-LARGEST, LARGEST)
        return out[..., 0], out[..., 1], out[..., 2:]

    def scales(self) -> tuple[th.Tensor, th.Tensor]:
        """Root mean squares of rewards, ``[1]``, and of the features' changes, ``[F]``, in earlier steps."""
        weight = self.weight.clamp(min=1e-8)
        reward, change = self.reward_square / weight, self.change_square / weight
        return reward.clamp(min=1e-8).sqrt(), change.clamp(min=0.0).sqrt()

    def prepare(self, rollout: Rollout) -> None:
        """Keep the steps of a rollout for :meth:`fit`: nothing is learned of them yet. Twice is as once."""
        if rollout is self.seen:
            return
        self.seen = rollout
        self.gamma.fill_(rollout.buffer.gamma)
        length, envs = rollout.shape
        _, output = rollout.as_acted(self.view)
        features = output.features.reshape(envs, length, -1)
        actions = output.sample.reshape(envs, length, -1)
        known = th.as_tensor(~rollout.truncations[:-1].T.copy(), device=features.device)
        rewards, starts = (
            th.as_tensor(array.T.copy(), device=features.device).to(features.dtype)
            for array in (rollout.rewards[:-1], rollout.episode_starts[1:])
        )
        self.transitions = Transitions(
            features[:, :-1][known], actions[:, :-1][known], rewards[known], starts[known], features[:, 1:][known]
        )

    def fit(self, optimizer: th.optim.Optimizer | None, n_steps: int, generator: th.Generator) -> dict[str, float]:
        """Learn from recent steps, those of the last :meth:`prepare` included.

        :param optimizer: of the model's weights, and maybe others
        :param n_steps: of gradient descent
        :param generator: draws the steps of each
        :return: ``model_loss``, the sum of the three losses before it: about 2 where nothing is explained
        """
        done, self.transitions, self.seen = self.transitions, None, None
        if done is not None and len(done.rewards) and self.take_in(done):
            self.recent.add(*done)
        draw = partial(self.recent.draw, generator)
        loss = descend_on(draw, self.loss, list(self.parameters()), optimizer, n_steps)
        return {} if loss is None else {"model_loss": loss}

    def forget(self) -> None:
        """Begin anew with the steps of another policy, whose features may be others; the network is kept.

        :raises UsageError: for a policy whose V is no function of its features
        """
        require_value_of_features(self.view)
        self.recent = RecentSteps()
        for average in self.buffers():
            average.zero_()

    def take_in(self, done: Transitions) -> bool:
        """Let the scales learn, unless a square of these steps is beyond their dtype, or a number none at all.

        :return: whether they did
        """
        change = (done.following - done.features).square() * (1 - done.ended).unsqueeze(-1)
        mean = done.features.mean(0)
        # squares about the means, and not less the means' squares, of which nothing would be left where those are large
        weight = self.decay * self.weight
        moved = weight / (weight + 1 - self.decay) * (mean - self.mean / self.weight.clamp(min=1e-8)).square()
        newest = {
            "mean": mean,
            "spread": (done.features - mean).square().mean(0) + moved,
            "change_square": change.mean(0) / (1 - done.ended).mean().clamp(min=1e-8),
            "reward_square": done.rewards.square().mean(),
            "weight": th.ones_like(self.weight),
        }
        if not all(bool(part.isfinite().all()) for part in (*newest.values(), done.actions)):
            return False
        for name, part in newest.items():
            average = self.get_buffer(name)
            average.mul_(self.decay).add_((1 - self.decay) * part.to(average))
        return True

    def loss(self, *rows: th.Tensor) -> th.Tensor:
        """Squared errors of reward and change in their scales, and the cross entropy of the end."""
        done = Transitions(*rows)
        reward, ends, change = self.predict(done.features, done.actions)
        reward_scale, change_scale = self.scales()
        of_change = (change - (done.following - done.features) / change_scale.clamp(min=1e-8)).square().mean(-1)
        return (
            (reward - done.rewards / reward_scale).square().mean()
            + F.binary_cross_entropy_with_logits(ends, done.ended)
            + (of_change * (1 - done.ended)).mean()
        )
