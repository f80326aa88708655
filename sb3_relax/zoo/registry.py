"""Our algorithms in rl_zoo3, which has no plug-in point: its tables are filled and its manager is replaced."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import optuna
import rl_zoo3
import rl_zoo3.exp_manager
import rl_zoo3.hyperparams_opt
import rl_zoo3.utils
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import SubprocVecEnv, VecEnv, VecNormalize

from sb3_relax import LAXA2C, RELAXA2C, HybridRELAXA2C, RecurrentLAXA2C, RecurrentRELAXA2C
from sb3_relax.algorithm.a2c import ControlVariateA2C
from sb3_relax.algorithm.checkpoints import ExactCheckpointCallback
from sb3_relax.algorithm.vec_normalize import save_vec_normalize
from sb3_relax.errors import NeedsTrust, UsageError, unknown_name
from sb3_relax.zoo.arguments import StoreDict, get_model_path
from sb3_relax.zoo.entries import TRUST, require_known
from sb3_relax.zoo.hyperparams import (
    RATES,
    check_keys,
    check_sizes,
    hyperparams_file,
    read_entries,
    require_own_name,
    to_rate,
)
from sb3_relax.zoo.journal import Journal
from sb3_relax.zoo.masks import MaskableRecurrentRELAXA2C, MaskableRELAXA2C, showing_masks
from sb3_relax.zoo.matched import MatchedA2C
from sb3_relax.zoo.samplers import convert_params, sample_laxa2c_params, sample_matched_params, sample_relaxa2c_params
from sb3_relax.zoo.storage import open_storage, require_trial
from sb3_relax.zoo.strangers import (
    PlainVecNormalize,
    checking_hyperparams,
    get_saved_hyperparams,
    loading_plainly,
)
from sb3_relax.zoo.trials import fail_killed, mark

ALGORITHMS: dict[str, type[ControlVariateA2C]] = {
    "laxa2c": LAXA2C,
    "relaxa2c": RELAXA2C,
    "relaxa2c_mask": MaskableRELAXA2C,
    "relaxa2c_hybrid": HybridRELAXA2C,
    "laxa2c_lstm": RecurrentLAXA2C,
    "relaxa2c_lstm": RecurrentRELAXA2C,
    "relaxa2c_mask_lstm": MaskableRecurrentRELAXA2C,
    "a2c_matched": MatchedA2C,
}
#: those and rl_zoo3's, as they are
ALL = {**rl_zoo3.utils.ALGOS, **ALGORITHMS}
#: short name → what Optuna draws
SAMPLERS = {
    name: sample_laxa2c_params if issubclass(algorithm, LAXA2C) else sample_relaxa2c_params
    for name, algorithm in ALGORITHMS.items()
}
SAMPLERS["a2c_matched"] = sample_matched_params

#: rl_zoo3's, which ours uses
create_test_env = rl_zoo3.utils.create_test_env

#: policies that SB3 refuses where observations are a Dict → those to use there
FOR_ARRAYS = {"MlpPolicy": "MultiInputPolicy", "MlpLstmPolicy": "MultiInputLstmPolicy"}

STOP = "stable_baselines3.common.callbacks.StopTrainingOnMaxEpisodes"


#: the environment that a command has made, for its agent, whose ``load()`` gets none from ``enjoy``
made_environments: list[VecEnv] = []


def create_test_env_with_masks(*args: Any, **kwargs: Any) -> VecEnv:
    """rl_zoo3's environment for ``enjoy`` and ``record``, whose masks an agent finds."""
    made_environments[:] = [showing_masks(create_test_env(*args, **kwargs))]
    return made_environments[0]


class ExperimentManager(rl_zoo3.exp_manager.ExperimentManager):
    """rl_zoo3's, which finds our YAML files, checks their keys, and reads ``cv_learning_rate: lin_x``."""

    #: ``--max-episodes``
    max_episodes: ClassVar[int | None] = None
    #: ``--trust``: whether an entry of ``--conf-file`` may run any code
    trusted: ClassVar[bool] = False
    #: modules that the user names, whose wrappers and callbacks an entry may name
    packages: ClassVar[tuple[str, ...]] = ()
    #: why the last trial failed that did
    failure: str | None = None

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.is_named = bool(kwargs.get("config"))
        own = None if self.is_named else hyperparams_file(self.algo)
        # of a2c, ours has the entries that match laxa2c.yml and relaxa2c.yml; rl_zoo3's has the others
        if own is not None and (self.algo in ALGORITHMS or self.env_name.gym_id in read_entries(own)):
            self.config = str(own)

    def read_hyperparameters(self) -> tuple[dict[str, Any], dict[str, Any]]:
        self._check_entry()
        if self.trial_id is not None:  # read here: rl_zoo3 takes trial 0 for none
            assert self.storage is not None  # the command has seen to it
            assert self.study_name is not None
            trial = self.load_trial(self.storage, self.study_name, self.trial_id)
            self.custom_hyperparams = trial | (self.custom_hyperparams or {})
            self.trial_id = None
        hyperparams, saved = super().read_hyperparameters()
        check_keys(self.algo, self.env_name.gym_id, set(hyperparams), rl_zoo3.utils.ALGOS)
        require_own_name(self.algo, hyperparams)
        if self.max_episodes is not None:
            before = hyperparams.get("callback") or []
            stop = {STOP: {"max_episodes": self.max_episodes, "verbose": 1}}
            hyperparams["callback"] = saved["callback"] = [*(before if isinstance(before, list) else [before]), stop]
        return hyperparams, saved

    def _load_pretrained_agent(self, *args: Any, **kwargs: Any) -> BaseAlgorithm:
        beside = Path(self.trained_agent).parent / "replay_buffer.pkl"
        if beside.exists() and not self.trusted:
            raise NeedsTrust(f"{beside} is a pickle, which would run what it holds when it is read; {TRUST}")
        return super()._load_pretrained_agent(*args, **kwargs)

    def create_envs(self, *args: Any, **kwargs: Any) -> VecEnv:
        env = showing_masks(super().create_envs(*args, **kwargs))
        if self.algo in ALGORITHMS:  # before the first trial, around whose error Optuna would print a traceback
            ALGORITHMS[self.algo].require_action_space(env.action_space)
        return env

    def create_callbacks(self) -> None:
        # rl_zoo3's checkpoints (--save-freq) are those of Stable-Baselines3, as they stay where ours would be refused
        every, exact = self.save_freq, self.algo in ALGORITHMS and self.vec_env_class is not SubprocVecEnv
        if exact:
            self.save_freq = 0
        super().create_callbacks()
        if exact and every > 0:
            self.callbacks.append(ExactCheckpointCallback(max(every // self.n_envs, 1), self.save_path))

    def hyperparameters_optimization(self) -> None:
        if self.storage is not None:
            storage = open_storage(self.storage)
            if self.study_name in [study.study_name for study in storage.get_all_studies()]:
                fail_killed(optuna.load_study(study_name=self.study_name, storage=storage))
        try:
            super().hyperparameters_optimization()
        except ValueError as error:
            if "No trials are completed" not in str(error):  # Optuna's own words, where no trial is the best
                raise
            why = f"; the last that failed: {self.failure}" if self.failure else ""
            raise UsageError(f"the search has no result, since none of its trials was completed{why}") from error

    def objective(self, trial: optuna.Trial) -> float:
        mark(trial)
        try:
            return super().objective(trial)
        except optuna.TrialPruned as error:
            if error.__cause__ is not None:  # not by the pruner
                self.failure = f"trial {trial.number}: {error.__cause__}"
            raise
        finally:
            fail_killed(trial.study)  # before it is counted how many there are

    def load_trial(
        self, storage: str, study_name: str, trial_id: int | None = None, convert: bool = True
    ) -> dict[str, Any]:
        if trial_id is not None:
            require_trial(storage, study_name, trial_id)
        parameters: dict[str, Any] = super().load_trial(storage, study_name, trial_id, convert)
        return parameters

    def _check_entry(self) -> None:
        if not self.config.endswith((".yml", ".yaml")):
            print(f"{self.config} is Python, which is run")
            return
        entries = read_entries(self.config)
        name = next(
            (name for name in (self.env_name.gym_id, "atari" if self._is_atari else "default") if name in entries), None
        )
        if name is None:
            raise unknown_name(f"entry of {self.config}", self.env_name.gym_id, entries)
        if self.is_named and not self.trusted:
            require_known(entries[name], self.packages, self.config)

    def _preprocess_action_noise(
        self, hyperparams: dict[str, Any], saved_hyperparams: dict[str, Any], env: VecEnv
    ) -> dict[str, Any]:
        # here alone rl_zoo3 has the environment and the hyper-parameters. The entry "default" knows no observations
        policy = hyperparams["policy"]
        if self.algo in ALGORITHMS and isinstance(env.observation_space, spaces.Dict) and policy in FOR_ARRAYS:
            hyperparams["policy"] = saved_hyperparams["policy"] = FOR_ARRAYS[policy]
            print(f"The observations are a Dict: {FOR_ARRAYS[policy]} is taken, where the entry has {policy}")
        return super()._preprocess_action_noise(hyperparams, saved_hyperparams, env)

    def _preprocess_hyperparams(
        self, hyperparams: dict[str, Any]
    ) -> tuple[dict[str, Any], Callable | None, list[BaseCallback], Callable | None]:
        check_sizes(hyperparams)
        rates = {}
        if self.algo in ALGORITHMS:  # taken out: rl_zoo3 has a reading of its own
            rates = {key: to_rate(key, hyperparams.pop(key)) for key in RATES if key in hyperparams}
        hyperparams, *rest = super()._preprocess_hyperparams(hyperparams)
        return hyperparams | rates, *rest  # type: ignore[return-value]


def register(max_episodes: int | None = None, trusted: bool = False, packages: Sequence[str] = ()) -> None:
    """Make the names in ``ALGORITHMS`` known to rl_zoo3's commands, which read agents as told here.

    :param max_episodes: training stops after so many episodes of each environment
    :param trusted: whether files may run the code that they hold
    :param packages: modules that the user names, whose wrappers and callbacks files may name
    """
    rl_zoo3.utils.ALGOS.update(
        ALL if trusted else {name: loading_plainly(kind, made_environments) for name, kind in ALL.items()}
    )
    rl_zoo3.utils.VecNormalize = rl_zoo3.exp_manager.VecNormalize = (  # type: ignore[misc]
        VecNormalize if trusted else PlainVecNormalize
    )
    VecNormalize.save = save_vec_normalize  # type: ignore[assignment, method-assign]  # whole or not at all
    rl_zoo3.get_saved_hyperparams = rl_zoo3.utils.get_saved_hyperparams = (
        get_saved_hyperparams if trusted else checking_hyperparams(packages)
    )
    ExperimentManager.trusted, ExperimentManager.packages = trusted, tuple(packages)
    rl_zoo3.hyperparams_opt.HYPERPARAMS_SAMPLER.update(SAMPLERS)
    rl_zoo3.hyperparams_opt.HYPERPARAMS_CONVERTER.update({name: convert_params for name in SAMPLERS})
    rl_zoo3.utils.StoreDict = StoreDict  # type: ignore[misc]
    rl_zoo3.utils.get_model_path = get_model_path  # type: ignore[assignment]
    # enjoy imports it from the package, record from its module
    rl_zoo3.create_test_env = rl_zoo3.utils.create_test_env = create_test_env_with_masks
    ExperimentManager.max_episodes = max_episodes
    # the manager opens the journal by this name
    optuna.storages.journal.JournalFileBackend = Journal  # type: ignore[misc]
    # the commands import the manager from here when they are run
    rl_zoo3.exp_manager.ExperimentManager = ExperimentManager  # type: ignore[misc]
