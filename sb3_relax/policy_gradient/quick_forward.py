"""A policy's passes, while it acts and in an update, without what torch does around the call of every layer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch as th
from gymnasium import spaces
from stable_baselines3.common.distributions import CategoricalDistribution, DiagGaussianDistribution, Distribution
from stable_baselines3.common.policies import (
    ActorCriticCnnPolicy,
    ActorCriticPolicy,
    BaseModel,
    MultiInputActorCriticPolicy,
)
from stable_baselines3.common.torch_layers import CombinedExtractor, FlattenExtractor, MlpExtractor
from stable_baselines3.common.type_aliases import PyTorchObs
from torch import nn
from torch.distributions import Categorical, Normal
from torch.nn import functional as F
from torch.nn.modules import module as every_module

from sb3_relax.policy_gradient.drawn_actions import draw_actions
from sb3_relax.policy_gradient.observation_scale import NormalizingExtractor, ObservationScale, RunningMoments
from sb3_relax.policy_gradient.quick_distributions import of_classes, of_numbers

#: whose ``forward()`` and ``evaluate_actions()`` are known: SB3's, and what :func:`know` adds
KNOWN_POLICIES: list[type] = [ActorCriticPolicy, ActorCriticCnnPolicy, MultiInputActorCriticPolicy]

#: distributions of actions that are made of logits alone, which :func:`know` adds
OF_LOGITS: list[type] = []

#: parts of features extractors that give the same features of an observation whenever they are asked, where no weights
#: are among them
FIXED_PARTS = frozenset(
    {
        *(FlattenExtractor, CombinedExtractor, nn.Flatten, nn.ModuleDict, nn.ModuleList),
        *(NormalizingExtractor, ObservationScale, RunningMoments),
    }
)

#: what these and their parts do in a pass, where nobody has replaced it
METHODS = frozenset(
    {
        "forward",
        "forward_actor",
        "forward_critic",
        "evaluate_actions",
        "extract_features",
        "predict_values",
        "_get_action_dist_from_latent",
        "proba_distribution",
        "get_actions",
        "sample",
        "log_prob",
        "apply_masking",
    }
)


def _methods(kinds: Iterable[type]) -> list[tuple[type, str, Any]]:
    """Class, name and the method, or ``None`` where it has been replaced already."""
    return [(kind, name, _own_method(kind, name)) for kind in kinds for name in METHODS if hasattr(kind, name)]


def _own_method(kind: type, name: str) -> Any:
    """A class's method, where it was written in the module of the class that has it, torch's decorators aside."""
    method, owner = getattr(kind, name), next(base for base in kind.__mro__ if name in vars(base))
    layer = method
    while layer is not None:  # functools.wraps() gives a replacement the old one's names, but not its module's globals
        if getattr(layer, "__globals__", {}).get("__name__") not in (owner.__module__, "torch.utils._contextlib"):
            return None
        layer = getattr(layer, "__wrapped__", None)
    return method


AS_MADE = _methods(
    (
        *(BaseModel, *KNOWN_POLICIES),
        *(MlpExtractor, FlattenExtractor, nn.Sequential, nn.Flatten, nn.Linear),
        *(CategoricalDistribution, DiagGaussianDistribution, Categorical, Normal),
    )
)


def know(policies: Sequence[type], distributions: Sequence[type]) -> None:
    """Take the passes of policies for SB3's: they are the same, but for masks.

    :param policies: which apply ``action_masks``, where they are given any, by their distribution's ``apply_masking()``
    :param distributions: that they have, made of logits alone, and what these are made of
    """
    KNOWN_POLICIES.extend(policies)
    OF_LOGITS.extend(kind for kind in distributions if issubclass(kind, Distribution))
    AS_MADE.extend(_methods((*policies, *distributions)))


#: observations ``[N, ...]``, and what the policy takes beside them, to actions, V(s) and log π(a|s)
Forward = Callable[..., tuple[th.Tensor, th.Tensor, th.Tensor]]

#: of one tensor
Function = Callable[[th.Tensor], th.Tensor]


class Passes(NamedTuple):
    """What a policy does while a rollout is collected."""

    forward: Forward
    predict_values: Callable[[PyTorchObs], th.Tensor]
    act: Callable[[PyTorchObs], th.Tensor]  #: to the actions of ``forward()``, where nobody asks for the rest


class Parts(NamedTuple):
    """What a pass is made of, in its order."""

    features: Callable[[PyTorchObs], th.Tensor | tuple[th.Tensor, th.Tensor]]  #: for both, or for actor and critic
    actor: Function
    critic: Function  #: to V(s)
    distribution: Callable[[th.Tensor], Distribution]  #: of what the actor gives


def quick_passes(policy: ActorCriticPolicy) -> Passes:
    """``policy(observations)`` and ``policy.predict_values(observations)``, for the steps of one rollout.

    They are the same operations in the same order, to the last bit, and draw the same actions. ``nn.Module.__call__``
    looks for hooks, which takes as long as a layer of 64. Layers that have none are called without it, in SB3's own
    policies and in those that :func:`know` adds. Every other policy, and one that somebody listens to, is given back as
    it is.

    :param policy: whose modules stay the same until the rollout ends; their weights may change
    """
    parts = _quick_parts(policy)
    if parts is None:
        return Passes(policy, policy.predict_values, lambda observations: policy(observations)[0])

    def forward(observations: PyTorchObs, action_masks: Any = None) -> tuple[th.Tensor, th.Tensor, th.Tensor]:
        of_actor, of_critic = _of_both(parts.features(observations))
        latent, values = parts.actor(of_actor), parts.critic(of_critic)
        actions, log_prob = draw_actions(_under(action_masks, parts.distribution(latent)))
        return actions.reshape(-1, *policy.action_space.shape), values, log_prob  # type: ignore[misc]

    def predict_values(observations: PyTorchObs) -> th.Tensor:
        return parts.critic(BaseModel.extract_features(policy, observations, policy.vf_features_extractor))

    def act(observations: PyTorchObs) -> th.Tensor:
        of_actor, _ = _of_both(parts.features(observations))
        actions, _ = draw_actions(parts.distribution(parts.actor(of_actor)))
        return actions.reshape(-1, *policy.action_space.shape)  # type: ignore[misc]

    return Passes(forward, predict_values, act)


def quick_evaluation(
    policy: ActorCriticPolicy, observations: PyTorchObs, actions: th.Tensor, action_masks: Any = None
) -> tuple[th.Tensor, th.Tensor, th.Tensor | None, th.Tensor] | None:
    """What ``policy.evaluate_actions()`` gives, to the last bit, and the features that V is made of, ``[N, F]``.

    ``None`` where :func:`quick_passes` gives a policy back as it is: it must be asked itself.

    :param observations: ``[N, *obs_shape]``
    :param actions: as ``evaluate_actions()`` takes them
    :param action_masks: likewise, of a maskable policy
    """
    parts = _quick_parts(policy)
    if parts is None:
        return None
    of_actor, of_critic = _of_both(parts.features(observations))
    latent, values = parts.actor(of_actor), parts.critic(of_critic)
    distribution = _under(action_masks, parts.distribution(latent))
    return values, distribution.log_prob(actions), distribution.entropy(), of_critic


def distribution_alone(
    policy: ActorCriticPolicy, observations: PyTorchObs, action_masks: Any = None
) -> Distribution | None:
    """The action distribution of ``policy.evaluate_actions()``, to the last bit, without V and all else.

    Layers of the actor that somebody listens to are called, too. ``None`` for a policy that is not known, which may
    make its distribution in another way. Arguments are :func:`quick_evaluation`'s.
    """
    parts = _quick_parts(policy)
    if parts is not None:
        of_actor, _ = _of_both(parts.features(observations))
        return _under(action_masks, parts.distribution(parts.actor(of_actor)))
    if not (type(policy) in KNOWN_POLICIES and type(policy.mlp_extractor) is MlpExtractor):
        return None
    if _is_replaced((policy, policy.mlp_extractor, policy.action_dist)):
        return None
    return _under(action_masks, policy.get_distribution(observations))


def values_while_fitted(
    policy: ActorCriticPolicy, observations: PyTorchObs
) -> tuple[Callable[[Any], th.Tensor], PyTorchObs]:
    """``policy.predict_values`` for many passes over some observations, between which V's weights are stepped.

    It is the same to the last bit. Where no weight comes before the features, they are computed once for all passes.

    :param observations: ``[N, *obs_shape]``
    :return: a function, and what it takes in the place of observations, ``[N, ...]`` or a dict of such; it may be given
        some of the rows alone
    """
    parts, extractor = _quick_parts(policy), policy.vf_features_extractor
    if parts is None or not _is_fixed(extractor):
        return policy.predict_values, observations
    with th.no_grad():
        features = BaseModel.extract_features(policy, observations, extractor)
    return parts.critic, features


def _is_fixed(extractor: nn.Module) -> bool:
    """Whether a features extractor has no weights, draws nothing, and nobody listens to it."""
    modules = list(extractor.modules())
    known = all(type(module) in FIXED_PARTS and not _has_own(module) for module in modules)
    return known and next(extractor.parameters(), None) is None and not _has_listeners(modules)


def _under(action_masks: Any, distribution: Any) -> Distribution:
    if action_masks is not None:
        distribution.apply_masking(action_masks)
    return distribution


def _of_both(features: th.Tensor | tuple[th.Tensor, th.Tensor]) -> tuple[th.Tensor, th.Tensor]:
    return features if isinstance(features, tuple) else (features, features)


def _quick_parts(policy: ActorCriticPolicy) -> Parts | None:
    """The policy's parts, where it and its ``mlp_extractor`` run as SB3 made them, and nobody listens."""
    if not (type(policy) in KNOWN_POLICIES and type(policy.mlp_extractor) is MlpExtractor):
        return None
    extractor, to_value, to_action = policy.mlp_extractor, policy.value_net, policy.action_net
    actor, critic = extractor.policy_net, extractor.value_net
    # a compiled network, or one of the user's own, may do more than its layers
    if not (type(actor) is type(critic) is nn.Sequential):
        return None
    parts = (policy, extractor, actor, critic)
    if _is_replaced((*parts, policy.action_dist)) or _has_listeners((*parts, *actor, *critic, to_value, to_action)):
        return None
    return Parts(
        _features(policy), _one_after_the_other(actor), _one_after_the_other((*critic, to_value)), _distribution(policy)
    )


def _features(policy: ActorCriticPolicy) -> Callable[[PyTorchObs], th.Tensor | tuple[th.Tensor, th.Tensor]]:
    """``policy.extract_features``, which does little where observations are vectors, and asks much before it does."""
    space, extractor = policy.observation_space, policy.features_extractor
    vectors = isinstance(space, spaces.Box) and len(space.shape) < 3  # what has more dimensions may be an image
    if vectors and policy.share_features_extractor and type(extractor) is FlattenExtractor:
        flatten = extractor.flatten
        if type(flatten) is nn.Flatten and not (_has_own(extractor) or _has_listeners((extractor, flatten))):
            return lambda observations: flatten.forward(observations.float())  # type: ignore[union-attr]
    return policy.extract_features


def _distribution(policy: ActorCriticPolicy) -> Callable[[th.Tensor], Distribution]:
    """``policy._get_action_dist_from_latent``, which keeps the distribution that it gives."""
    kept, to_action = policy.action_dist, _call(policy.action_net)
    if type(kept) is CategoricalDistribution:
        return lambda latent: of_classes(kept, to_action(latent))
    if type(kept) is DiagGaussianDistribution:
        return lambda latent: of_numbers(kept, to_action(latent), policy.log_std)
    if type(kept) in OF_LOGITS:
        return lambda latent: kept.proba_distribution(to_action(latent))
    return policy._get_action_dist_from_latent


def _one_after_the_other(layers: Iterable[nn.Module]) -> Function:
    calls = [_call(layer) for layer in layers]

    def all_of(x: th.Tensor) -> th.Tensor:
        for call in calls:
            x = call(x)
        return x

    return all_of


def _call(layer: nn.Module) -> Function:
    """A layer's ``forward()``; of a linear one without the search of a module for its weights."""
    if type(layer) is not nn.Linear or "forward" in vars(layer):
        return layer.forward
    weights = vars(layer)["_parameters"]
    return lambda x: F.linear(x, weights["weight"], weights["bias"])


def _is_replaced(parts: Iterable[object]) -> bool:
    """Whether somebody has put another method in the place of SB3's or torch's, in an object or in its class."""
    return any(map(_has_own, parts)) or any(getattr(kind, name) is not method for kind, name, method in AS_MADE)


def _has_own(part: object) -> bool:
    """Whether somebody has put a method of its own into an object, in the place of its class's."""
    return not METHODS.isdisjoint(vars(part))


def _has_listeners(modules: Iterable[nn.Module]) -> bool:
    """Whether calling one of the modules is more than its ``forward()``.

    There may be hooks, of its own or of all modules, a compiled version, or a ``__call__`` that is not torch's.
    """
    if (
        every_module._global_forward_hooks
        or every_module._global_forward_pre_hooks
        or every_module._global_backward_hooks
        or every_module._global_backward_pre_hooks
    ):
        return True
    for module in modules:  # a loop, since this is asked twice an update
        if (
            module._forward_hooks
            or module._forward_pre_hooks
            or module._backward_hooks
            or module._backward_pre_hooks
            or module._compiled_call_impl
            or type(module).__call__ is not nn.Module.__call__
        ):
            return True
    return False
