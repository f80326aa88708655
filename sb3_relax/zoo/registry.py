"""Our algorithms in rl_zoo3, which has no plug-in point: its tables are filled and its manager is replaced."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import rl_zoo3.exp_manager
import rl_zoo3.hyperparams_opt
import rl_zoo3.utils
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv

from sb3_relax import LAXA2C, RELAXA2C, HybridRELAXA2C, RecurrentLAXA2C, RecurrentRELAXA2C
from sb3_relax.algorithm.a2c import ControlVariateA2C
from sb3_relax.errors import unknown_name
from sb3_relax.zoo.arguments import StoreDict, get_model_path
from sb3_relax.zoo.hyperparams import RATES, check_keys, check_sizes, hyperparams_file, read_entries, to_rate
from sb3_relax.zoo.samplers import convert_params, sample_laxa2c_params, sample_relaxa2c_params
from sb3_relax.zoo.storage import open_storage, require_trial

ALGORITHMS: dict[str, type[ControlVariateA2C]] = {
    "laxa2c": LAXA2C,
    "relaxa2c": RELAXA2C,
    "relaxa2c_hybrid": HybridRELAXA2C,
    "laxa2c_lstm": RecurrentLAXA2C,
    "relaxa2c_lstm": RecurrentRELAXA2C,
}
#: short name → what Optuna draws. MaskableRELAXA2C has none: rl_zoo3 has no place for masks in ``enjoy``
SAMPLERS = {
    name: sample_laxa2c_params if issubclass(algorithm, LAXA2C) else sample_relaxa2c_params
    for name, algorithm in ALGORITHMS.items()
}


class ExperimentManager(rl_zoo3.exp_manager.ExperimentManager):
    """rl_zoo3's, which finds our YAML files, checks their keys, and reads ``cv_learning_rate: lin_x``."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        own = None if kwargs.get("config") else hyperparams_file(self.algo)
        # of a2c, ours has the entries that match laxa2c.yml and relaxa2c.yml; rl_zoo3's has the others
        if own is not None and (self.algo in ALGORITHMS or self.env_name.gym_id in read_entries(own)):
            self.config = str(own)

    def read_hyperparameters(self) -> tuple[dict[str, Any], dict[str, Any]]:
        self._check_entry()
        hyperparams, saved = super().read_hyperparameters()
        check_keys(self.algo, self.env_name.gym_id, set(hyperparams), rl_zoo3.utils.ALGOS)
        return hyperparams, saved

    def create_envs(self, *args: Any, **kwargs: Any) -> VecEnv:
        env = super().create_envs(*args, **kwargs)
        if self.algo in ALGORITHMS:  # before the first trial, around whose error Optuna would print a traceback
            ALGORITHMS[self.algo].require_action_space(env.action_space)
        return env

    def hyperparameters_optimization(self) -> None:
        if self.storage is not None:
            open_storage(self.storage)
        super().hyperparameters_optimization()

    def load_trial(
        self, storage: str, study_name: str, trial_id: int | None = None, convert: bool = True
    ) -> dict[str, Any]:
        if trial_id is not None:
            require_trial(storage, study_name, trial_id)
        parameters: dict[str, Any] = super().load_trial(storage, study_name, trial_id, convert)
        return parameters

    def _check_entry(self) -> None:
        if not self.config.endswith((".yml", ".yaml")):
            return  # a Python module, which rl_zoo3 executes
        entries = read_entries(self.config)
        if self.env_name.gym_id not in entries and ("atari" if self._is_atari else "default") not in entries:
            raise unknown_name(f"entry of {self.config}", self.env_name.gym_id, entries)

    def _preprocess_hyperparams(
        self, hyperparams: dict[str, Any]
    ) -> tuple[dict[str, Any], Callable | None, list[BaseCallback], Callable | None]:
        check_sizes(hyperparams)
        rates = {}
        if self.algo in ALGORITHMS:  # taken out: rl_zoo3 has a reading of its own
            rates = {key: to_rate(key, hyperparams.pop(key)) for key in RATES if key in hyperparams}
        hyperparams, *rest = super()._preprocess_hyperparams(hyperparams)
        return hyperparams | rates, *rest  # type: ignore[return-value]


def register() -> None:
    """Make the names in ``ALGORITHMS`` known to rl_zoo3's commands. Calling it again changes nothing."""
    rl_zoo3.utils.ALGOS.update(ALGORITHMS)
    rl_zoo3.hyperparams_opt.HYPERPARAMS_SAMPLER.update(SAMPLERS)
    rl_zoo3.hyperparams_opt.HYPERPARAMS_CONVERTER.update({name: convert_params for name in SAMPLERS})
    rl_zoo3.utils.StoreDict = StoreDict  # type: ignore[misc]
    rl_zoo3.utils.get_model_path = get_model_path  # type: ignore[assignment]
    # the commands import the manager from here when they are run
    rl_zoo3.exp_manager.ExperimentManager = ExperimentManager  # type: ignore[misc]
