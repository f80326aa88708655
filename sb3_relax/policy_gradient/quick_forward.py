"""A policy's passes, while it acts and in an update, without what torch does around the call of every layer."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch as th
from stable_baselines3.common.policies import (
    ActorCriticCnnPolicy,
    ActorCriticPolicy,
    MultiInputActorCriticPolicy,
)
from stable_baselines3.common.torch_layers import MlpExtractor
from stable_baselines3.common.type_aliases import PyTorchObs
from torch import nn
from torch.nn.modules import module as every_module

#: whose ``forward()`` and ``evaluate_actions()`` are known
SB3_POLICIES = (ActorCriticPolicy, ActorCriticCnnPolicy, MultiInputActorCriticPolicy)

#: what these and their parts do in a pass, where nobody has replaced it
METHODS = ("forward", "forward_actor", "forward_critic", "evaluate_actions", "extract_features")
AS_MADE = [
    (kind, name, getattr(kind, name))
    for kind in (*SB3_POLICIES, MlpExtractor, nn.Sequential)
    for name in METHODS
    if hasattr(kind, name)
]

#: observations ``[N, ...]`` to actions, V(s) and log π(a|s)
Forward = Callable[[PyTorchObs], tuple[th.Tensor, th.Tensor, th.Tensor]]

#: what the actor's layers give, V(s), and the features that V is made of
Heads = tuple[th.Tensor, th.Tensor, th.Tensor]


def quick_forward(policy: ActorCriticPolicy) -> Forward:
    """``policy(observations)``, for the steps of one rollout: the same operations in the same order, to the last bit.

    ``nn.Module.__call__`` looks for hooks, which takes as long as a layer of 64. Layers that have none are called
    without it, in SB3's own policies. Every other policy, and one that somebody listens to, is given back as it is.

    :param policy: whose modules stay the same until the rollout ends; their weights may change
    """
    heads = _quick_heads(policy)
    if heads is None:
        return policy

    def forward(observations: PyTorchObs) -> tuple[th.Tensor, th.Tensor, th.Tensor]:
        latent, values, _ = heads(observations)
        distribution = policy._get_action_dist_from_latent(latent)
        actions = distribution.get_actions()
        log_prob = distribution.log_prob(actions)
        return actions.reshape(-1, *policy.action_space.shape), values, log_prob  # type: ignore[misc]

    return forward


def quick_evaluation(
    policy: ActorCriticPolicy, observations: PyTorchObs, actions: th.Tensor
) -> tuple[th.Tensor, th.Tensor, th.Tensor | None, th.Tensor] | None:
    """What ``policy.evaluate_actions()`` gives, to the last bit, and the features that V is made of, ``[N, F]``.

    ``None`` where :func:`quick_forward` gives a policy back as it is: it must be asked itself.

    :param observations: ``[N, *obs_shape]``
    :param actions: as ``evaluate_actions()`` takes them
    """
    heads = _quick_heads(policy)
    if heads is None:
        return None
    latent, values, features = heads(observations)
    distribution = policy._get_action_dist_from_latent(latent)
    return values, distribution.log_prob(actions), distribution.entropy(), features


def _quick_heads(policy: ActorCriticPolicy) -> Callable[[PyTorchObs], Heads] | None:
    """The policy's layers, where it and its ``mlp_extractor`` run as SB3 made them, and nobody listens."""
    if not (type(policy) in SB3_POLICIES and type(policy.mlp_extractor) is MlpExtractor):
        return None
    extractor, last = policy.mlp_extractor, policy.value_net
    actor, critic = extractor.policy_net, extractor.value_net
    # a compiled network, or one of the user's own, may do more than its layers
    if not (type(actor) is type(critic) is nn.Sequential):
        return None
    parts = (policy, extractor, actor, critic)
    if _is_replaced(parts) or _has_listeners((*parts, *actor, *critic, last)):
        return None
    to_latent = [layer.forward for layer in actor]
    to_value = [layer.forward for layer in (*critic, last)]

    def heads(observations: PyTorchObs) -> Heads:
        features = policy.extract_features(observations)
        latent, of_critic = features if isinstance(features, tuple) else (features, features)
        values = of_critic
        for layer in to_latent:
            latent = layer(latent)
        for layer in to_value:
            values = layer(values)
        return latent, values, of_critic

    return heads


def _is_replaced(parts: Iterable[nn.Module]) -> bool:
    """Whether somebody has put another method in the place of SB3's or torch's, in an object or in its class."""
    return any(not vars(part).keys().isdisjoint(METHODS) for part in parts) or any(
        getattr(kind, name) is not method for kind, name, method in AS_MADE
    )


def _has_listeners(modules: Iterable[nn.Module]) -> bool:
    """Whether calling one of the modules is more than its ``forward()``.

    There may be hooks, of its own or of all modules, a compiled version, or a ``__call__`` that is not torch's.
    """
    of_all = (
        every_module._global_forward_hooks
        or every_module._global_forward_pre_hooks
        or every_module._global_backward_hooks
        or every_module._global_backward_pre_hooks
    )
    return bool(of_all) or any(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
        or module._compiled_call_impl
        or type(module).__call__ is not nn.Module.__call__
        for module in modules
    )
