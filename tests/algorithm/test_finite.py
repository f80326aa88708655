"""NaN and infinity, put where they do damage: no environment and no file gets them, and the error says why."""

import re

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_relax import (
    LAXA2C,
    RELAXA2C,
    HybridRELAXA2C,
    MaskableRecurrentRELAXA2C,
    MaskableRELAXA2C,
    RecurrentLAXA2C,
    RecurrentRELAXA2C,
)
from sb3_relax.errors import UsageError
from tests.helpers import ACTION_SPACES, DoubleExtractor, TinyEnv

CPU = dict(device="cpu", seed=0)
LSTM = dict(policy_kwargs=dict(lstm_hidden_size=8))
HYBRID = spaces.Dict({"move": ACTION_SPACES["box"], "tool": spaces.Discrete(3)})
CASES = {
    "LAXA2C": (LAXA2C, "MlpPolicy", ACTION_SPACES["box"], {}),
    "LAXA2C, whole episodes": (LAXA2C, "MlpPolicy", ACTION_SPACES["box"], dict(n_episodes=1)),
    "LAXA2C, gSDE": (LAXA2C, "MlpPolicy", ACTION_SPACES["box"], dict(use_sde=True)),
    "RELAXA2C": (RELAXA2C, "MlpPolicy", ACTION_SPACES["discrete"], {}),
    "RELAXA2C, bits": (RELAXA2C, "MlpPolicy", ACTION_SPACES["multibinary"], {}),
    "RELAXA2C, several": (RELAXA2C, "MlpPolicy", ACTION_SPACES["multidiscrete"], {}),
    "HybridRELAXA2C": (HybridRELAXA2C, "MlpPolicy", HYBRID, {}),
    "MaskableRELAXA2C": (MaskableRELAXA2C, "MlpPolicy", ACTION_SPACES["discrete"], {}),
    "RecurrentLAXA2C": (RecurrentLAXA2C, "MlpLstmPolicy", ACTION_SPACES["box"], LSTM),
    "RecurrentLAXA2C, whole episodes": (
        RecurrentLAXA2C,
        "MlpLstmPolicy",
        ACTION_SPACES["box"],
        dict(n_episodes=1, **LSTM),
    ),
    "RecurrentRELAXA2C": (RecurrentRELAXA2C, "MlpLstmPolicy", ACTION_SPACES["discrete"], LSTM),
    "MaskableRecurrentRELAXA2C": (MaskableRecurrentRELAXA2C, "MlpLstmPolicy", ACTION_SPACES["discrete"], LSTM),
}
#: those with actions that are numbers; of logits that are NaN torch draws nothing
BOXES = [name for name, (_, _, space, _) in CASES.items() if space in (ACTION_SPACES["box"], HYBRID)]


class Recording(TinyEnv):
    """Takes whatever it is given, as a simulator does, and keeps it; one observation of its own may be NaN."""

    def __init__(self, action_space, nan_at=None):
        super().__init__(action_space)
        self.nan_at = nan_at
        self.received = []

    def step(self, action):
        parts = action.values() if isinstance(action, dict) else [action]
        self.received.append(np.concatenate([np.ravel(part) for part in parts]))
        self.t += 1
        self.total += 1
        observation = self._observe()
        if self.total == self.nan_at:
            observation[1] = np.nan
        return observation, 0.1 * self.t, self.t >= self.length, False, {}

    def action_masks(self):
        return np.ones(3, dtype=bool)


class Spoils(BaseCallback):
    """Makes a weight NaN before one of the rollouts."""

    def __init__(self, name, rollout=3):
        super().__init__()
        self.name, self.rollout = name, rollout

    def _on_rollout_start(self):
        self.rollout -= 1
        if self.rollout == 0:
            with th.no_grad():
                dict(self.model.policy.named_parameters())[self.name].view(-1)[0] = np.nan

    def _on_step(self):
        return True


def are_finite(tensors):
    return all(bool(tensor.isfinite().all()) for tensor in tensors)


@pytest.mark.parametrize("case", CASES)
def test_no_environment_gets_an_action_of_weights_that_are_nan(case):
    algorithm, policy, space, kwargs = CASES[case]
    env = Recording(space)
    model = algorithm(policy, env, **CPU, **kwargs)
    with pytest.raises(UsageError, match=r"weights must be finite, but action_net.bias is not after 2 updates"):
        model.learn(100, Spoils("action_net.bias"))
    assert len(env.received) >= 10
    assert np.isfinite(np.array(env.received)).all()


@pytest.mark.parametrize("case", BOXES)
def test_no_environment_gets_an_action_of_an_observation_that_is_nan(case):
    algorithm, policy, space, kwargs = CASES[case]
    env = Recording(space, nan_at=12)
    model = algorithm(policy, env, **CPU, **kwargs)
    with pytest.raises(
        UsageError, match=r"observations must be finite, but the environment gave nan at .*environment 0"
    ):
        model.learn(100)
    assert np.isfinite(np.array(env.received)).all()
    # the environment is fine again, and an agent that goes on does not act on the observation of before
    model.learn(50, reset_num_timesteps=False)


def test_actions_that_overflow_name_the_weight_that_is_too_large():
    env = Recording(ACTION_SPACES["box"])
    model = LAXA2C("MlpPolicy", env, **CPU)
    with th.no_grad():
        model.policy.log_std.fill_(200.0)
    with pytest.raises(
        UsageError, match=r"actions must be finite.*the largest number of all weights, 200, is in log_std"
    ):
        model.learn(100)
    assert env.received == []


RATES = {
    "learning_rate": (dict(learning_rate=1e38), "mlp_extractor"),
    "critic_learning_rate": (dict(critic_learning_rate=1e38), "mlp_extractor.value_net.0.weight"),
}


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("space", ["box", "discrete"])
def test_a_step_that_is_too_long_is_reported_with_its_rate_before_learn_returns(rate, space):
    kwargs, name = RATES[rate]
    model = (LAXA2C if space == "box" else RELAXA2C)("MlpPolicy", TinyEnv(ACTION_SPACES[space]), **CPU, **kwargs)
    with pytest.raises(UsageError, match=rf"{name}.* not after update 1: .*Lower {rate}, which is 1e\+38 now"):
        model.learn(5)  # one update, the last


class SavesEveryStep(BaseCallback):
    def __init__(self, path):
        super().__init__()
        self.path = path

    def _on_step(self):
        self.model.save(self.path)
        return True


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("space", ["box", "discrete"])
def test_no_good_agent_is_replaced_by_one_of_nan(rate, space, tmp_path):
    algorithm = LAXA2C if space == "box" else RELAXA2C
    model = algorithm("MlpPolicy", TinyEnv(ACTION_SPACES[space]), **CPU, **RATES[rate][0])
    evaluates = EvalCallback(
        Monitor(TinyEnv(ACTION_SPACES[space])), best_model_save_path=str(tmp_path), eval_freq=1, n_eval_episodes=1,
        verbose=0, warn=False,
    )  # fmt: skip
    with pytest.raises(UsageError, match="weights must be finite"):
        model.learn(20, [SavesEveryStep(tmp_path / "agent.zip"), evaluates])
    with pytest.raises(UsageError, match="weights must be finite"):
        model.save(tmp_path / "agent.zip")
    for name in ("agent.zip", "best_model.zip"):
        assert are_finite(algorithm.load(tmp_path / name, device="cpu").policy.parameters())


class Root(DoubleExtractor):
    """A square root whose derivative at 0 is infinite, of what is 0."""

    def __init__(self, observation_space):
        super().__init__(observation_space)
        self.weight = th.nn.Parameter(th.zeros(1))

    def forward(self, observations):
        return observations + (self.weight * observations).abs().sqrt()


def test_a_gradient_that_is_nan_moves_nothing_and_is_named():
    extractor = dict(features_extractor_class=Root)
    model = RELAXA2C("MlpPolicy", TinyEnv(ACTION_SPACES["discrete"]), policy_kwargs=extractor, **CPU)
    before = [p.detach().clone() for p in model.policy.parameters()]
    with pytest.raises(UsageError, match=r"gradient .* must be finite, but it is not at .*features_extractor.weight"):
        model.learn(20)
    assert all(map(th.equal, before, model.policy.parameters()))


def test_rewards_that_add_up_to_more_than_a_float_are_called_so():
    class Large(TinyEnv):
        def step(self, action):
            observation, _, *rest = super().step(action)
            return observation, 3e38, *rest

    model = RELAXA2C("MlpPolicy", Large(ACTION_SPACES["discrete"]), **CPU)
    with pytest.raises(UsageError, match=r"advantages must be finite, but rewards of up to 3e\+38 .*Scale the rewards"):
        model.learn(20)
    assert are_finite(model.policy.parameters())


DICT = spaces.Dict({"a": spaces.Box(-1.0, 1.0, (3,)), "b": spaces.Box(-1.0, 1.0, (2,))})


class Faulty(gym.Env):
    """One observation, or one reward, that is NaN."""

    def __init__(self, what, observation_space):
        self.what, self.observation_space = what, observation_space
        self.action_space = spaces.Discrete(2)
        self.total = 0

    def _observe(self, is_bad=False):
        observation = self.observation_space.sample()
        if is_bad:
            part = observation["a"] if isinstance(observation, dict) else observation
            part[0] = np.nan
        return observation

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self._observe(), {}

    def step(self, action):
        self.total += 1
        bad = self.what if self.total == 8 else None
        reward = np.nan if bad == "reward" else 1.0
        return self._observe(bad == "observation"), reward, self.total % 20 == 0, False, {}


@pytest.mark.parametrize("reset", [True, False])
@pytest.mark.parametrize(
    ("what", "space", "spoilt"),
    [
        ("observation", DICT["a"], "obs_rms"),
        ("observation", DICT, "obs_rms['a']"),
        ("reward", DICT["a"], "ret_rms"),
    ],
    ids=["observation", "Dict observation", "reward"],
)
def test_vec_normalize_that_took_in_a_nan_is_named_and_mended_as_the_error_says(what, space, spoilt, reset):
    vec_normalize = VecNormalize(DummyVecEnv([lambda: Faulty(what, space)]))
    policy = "MultiInputPolicy" if isinstance(space, spaces.Dict) else "MlpPolicy"
    model = RELAXA2C(policy, vec_normalize, **CPU)
    for _ in range(2):  # the environment has recovered by the second time, and VecNormalize has not
        with pytest.raises(
            UsageError, match=rf"must be finite.*\n.*{re.escape(spoilt)} is not finite any more"
        ) as caught:
            model.learn(40, reset_num_timesteps=reset)
    # of the environment that it is, and no other
    exec("\n".join(str(caught.value).splitlines()[2:]), {"vec_normalize": vec_normalize})
    model.learn(40, reset_num_timesteps=reset)
    assert are_finite(model.policy.parameters())
