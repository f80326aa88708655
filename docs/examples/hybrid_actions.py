# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Actions of several parts
#
# Many tasks ask for a choice and for numbers at once: which tool, and where to put it. Gymnasium has Dict and Tuple
# spaces for such actions, which SB3's algorithms refuse. `HybridRELAXA2C` takes them. One control variate reads the
# whole action. The estimate is LAX's in the continuous parts, and RELAX's in the discrete ones.
#
# This is a script and a notebook: `jupytext --to notebook hybrid_actions.py`.

# %%
import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

from sb3_relax import HybridRELAXA2C
from sb3_relax.estimators import RELAX, Gaussian, GumbelOneHot, Joint, MLPSurrogate, check_unbiased

# %% [markdown]
# ## A task
#
# Things come along a belt, each at a place and of a kind. The agent closes its grip somewhere, and names a bin. A thing
# in the right bin is worth 1, less the distance by which the grip missed it. In the wrong bin it is worth nothing. So
# what the grip is worth depends on the bin: a control variate of one part alone could not say it.


# %%
class Sorting(gym.Env):
    """Twenty things, of three kinds."""

    def __init__(self):
        self.observation_space = spaces.Box(-1.0, 1.0, (4,), np.float32)
        self.action_space = spaces.Dict(grip=spaces.Box(-1.0, 1.0, (1,), np.float32), bin=spaces.Discrete(3))

    def _next(self):
        self.place, self.kind = self.np_random.uniform(-1, 1), self.np_random.integers(3)
        return np.append(np.eye(3)[self.kind], self.place).astype(np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.left = 20
        return self._next(), {}

    def step(self, action):
        reward = (action["bin"] == self.kind) * (1 - abs(action["grip"][0] - self.place))
        self.left -= 1
        return self._next(), float(reward), False, self.left == 0, {}


# %% [markdown]
# ## Train
#
# As every other algorithm. The environments stay as they are. What comes next does not depend on what was done, so γ
# is 0 here.

# %%
env = make_vec_env(Sorting, n_envs=8, seed=0)
model = HybridRELAXA2C(
    "MlpPolicy", env, learning_rate=3e-3, n_steps=8, gamma=0.0, n_critic_steps=5, seed=0, device="cpu"
)
before, _ = evaluate_policy(model, env, n_eval_episodes=16)
model.learn(20_000)
after, _ = evaluate_policy(model, env, n_eval_episodes=16)
print(f"return, of 20: {before:.1f} before training, {after:.1f} after it")

# %% [markdown]
# ## Act
#
# `predict` gives actions as the environment takes them. For several observations it gives a list, which is what a
# VecEnv takes.

# %%
observation, _ = Sorting().reset(seed=1)
action, _ = model.predict(observation, deterministic=True)
print(f"a thing of kind {observation[:3].argmax()} at {observation[3]:.2f}: {action}")
actions, _ = model.predict(env.reset(), deterministic=True)
env.step(actions)

# %% [markdown]
# Inside, the buffer holds one row of numbers for each action. The agent's action space goes there and back.

# %%
print(model.action_space)
print(model.action_space.unflatten(np.array([0.25, 2.0])))

# %% [markdown]
# ## Is the control variate helping?
#
# Each update logs the variance of the policy gradient with and without ĉ on the same batch, and their ratio.

# %%
ratios = []
for _ in range(20):
    model.learn(model.n_envs * model.n_steps, reset_num_timesteps=False)
    ratios.append(model.logger.name_to_value["train/grad_variance_ratio"])
print(f"gradient variance with ĉ ÷ without, median of {len(ratios)} updates: {np.median(ratios):.2f}")

# %% [markdown]
# ## The same without reinforcement learning
#
# What the agent uses is the core's `Joint`: several latents as one, with one f and one c of all of them. Its proof is
# the core's, too. The class is enumerated, and the normal and the relaxation's noise are integrated.

# %%
q = Joint(
    grip=Gaussian(th.tensor([0.3]).double(), th.tensor([-0.5]).double()),
    bin=GumbelOneHot(th.tensor([[0.2, -0.4]]).double()),
)


def f(b):
    """Worth (1 - grip²) in the second bin alone: a black box as far as RELAX knows."""
    part = q.unpack(b)
    return part["bin"][..., 0, 1] * (1 - part["grip"].square().sum(-1))


c = MLPSurrogate.of(q, hidden=[8])
th.nn.init.normal_(c.output.weight, std=0.3)
check = check_unbiased(RELAX(c), q, f)
print(f"exact gradient {check.exact.numpy().round(3)}, off by {check.error:.0e}: unbiased: {check.unbiased}")
