"""Environments and policies for the algorithms' tests."""

import re
from pathlib import Path

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor

from sb3_relax.control_variates import Guarded

ACTION_SPACES = {
    "discrete": spaces.Discrete(3),
    "multidiscrete": spaces.MultiDiscrete([2, 3]),
    "multibinary": spaces.MultiBinary(2),
    "box": spaces.Box(-1.0, 1.0, (2,), np.float32),
}


class TinyEnv(gym.Env):
    """Episodes of ``length`` random observations; reward depends on the action, so that there is something to learn."""

    def __init__(self, action_space, length=7, observation_space=None, bad=None):
        self.action_space = action_space
        self.observation_space = observation_space or spaces.Box(-1.0, 1.0, (3,), np.float32)
        self.length = length
        self.bad = bad  # what to break, and from which step on
        self.total = 0

    def _observe(self):
        obs = self.observation_space.sample()
        if self.bad and self.bad[0] == "observation" and self.total >= self.bad[1]:
            obs = np.full_like(obs, np.nan)
        return obs

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if seed is not None:
            self.observation_space.seed(seed)
        self.t = 0
        return self._observe(), {}

    def step(self, action):
        assert self.action_space.contains(np.asarray(action, dtype=self.action_space.dtype))
        self.t += 1
        self.total += 1
        reward = float(np.sum(action)) - 0.3
        if self.bad and self.bad[0] == "reward" and self.total >= self.bad[1]:
            reward = float("nan")
        return self._observe(), reward, self.t >= self.length, False, {}


class NeverEnding(TinyEnv):
    def __init__(self):
        super().__init__(spaces.Discrete(2), length=10**9)


class AllShared(ActorCriticPolicy):
    """V is read off the actor's own layers."""

    def _build(self, lr_schedule):
        super()._build(lr_schedule)
        self.value_net = th.nn.Identity()

    def evaluate_actions(self, obs, actions):
        distribution = self.get_distribution(obs)
        values = distribution.distribution.logits.sum(-1, keepdim=True)
        self.vf_features_extractor(obs)
        return values, distribution.log_prob(actions), distribution.entropy()

    def forward(self, obs, deterministic=False):
        distribution = self.get_distribution(obs)
        actions = distribution.get_actions(deterministic)
        return actions, distribution.distribution.logits.sum(-1, keepdim=True), distribution.log_prob(actions)

    def predict_values(self, obs):
        return self.get_distribution(obs).distribution.logits.sum(-1, keepdim=True)


class DoubleExtractor(BaseFeaturesExtractor):
    """SB3 hands float32 observations to the extractor; this one lets the networks be float64."""

    def __init__(self, observation_space):
        super().__init__(
            observation_space, features_dim=int(np.prod(observation_space.shape or (observation_space.n,)))
        )

    def forward(self, observations):
        return observations.flatten(1).double()


FLOAT64_POLICY = dict(features_extractor_class=DoubleExtractor, net_arch=dict(pi=[5], vf=[5], cv=[6]))


def float64_model(algorithm, env, policy="MlpPolicy", **kwargs):
    """A model whose policy and control variate are float64, the latter with random weights (its last layer is zero)."""
    before = th.get_default_dtype()
    th.set_default_dtype(th.float64)
    try:
        policy_kwargs = {**FLOAT64_POLICY, **kwargs.pop("policy_kwargs", {})}
        model = algorithm(policy, env, policy_kwargs=policy_kwargs, seed=0, device="cpu", **kwargs)
        # log_std is made from the default dtype too; orthogonal initialisation leaves the action head near zero
        with th.no_grad():
            for parameter in model.policy.action_net.parameters():
                parameter.normal_()
        randomise(model)
    finally:
        th.set_default_dtype(before)
    return model


@th.no_grad()
def randomise(model, scale=1.0):
    """Give ĉ weights that matter."""
    for parameter in in_full(model).network.output_layer.parameters():
        parameter.normal_(std=scale)


def in_full(model):
    """The model's control variate without its guard: what it gives is applied in full."""
    variate = model.control_variate
    return variate.variate if isinstance(variate, Guarded) else variate


def written_in(page, name):
    """A class of the Python examples of a page, as a reader would write it from there."""
    text = (Path(__file__).parents[1] / page).read_text()
    examples = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    (example,) = (example for example in examples if f"class {name}(" in example)
    names = {"__name__": "written_in_a_page"}  # a module that cannot be imported: the class is saved with the agent
    exec(compile(example, page, "exec"), names)
    return names[name]
