"""A user's own module: its import registers environments of episodes of ten steps."""

import gymnasium as gym
import numpy as np
from gymnasium import spaces


class MyEnv(gym.Env):
    """Four actions, of which the second is rewarded."""

    observation_space: spaces.Space = spaces.Box(-1, 1, (3,), np.float32)
    action_space: spaces.Space = spaces.Discrete(4)
    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012

    def __init__(self, render_mode=None, length=10):
        self.render_mode = render_mode
        self.length = length

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time = 0
        return self.observe(), {}

    def observe(self):
        return self.np_random.uniform(-1, 1, 3).astype(np.float32)

    def step(self, action):
        self.time += 1
        return self.observe(), float(np.sum(action == 1)), self.time >= self.length, False, {}

    def render(self):
        return np.zeros((16, 16, 3), np.uint8)


class Unmasked(MyEnv):
    """Half of the actions are forbidden, other ones at every step: taking one ends the test."""

    def valid_actions(self):
        return (np.arange(4) + self.time) % 2 == 0

    def step(self, action):
        if not self.valid_actions()[action]:
            raise RuntimeError(f"action {action} is forbidden at step {self.time}")
        return super().step(action)


class Masked(Unmasked):
    """The same, which says what is allowed by the method that agents ask for."""

    def action_masks(self):
        return self.valid_actions()


class UnderMasks(gym.Wrapper):
    """As docs/zoo.md has it."""

    def action_masks(self):
        return self.unwrapped.valid_actions()


class Parts(MyEnv):
    observation_space = spaces.Dict({"a": MyEnv.observation_space})

    def observe(self):
        return {"a": super().observe()}


class Torques(MyEnv):
    action_space = spaces.Box(-1, 1, (2,), np.float32)


class Mixed(MyEnv):
    action_space = spaces.Dict(at=spaces.Box(-1, 1, (2,), np.float32), what=spaces.Discrete(3, start=1))

    def step(self, action):
        if not self.action_space.contains(action):
            raise TypeError(f"{action} is none of {self.action_space}")
        return super().step(action["what"])


class Pairs(MyEnv):
    """An action has two parts, of which the discrete one is rewarded."""

    action_space = spaces.Dict(which=spaces.Discrete(4), force=spaces.Box(-1, 1, (2,), np.float32))

    def step(self, action):
        return super().step(action["which"])


class Broken(MyEnv):
    """Its rewards are none."""

    def step(self, action):
        observation, _, *rest = super().step(action)
        return observation, float("nan"), *rest


for kind in (MyEnv, Masked, Unmasked, Parts, Torques, Mixed, Pairs, Broken):
    gym.register(f"{kind.__name__}-v0", kind)
