"""What a control variate reads of the state: features of a policy, caught in passing while it evaluates a batch."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch as th
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.preprocessing import preprocess_obs
from stable_baselines3.common.torch_layers import MlpExtractor
from stable_baselines3.common.type_aliases import PyTorchObs
from torch import nn

from sb3_relax.errors import UsageError
from sb3_relax.policy_gradient.evaluation_mode import evaluation_mode
from sb3_relax.policy_gradient.quick_forward import quick_evaluation


class StateReader:
    """Reads what comes out of the policy's features extractor, ``[N, F]``, detached.

    :param module: that is listened to
    :param dim: F
    """

    def __init__(self, module: nn.Module, dim: int):
        self.module = module
        self.dim = dim

    @contextmanager
    def listening(self) -> Iterator[list[th.Tensor]]:
        """What each call of the module says of the state while the policy runs, in a list that fills meanwhile."""
        calls: list[th.Tensor] = []
        handle = self.module.register_forward_hook(
            lambda _module, inputs, output: calls.append(self.heard(inputs, output).detach())
        )
        try:
            yield calls
        finally:
            handle.remove()

    def evaluate(
        self, policy: ActorCriticPolicy, observations: PyTorchObs, actions: th.Tensor, **context: Any
    ) -> tuple[th.Tensor, th.Tensor, th.Tensor | None, th.Tensor]:
        """What the policy's ``evaluate_actions()`` gives for the same arguments, and the features, ``[N, F]``.

        :raises TypeError: for a policy that does not call the module
        """
        extractor = type(self) is StateReader and self.module is getattr(policy, "vf_features_extractor", None)
        if extractor and context.keys() <= {"action_masks"}:
            passed = quick_evaluation(policy, observations, actions, **context)
            if passed is not None:
                values, log_prob, entropy, features = passed
                return values, log_prob, entropy, features.detach()
        with self.listening() as calls:
            values, log_prob, entropy = policy.evaluate_actions(observations, actions, **context)
        if not calls:
            raise TypeError(
                f"{type(policy).__name__}.evaluate_actions() does not call its {type(self.module).__name__}, "
                "so the control variate has no state to read"
            )
        return values, log_prob, entropy, self.features(calls)

    def heard(self, inputs: Any, output: Any) -> th.Tensor:
        """Of one call of the module."""
        return output

    def features(self, calls: list[th.Tensor]) -> th.Tensor:
        """Of all calls in one pass of the policy, ``[N, F]``."""
        return calls[-1]

    def value_of(self, policy: Any, features: th.Tensor) -> th.Tensor:
        """V of states by their features alone, ``[..., F]`` → ``[...]``, attached to the features.

        They may be of another type than the policy's weights, and need not be of any state that was met.

        :raises UsageError: for a policy whose V is no function of them
        """
        latent = in_dtype_of(features, policy.mlp_extractor).forward_critic(features)
        return in_dtype_of(features, policy.value_net)(latent).squeeze(-1)


class CriticReader(StateReader):
    """Reads what the critic's last layer gets, ``[N, latent_dim_vf]``: flat whatever the features are."""

    def heard(self, inputs: Any, output: Any) -> th.Tensor:
        return inputs[0].flatten(1)

    def value_of(self, policy: Any, features: th.Tensor) -> th.Tensor:
        return in_dtype_of(features, policy.value_net)(features).squeeze(-1)


def in_dtype_of(features: th.Tensor, module: Any) -> Any:
    """A module as it is, or a copy of it in the type of what it is to read."""
    dtypes = {parameter.dtype for parameter in module.parameters()}
    return module if dtypes <= {features.dtype} else copy.deepcopy(module).to(features.dtype)


def reader_of(policy: ActorCriticPolicy) -> StateReader:
    """Of the extractor's features where they are ``[N, F]``, and of the critic's latent where they are not.

    Features may be sequences, tuples or dicts where the policy's ``mlp_extractor`` takes them. The critic's latent is a
    function of the state as well, so that a control variate which reads it stays unbiased.

    :param policy: with ``vf_features_extractor``
    :raises UsageError: where neither is ``[N, F]``
    """
    if gives_flat_features(policy):
        return StateReader(policy.vf_features_extractor, policy.features_dim)
    latent_dim = getattr(getattr(policy, "mlp_extractor", None), "latent_dim_vf", None)
    if latent_dim is None or not hasattr(policy, "value_net"):
        raise UsageError(
            f"the features of {type(policy).__name__} are not [N, {policy.features_dim}], which the control variate "
            "would read. It reads the critic's latent instead where the policy has a value_net, whose input is "
            "[N, mlp_extractor.latent_dim_vf]: keep both names, or let the features extractor give [N, features_dim]"
        )
    return CriticReader(policy.value_net, latent_dim)


def gives_flat_features(policy: ActorCriticPolicy) -> bool:
    """Whether the critic's features extractor gives ``[N, features_dim]``, by one observation drawn from the space.

    Nothing of the policy changes, and no stream of random numbers moves.
    """
    if type(getattr(policy, "mlp_extractor", None)) is MlpExtractor:
        return True  # SB3's own layers take nothing else
    space = copy.deepcopy(policy.observation_space)
    space.seed(0)
    try:
        with evaluation_mode(policy), th.no_grad(), th.random.fork_rng():
            observation, _ = policy.obs_to_tensor(space.sample())
            seen = preprocess_obs(observation, policy.observation_space, normalize_images=policy.normalize_images)
            features = policy.vf_features_extractor(seen)
    except Exception:  # the space may allow observations that never occur, and that the extractor does not take
        return False
    return isinstance(features, th.Tensor) and features.shape == (1, policy.features_dim)
