"""What recurrent policies add to the shared A2C: LSTM states, padded sequences, and what ĉ reads of the past."""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import PyTorchObs
from stable_baselines3.common.vec_env import VecEnv
from torch.utils.hooks import RemovableHandle

from sb3_relax.common.contrib import (
    RecurrentActorCriticPolicy,
    RecurrentDictRolloutBuffer,
    RecurrentPPO,
    RecurrentRolloutBuffer,
    RNNStates,
)
from sb3_relax.common.errors import UsageError
from sb3_relax.common.surrogate_a2c import Evaluation, SurrogateA2C


class RecurrentSurrogateA2C(SurrogateA2C):
    """Sequences of steps in the place of single ones, as sb3-contrib's RecurrentPPO has them.

    To be put before LAXA2C or RELAXA2C among a class's bases. Rollouts, LSTM states, episode starts and the bootstrap
    at time limits are RecurrentPPO's own code. An update is one pass over its sequences (cut at episode starts and one
    random step) from the states they started with; steps that pad the shorter ones are dropped as soon as the policy
    has evaluated them, before any loss, estimate or statistic.

    ĉ reads the output of the actor's LSTM, detached: what the policy knows of the past, and nothing that came after the
    action, so that it stays a function of the state the policy acted in.
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = RecurrentPPO.policy_aliases
    policy_base = "RecurrentActorCriticPolicy"

    policy: RecurrentActorCriticPolicy

    def _check_hyperparameters(self) -> None:
        super()._check_hyperparameters()
        if self.n_episodes is not None:
            raise UsageError(
                f"{type(self).__name__} updates every n_steps: n_episodes must be None, since sb3-contrib's recurrent "
                f"rollouts are of fixed length; got {self.n_episodes}"
            )
        if self.policy_kwargs.get("squash_output"):
            raise UsageError(
                "squash_output must be False: sb3-contrib's recurrent rollouts hand squashed actions to the "
                "environment without scaling them to its bounds"
            )

    def _setup_model(self) -> None:
        if self.rollout_buffer_class is None:
            has_parts = isinstance(self.observation_space, spaces.Dict)
            self.rollout_buffer_class = RecurrentDictRolloutBuffer if has_parts else RecurrentRolloutBuffer
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

    def _collect(
        self, env: VecEnv, callback: BaseCallback, rollout_buffer: RolloutBuffer, n_rollout_steps: int
    ) -> bool:
        # sb3-contrib's own collection, which needs nothing of RecurrentPPO but what every on-policy algorithm has
        collect: Any = RecurrentPPO.collect_rollouts
        return collect(self, env, callback, rollout_buffer, n_rollout_steps)

    # -- one update ---------------------------------------------------------------------------------------------------

    def _cv_features_dim(self) -> int:
        return self.policy.lstm_output_dim

    def _listen(self, seen: list[th.Tensor]) -> list[RemovableHandle]:
        # what goes into the actor's layers comes out of its LSTM, whole sequences flattened
        layers = self.policy.mlp_extractor.policy_net
        return [layers.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0].detach()))]

    def _context(self, data: Any) -> dict[str, Any]:
        # A sequence can start an episode with its first step alone. With its states at zero beforehand instead of by
        # the flag, the policy runs the LSTM once over all steps instead of once for each
        n_sequences = data.lstm_states.pi[0].shape[1]
        goes_on = 1 - data.episode_starts.reshape(n_sequences, -1)[:, :1]
        states = (tuple(state * goes_on for state in of_one) for of_one in data.lstm_states)
        return {
            "lstm_states": RNNStates(*states),
            "episode_starts": th.zeros_like(data.episode_starts),
            "mask": data.mask > 0,
        }

    def _update(self, data: Any) -> None:
        real = data.mask > 0
        super()._update(data._replace(advantages=data.advantages[real], returns=data.returns[real]))

    def _evaluate(self, observations: PyTorchObs, actions: th.Tensor, **context: Any) -> Evaluation:
        real = context.pop("mask")
        # cuDNN has no second derivative of an LSTM, which ‖Σ_t ĝ_t‖² at the weights needs
        with th.backends.cudnn.flags(enabled=False) if self.cv_objective == "weights" else nullcontext():
            step = super()._evaluate(observations, actions, **context)
        return Evaluation(
            step.latent.at(step.latent.theta[real]),
            step.sample[real],
            step.features[real],
            step.values[real],
            step.log_prob[real],
            None if step.entropy is None else step.entropy[real],
        )

    def _predict_values(self, observations: PyTorchObs, **context: Any) -> th.Tensor:
        states, starts = context["lstm_states"].vf, context["episode_starts"]
        values: th.Tensor = self.policy.predict_values(observations, states, starts)  # type: ignore[arg-type]
        return values.flatten()[context["mask"]]

    # -- public -------------------------------------------------------------------------------------------------------

    def policy_gradient(  # type: ignore[override]
        self,
        observations: PyTorchObs | np.ndarray,
        actions: th.Tensor | np.ndarray,
        advantages: th.Tensor | np.ndarray,
        *,
        lstm_states: RNNStates,
        episode_starts: th.Tensor,
        mask: th.Tensor | None = None,
    ) -> dict[str, th.Tensor]:
        """As :meth:`SurrogateA2C.policy_gradient`, for S sequences of up to T steps, one after the other.

        :param observations: ``[S·T, *obs_shape]``, shorter sequences padded (a dict of such for MultiInput)
        :param actions: ``[S·T]`` or ``[S·T, D]``
        :param advantages: Â, ``[S·T]``
        :param lstm_states: of actor and critic before each sequence, each tensor ``[layers, S, hidden]``
        :param episode_starts: ``[S·T]``, 1 where a step is the first of its episode
        :param mask: ``[S·T]``, 0 where a step is padding; ``None``: there is none
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
        )

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "_last_lstm_states"]
