"""Environments of the learning runs that gymnasium does not have; importing this registers them."""

from __future__ import annotations

import importlib.util

import gymnasium as gym
import numpy as np

VISIBLE = np.array([1, 0, 1, 0], np.float32)


def cartpole_without_velocities(**kwargs: object) -> gym.Env:
    """CartPole-v1 that shows positions alone: velocities, zeroed here, must be inferred from what was seen before."""
    env = gym.make("CartPole-v1", **kwargs)
    return gym.wrappers.TransformObservation(env, lambda obs: obs * VISIBLE, env.observation_space)


# the name that rl-zoo gives the same task
if "CartPoleNoVel-v1" not in gym.registry:
    gym.register("CartPoleNoVel-v1", entry_point=cartpole_without_velocities, reward_threshold=475)


class ScaledReward(gym.RewardWrapper):
    """Rewards times a constant."""

    def __init__(self, env: gym.Env, scale: float):
        super().__init__(env)
        self.scale = scale

    def reward(self, reward):
        return self.scale * float(reward)


class WithoutSmoke(gym.Wrapper):
    """LunarLander without the particles of its engines: they meet the ground alone, and nothing depends on them.

    Returns and observations are the same to the last bit, and a lander that hovers is stepped faster.
    """

    class Nothing:
        """In the place of a particle."""

        def ApplyLinearImpulse(self, *args: object) -> None:  # Box2D's name
            """Particles get a push when they are made."""

    def __init__(self, env: gym.Env):
        super().__init__(env)
        env.unwrapped._create_particle = lambda *args: self.Nothing()


#: what protocols, and the records made from them, call them
WRAPPERS = {"environments.ScaledReward": ScaledReward, "environments.WithoutSmoke": WithoutSmoke}


class WideActions(gym.Env):
    """A linear system driven by many bits at once, so that the choice of action is much of what varies.

    x = 2b - 1 ∈ {-1, 1}^D, state s ∈ R^8. Reward sᵀWx / √D + xᵀJx / D with J symmetric and zero on its diagonal; the
    next state is .9 Rs + Bx / √D + .1 ε with R a rotation. The matrices are the same for every instance.

    :param n_bits: D
    :param horizon: steps of an episode
    """

    def __init__(self, n_bits: int = 64, horizon: int = 32, state_dim: int = 8):
        self.action_space = gym.spaces.MultiBinary(n_bits)
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (state_dim,), np.float32)
        self.horizon = horizon
        fixed = np.random.default_rng(0)
        self.to_reward = fixed.normal(size=(state_dim, n_bits)) / np.sqrt(n_bits)
        couplings = fixed.normal(size=(n_bits, n_bits))
        couplings = (couplings + couplings.T) / 2
        np.fill_diagonal(couplings, 0)
        self.couplings = couplings / n_bits
        self.rotation = 0.9 * np.linalg.qr(fixed.normal(size=(state_dim, state_dim)))[0]
        self.to_state = fixed.normal(size=(state_dim, n_bits)) / np.sqrt(n_bits)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.state = self.np_random.normal(size=len(self.rotation))
        self.t = 0
        return self.state.astype(np.float32), {}

    def step(self, action):
        x = 2.0 * np.asarray(action) - 1
        reward = self.state @ self.to_reward @ x + x @ self.couplings @ x
        noise = 0.1 * self.np_random.normal(size=len(self.state))
        self.state = self.rotation @ self.state + self.to_state @ x + noise
        self.t += 1
        return self.state.astype(np.float32), float(reward), False, self.t >= self.horizon, {}


class WideDecision(WideActions):
    """:class:`WideActions` of one step, with which the episode ends: a contextual bandit of many bits.

    :param n_bits: D
    """

    def __init__(self, n_bits: int = 64):
        super().__init__(n_bits, horizon=1)

    def step(self, action):
        observation, reward, _, over, info = super().step(action)
        return observation, reward, over, False, info


if "WideActions-v0" not in gym.registry:
    gym.register("WideActions-v0", entry_point=WideActions)
    gym.register("WideDecision-v0", entry_point=WideDecision)
    # by name: it needs scikit-learn, and fits a classifier
    gym.register("PixelChoice-v0", entry_point="scripts.run.pixel_choice:PixelChoice")

if importlib.util.find_spec("minatar") is not None:  # GPL-3.0, so never a dependency
    importlib.import_module("minatar.gym").register_envs()
