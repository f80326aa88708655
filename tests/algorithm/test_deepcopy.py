"""``copy.deepcopy`` of an agent, at any time, and what the copy does."""

import copy
import threading

import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import configure
from stable_baselines3.common.utils import set_random_seed
from stable_baselines3.common.vec_env import VecFrameStack, VecMonitor, VecNormalize

from sb3_relax import LAXA2C, RELAXA2C, MaskableRELAXA2C, RecurrentLAXA2C, RecurrentRELAXA2C
from tests.helpers import ACTION_SPACES, TinyEnv


class Masked(TinyEnv):
    def action_masks(self):
        return [True, True, self.t % 2 == 0]


DISCRETE, BOX = ACTION_SPACES["discrete"], ACTION_SPACES["box"]
CASES = {
    "LAXA2C": (LAXA2C, "MlpPolicy", BOX, {}),
    "gSDE": (LAXA2C, "MlpPolicy", BOX, dict(use_sde=True, sde_sample_freq=2)),
    "gSDE, squashed": (LAXA2C, "MlpPolicy", BOX, dict(use_sde=True, policy_kwargs=dict(squash_output=True))),
    "RELAXA2C": (RELAXA2C, "MlpPolicy", DISCRETE, dict(n_critic_steps=2, use_rms_prop=False)),
    "at the weights": (RELAXA2C, "MlpPolicy", DISCRETE, dict(cv_objective="weights", cv_guard=False)),
    "whole episodes": (RELAXA2C, "MlpPolicy", ACTION_SPACES["multidiscrete"], dict(n_episodes=2)),
    "bits": (RELAXA2C, "MlpPolicy", ACTION_SPACES["multibinary"], dict(correction="exact")),
    "from elsewhere": (RELAXA2C, "MlpPolicy", spaces.MultiDiscrete([[2, 3]], start=[[1, 2]]), {}),
    "masks": (MaskableRELAXA2C, "MlpPolicy", DISCRETE, {}),
    "normalised": (RELAXA2C, "MlpPolicy", DISCRETE, dict(normalize_observations=True)),
    "memory": (RecurrentRELAXA2C, "MlpLstmPolicy", DISCRETE, {}),
    "memory, box": (RecurrentLAXA2C, "MlpLstmPolicy", BOX, {}),
}


def make(case, **more):
    algorithm, policy, space, kwargs = CASES[case]
    return algorithm(policy, make_vec_env(lambda: Masked(space), 2, seed=0), seed=0, device="cpu", **kwargs, **more)


def learned(model):
    return [*model.policy.state_dict().values(), *model.control_variate.state_dict().values()]


@pytest.mark.parametrize("case", CASES)
def test_a_copy_goes_on_as_the_agent_does_and_apart_from_it(case, tmp_path):
    model = make(case, verbose=1, tensorboard_log=str(tmp_path)).learn(40, log_interval=10**6)
    twin = copy.deepcopy(model)
    before = [value.clone() for value in learned(model)]
    agents = (model, twin)
    for agent in agents:
        agent.set_random_seed(5)
        agent.env.reset()
        agent._last_obs = None
        agent.learn(40, log_interval=10**6)
        if agent is model:
            assert all(th.equal(a, b) for a, b in zip(before, learned(twin), strict=True))
    assert not all(th.equal(a, b) for a, b in zip(before, learned(twin), strict=True))
    assert all(th.equal(a, b) for a, b in zip(*map(learned, agents), strict=True))
    assert twin.view.policy is twin.policy is not model.policy
    copy.deepcopy(model.policy)  # alone, too


@pytest.mark.parametrize("case", ["RELAXA2C", "gSDE", "masks", "memory"])
def test_an_agent_is_copied_at_any_time(case, tmp_path):
    class Copies(BaseCallback):
        def _on_step(self):
            copy.deepcopy(self.model)
            return self.num_timesteps < 12

        def _on_rollout_end(self):
            copy.deepcopy(self.model)

    model = make(case)
    copy.deepcopy(model)
    model.learn(30, Copies())
    if case in ("RELAXA2C", "gSDE"):
        data = next(model.learn(10).rollout_buffer.get())
        model.policy_gradient(data.observations, data.actions, data.advantages)
        copy.deepcopy(model.policy)
    copy.deepcopy(model).save(tmp_path / "agent")
    copy.deepcopy(CASES[case][0].load(tmp_path / "agent", device="cpu"))


def test_a_logger_of_the_user_s_is_shared():
    model = make("RELAXA2C")
    model.set_logger(configure(None, []))
    twin = copy.deepcopy(model.learn(20))
    assert twin.logger is model.logger
    assert twin.learn(20).logger is model.logger


WRAPPERS = {
    "VecNormalize": VecNormalize,
    "VecNormalize inside": lambda env: VecMonitor(VecFrameStack(VecNormalize(env), 2)),
    "none": VecMonitor,
}


@pytest.mark.parametrize("wrapped", WRAPPERS)
def test_a_copy_learns_on_in_wrapped_environments_of_its_own(wrapped):
    env = WRAPPERS[wrapped](make_vec_env("CartPole-v1", 2, seed=0))
    model = RELAXA2C("MlpPolicy", env, seed=0, device="cpu").learn(40)
    twin = copy.deepcopy(model)
    assert twin.env is not model.env
    assert twin.env.unwrapped.envs[0] is not model.env.unwrapped.envs[0]
    for agent in (twin, model):
        set_random_seed(5)
        agent.learn(40, reset_num_timesteps=False)
    assert all(th.equal(a, b) for a, b in zip(learned(model), learned(twin), strict=True))
    if wrapped != "none":
        own, others = model.get_vec_normalize_env(), twin.get_vec_normalize_env()
        assert own is not others
        assert own.obs_rms is not others.obs_rms
        assert own.obs_rms.count == others.obs_rms.count
        assert (own.returns == others.returns).all()


def test_a_wrapper_s_own_way_to_be_copied_is_taken():
    class Connected(VecFrameStack):
        def __init__(self, venv):
            super().__init__(venv, 2)
            self.connection = threading.Lock()  # which cannot be copied

        def __deepcopy__(self, memo):
            return Connected(copy.deepcopy(self.venv, memo))

    env = VecNormalize(Connected(VecFrameStack(make_vec_env("CartPole-v1", 2, seed=0), 2)))
    model = RELAXA2C("MlpPolicy", env, seed=0, device="cpu").learn(20)
    twin = copy.deepcopy(model)
    assert isinstance(twin.env.venv, Connected)
    assert twin.env.venv.connection is not env.venv.connection
    assert twin.env.unwrapped.envs[0] is not env.unwrapped.envs[0]
    twin.learn(20)
