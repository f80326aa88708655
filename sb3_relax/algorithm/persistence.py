"""Saving and loading an algorithm: SB3's way, atomic, with the noise's stream, and with files of earlier versions."""

from __future__ import annotations

import copy
import io
import pathlib
from collections.abc import Iterable
from typing import Any, TypeVar

import numpy as np
import torch as th
from stable_baselines3.common.save_util import load_from_zip_file, open_path
from stable_baselines3.common.type_aliases import GymEnv
from stable_baselines3.common.vec_env import VecEnvWrapper

from sb3_relax.algorithm.continuation import Continued, add_member, member_of
from sb3_relax.algorithm.finite import require_finite_policy
from sb3_relax.algorithm.older_files import fitted_to
from sb3_relax.algorithm.presets import values_for
from sb3_relax.algorithm.safe_load import of_tensors_and_settings, without_code
from sb3_relax.algorithm.saved_agents import checked_file, named, require_own_file
from sb3_relax.control_variates.base import ControlVariate
from sb3_relax.files import sealed, write_whole
from sb3_relax.policy_gradient.advantage_scale import AdvantageScale
from sb3_relax.policy_gradient.distribution_graphs import forget_graph
from sb3_relax.policy_gradient.expected_steps import ExpectedSteps
from sb3_relax.policy_gradient.hyperparameters import ATTRIBUTES
from sb3_relax.policy_gradient.update_rules.base import UpdateRule

SelfPersistence = TypeVar("SelfPersistence", bound="Persistence")


class Persistence(Continued):
    """The part of an algorithm that is written and read, the stream of the control variate's noise included.

    State dicts hold tensors alone. The hyper-parameters are saved as attributes, and what is made of them is not.
    """

    control_variate: ControlVariate
    update_rule: UpdateRule
    expected_steps: ExpectedSteps
    advantage_scale: AdvantageScale
    normalize_advantage: bool | str
    noise_generator: th.Generator

    @property
    def cv_optimizer(self) -> th.optim.Optimizer | None:
        """φ's optimizer, where it has one."""
        return self.control_variate.optimizer

    def set_random_seed(self, seed: int | None = None) -> None:
        """Seed everything A2C seeds, and the relaxation's noise."""
        super().set_random_seed(seed)
        if seed is not None and hasattr(self, "noise_generator"):
            self.seed_noise(seed)

    def seed_noise(self, seed: int) -> None:
        """Start the stream of the control variate's noise anew."""
        # never the seed itself: torch's own generator has it, and the noise would be the numbers behind the actions
        self.noise_generator.manual_seed(mixed_seed(seed, "noise"))

    def _setup_noise(self, seed: int) -> None:
        """Make the stream: where it was saved, for an agent that is being loaded."""
        self.noise_generator = th.Generator(device=self.device)
        self.seed_noise(seed)
        device, state = getattr(self, "noise_state", None) or ("", "")
        if device == self.device.type:
            # earlier versions kept the array, which JSON has no form for
            array = np.frombuffer(bytes.fromhex(state), np.uint8).copy() if isinstance(state, str) else state
            self.noise_generator.set_state(th.from_numpy(array))

    @classmethod
    def load(
        cls: type[SelfPersistence],
        path: Any,
        env: GymEnv | None = None,
        device: th.device | str = "auto",
        custom_objects: dict[str, Any] | None = None,
        *args: Any,
        weights_only: bool = False,
        seed: int | None = None,
        preset: str | None = None,
        **kwargs: Any,
    ) -> SelfPersistence:
        """As SB3's. The relaxation's noise goes on where it was saved, unless a ``seed`` is given.

        **An agent's file can run any code when it is loaded**, as any pickle can. Load the file of somebody whom you do
        not trust with ``weights_only=True``, which reads tensors and plain JSON alone: the spaces are the environment's
        and the policy is one of SB3's, sb3-contrib's or ours. What else the file holds must be handed in. Only the last
        observation, the statistics of earlier episodes, for the log, and what ``exact=True`` saved are left out;
        learning goes on with a reset.

        The file's digest is checked before anything of it is used; files of earlier versions, and SB3's, have none. It
        tells damage, and not who wrote a file.

        From a file that was saved with ``exact=True``, ``learn(..., reset_num_timesteps=False)`` goes on to the last
        bit: it begins by putting the environments into the state and the settings in which they were saved,
        VecNormalize included, and the process's streams of random numbers (Python's, NumPy's and torch's) where they
        were. Where the environments do not fit, a warning says so, and they begin with a reset.

        :param path: of the file, or the file
        :param env: as SB3's; needed with ``weights_only``
        :param device: as SB3's
        :param custom_objects: attribute → value, in the place of what the file has
        :param weights_only: run nothing of the file, as ``torch.load`` has it
        :param seed: replaces the one saved, and starts every stream of random numbers anew: learning does not go on
            exactly, whatever the file has
        :param preset: its values replace those saved, as keywords do, but for values that are given. The kind of
            optimizer stays the one saved
        :raises NeedsTrust: (a ``ValueError``) with ``weights_only``, naming what the file has that only code can read,
            such as a policy of one's own
        :raises UsageError: (a ``ValueError``) for a damaged file, for an agent of another class, naming that class, and
            for a ``cv_action_dependent`` that is not the saved one

        Example::

            model = RELAXA2C.load("downloaded.zip", env, weights_only=True)
        """
        if preset is not None:
            # the file's policy has begun already
            kwargs |= values_for(preset, {"initial_action_std": None, **kwargs}, cls)
        if seed is not None:
            kwargs["seed"] = seed
        attributes = {ATTRIBUTES.get(name, name): value for name, value in kwargs.items()}
        file = checked_file(path)
        if weights_only:
            env, custom_objects = without_code(cls, file, env, custom_objects, attributes, named(path))
            file = of_tensors_and_settings(file, named(path))
        try:
            model = super().load(file, env, device, custom_objects, *args, **attributes)
        except Exception:
            # another class's agent fails in many ways; only then is the file read again, to see whose it is
            require_own_file(cls, path, custom_objects, kwargs.get("cv_action_dependent"))
            raise
        if seed is None:
            model.continuation = member_of(file)
        else:
            model.seed_noise(seed)
        return model

    def set_parameters(
        self,
        load_path_or_dict: str | dict[str, Any],
        exact_match: bool = True,
        device: th.device | str = "auto",
    ) -> None:
        """As SB3's; parameters of earlier versions, and of an agent with another ``cv_guard``, are taken too."""
        if isinstance(load_path_or_dict, dict):
            parameters = load_path_or_dict
        else:
            parameters = load_from_zip_file(checked_file(load_path_or_dict), device=device, load_data=False)[1]
        super().set_parameters(fitted_to(self, parameters, exact_match), exact_match, device)

    def save(
        self,
        path: str | pathlib.Path | Any,
        exclude: Iterable[str] | None = None,
        include: Iterable[str] | None = None,
        exact: bool = False,
    ) -> None:
        """As SB3's, with a digest, and atomic for a path: a kill or a full disk leaves the previous file whole.

        :param exact: whether learning is to go on from the file to the last bit, as it would without being interrupted.
            The file then also has the state of the environments and of all streams of random numbers. A warning says
            where environments cannot be saved
        :raises UsageError: (a ``ValueError``) for a policy with a weight that is NaN or infinite, which would replace
            an agent that can act by one that cannot. With ``exact`` also in the middle of a rollout, and where the
            environments are those of a SubprocVecEnv, or there are none. Nothing is written

        Example::

            model.learn(50_000)
            model.save("half", exact=True)

            # in another process
            model = RELAXA2C.load("half", env=env)
            model.learn(50_000, reset_num_timesteps=False)  # as model.learn(50_000, reset_num_timesteps=False) above
        """
        require_finite_policy(self.policy, self._n_updates)
        member = self.exact_member() if exact else None
        self.noise_state = (self.device.type, self.noise_generator.get_state().numpy().tobytes().hex())
        file = io.BytesIO()
        super().save(file, exclude, include)
        if member is not None:
            add_member(file, member)
        content = sealed(file.getvalue())
        if not isinstance(path, (str, pathlib.Path)):
            open_path(path, "w").write(content)
            return
        path = pathlib.Path(path)
        write_whole(path if path.suffix else path.with_suffix(".zip"), content)

    def __deepcopy__(self: SelfPersistence, memo: dict[int, Any]) -> SelfPersistence:
        """What ``copy.deepcopy(model)`` gives: an agent with weights, statistics, streams and environments of its own.

        The logger, whose files are open, stays the same one; ``learn()`` makes another.
        """
        policy: Any = getattr(self, "policy", None)
        if policy is not None:
            forget_graph(policy.action_dist)
        if hasattr(self, "_logger"):
            memo[id(self._logger)] = self._logger
        copy_wrappers(getattr(self, "env", None), memo)
        made = memo[id(self)] = object.__new__(type(self))
        made.__dict__.update(copy.deepcopy(self.__dict__, memo))
        return made

    def _excluded_save_params(self) -> list[str]:
        parts = ["view", "critic", "control_variate", "update_rule", "expected_steps", "advantage_scale"]
        return [*super()._excluded_save_params(), *parts, "noise_generator", "time_limits"]

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        # in the order they are set: what may be refused, ĉ by cv_action_dependent, before the policy has changed
        names = ["control_variate", *(["cv_optimizer"] if self.cv_optimizer is not None else [])]
        names += ["expected_steps"] if self.expected_steps.longest is not None else []
        names += ["update_rule"] if self.update_rule.state_dict() else []
        names += ["advantage_scale"] if self.normalize_advantage == "running" else []
        names += ["critic"] if self.critic.state_dict() else []
        names += ["critic.optimizer"] if self.critic.optimizer is not None else []
        return [*names, "policy", "policy.optimizer"], []


def copy_wrappers(env: GymEnv | None, memo: dict[int, Any]) -> None:
    """Deep copies of all VecEnvWrappers around an environment into ``memo``, each around the copy of what it wraps.

    SB3's keep a list of their class's attributes, which cannot be copied, but for VecNormalize, whose copy has no
    environment, as its pickle has none. A wrapper with a ``__deepcopy__`` of its own is copied by that.
    """
    if not isinstance(env, VecEnvWrapper):
        return
    copy_wrappers(env.venv, memo)
    if hasattr(type(env), "__deepcopy__"):
        copy.deepcopy(env, memo)
        return
    made = memo[id(env)] = object.__new__(type(env))
    for name, value in vars(env).items():
        made.__dict__[name] = value if name == "class_attributes" else copy.deepcopy(value, memo)


def mixed_seed(seed: int, purpose: str) -> int:
    """A seed whose stream has nothing in common with that of ``seed``, nor with another purpose's."""
    (mixed,) = np.random.SeedSequence([seed, *purpose.encode()]).generate_state(1, np.uint64)
    return int(mixed) >> 1
