"""Learning that goes on from a file as if it had never been interrupted."""

from __future__ import annotations

import io
import warnings
import zipfile
from typing import Any, NamedTuple

import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import SubprocVecEnv, VecEnv

from sb3_relax.algorithm.random_streams import set_streams_of_process, streams_of_process
from sb3_relax.control_variates.base import ControlVariate
from sb3_relax.environment_layers import NotSaved, all_layers, restore, state_of, vec_layers
from sb3_relax.errors import UsageError
from sb3_relax.policy_gradient.critic import Critic

#: the member of an agent's file by which learning goes on exactly. It is a pickle, and reading it runs what it names
MEMBER = "exact.pkl"


class RolloutStart(NamedTuple):
    """Where a rollout began that is being collected."""

    timesteps: int  #: steps of all environments before it
    streams: dict[str, Any]  #: torch's streams of random numbers before gSDE drew its noise; empty without gSDE


class Continued(BaseAlgorithm):
    """The part of an algorithm that is saved with ``exact=True``, and goes on where it was.

    What an update and a rollout need beside what every file has: the streams of random numbers of the process, the
    state of the environments and of VecNormalize, and what subclasses name in :meth:`between_updates`.
    """

    critic: Critic
    control_variate: ControlVariate
    #: where the rollout began that is being collected; ``None`` between rollouts
    rollout_start: RolloutStart | None
    #: what :data:`MEMBER` has, from ``load()`` until ``learn()`` begins
    continuation: bytes | None = None

    @property
    def remaining_timesteps(self) -> int:
        """Steps that the last ``learn()`` was asked for and has not made: 0 where it came to its end.

        Example::

            model = RELAXA2C.load("checkpoints/rl_model_50000_steps", env=env)
            model.learn(model.remaining_timesteps, reset_num_timesteps=False)
        """
        return max(self._total_timesteps - self.num_timesteps, 0)

    def between_updates(self) -> dict[str, Any]:
        """What the next rollout or update needs and no file has otherwise, by name."""
        replay = self.critic.replay
        return {
            "last_obs": self._last_obs,
            "replay": [] if replay is None else list(replay.rollouts),
            "control_variate": self.control_variate.between_updates(),
        }

    def set_between_updates(self, state: dict[str, Any]) -> None:
        """:param state: of :meth:`between_updates`, with its tensors on the agent's device"""
        self._last_obs = state["last_obs"]
        if self.critic.replay is not None:
            self.critic.replay.rollouts.clear()
            self.critic.replay.rollouts.extend(state["replay"])
        self.control_variate.set_between_updates(state["control_variate"])

    def exact_member(self) -> bytes:
        """What goes into a file as :data:`MEMBER`.

        :raises UsageError: in the middle of a rollout, for environments in other processes, and for none
        """
        if self.continuation is not None:  # nothing was learned since it was loaded
            return self.continuation
        start = self.rollout_start
        if start is not None and start.timesteps != self.num_timesteps:
            raise UsageError(
                "save(..., exact=True) cannot save the middle of a rollout, from which no other agent could go on: use "
                "sb3_relax.callbacks.ExactCheckpointCallback, which waits for the update that follows, or save after "
                "learn(), in a callback's _on_rollout_start() or in its _on_training_end()"
            )
        if self.env is None:
            raise UsageError("save(..., exact=True) saves the environments too, and this agent has none: set_env(env)")
        require_in_process(self.env)
        whole, lost = _state_of(all_layers(self.env))
        if whole is None:
            warnings.warn(
                f"the environments cannot be saved ({lost}). Learning from this file goes on exactly but for them: "
                "they begin with a reset",
                stacklevel=3,
            )
        state = {
            "streams": {**streams_of_process(self.device), **({} if start is None else start.streams)},
            "between_updates": self.between_updates(),
            "n_envs": self.n_envs,
            "environments": whole,
            "wrappers": _state_of(vec_layers(self.env)[:-1])[0],
            "lost": lost,
        }
        file = io.BytesIO()
        th.save(state, file)
        return file.getvalue()

    def _setup_learn(
        self, total_timesteps: int, callback: Any = None, reset_num_timesteps: bool = True, *args: Any, **kwargs: Any
    ) -> Any:
        streams: dict[str, Any] = {}
        if self.continuation is not None and self.env is not None:
            if reset_num_timesteps:
                warnings.warn(
                    "learn() begins anew, with a reset of the environments. To go on exactly from the file that was "
                    "loaded, call learn(model.remaining_timesteps, reset_num_timesteps=False)",
                    stacklevel=3,
                )
            else:
                streams = self._go_on_from(self.continuation, self.env)
        made = super()._setup_learn(total_timesteps, callback, reset_num_timesteps, *args, **kwargs)
        if streams:  # as the last, since callbacks that begin and environments that are reset may draw from them
            set_streams_of_process(streams, self.device)
        self.continuation = None
        return made

    def _go_on_from(self, member: bytes, env: VecEnv) -> dict[str, Any]:
        """Put back what was saved, but for the streams of random numbers.

        :return: those streams; empty where the file is none to go on from
        """
        self._last_obs = None  # which makes learn() begin with a reset
        try:
            saved = th.load(io.BytesIO(member), map_location=self.device, weights_only=False)
        except Exception as error:  # of a class that is not there in this process
            _warn(f"{type(error).__name__}: {error}", wrappers=False)
            return {}
        if self.n_envs != saved["n_envs"]:
            _warn(f"{self.n_envs} of them were given, and saved were {saved['n_envs']}", wrappers=False)
            return {}
        lost = _restored(all_layers(env), saved["environments"], saved["lost"])
        if lost:
            saved["between_updates"]["last_obs"] = None
            _warn(lost, wrappers=not _restored(vec_layers(env)[:-1], saved["wrappers"], lost))
        self.set_between_updates(saved["between_updates"])
        return dict(saved["streams"])

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "continuation", "rollout_start"]


def require_in_process(env: VecEnv) -> None:
    """:raises UsageError: for environments in other processes, which keep their state there"""
    if isinstance(vec_layers(env)[-1], SubprocVecEnv):
        raise UsageError(
            "with exact=True the state of the environments is saved, and SubprocVecEnv has them in other processes: "
            "use a DummyVecEnv, as make_vec_env() makes by itself, or save without exact=True, as "
            "stable_baselines3's CheckpointCallback does"
        )


def member_of(file: io.BytesIO) -> bytes | None:
    """:data:`MEMBER` of an agent's file; ``None`` where it was saved without ``exact=True``."""
    with zipfile.ZipFile(file) as archive:
        return archive.read(MEMBER) if MEMBER in archive.namelist() else None


def add_member(file: io.BytesIO, member: bytes) -> None:
    """Put :data:`MEMBER` into an agent's file, which has no digest yet."""
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr(MEMBER, member)


def _state_of(layers: list[Any]) -> tuple[bytes | None, str]:
    """Their state or, where it cannot be saved, why."""
    try:
        return state_of(layers), ""
    except NotSaved as error:
        return None, str(error)


def _restored(layers: list[Any], state: bytes | None, lost: str) -> str:
    """Put layers into a state.

    :param lost: why there is none
    :return: why they are not in it; empty where they are
    """
    if state is None:
        return lost
    try:
        restore(layers, state)
    except NotSaved as error:
        return str(error)
    return ""


def _warn(why: str, wrappers: bool) -> None:
    """Say that environments begin with a reset.

    :param wrappers: whether SB3's wrappers around them are as they were
    """
    warnings.warn(
        f"the environments are not as they were when the agent was saved ({why}). They begin with a reset, so that "
        "learning does not go on exactly. "
        + (
            "Wrappers such as VecNormalize go on as they were"
            if wrappers
            else "Wrappers such as VecNormalize stay as they were given"
        ),
        stacklevel=4,
    )
