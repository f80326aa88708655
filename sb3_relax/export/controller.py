"""A trained policy as one module, with what predict() does before and after the network: what the exports trace."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from inspect import signature
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from gymnasium.spaces.utils import flatdim
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import VecNormalize
from torch import nn

from sb3_relax.catalogue import family_of
from sb3_relax.errors import UsageError
from sb3_relax.export.memory import Memory
from sb3_relax.export.normalizer import Normalizer, Observation, parts_of
from sb3_relax.policy_gradient.flat_actions import FlatActions
from sb3_relax.policy_gradient.several_categoricals import SeveralCategoricals
from sb3_relax.policy_gradient.unchecked_distributions import unchecked_distributions

#: steps in the examples that the exports trace: one would be taken for a constant
EXAMPLE_STEPS = 2


class Controller(nn.Module):
    """``model.predict(observation, deterministic=True)`` as a module of torch operations alone.

    Images are divided by 255 and discrete observations one-hot encoded by the policy; Box actions are clipped to their
    bounds, or brought back from [-1, 1] where the policy squashes them, as in ``predict``. Actions of several parts
    stay flat: ``model.action_space.unflatten`` takes them. The policy is the model's own, on its device, and is put
    into evaluation mode, as by ``predict``.

    The attributes ``inputs`` and ``outputs`` name what it takes beside the observation, and what it gives, in order:

    - of a maskable policy, the input ``action_masks``, ``[N, n]``: as ``predict`` takes them, and never left out
    - of a recurrent policy, the inputs ``hidden_state`` and ``cell_state``, each ``[layers, N, hidden]`` and zero at
      first, and ``episode_start``, ``[N]``; and the outputs ``next_hidden_state`` and ``next_cell_state``. Where V is
      asked for and has an LSTM of its own, ``critic_hidden_state`` and ``critic_cell_state`` with theirs
    - the outputs ``action``, ``[N, *action shape]``, and, where asked for, ``action_probabilities`` and ``value``

    :param model: a trained agent of this package; any agent of SB3 or sb3-contrib whose policy is an actor-critic one,
        plain, maskable or recurrent, will do
    :param vec_normalize: the environment's statistics, where it was trained with ``VecNormalize``. The controller then
        takes observations as the environment gives them, in their dtype. ``None``: they come scaled as they were in
        training, and where the agent's own environment has such statistics, a warning says so
    :param probabilities: whether to give each action's probability, ``[N, n]``: the classes of all variables one after
        the other, as in a mask; of MultiBinary, the probability of each bit's being 1
    :param value: whether to give V, ``[N]``, in the units it was trained in
    :raises TypeError: for a policy of another kind
    :raises UsageError: (a ``ValueError``) for the probabilities of Box actions or of actions of several parts, or for
        what is no VecNormalize, or one of other observations

    Example::

        action = Controller(model)(torch.zeros(1, 4))  # [N, *observation shape] → [N, *action shape]
        action, probabilities = Controller(masked, probabilities=True)(torch.zeros(1, 4), torch.ones(1, 2).bool())
    """

    low: th.Tensor
    high: th.Tensor

    def __init__(
        self,
        model: BaseAlgorithm,
        vec_normalize: VecNormalize | None = None,
        *,
        probabilities: bool = False,
        value: bool = False,
    ):
        super().__init__()
        policy: Any = model.policy
        if not isinstance(policy, ActorCriticPolicy) and family_of(type(policy)) is None:
            raise TypeError(f"only actor-critic policies can be exported; got {type(policy).__name__}")
        self.bounded = isinstance(policy.action_space, spaces.Box)
        if probabilities and self.bounded:
            why = "Box actions have a density, and no probabilities"
            if isinstance(policy.action_space, FlatActions):
                why = "actions of several parts are exported without them"
            raise UsageError(f"probabilities must be False: {why}")
        self.policy = policy
        self.probabilities, self.value = probabilities, value
        self.normalizer = normalizer_of(model, vec_normalize)
        self.action_shape = policy.action_space.shape or ()
        if isinstance(policy.action_space, spaces.Box):
            self.register_buffer("low", th.as_tensor(policy.action_space.low))
            self.register_buffer("high", th.as_tensor(policy.action_space.high))
        self.masked = takes_masks(policy)
        self.memory = Memory(policy, value) if takes_memory(policy) else None
        states: tuple[str, ...] = () if self.memory is None else self.memory.names
        self.inputs = (
            *(("action_masks",) if self.masked else ()),
            *((*states, "episode_start") if states else ()),
        )
        self.outputs = (
            "action",
            *(f"next_{name}" for name in states),
            *(("action_probabilities",) if probabilities else ()),
            *(("value",) if value else ()),
        )
        self.to(model.device).eval()

    def forward(self, observation: Observation, *context: th.Tensor) -> th.Tensor | tuple[th.Tensor, ...]:
        """One step of each of N environments.

        :param observation: ``[N, *observation shape]``; images channel-first, as the policy takes them
        :param context: what ``inputs`` names, in that order
        :return: what ``outputs`` names, in that order; the action alone where it is all
        """
        given = dict(zip(self.inputs, context, strict=True))
        if self.normalizer is not None:
            observation = self.normalizer(observation)
        masks = {"action_masks": given["action_masks"]} if self.masked else {}
        value: Any = None
        states: tuple[th.Tensor, ...] = ()
        if self.memory is None:
            action = self.policy._predict(observation, deterministic=True, **masks)
            if self.value:
                value = self.policy.predict_values(observation)
        else:
            action, value, states = self.memory.step(observation, given, masks)
        outputs = [self._executable(action), *states]
        if self.probabilities:
            outputs.append(probabilities_of(self.policy.action_dist))
        if self.value:
            outputs.append(value.flatten())
        return outputs[0] if len(outputs) == 1 else tuple(outputs)

    def _executable(self, action: th.Tensor) -> th.Tensor:
        """What the environment receives for the policy's action."""
        action = action.reshape(-1, *self.action_shape)
        if not self.bounded:
            return action
        if self.policy.squash_output:
            return self.low + 0.5 * (action + 1.0) * (self.high - self.low)
        return th.minimum(th.maximum(action, self.low), self.high)

    def example(self) -> tuple[Any, ...]:
        """Arguments of :meth:`forward` for a few steps, in the dtypes that it takes."""
        n, device = EXAMPLE_STEPS, self.policy.device
        space = self.policy.observation_space
        dtypes = {} if self.normalizer is None else self.normalizer.dtypes
        parts = {
            name: th.from_numpy(np.zeros((n, *(part.shape or ())), dtypes.get(name, part.dtype))).to(device)
            for name, part in parts_of(space).items()
        }
        states = {} if self.memory is None else self.memory.zeros(n)
        values = 2 if isinstance(self.policy.action_space, spaces.MultiBinary) else 1  # a mask has both of a bit's
        masks = th.ones(n, values * flatdim(self.policy.action_space), dtype=th.bool, device=device)
        starts = th.zeros(n, dtype=th.bool, device=device)
        context = {**states, "action_masks": masks, "episode_start": starts}
        return (parts if isinstance(space, spaces.Dict) else parts[""], *(context[name] for name in self.inputs))


def takes_masks(policy: nn.Module) -> bool:
    """Whether a policy is a maskable one, by what it is called with."""
    return "action_masks" in signature(policy.forward).parameters


def takes_memory(policy: nn.Module) -> bool:
    """Whether a policy is a recurrent one, by what it is called with."""
    return "lstm_states" in signature(policy.forward).parameters


def probabilities_of(distribution: Any) -> th.Tensor:
    """Of each action, ``[N, n]``: the classes of all variables one after the other, or each bit's being 1.

    :param distribution: SB3's or sb3-contrib's, of discrete actions
    """
    if isinstance(distribution, SeveralCategoricals):
        return distribution.probabilities()
    # sb3-contrib's distribution of several variables has another name for them
    inner = getattr(distribution, "distributions", None) or distribution.distribution
    return th.cat([one.probs for one in inner], dim=-1) if isinstance(inner, list) else inner.probs


@contextmanager
def traceable(controller: Controller) -> Iterator[None]:
    """What is traced meanwhile can be loaded by every machine, and has no gradients or checks of arguments in it.

    :param controller: is on the CPU meanwhile, since a trace holds the names of devices, and goes back after it
    """
    device = controller.policy.device
    controller.to("cpu")
    try:
        with unchecked_distributions(), th.no_grad():
            yield
    finally:
        controller.to(device)


def normalizer_of(model: BaseAlgorithm, vec_normalize: VecNormalize | None) -> Normalizer | None:
    """What scales observations before an agent's policy sees them; ``None`` where they come scaled."""
    if vec_normalize is None:
        own = model.get_vec_normalize_env()
        if own is not None and own.norm_obs:
            warnings.warn(
                "the agent learned with a VecNormalize, whose statistics are not part of it: what is exported takes "
                "observations that are scaled already. For one that takes them as the environment gives them, give "
                "vec_normalize=model.get_vec_normalize_env()",
                stacklevel=4,
            )
        return None
    if not isinstance(vec_normalize, VecNormalize):
        raise UsageError(
            f"vec_normalize must be a VecNormalize, which VecNormalize.load(path, env) reads; got {vec_normalize!r}"
        )
    return Normalizer(vec_normalize, model.observation_space)
