"""The LSTM states of a recurrent policy, carried from one step to the next by whoever calls."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch as th
from torch import nn

from sb3_relax.export.normalizer import Observation

ACTOR = ("hidden_state", "cell_state")
CRITIC = ("critic_hidden_state", "critic_cell_state")

#: (h, c), each ``[layers, N, hidden]``
State = tuple[th.Tensor, th.Tensor]


class Memory:
    """Steps of a recurrent policy of sb3-contrib, one at a time.

    :param policy: a ``RecurrentActorCriticPolicy``
    :param value: whether V will be asked for: its LSTM's states are carried only then. The attribute ``names`` says
        which states are
    :raises TypeError: for a policy that runs its LSTM in a way of its own
    """

    def __init__(self, policy: Any, value: bool):
        from sb3_relax.algorithm.contrib import RecurrentActorCriticPolicy

        if type(policy)._process_sequence is not RecurrentActorCriticPolicy._process_sequence:
            raise TypeError(
                f"{type(policy).__name__} overrides _process_sequence() of sb3-contrib's recurrent policies, so that "
                "its memory is not known to be an LSTM's: it cannot be exported"
            )
        self.policy = policy
        self.value = value
        self.names = (*ACTOR, *(CRITIC if value and policy.lstm_critic is not None else ()))

    def zeros(self, n: int) -> dict[str, th.Tensor]:
        """The states before the first step of ``n`` environments, by name."""
        lstm = self.policy.lstm_actor
        return {name: th.zeros(lstm.num_layers, n, lstm.hidden_size, device=self.policy.device) for name in self.names}

    def step(
        self, observation: Observation, given: dict[str, th.Tensor], masks: dict[str, th.Tensor]
    ) -> tuple[th.Tensor, th.Tensor | None, tuple[th.Tensor, ...]]:
        """The policy's action, V where it is asked for, and the states after the step in the order of ``names``.

        :param observation: ``[N, *observation shape]``
        :param given: the states before the step, by name, and ``episode_start``, ``[N]``
        :param masks: what else the policy takes, by its names
        """
        actor, critic = (tuple(given[name] for name in names if name in given) for names in (ACTOR, CRITIC))
        starts = given["episode_start"].float()
        with one_step(self.policy) as after:
            action, states = self.policy._predict(
                observation, lstm_states=actor, episode_starts=starts, deterministic=True, **masks
            )
            if not self.value:
                return action, None, states
            value = self.policy.predict_values(observation, critic or actor, starts)
            return action, value, (*states, *after[-1]) if critic else states


@contextmanager
def one_step(policy: Any) -> Iterator[list[State]]:
    """The policy runs its LSTMs for a single step, and does not ask whether any episode starts with it.

    sb3-contrib asks, to be faster where none does. A graph would keep the answer that held when it was traced.

    :return: the states after each run, to be read when they have been made
    """
    states_after: list[State] = []

    def process_step(
        features: th.Tensor, states: State, episode_starts: th.Tensor, lstm: nn.LSTM
    ) -> tuple[th.Tensor, State]:
        hidden, cell = states
        goes_on = (1.0 - episode_starts).reshape(1, -1, 1)
        output, after = lstm(features.unsqueeze(0), (hidden * goes_on, cell * goes_on))
        states_after.append(after)
        return output.squeeze(0), after

    policy._process_sequence = process_step
    try:
        yield states_after
    finally:
        del policy._process_sequence
