"""A rollout in time order, and the batch that an update takes of it: the only reader of SB3's buffers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import torch as th
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.type_aliases import PyTorchObs

from sb3_relax.policy_gradient.evaluation_mode import evaluation_mode
from sb3_relax.policy_gradient.observations import concatenated, of_parts
from sb3_relax.policy_gradient.policy_view import PolicyOutput, PolicyView

SelfRollout = TypeVar("SelfRollout", bound="Rollout")


@dataclass(frozen=True)
class Batch:
    """Steps in the order in which an update sees them.

    :param observations: ``[N, *obs_shape]`` (a dict of such for Dict observations); of recurrent policies, sequences
        padded to one length and flattened
    :param actions: as the buffer stores them, ``[N, D]``
    :param advantages: Â, ``[N]``, without padding
    :param returns: V's target, ``[N]``, without padding
    :param order: the number of each step, environment after environment, ``[N]``
    :param shape: T and E of the rollout
    :param context: what the policy needs beside observations and actions, by the names of its own arguments
    """

    observations: PyTorchObs
    actions: th.Tensor
    advantages: th.Tensor
    returns: th.Tensor
    order: np.ndarray
    shape: tuple[int, int]
    context: dict[str, Any] = field(default_factory=dict)

    def at(self, steps: th.Tensor) -> Batch:
        """Some of the steps, where each is evaluated by itself (not of recurrent policies).

        :param steps: their numbers in this batch
        """
        return Batch(
            of_parts(lambda part: part[steps], self.observations),
            self.actions[steps],
            self.advantages[steps],
            self.returns[steps],
            self.order[steps.cpu().numpy()],
            self.shape,
            {name: part[steps] for name, part in self.context.items()},
        )

    @classmethod
    def joined(cls, batches: Sequence[Batch]) -> Batch:
        """Batches of several rollouts of the same environments, as of one rollout: the first batch's comes first.

        :param batches: of as many environments each (not of recurrent policies)
        """
        lengths = [batch.shape[0] for batch in batches]
        total, starts = sum(lengths), np.cumsum([0, *lengths])
        orders = [
            batch.order // length * total + start + batch.order % length
            for batch, length, start in zip(batches, lengths, starts, strict=False)
        ]
        return cls(
            concatenated([batch.observations for batch in batches]),
            th.cat([batch.actions for batch in batches]),
            th.cat([batch.advantages for batch in batches]),
            th.cat([batch.returns for batch in batches]),
            np.concatenate(orders),
            (total, batches[0].shape[1]),
            {name: th.cat([batch.context[name] for batch in batches]) for name in batches[0].context},
        )

    @property
    def index(self) -> np.ndarray:
        """Where each step stands in a flattened ``[T, E]`` array, ``[N]``: ``rollout.values.ravel()[batch.index]``."""
        length, envs = self.shape
        return self.order % length * envs + self.order // length

    def in_time_order(self, of_steps: th.Tensor) -> np.ndarray:
        """``[N]``, as this batch has its steps → ``[T, E]``, of a batch of all steps of a rollout."""
        array = of_steps.detach().cpu().numpy()
        ordered = np.empty_like(array)
        ordered[self.index] = array
        return ordered.reshape(self.shape)


@dataclass
class Rollout:
    """T steps of E environments, in time order: every array is ``[T, E, ...]``.

    Whole episodes are one after the other, as if from one environment: E is 1, and ``episode_starts`` tells them apart.
    ``advantages`` and ``returns`` may be replaced before the first batch is taken (a control variate's ``prepare``);
    everything else is as it was collected.

    :param observations: ``[T, E, *obs_shape]``, or a dict of such
    :param actions: as the policy gave them, ``[T, E, D]``
    :param rewards: the environment's, plus :attr:`bootstraps`
    :param episode_starts: whether a step is the first of its episode
    :param values: V(s), as the policy that acted had it
    :param log_probs: log π(a|s), of that policy too
    :param advantages: Â, by the buffer's GAE
    :param returns: V's target, Â + V(s)
    :param time_limits: where time limits cut episodes
    :param buffer: where it was read from: it makes tensors on the device
    :param context: what else the policy acts on, by the names of its own arguments (``action_masks``)
    """

    observations: np.ndarray | dict[str, np.ndarray]
    actions: np.ndarray
    rewards: np.ndarray
    episode_starts: np.ndarray
    values: np.ndarray
    log_probs: np.ndarray
    advantages: np.ndarray
    returns: np.ndarray
    time_limits: TimeLimits
    buffer: RolloutBuffer
    context: dict[str, np.ndarray]
    _as_acted: tuple[Batch, PolicyOutput] | None = field(default=None, init=False, repr=False)

    @classmethod
    def of(cls: type[SelfRollout], buffer: RolloutBuffer, time_limits: TimeLimits | None = None) -> SelfRollout:
        """What a full buffer holds: SB3's, sb3-contrib's maskable and recurrent ones, or whole episodes.

        The buffer is left as it is, and may have been read by ``get()`` before, which reorders its arrays.

        :param buffer: after its advantages were computed
        :param time_limits: of the same rollout; ``None`` where they are not known, and the rollout says that there
            were none
        :raises ValueError: for a buffer that is not full
        """
        if not buffer.full:
            raise ValueError("the rollout buffer must be full: collect a rollout before it is read")
        shape = (buffer.buffer_size, buffer.n_envs)

        def ordered(array: np.ndarray, *item: int) -> np.ndarray:
            return in_time_order(array, shape, item)

        obs: Any = buffer.observations
        sizes: Any = buffer.obs_shape
        return cls(
            observations={key: ordered(part, *sizes[key]) for key, part in obs.items()}
            if isinstance(obs, dict)
            else ordered(obs, *sizes),
            actions=ordered(buffer.actions, buffer.action_dim),
            rewards=ordered(buffer.rewards),
            episode_starts=ordered(buffer.episode_starts),
            values=ordered(buffer.values),
            log_probs=ordered(buffer.log_probs),
            advantages=ordered(buffer.advantages),
            returns=ordered(buffer.returns),
            time_limits=time_limits or TimeLimits(),
            buffer=buffer,
            context=cls.read_context(buffer),
        )

    @classmethod
    def read_context(cls, buffer: Any) -> dict[str, np.ndarray]:
        """What else the policy acts on."""
        masks = getattr(buffer, "action_masks", None)
        if masks is None:
            return {}
        return {"action_masks": in_time_order(masks, (buffer.buffer_size, buffer.n_envs), (buffer.mask_dims,))}

    @cached_property
    def truncations(self) -> np.ndarray:
        """Whether a time limit cut the episode after a step, ``[T, E]``."""
        return self.time_limits.truncations(self.shape)

    @cached_property
    def bootstraps(self) -> np.ndarray:
        """γV of the state in which a time limit cut the episode, which is part of ``rewards``; 0 elsewhere."""
        return self.time_limits.bootstraps(self.rewards)

    @property
    def shape(self) -> tuple[int, int]:
        """T and E."""
        return self.values.shape

    def as_acted(self, view: PolicyView) -> tuple[Batch, PolicyOutput]:
        """All steps, environment after environment, and a pass of the policy over them as it acted.

        That is in evaluation mode, without a graph, and made once however often it is asked for. An update's own pass
        is another one: it is in training mode.

        :param view: of the policy, before any update
        """
        if self._as_acted is None:
            batch = self.batch(np.arange(self.values.size), view.dtype)
            with th.no_grad(), evaluation_mode(view.policy):
                self._as_acted = batch, view.evaluate(batch.observations, batch.actions, **batch.context)
        return self._as_acted

    def batches(self, dtype: th.dtype) -> Iterator[Batch]:
        """One batch of all steps, in the order of SB3's own permutation, which A2C's sums depend on to the last bit.

        :param dtype: of advantages and returns: the policy's
        """
        permutation = np.random.permutation(self.values.size)  # noqa: NPY002  (SB3's generator, and its order)
        yield self.batch(permutation, dtype)

    def batch(self, order: np.ndarray, dtype: th.dtype) -> Batch:
        """Steps by their number, environment after environment (as SB3's flattened arrays have them).

        :param order: which steps, ``[N]``, below T · E
        :param dtype: of advantages and returns
        """

        def take(array: np.ndarray) -> th.Tensor:
            return self.buffer.to_torch(by_environment(array)[order])

        return Batch(
            of_parts(take, self.observations),
            take(self.actions.astype(np.float32, copy=False)),
            take(self.advantages).to(dtype),
            take(self.returns).to(dtype),
            order,
            self.shape,
            {name: take(array) for name, array in self.context.items()},
        )


class TimeLimits:
    """Where time limits cut the episodes of one rollout, and the rewards there: SB3's buffers do not keep it."""

    def __init__(self) -> None:
        self.cuts: list[tuple[int, int, float]] = []

    def note(self, step: int, env: int, reward: float) -> None:
        """:param reward: the environment's, before γV of the state in which it was cut is added."""
        self.cuts.append((step, env, reward))

    def truncations(self, shape: tuple[int, int]) -> np.ndarray:
        """Whether a time limit cut the episode after a step, ``[T, E]``."""
        cut = np.zeros(shape, dtype=bool)
        for step, env, _ in self.cuts:
            cut[step, env] = True
        return cut

    def bootstraps(self, rewards: np.ndarray) -> np.ndarray:
        """γV(s_T) where it was added to a reward, ``[T, E]``; 0 elsewhere."""
        added = np.zeros_like(rewards)
        for step, env, reward in self.cuts:
            added[step, env] = rewards[step, env] - reward
        return added


def by_environment(array: np.ndarray) -> np.ndarray:
    """``[T, E, ...]`` → ``[T · E, ...]``, environment after environment."""
    return array.swapaxes(0, 1).reshape(-1, *array.shape[2:])


def in_time_order(array: np.ndarray, shape: tuple[int, int], item: tuple[int, ...]) -> np.ndarray:
    """A buffer's array as ``[T, E, *item]``, whether or not ``get()`` has flattened it."""
    length, envs = shape
    if envs > 1 and len(array) == length * envs:
        return array.reshape(envs, length, *item).swapaxes(0, 1)
    return array.reshape(length, envs, *item)
