"""What recurrent policies add: LSTM states, padded sequences, and what ĉ reads of the past."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import PyTorchObs
from stable_baselines3.common.utils import obs_as_tensor
from stable_baselines3.common.vec_env import VecEnv

from sb3_relax.algorithm.a2c import ControlVariateA2C
from sb3_relax.algorithm.collection import NotesTimeLimits, of_each
from sb3_relax.algorithm.contrib import (
    RecurrentActorCriticPolicy,
    RecurrentDictRolloutBuffer,
    RecurrentPPO,
    RecurrentRolloutBuffer,
    RNNStates,
    create_sequencers,
)
from sb3_relax.catalogue import RECURRENT
from sb3_relax.errors import UsageError
from sb3_relax.estimators.checks import are_finite
from sb3_relax.policy_gradient.action_latents import require_finite_actions
from sb3_relax.policy_gradient.hyperparameters import Hyperparameters
from sb3_relax.policy_gradient.observations import of_parts
from sb3_relax.policy_gradient.policy_view import PolicyOutput, PolicyView
from sb3_relax.policy_gradient.rollout import Batch, Rollout, by_environment, in_time_order
from sb3_relax.policy_gradient.state_features import StateReader

#: of the buffer, and what of :class:`RNNStates` each is
STATES = ("hidden_states_pi", "cell_states_pi", "hidden_states_vf", "cell_states_vf")


class MemoryReader(StateReader):
    """Reads what comes out of the actor's LSTM, whole sequences flattened: what the policy knows of the past."""

    def heard(self, inputs: Any, output: Any) -> th.Tensor:
        return output[0]  # [steps, sequences, hidden]

    def features(self, calls: list[th.Tensor]) -> th.Tensor:
        # one call for all steps or, where an episode starts on the way, one for each
        return th.cat(calls).transpose(0, 1).flatten(0, 1)

    def value_of(self, policy: Any, features: th.Tensor) -> th.Tensor:
        raise UsageError(
            "a recurrent policy's V depends on its memory, which a predicted state does not have: use another control "
            "variate than one with a learned model, such as 'relax' or 'lax'"
        )


class RecurrentView(PolicyView):
    """A recurrent policy, evaluated on padded sequences; what pads them is dropped from everything it gives.

    The features are what comes out of the actor's LSTM.

    What masks forbid in the steps that pad does not matter either.

    :param policy: sb3-contrib's
    """

    policy: RecurrentActorCriticPolicy

    def make_reader(self) -> StateReader:
        return MemoryReader(self.policy.lstm_actor, self.policy.lstm_output_dim)

    def evaluate(self, observations: PyTorchObs, actions: th.Tensor, **context: Any) -> PolicyOutput:
        again = partial(self.evaluate, observations, actions, **context)
        real = context.pop("mask")
        masks = context.get("action_masks")
        if masks is not None:
            context["action_masks"] = th.as_tensor(masks, dtype=th.bool, device=real.device) | ~real.unsqueeze(-1)
        # padding is zeros, which need be no action: its place is taken by an action that was executed
        actions = actions.reshape(len(real), -1)
        actions = th.where(real.unsqueeze(-1), actions, actions[real][:1])
        return (
            super()
            .evaluate(observations, actions, **context)
            .at(real)
            ._replace(again=again, latent_again=lambda: again().latent)
        )

    def context_of_zeros(self) -> dict[str, Any]:
        lstm = self.policy.lstm_actor
        zeros = th.zeros(lstm.num_layers, 1, lstm.hidden_size, device=self.device)
        starts = th.zeros(1, device=self.device)
        states = RNNStates((zeros, zeros), (zeros, zeros))
        return {"lstm_states": states, "episode_starts": starts, "mask": th.ones_like(starts, dtype=th.bool)}

    def values_while_fitted(self, observations: PyTorchObs, **context: Any) -> Callable[[th.Tensor | None], th.Tensor]:
        """Of all steps alone: a memory evaluates none by itself."""
        states, starts, real = context["lstm_states"].vf, context["episode_starts"], context["mask"]
        predict_values: Callable[..., th.Tensor] = self.policy.predict_values
        return lambda _: predict_values(observations, states, starts).flatten()[real]


class RecurrentRollout(Rollout):
    """A rollout whose context holds the LSTM's states before every step, ``[T, E, layers, hidden]``, beside any masks.

    Its batch is made of sequences of steps that follow each other in ``order``, cut at episode starts, at the rollout's
    start and at one random step, as sb3-contrib's buffer makes them.
    """

    @classmethod
    def read_context(cls, buffer: Any) -> dict[str, np.ndarray]:
        shape = (buffer.buffer_size, buffer.n_envs)
        _, layers, _, hidden = buffer.hidden_state_shape
        states = {name: _states_in_time_order(getattr(buffer, name), shape, layers, hidden) for name in STATES}
        return {**super().read_context(buffer), **states}

    def batches(self, dtype: th.dtype) -> Iterator[Batch]:
        split = np.random.randint(self.values.size)  # noqa: NPY002  (sb3-contrib's generator, and its order)
        yield self.batch(np.roll(np.arange(self.values.size), -split), dtype)

    def batch(self, order: np.ndarray, dtype: th.dtype) -> Batch:
        def take(array: np.ndarray) -> np.ndarray:
            return by_environment(array)[order]

        first = np.zeros(self.shape, dtype=bool)
        first[0] = True
        device = self.buffer.device
        starts = take(self.episode_starts)
        begins, pad, pad_and_flatten = create_sequencers(starts, take(first), device)

        def padded(array: np.ndarray) -> th.Tensor:
            return pad(take(array)).flatten(0, 1)

        states = [
            th.tensor(take(self.context[name])[begins], device=device).transpose(0, 1).contiguous() for name in STATES
        ]
        # A sequence can start an episode with its first step alone. With its states at zero beforehand instead of by
        # the flag, the policy runs the LSTM once over all steps instead of once for each
        goes_on = th.tensor(1 - starts[begins], device=device).reshape(-1, 1)
        pi_hidden, pi_cell, vf_hidden, vf_cell = (state * goes_on for state in states)
        real = pad_and_flatten(np.ones(len(order), dtype=np.float32)) > 0
        return Batch(
            of_parts(padded, self.observations),
            padded(self.actions),
            self.buffer.to_torch(take(self.advantages)).to(dtype),
            self.buffer.to_torch(take(self.returns)).to(dtype),
            order,
            self.shape,
            {
                **{name: padded(array) for name, array in self.context.items() if name not in STATES},
                "lstm_states": RNNStates((pi_hidden, pi_cell), (vf_hidden, vf_cell)),
                "episode_starts": th.zeros_like(real, dtype=th.float32),
                "mask": real,
            },
        )


def _states_in_time_order(array: np.ndarray, shape: tuple[int, int], layers: int, hidden: int) -> np.ndarray:
    """``[T, layers, E, hidden]``, or what ``get()`` makes of it, → ``[T, E, layers, hidden]``."""
    if array.ndim == 4:
        return array.swapaxes(1, 2)
    return in_time_order(array, shape, (layers, hidden))


def require_finite_acts(policy: th.nn.Module, args: Any, acted: Any) -> None:
    """After a call of the policy: a hook of ``torch.nn.Module``.

    :raises ActionsNotFinite: for a NaN or an infinity
    """
    require_finite_actions(acted[0].numpy(force=True))


def states_of(states: RNNStates, env_index: int) -> RNNStates:
    """Of one environment, ``[layers, 1, hidden]``."""
    pi, vf = (tuple(state[:, env_index : env_index + 1].contiguous() for state in part) for part in states)
    return RNNStates(pi, vf)


class Recurrent(ControlVariateA2C):
    """Sequences of steps in the place of single ones, as sb3-contrib's RecurrentPPO has them.

    To be put before LAXA2C or RELAXA2C among a class's bases. Rollouts of ``n_steps``, with LSTM states, episode starts
    and the bootstrap at time limits, are RecurrentPPO's own code. An update is one pass over its sequences (cut at
    episode starts and one random step) from the states they started with; steps that pad the shorter ones are dropped
    as soon as the policy has evaluated them, before any loss, estimate or statistic.

    ĉ reads the output of the actor's LSTM, detached: what the policy knows of the past, and nothing that came after the
    action, so that it stays a function of the state the policy acted in.
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = RecurrentPPO.policy_aliases
    policy_base = RECURRENT
    not_of_presets = ("critic_batch_size", "critic_replay", "critic_lambda")
    view_class = RecurrentView
    rollout_class = RecurrentRollout
    #: by default, of rollouts without and with Dict observations
    buffer_classes: ClassVar[tuple[type[RolloutBuffer], type[RolloutBuffer]]] = (
        RecurrentRolloutBuffer,
        RecurrentDictRolloutBuffer,
    )

    policy: RecurrentActorCriticPolicy

    def check_hyperparameters(self) -> Hyperparameters:
        values = super().check_hyperparameters()
        if values.critic_batch_size is not None:
            raise UsageError("critic_batch_size must be None: steps of a sequence stay together")
        if values.critic_replay > 1:
            raise UsageError(
                "critic_replay must be 1: an earlier rollout has the LSTM's states by its weights at the time, which "
                "the weights of today cannot go on from"
            )
        if self.policy_kwargs.get("squash_output"):
            raise UsageError(
                "squash_output must be False: sb3-contrib's recurrent rollouts hand squashed actions to the "
                "environment without scaling them to its bounds"
            )
        return values

    def _setup_model(self) -> None:
        if self.rollout_buffer_class is None:
            self.rollout_buffer_class = self.buffer_classes[isinstance(self.observation_space, spaces.Dict)]
        buffer_class: Any = self.rollout_buffer_class
        # SB3 makes the buffer before the policy, whose LSTM's size the buffer must know: all but that is bound here
        self.rollout_buffer_class = partial(partial, buffer_class)  # type: ignore[assignment]
        try:
            super()._setup_model()
        finally:
            self.rollout_buffer_class = buffer_class
        lstm = self.policy.lstm_actor
        make_buffer: Any = self.rollout_buffer
        self.rollout_buffer = make_buffer(
            hidden_state_shape=(self.n_steps, lstm.num_layers, self.n_envs, lstm.hidden_size)
        )
        zeros = th.zeros(lstm.num_layers, self.n_envs, lstm.hidden_size, device=self.device)
        self._last_lstm_states = RNNStates((zeros, zeros), (zeros, zeros))

    def collect_rollouts(
        self, env: VecEnv, callback: BaseCallback, rollout_buffer: RolloutBuffer, n_rollout_steps: int
    ) -> bool:
        before = self._last_lstm_states
        try:
            return super().collect_rollouts(env, callback, rollout_buffer, n_rollout_steps)
        except Exception:
            # what is remembered of an observation that was NaN outlives the end of its episode, since 0 · NaN is NaN
            if not are_finite([*self._last_lstm_states.pi, *self._last_lstm_states.vf]):
                self._last_lstm_states = before
            raise

    def collect_steps(
        self, env: VecEnv, callback: BaseCallback, rollout_buffer: RolloutBuffer, n_rollout_steps: int
    ) -> bool:
        # sb3-contrib's own collection, which needs nothing of RecurrentPPO but what every on-policy algorithm has
        collect: Any = RecurrentPPO.collect_rollouts
        assert self.time_limits is not None
        # that code clips an action by itself, and NaN stays NaN
        hook = self.policy.register_forward_hook(require_finite_acts)
        try:
            return collect(self, env, NotesTimeLimits(callback, self.time_limits), rollout_buffer, n_rollout_steps)
        finally:
            hook.remove()

    def act(self, env: VecEnv) -> tuple[tuple[th.Tensor, th.Tensor, th.Tensor], list[dict[str, Any]]]:
        before, context = self._last_lstm_states, self.acting_context(env)
        *acted, self._last_lstm_states = self.policy(
            obs_as_tensor(self._last_obs, self.device),  # type: ignore[arg-type]
            before,
            th.as_tensor(self._last_episode_starts, dtype=th.float32, device=self.device),
            **context,
        )
        kept = of_each(context, env.num_envs)
        return tuple(acted), [{**of_one, "lstm_states": states_of(before, i)} for i, of_one in enumerate(kept)]

    def value_at_end(self, observation: PyTorchObs, env_index: int) -> float:
        states = states_of(self._last_lstm_states, env_index).vf
        return self.policy.predict_values(observation, states, th.zeros(1, device=self.device)).item()  # type: ignore[arg-type]

    def make_room(self, rollout_buffer: Any, n_steps: int) -> None:
        _, layers, _, hidden = rollout_buffer.hidden_state_shape
        rollout_buffer.hidden_state_shape = (n_steps, layers, 1, hidden)
        super().make_room(rollout_buffer, n_steps)

    def policy_gradient(  # type: ignore[override]
        self,
        observations: PyTorchObs | np.ndarray,
        actions: th.Tensor | np.ndarray,
        advantages: th.Tensor | np.ndarray,
        *,
        lstm_states: RNNStates,
        episode_starts: th.Tensor,
        mask: th.Tensor | None = None,
        **context: Any,
    ) -> dict[str, th.Tensor]:
        """As :meth:`ControlVariateA2C.policy_gradient`, for S sequences of up to T steps, one after the other.

        :param observations: ``[S·T, *obs_shape]``, shorter sequences padded (a dict of such for MultiInput)
        :param actions: ``[S·T]`` or ``[S·T, D]``
        :param advantages: Â, ``[S·T]``
        :param lstm_states: of actor and critic before each sequence, each tensor ``[layers, S, hidden]``
        :param episode_starts: ``[S·T]``, 1 where a step is the first of its episode
        :param mask: ``[S·T]``, 0 where a step is padding; ``None``: there is none
        :param context: what else the policy takes: ``action_masks``, ``[S·T, n]``, with MaskableRecurrentRELAXA2C
        :return: name → gradient; the mean is over the steps that are not padding

        Example::

            data = next(model.rollout_buffer.get())._asdict()
            names = ("observations", "actions", "advantages", "lstm_states", "episode_starts", "mask")
            gradient = model.policy_gradient(**{name: data[name] for name in names})
        """
        advantages = th.as_tensor(advantages, device=self.device)
        real = th.ones_like(episode_starts, dtype=th.bool) if mask is None else mask > 0
        self.policy.set_training_mode(True)  # as train() has it; cuDNN differentiates an LSTM in no other
        return super().policy_gradient(
            observations,
            actions,
            advantages[real],
            lstm_states=lstm_states,
            episode_starts=episode_starts,
            mask=real,
            **context,
        )

    def between_updates(self) -> dict[str, Any]:
        return {**super().between_updates(), "lstm_states": self._last_lstm_states}

    def set_between_updates(self, state: dict[str, Any]) -> None:
        super().set_between_updates(state)
        self._last_lstm_states = state["lstm_states"]

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "_last_lstm_states"]
