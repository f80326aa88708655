"""Learning goes on from an exact file as if it had never been interrupted: to the last bit, and in every class."""

import io
import os
import pickle
import random
import signal
import subprocess
import sys
import time
import warnings
import zipfile

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from gymnasium.utils import EzPickle
from stable_baselines3 import A2C
from stable_baselines3.common.callbacks import BaseCallback, EveryNTimesteps, StopTrainingOnMaxEpisodes
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import KVWriter, Logger
from stable_baselines3.common.save_util import load_from_zip_file
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecFrameStack, VecMonitor, VecNormalize

from sb3_relax import (
    LAXA2C,
    RELAXA2C,
    HybridRELAXA2C,
    MaskableRecurrentRELAXA2C,
    MaskableRELAXA2C,
    RecurrentLAXA2C,
    RecurrentRELAXA2C,
)
from sb3_relax.algorithm.continuation import MEMBER, member_of
from sb3_relax.algorithm.vec_normalize import save_vec_normalize
from sb3_relax.callbacks import ExactCheckpointCallback
from sb3_relax.environment_layers import all_layers, restore, state_of
from sb3_relax.errors import UsageError
from tests.helpers import ACTION_SPACES, TinyEnv

DISCRETE, BOX = ACTION_SPACES["discrete"], ACTION_SPACES["box"]
PARTS = spaces.Dict(move=spaces.Box(-1.0, 1.0, (2,), np.float32), tool=spaces.Discrete(3))
LINEAR = LinearSchedule(start=1e-2, end=0.0, end_fraction=1.0)
SCHEDULES = dict(learning_rate=LINEAR, cv_learning_rate=LINEAR, ent_coef=LINEAR)
SMALL = dict(policy_kwargs=dict(lstm_hidden_size=4))


class Walk(TinyEnv):
    """Rewards with noise from every stream that an environment may draw from, and masks that change."""

    def step(self, action):
        observation, reward, *rest = super().step(action if not isinstance(action, dict) else 0)
        noise = self.np_random.normal() + np.random.normal() + random.random()  # noqa: NPY002
        return observation, reward + float(noise), *rest

    def action_masks(self):
        return [True, True, self.t % 2 == 0]


class Copied(Walk, EzPickle):
    """As most of gymnasium's: a pickle of it has its arguments alone."""

    def __init__(self):
        EzPickle.__init__(self)
        super().__init__(DISCRETE)


class Parted(Walk):
    def step(self, action):
        assert self.action_space.contains(action)
        self.action_space, whole = spaces.Discrete(1), self.action_space
        try:
            observation, reward, *rest = super().step(np.int64(0))
        finally:
            self.action_space = whole
        return observation, reward + float(action["move"].sum()) + float(action["tool"]), *rest


CASES = {
    "RELAXA2C": (RELAXA2C, "MlpPolicy", DISCRETE, SCHEDULES),
    "LAXA2C": (LAXA2C, "MlpPolicy", BOX, {}),
    "masks": (MaskableRELAXA2C, "MlpPolicy", DISCRETE, {}),
    "memory": (RecurrentRELAXA2C, "MlpLstmPolicy", DISCRETE, SMALL),
    "memory, box": (RecurrentLAXA2C, "MlpLstmPolicy", BOX, SMALL),
    "masks and memory": (MaskableRecurrentRELAXA2C, "MlpLstmPolicy", DISCRETE, SMALL),
    "hybrid": (HybridRELAXA2C, "MlpPolicy", PARTS, {}),
    "gSDE": (LAXA2C, "MlpPolicy", BOX, dict(use_sde=True, sde_sample_freq=2)),
    "preset": (RELAXA2C, "MlpPolicy", DISCRETE, dict(preset="fast", n_steps=16)),
    "preset, box": (LAXA2C, "MlpPolicy", BOX, dict(preset="fast", n_steps=16)),
    "replay": (RELAXA2C, "MlpPolicy", DISCRETE, dict(critic_replay=3, n_critic_steps=3, critic_learning_rate=1e-2)),
    "kfac": (RELAXA2C, "MlpPolicy", DISCRETE, dict(update_rule="kfac", normalize_advantage="running")),
    "trajectory": (RELAXA2C, "MlpPolicy", DISCRETE, dict(control_variate="trajectory+relax")),
    "model": (RELAXA2C, "MlpPolicy", DISCRETE, dict(control_variate="trajectory_model+model+state")),
    "regression": (LAXA2C, "MlpPolicy", BOX, dict(control_variate="trajectory_variance+qprop+stein")),
    "whole episodes": (RELAXA2C, "MlpPolicy", DISCRETE, dict(n_episodes=3)),
    "whole episodes, masks": (MaskableRELAXA2C, "MlpPolicy", DISCRETE, dict(n_episodes=3)),
    "whole episodes, memory": (RecurrentRELAXA2C, "MlpLstmPolicy", DISCRETE, dict(n_episodes=3, **SMALL)),
    "whole episodes, gSDE": (LAXA2C, "MlpPolicy", BOX, dict(n_episodes=3, use_sde=True)),
}
#: those that between them have all that is kept between updates
QUICK = {
    "RELAXA2C",
    "masks and memory",
    "hybrid",
    "gSDE",
    "preset, box",
    "replay",
    "kfac",
    "trajectory",
    "model",
    "whole episodes",
}


def make_env(space, normalize, seed=0):
    env = make_vec_env(lambda: (Parted if space is PARTS else Walk)(space), 2, seed=seed)
    return VecNormalize(env) if normalize else env


class Seen(BaseCallback):
    """Everything that passes between agent and environments: step → what was done, got and seen next."""

    def __init__(self):
        super().__init__()
        self.steps = {}

    def _on_step(self):
        found = [self.locals[name] for name in ("actions", "rewards", "new_obs", "dones")]
        self.steps[self.num_timesteps] = [np.asarray(part).tolist() for part in found]
        return True


class Logged(KVWriter):
    """What was logged, but for the time that it took: step → key → value."""

    def __init__(self):
        self.lines = {}

    def write(self, key_values, key_excluded, step=0):
        self.lines[step] = {key: value for key, value in key_values.items() if not key.startswith("time/")}

    def close(self):
        pass


def learned(model, timesteps, callbacks=(), **kwargs):
    """An agent that has learned on, and what was seen and logged meanwhile."""
    seen, logged = Seen(), Logged()
    model.set_logger(Logger(None, [logged]))
    model.learn(timesteps, [seen, *callbacks], log_interval=1, **kwargs)
    return model, seen.steps, logged.lines


def flat(value):
    """Tensors, arrays and numbers of nested dicts and lists, by their place."""
    if isinstance(value, dict):
        return {f"{key}.{name}": part for key, inner in value.items() for name, part in flat(inner).items()}
    if isinstance(value, (list, tuple)):
        return flat(dict(enumerate(value)))
    return {"": value.tolist() if isinstance(value, (th.Tensor, np.ndarray)) else value}


def require_same(whole, continued, since):
    """Two agents with all that :func:`learned` gives are one and the same from a step on."""
    (model, seen, logged), (other, seen_too, logged_too) = whole, continued
    assert {step: of for step, of in seen.items() if step > since} == seen_too
    after = {step: of for step, of in logged.items() if step > since}
    assert after.keys() == logged_too.keys()
    for line, (step, of) in enumerate(after.items()):
        # the first line of a logger has nothing of an update that was made before there was one
        keys = [key for key in of if line > 0 or key.startswith("rollout/")]
        np.testing.assert_equal({key: logged_too[step][key] for key in keys}, {key: of[key] for key in keys})
    np.testing.assert_equal(flat(model.get_parameters()), flat(other.get_parameters()))
    assert model.num_timesteps == other.num_timesteps
    assert model._n_updates == other._n_updates
    for a, b in zip(model.ep_info_buffer, other.ep_info_buffer, strict=True):
        assert (a["r"], a["l"]) == (b["r"], b["l"])
    statistics, of_other = model.get_vec_normalize_env(), other.get_vec_normalize_env()
    if statistics is not None:
        for name in ("obs_rms", "ret_rms"):
            np.testing.assert_equal(vars(getattr(statistics, name)), vars(getattr(of_other, name)))
        np.testing.assert_equal(statistics.returns, of_other.returns)


def checkpoints(folder):
    """Of a folder: steps → file, the earliest first; none that a killed process has left half written."""
    files = sorted(folder.glob("[!.]*.zip"), key=lambda file: len(file.name))
    return {int(file.stem.split("_")[2]): file for file in files}


def run(case, folder, normalize, every=22, timesteps=180):
    """The first file is written after 25 or 32 steps, in the middle of an episode (of 7), but for whole episodes."""
    algorithm, policy, space, kwargs = CASES[case]
    model = algorithm(policy, make_env(space, normalize), seed=0, device="cpu", **kwargs)
    return learned(model, timesteps, [ExactCheckpointCallback(every, str(folder))])


def go_on(case, file, normalize):
    algorithm, _, space, _ = CASES[case]
    random.seed(7)
    np.random.seed(7)  # noqa: NPY002
    th.manual_seed(7)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        model = algorithm.load(file, env=make_env(space, normalize, seed=9), device="cpu")
        return learned(model, model.remaining_timesteps, reset_num_timesteps=False)


@pytest.mark.parametrize(
    ("case", "normalize"),
    [
        pytest.param(case, normalize, marks=[] if normalize and case in QUICK else pytest.mark.slow)
        for case in CASES
        for normalize in (True, False)
    ],
)
def test_learning_goes_on_to_the_last_bit(case, normalize, tmp_path):
    whole = run(case, tmp_path, normalize)
    (steps, file), *_ = checkpoints(tmp_path).items()
    assert 0 < steps < whole[0].num_timesteps
    require_same(whole, go_on(case, file, normalize), steps)


def test_a_plain_file_does_not(tmp_path):
    whole = run("RELAXA2C", tmp_path, True)
    steps = next(iter(checkpoints(tmp_path)))
    model = RELAXA2C("MlpPolicy", make_env(DISCRETE, True), seed=0, device="cpu", **SCHEDULES).learn(steps)
    model.save(tmp_path / "plain")
    other = RELAXA2C.load(tmp_path / "plain", env=make_env(DISCRETE, True, seed=9), device="cpu")
    continued = learned(other, whole[0].num_timesteps - steps, reset_num_timesteps=False)
    with pytest.raises(AssertionError):
        require_same(whole, continued, steps)


@pytest.mark.parametrize("late", [False, True])
def test_nothing_in_between_is_in_the_way(late, tmp_path):
    """Streams are put back when learn() begins, and environments may be given after load()."""
    model = LAXA2C("MlpPolicy", make_vec_env("Pendulum-v1", 2, seed=0), seed=0, device="cpu").learn(300)
    model.save(tmp_path / "half", exact=True)
    expected = learned(model, 100, reset_num_timesteps=False)
    env = VecMonitor(make_vec_env("Pendulum-v1", 2, seed=5)).venv
    other = LAXA2C.load(tmp_path / "half", env=None if late else env, device="cpu")
    th.manual_seed(3)
    np.random.seed(3)  # noqa: NPY002
    other.save(tmp_path / "again", exact=True)
    if late:
        other.set_env(env)
    require_same(expected, learned(other, 100, reset_num_timesteps=False), 300)
    again = LAXA2C.load(tmp_path / "again", env=make_vec_env("Pendulum-v1", 2), device="cpu")
    require_same(expected, learned(again, 100, reset_num_timesteps=False), 300)


@pytest.mark.parametrize("wrap", [VecMonitor, lambda env: VecFrameStack(VecNormalize(env), 2)])
def test_wrappers_go_on_too(wrap, tmp_path):
    model = RELAXA2C("MlpPolicy", wrap(make_vec_env("CartPole-v1", 2, seed=0)), seed=0, device="cpu").learn(100)
    model.save(tmp_path / "half", exact=True)
    expected = learned(model, 100, reset_num_timesteps=False)
    other = RELAXA2C.load(tmp_path / "half", env=wrap(make_vec_env("CartPole-v1", 2)), device="cpu")
    require_same(expected, learned(other, 100, reset_num_timesteps=False), 100)


#: of gymnasium's environments, those whose state the documentation says can be saved
SAVED = ("classic_control", "toy_text", "mujoco")


def ids_of_gymnasium():
    """The newest version of each."""
    found = {}
    for name, spec in gym.registry.items():
        module = str(spec.entry_point).split(".")
        if module[:2] == ["gymnasium", "envs"] and module[2] in SAVED:
            found[spec.name] = max(found.get(spec.name, name), name, key=lambda each: int(each.rpartition("v")[2]))
    return sorted(found.values())


@pytest.mark.slow
@pytest.mark.parametrize("name", ids_of_gymnasium())
def test_gymnasiums_environments_go_on(name):
    try:
        env, other = make_vec_env(name, 1, seed=0), make_vec_env(name, 1, seed=1)
    except gym.error.DependencyNotInstalled as error:
        pytest.skip(str(error))
    for each in (env, other):
        each.reset()
    env.action_space.seed(0)
    actions = [np.array([env.action_space.sample()]) for _ in range(60)]
    for action in actions[:20]:
        env.step(action)
    restore(all_layers(other), state_of(all_layers(env)))
    for action in actions[20:]:
        np.testing.assert_equal(other.step(action)[:3], env.step(action)[:3])


@pytest.mark.parametrize("n_episodes", [None, 3])
def test_where_a_callback_stopped_in_the_middle_of_a_rollout_it_goes_on_too(n_episodes, tmp_path):
    """As the agent in memory would: what the callback has cut off is nobody's."""
    model = RELAXA2C("MlpPolicy", make_env(DISCRETE, True), seed=0, device="cpu", n_steps=7, n_episodes=n_episodes)
    model.learn(300, StopTrainingOnMaxEpisodes(5))
    steps = model.num_timesteps
    assert 0 < steps < 300
    model.save(tmp_path / "half", exact=True)
    expected = learned(model, 60, reset_num_timesteps=False)
    other = RELAXA2C.load(tmp_path / "half", env=make_env(DISCRETE, True, seed=9), device="cpu")
    require_same(expected, learned(other, 60, reset_num_timesteps=False), steps)


def test_an_environment_inside_another_is_no_new_one():
    """EzPickle would make it anew of its arguments."""

    class Holds(gym.Env):
        def __init__(self):
            self.held = Copied()
            self.observation_space, self.action_space = self.held.observation_space, self.held.action_space

    env, other = Holds(), Holds()
    env.held.at = 3
    restore([other], state_of([env]))
    assert other.held.at == 3


def test_the_middle_of_a_rollout_is_refused(tmp_path):
    class Saves(BaseCallback):
        def _on_step(self):
            with pytest.raises(UsageError, match="ExactCheckpointCallback"):
                self.model.save(tmp_path / "middle", exact=True)
            return True

        def _on_rollout_end(self):  # the update is still to come
            self._on_step()

    model = RELAXA2C("MlpPolicy", make_env(DISCRETE, False), device="cpu").learn(20, Saves())
    assert not list(tmp_path.iterdir())
    model.save(tmp_path / "end", exact=True)


class Unsaved(Walk):
    """As Box2D's: it has a part that cannot be pickled."""

    def __init__(self, space=DISCRETE):
        super().__init__(space)
        self.world = (number for number in range(3))


def test_environments_that_cannot_be_saved_are_said_and_reset(tmp_path):
    """VecNormalize around them goes on all the same."""
    env, other_env = (VecNormalize(make_vec_env(lambda: Unsaved(), 2, seed=0)) for _ in range(2))
    model = RELAXA2C("MlpPolicy", env, seed=0, device="cpu").learn(40)
    why = r"Unsaved.world: TypeError: cannot pickle 'generator'"
    with pytest.warns(UserWarning, match=why):
        model.save(tmp_path / "half", exact=True)
    count, other = env.obs_rms.count, RELAXA2C.load(tmp_path / "half", env=other_env, device="cpu")
    with pytest.warns(UserWarning, match=f"{why}.*begin with a reset.*VecNormalize go on as they were"):
        other.learn(20, reset_num_timesteps=False)
    assert other.num_timesteps == 60
    assert other_env.obs_rms.count == count + 2 + 20  # a reset of both, and the steps


def test_environments_in_other_processes_are_refused_before_anything_is_learned(tmp_path):
    env = VecNormalize(make_vec_env("CartPole-v1", 2, seed=0, vec_env_cls=SubprocVecEnv))
    try:
        model = RELAXA2C("MlpPolicy", env, seed=0, device="cpu")
        with pytest.raises(UsageError, match="SubprocVecEnv has them in other processes: use a DummyVecEnv"):
            model.learn(20, ExactCheckpointCallback(5, str(tmp_path)))
        assert model.num_timesteps == 0
        with pytest.raises(UsageError, match="SubprocVecEnv"):
            model.save(tmp_path / "half", exact=True)
        assert not list(tmp_path.iterdir())
    finally:
        env.close()


def test_environments_that_do_not_fit_are_said_and_reset(tmp_path):
    model = RELAXA2C("MlpPolicy", make_env(DISCRETE, False), seed=0, device="cpu").learn(20)
    model.save(tmp_path / "half", exact=True)
    for env, why in (
        (make_env(DISCRETE, True), r"one of their layers is a .*VecNormalize, and saved was a .*DummyVecEnv"),
        (make_vec_env(lambda: Walk(DISCRETE), 3), "3 of them were given, and saved were 2"),
    ):
        with pytest.warns(UserWarning, match=f"{why}.*begin with a reset"):
            RELAXA2C.load(tmp_path / "half", env=env, device="cpu").learn(20, reset_num_timesteps=False)


def test_a_class_that_is_no_more_is_said(tmp_path, monkeypatch):
    model = RELAXA2C("MlpPolicy", make_env(DISCRETE, False), seed=0, device="cpu").learn(20)
    for env in model.env.envs:
        env.unwrapped.part = Copied()
    model.save(tmp_path / "half", exact=True)
    monkeypatch.delattr(sys.modules[__name__], "Copied")
    other = RELAXA2C.load(tmp_path / "half", env=make_env(DISCRETE, False), device="cpu")
    with pytest.warns(UserWarning, match=r"Copied.*begin with a reset"):
        other.learn(20, reset_num_timesteps=False)
    other.continuation = pickle.dumps(object())  # of another version
    for env in other.env.envs:
        env.unwrapped.t = 5
    with pytest.warns(UserWarning, match="begin with a reset"):
        other.learn(2, Seen(), reset_num_timesteps=False)
    assert [env.unwrapped.t for env in other.env.envs] == [5, 5]


def test_functions_written_on_the_spot_go_on_with_what_they_have_taken_along():
    def make(scale):
        count = [0]

        def counted(reward):
            count[0] += 1
            return scale * reward + count[0]

        return gym.wrappers.TransformReward(gym.wrappers.FlattenObservation(gym.make("CartPole-v1")), counted)

    env, other = (DummyVecEnv([lambda scale=scale: make(scale)]) for scale in (2.0, 3.0))
    env.reset()
    env.step(np.array([0]))
    restore(all_layers(other), state_of(all_layers(env)))
    (seen, reward, *_), (seen_too, reward_too, *_) = env.step(np.array([0])), other.step(np.array([0]))
    np.testing.assert_equal(seen, seen_too)
    assert reward == reward_too == 2.0 + 2


def test_an_open_file_stays_that_of_the_environment_that_has_it(tmp_path):
    env, other = (make_vec_env("CartPole-v1", 1, seed=0, monitor_dir=str(tmp_path / name)) for name in "ab")
    state = state_of(all_layers(env))
    writer = other.envs[0].results_writer
    restore(all_layers(other), state)
    assert other.envs[0].results_writer is writer


def test_loading_changes_no_environment_and_learning_anew_says_so(tmp_path):
    """As it is with any file: an agent is loaded to be evaluated, or to learn something else."""
    model = RELAXA2C("MlpPolicy", make_env(DISCRETE, True), seed=0, device="cpu").learn(20)
    model.save(tmp_path / "half", exact=True)
    env = make_env(DISCRETE, True)
    env.training = False
    other = RELAXA2C.load(tmp_path / "half", env=env, device="cpu")
    with pytest.warns(UserWarning, match="begins anew"):
        other.learn(20)
    assert not env.training
    assert other.num_timesteps == 20


def test_a_seed_begins_anew(tmp_path):
    model = RELAXA2C("MlpPolicy", make_env(DISCRETE, False), seed=0, device="cpu").learn(20)
    model.save(tmp_path / "half", exact=True)
    assert RELAXA2C.load(tmp_path / "half", env=make_env(DISCRETE, False), seed=1, device="cpu").continuation is None


def test_a_checkpoint_of_the_last_rollout_is_written_and_of_other_algorithms_none(tmp_path):
    env = VecNormalize(make_vec_env("CartPole-v1", 1, seed=0))
    callback = ExactCheckpointCallback(20, str(tmp_path), save_vecnormalize=True)
    RELAXA2C("MlpPolicy", env, device="cpu").learn(20, callback)
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "rl_model_20_steps.zip",
        "rl_model_vecnormalize_20_steps.pkl",
    ]
    VecNormalize.load(str(tmp_path / "rl_model_vecnormalize_20_steps.pkl"), make_vec_env("CartPole-v1", 1))
    with pytest.raises(TypeError, match="CheckpointCallback"):
        A2C("MlpPolicy", "CartPole-v1", device="cpu").learn(10, ExactCheckpointCallback(5, str(tmp_path)))


def test_where_no_end_of_an_update_is_passed_on_it_is_refused(tmp_path):
    inside = EveryNTimesteps(10, ExactCheckpointCallback(1, str(tmp_path)))
    with pytest.raises(UsageError, match="EveryNTimesteps does not pass on"):
        RELAXA2C("MlpPolicy", make_env(DISCRETE, False), device="cpu").learn(20, inside)


def test_one_flipped_bit_is_noticed(tmp_path):
    model = RELAXA2C("MlpPolicy", make_env(DISCRETE, False), seed=0, device="cpu").learn(20)
    model.save(tmp_path / "half.zip", exact=True)
    content = bytearray((tmp_path / "half.zip").read_bytes())
    member = member_of(io.BytesIO(content))
    place = content.index(member) + len(member) // 2
    content[place] ^= 1
    (tmp_path / "half.zip").write_bytes(content)
    with pytest.raises(UsageError, match="half"):
        RELAXA2C.load(tmp_path / "half.zip", env=make_env(DISCRETE, False), device="cpu")


@pytest.mark.parametrize("kwargs", [dict(weights_only=True), dict(seed=3), dict(without=True)])
def test_without_what_runs_code_it_is_a_file_as_any(kwargs, tmp_path):
    """The rest of the file is what it would be, and SB3's own reader takes it."""
    model = RELAXA2C("MlpPolicy", make_env(DISCRETE, False), seed=0, device="cpu").learn(20)
    model.save(tmp_path / "exact.zip", exact=True)
    model.save(tmp_path / "plain.zip")
    with zipfile.ZipFile(tmp_path / "exact.zip") as exact, zipfile.ZipFile(tmp_path / "plain.zip") as plain:
        assert {*exact.namelist()} - {*plain.namelist()} == {MEMBER}
    data, parameters, _ = load_from_zip_file(tmp_path / "exact.zip", device="cpu")
    assert data["num_timesteps"] == 20
    np.testing.assert_equal(flat(parameters), flat(model.get_parameters()))
    if not kwargs.pop("without", False):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            other = RELAXA2C.load(tmp_path / "exact.zip", env=make_env(DISCRETE, False), device="cpu", **kwargs)
        assert other.continuation is None
        assert other.learn(20, reset_num_timesteps=False).num_timesteps == 40


def test_a_kill_while_vec_normalize_is_written_leaves_the_file_before(tmp_path, monkeypatch):
    env, path = make_env(DISCRETE, True), tmp_path / "vecnormalize.pkl"
    save_vec_normalize(env, path)
    before = path.read_bytes()
    env.reset()
    monkeypatch.setattr(os, "fsync", lambda descriptor: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        save_vec_normalize(env, path)
    assert path.read_bytes() == before
    monkeypatch.undo()
    save_vec_normalize(env, path)
    assert VecNormalize.load(str(path), make_env(DISCRETE, False)).obs_rms.count == env.obs_rms.count


SCRIPT = """
import sys
from pathlib import Path
from tests.algorithm.test_continuation import *
th.set_num_threads(1)
folder = Path(sys.argv[1])
files = checkpoints(folder)
callback = ExactCheckpointCallback(10, str(folder))
if files:
    model = RELAXA2C.load(files[max(files)], env=make_env(DISCRETE, True), device="cpu")
    model.learn(model.remaining_timesteps, callback, reset_num_timesteps=False)
else:
    model = RELAXA2C("MlpPolicy", make_env(DISCRETE, True), seed=0, device="cpu", **SCHEDULES)
    model.learn(int(sys.argv[2]), callback)
"""


def start(folder, timesteps):
    return subprocess.Popen([sys.executable, "-c", SCRIPT, str(folder), str(timesteps)])


def last(folder):
    files = checkpoints(folder)
    return flat(RELAXA2C.load(files[max(files)], device="cpu").get_parameters())


@pytest.mark.slow
def test_another_process_goes_on(tmp_path):
    whole = RELAXA2C("MlpPolicy", make_env(DISCRETE, True), seed=0, device="cpu", **SCHEDULES)
    whole.learn(200, ExactCheckpointCallback(10, str(tmp_path)))
    expected = last(tmp_path)
    for steps, file in checkpoints(tmp_path).items():
        if steps > 100:
            file.unlink()
    assert start(tmp_path, 200).wait(120) == 0
    assert max(checkpoints(tmp_path)) == 200
    np.testing.assert_equal(last(tmp_path), expected)


@pytest.mark.slow
def test_killed_at_any_moment_it_goes_on_from_the_last_checkpoint(tmp_path):
    """SIGKILL at random moments, ten times at least, and then to the end."""
    whole, killed, timesteps = tmp_path / "whole", tmp_path / "killed", 20_000
    for folder in (whole, killed):
        folder.mkdir()
    assert start(whole, timesteps).wait(600) == 0
    rng, kills, status = random.Random(0), 0, None
    while status != 0:
        process = start(killed, timesteps)
        reached = max(checkpoints(killed), default=0)
        while process.poll() is None and max(checkpoints(killed), default=0) <= reached:
            time.sleep(0.01)
        if kills < 10:
            time.sleep(rng.uniform(0, 0.5))
            process.send_signal(signal.SIGKILL)
            kills += process.wait() == -signal.SIGKILL
        status = process.wait(600)
        assert status in (0, -signal.SIGKILL)  # one that fails by itself would be started again for ever
    assert kills == 10
    np.testing.assert_equal(last(killed), last(whole))
