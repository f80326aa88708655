"""A policy as an update sees it: one pass gives everything, and the weights are told apart by what they reach."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import PyTorchObs

from sb3_relax.errors import UsageError
from sb3_relax.estimators import Latent
from sb3_relax.policy_gradient.action_latents import latent_like, to_latent, to_sample
from sb3_relax.policy_gradient.action_spaces import starts_of
from sb3_relax.policy_gradient.distribution_graphs import forget_graph
from sb3_relax.policy_gradient.evaluation_mode import evaluation_mode
from sb3_relax.policy_gradient.observations import of_parts
from sb3_relax.policy_gradient.quick_forward import distribution_alone, values_while_fitted
from sb3_relax.policy_gradient.second_derivatives import twice_differentiable
from sb3_relax.policy_gradient.state_features import StateReader, reader_of

#: random observations are at most of that size, where their space allows it
MODERATE = 10


def _of_no_policy() -> Any:
    raise RuntimeError("this output was put together from others: there is no pass of a policy to make again")


class PolicyOutput(NamedTuple):
    """One pass of the policy over a batch of N steps."""

    latent: Latent  #: the action distribution, θ attached to the policy's weights
    sample: th.Tensor  #: the executed actions as the latent's b
    features: th.Tensor  #: what the policy knows of the state, detached, ``[N, F]``
    values: th.Tensor  #: V(s), ``[N]``
    log_prob: th.Tensor  #: ``[N]``
    entropy: th.Tensor | None  #: ``[N]``, or ``None`` without analytical form
    again: Callable[[], PolicyOutput] = _of_no_policy  #: the same steps by the policy's weights as they are now
    latent_again: Callable[[], Latent] = _of_no_policy  #: what ``again()`` has as ``latent``, in less time

    def at(self, index: th.Tensor) -> PolicyOutput:
        """Some of the steps.

        :param index: numbers of steps, or a mask
        """
        return PolicyOutput(
            self.latent.select(index),
            self.sample[index],
            self.features[index],
            self.values[index],
            self.log_prob[index],
            None if self.entropy is None else self.entropy[index],
            lambda: self.again().at(index),
            lambda: self.latent_again().select(index),
        )


class PolicyView:
    """SB3's policy, read through its own interface; nothing of it is changed.

    A control variate and an update rule get a view when they are made, and know by it what they are for: the kind of
    latent, the size of the state features and of the flattened action, dtype and device.

    :param policy: with ``evaluate_actions`` and ``predict_values``, as every ``ActorCriticPolicy`` has them
    :raises UsageError: for a policy whose state features cannot be read

    Example::

        view = PolicyView(model.policy)
        output = view.evaluate(batch.observations, batch.actions)
        output.latent.theta, output.values
    """

    #: whether the second derivative of a pass is needed, which the fastest kernels do not have
    twice_differentiable: bool = False

    def __init__(self, policy: ActorCriticPolicy):
        self.follow(policy)

    def follow(self, policy: ActorCriticPolicy) -> None:
        """Read this policy from now on: whoever has the view sees the new one."""
        self.policy = policy
        self.reader = self.make_reader()
        self._weights: Weights | None = None

    @property
    def dtype(self) -> th.dtype:
        """Of the policy's weights."""
        return self.policy.optimizer.param_groups[0]["params"][0].dtype

    @property
    def device(self) -> th.device:
        return self.policy.device

    @property
    def features_dim(self) -> int:
        """F, the size of :attr:`PolicyOutput.features`."""
        return self.reader.dim

    @property
    def latent(self) -> Latent:
        """A latent of the policy's kind and size for one step, at θ = 0: ``view.latent.theta`` is ``[*event]``."""
        return latent_like(self.policy)

    @property
    def action_dim(self) -> int:
        """Size of the flattened b: K or D · K for one-hots, D for bits and numbers, their sum for several parts."""
        return self.latent.sample_shape.numel()

    @property
    def actor_weights(self) -> list[th.nn.Parameter]:
        """The weights that the action distribution depends on."""
        return self.weights.actor

    @property
    def critic_weights(self) -> list[th.nn.Parameter]:
        """The weights that V alone depends on."""
        return self.weights.critic

    def evaluate(self, observations: PyTorchObs, actions: th.Tensor, **context: Any) -> PolicyOutput:
        """V, the action distribution and the features, in one pass of the policy as A2C makes it.

        :param observations: ``[N, *obs_shape]`` (a dict of such for Dict observations)
        :param actions: as the rollout buffer stores them, ``[N]`` or ``[N, D]``
        :param context: what else ``evaluate_actions`` takes, by its own names
        :raises TypeError: for a policy that does not call its features extractor (its ``value_net``, where the
            features are not flat), that evaluates another distribution than its ``action_dist``, or whose distribution
            has no latent
        """
        if isinstance(self.policy.action_space, spaces.Discrete):
            actions = actions.long().flatten()
        elif isinstance(self.policy.action_space, spaces.MultiBinary):
            # torch's Bernoulli compares bits in the logits' dtype, and the buffer holds float32
            actions = actions.to(self.dtype)
        kernels = twice_differentiable(self.policy) if self.twice_differentiable else nullcontext()
        with kernels:
            values, log_prob, entropy, features = self.reader.evaluate(self.policy, observations, actions, **context)
        # SB3's policies keep the distribution they have just evaluated
        distribution = self.policy.action_dist
        latent = to_latent(distribution)
        if self._weights is None and th.is_grad_enabled():
            if not th.allclose(distribution.log_prob(actions), log_prob, rtol=1e-4, atol=1e-4):
                raise TypeError(
                    f"{type(self.policy).__name__}.evaluate_actions() does not evaluate its own action_dist, "
                    "so the action distribution's parameters cannot be read from it"
                )
            self._weights = tell_apart(self.policy, latent, values)
        sample = to_sample(distribution, latent, actions)
        again = partial(self.evaluate, observations, actions, **context)
        latent_again = partial(latent_of, self, observations, actions, **context)
        return PolicyOutput(latent, sample, features, values.flatten(), log_prob, entropy, again, latent_again)

    def values_while_fitted(self, observations: PyTorchObs, **context: Any) -> Callable[[th.Tensor | None], th.Tensor]:
        """V of some of these steps, ``[n]``, for many passes between which V's weights are stepped.

        Arguments are as :meth:`evaluate`'s, those of the function given back the steps' numbers (``None``: of all).
        """
        values, inputs = values_while_fitted(self.policy, observations)
        return lambda steps: values(inputs if steps is None else of_parts(lambda part: part[steps], inputs)).flatten()

    def make_reader(self) -> StateReader:
        """What reads the features of one pass: for views of other policies."""
        return reader_of(self.policy)

    @property
    def weights(self) -> Weights:
        """All of the policy's that are trained, told apart by what depends on them."""
        if self._weights is None:
            # before the first batch, one step of zeros tells: in evaluation mode, since it is no data, where cuDNN's
            # LSTMs have no derivative
            with evaluation_mode(self.policy), th.enable_grad(), twice_differentiable(self.policy):
                self.evaluate(*step_of_zeros(self.policy), **self.context_of_zeros())
            forget_graph(self.policy.action_dist)
        assert self._weights is not None
        return self._weights

    def context_of_zeros(self) -> dict[str, Any]:
        """What :meth:`evaluate` needs for that step beside it."""
        return {}


def latent_of(view: PolicyView, observations: PyTorchObs, actions: th.Tensor, **context: Any) -> Latent:
    """The action distribution of ``view.evaluate()``, without V and all else where the policy is known."""
    if context.keys() <= {"action_masks"}:
        with twice_differentiable(view.policy) if view.twice_differentiable else nullcontext():
            distribution = distribution_alone(view.policy, observations, **context)
        if distribution is not None:
            return to_latent(distribution)
    return view.evaluate(observations, actions, **context).latent


def require_value_of_features(view: PolicyView) -> None:
    """That a state's V can be computed of its features alone, by ``view.reader.value_of()``.

    It is compared with the policy's own V at zeros and at some random observations: at zeros alone the V of a fresh
    policy is 0, whatever it is made of. No stream of random numbers moves.

    :raises UsageError: for a policy whose V is another one
    """
    policy = view.policy
    at_zeros, action = step_of_zeros(policy)
    as_known = True
    with evaluation_mode(policy), th.no_grad(), th.random.fork_rng():
        for observation in (at_zeros, *some_observations(policy)):
            try:
                output = view.evaluate(observation, action, **view.context_of_zeros())
            except Exception:
                if observation is at_zeros:
                    raise
                continue  # the space may allow observations that never occur, and that the policy does not take
            try:
                values = view.reader.value_of(policy, output.features)
                as_known &= th.allclose(values, output.values, rtol=1e-4, atol=1e-4, equal_nan=True)
            except (AttributeError, RuntimeError, TypeError):  # layers of other names, or of other sizes
                as_known = False
    forget_graph(policy.action_dist)
    if not as_known:
        raise UsageError(
            f"the V of {type(policy).__name__} is not value_net(mlp_extractor.forward_critic(features)), so that a "
            "predicted state has no value: keep SB3's names of both, or use another control variate than one with a "
            "learned model"
        )


def step_of_zeros(policy: ActorCriticPolicy) -> tuple[PyTorchObs, th.Tensor]:
    """Observation and action of one step, as :meth:`PolicyView.evaluate` takes them: the first action there is."""

    def zeros(space: spaces.Space) -> th.Tensor:
        return th.as_tensor(np.zeros((1, *(space.shape or ())), space.dtype), device=policy.device)

    space = policy.observation_space
    parts = space.spaces if isinstance(space, spaces.Dict) else None
    observation = zeros(space) if parts is None else {name: zeros(part) for name, part in parts.items()}
    action = zeros(policy.action_space).reshape(1, -1)
    return observation, action + th.as_tensor(starts_of(policy.action_space), device=policy.device)


def some_observations(policy: ActorCriticPolicy, count: int = 4) -> Iterator[PyTorchObs]:
    """Random observations of a policy's space, one step each, the same at every call.

    Numbers of a Box are at most :data:`MODERATE` in size where its bounds allow it: most of a space without bounds is
    so large that nothing is left of it.
    """
    space = copy.deepcopy(policy.observation_space)
    space.seed(0)

    def moderate(part: spaces.Space, sample: Any) -> th.Tensor:
        if isinstance(part, spaces.Box):
            sample = np.clip(np.clip(sample, -MODERATE, MODERATE), part.low, part.high)
        return th.as_tensor(np.asarray(sample, part.dtype)[None], device=policy.device)

    for _ in range(count):
        sample = space.sample()
        if isinstance(space, spaces.Dict):
            yield {name: moderate(part, sample[name]) for name, part in space.spaces.items()}
        else:
            yield moderate(space, sample)


class Weights(NamedTuple):
    """A policy's, by what depends on them."""

    actor: list[th.nn.Parameter]  #: the action distribution
    critic: list[th.nn.Parameter]  #: V alone
    are_shared: bool  #: whether V depends on some of the actor's


def tell_apart(policy: ActorCriticPolicy, latent: Latent, values: th.Tensor) -> Weights:
    """What depends on which weights, by what a pass reaches.

    :param latent: of the pass
    :param values: V of the pass
    """
    weights = [p for p in policy.parameters() if p.requires_grad]
    to_actor = th.autograd.grad(latent.theta.sum(), weights, retain_graph=True, allow_unused=True)
    to_value = th.autograd.grad(values.sum(), weights, retain_graph=True, allow_unused=True)
    actor = [p for p, g in zip(weights, to_actor, strict=True) if g is not None]
    critic = [p for p, a, v in zip(weights, to_actor, to_value, strict=True) if a is None and v is not None]
    are_shared = any(a is not None and v is not None for a, v in zip(to_actor, to_value, strict=True))
    return Weights(actor, critic, are_shared)
