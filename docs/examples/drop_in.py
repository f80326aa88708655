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
# # A drop-in for A2C
#
# RELAXA2C is SB3's A2C with a learned control variate in its policy gradient. A script that trains A2C changes one
# import, to `from sb3_relax import RELAXA2C as A2C`. Environments, wrappers, callbacks, `save` and `load` stay as they
# are.
#
# This is a script and a notebook: `jupytext --to notebook drop_in.py`.

# %%
import numpy as np
from stable_baselines3 import A2C
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

from sb3_relax import RELAXA2C

# %% [markdown]
# ## The same arguments
#
# A2C's, in A2C's order, with A2C's defaults. Discrete, MultiDiscrete and MultiBinary actions go to RELAXA2C, Box
# actions to LAXA2C.

# %%
arguments = dict(n_steps=16, gae_lambda=0.95, seed=0, device="cpu")
env = make_vec_env("CartPole-v1", n_envs=4, seed=0)
a2c = A2C("MlpPolicy", env, **arguments)
model = RELAXA2C("MlpPolicy", env, **arguments)

# %% [markdown]
# ## The same algorithm, but for the control variate
#
# With `cv_learning_rate=0` the control variate stays at zero, and what is left is A2C up to rounding. So a comparison
# of the two measures the control variate and nothing else.

# %%
baseline = RELAXA2C("MlpPolicy", env, cv_learning_rate=0, **arguments)
for agent in (a2c, baseline):
    agent.set_random_seed(0)
    agent.learn(2_000)
difference = max(
    (ours - theirs).abs().max().item()
    for ours, theirs in zip(baseline.policy.parameters(), a2c.policy.parameters(), strict=True)
)
print(f"largest difference of a weight from A2C's after {baseline.num_timesteps:,} steps: {difference}")
assert difference < 1e-5

# %% [markdown]
# ## Train, evaluate, save, load, go on

# %%
evaluation = EvalCallback(make_vec_env("CartPole-v1", seed=1), eval_freq=1_000, n_eval_episodes=5, verbose=0)
model.learn(20_000, callback=evaluation)
mean, std = evaluate_policy(model, env, n_eval_episodes=20)
print(f"return after {model.num_timesteps:,} steps: {mean:.0f} ± {std:.0f}")

# %%
model.save("drop_in")
model = RELAXA2C.load("drop_in", env=env)
model.learn(1_000, reset_num_timesteps=False)
print(f"{model.num_timesteps:,} steps after loading and going on")

# %% [markdown]
# ## Is the control variate helping?
#
# Each update logs the variance of the policy gradient with and without ĉ on the same batch, and their ratio: below 1, ĉ
# lowers the variance. With one critic step per update, as here, that is mostly what V has not learned yet
# (see [The control variate](../control_variate.md#in-tensorboard)). CartPole has two actions, so ĉ can do no more there
# than a better state baseline would (see [RELAXA2C](../relaxa2c.md#when-to-use)). `tensorboard_log="logs"` shows the
# variances as `train/grad_variance*`; here they are read from the logger.

# %%
ratios = []
for _ in range(20):
    model.learn(model.n_envs * model.n_steps, reset_num_timesteps=False)
    ratios.append(model.logger.name_to_value["train/grad_variance_ratio"])
print(f"gradient variance with ĉ ÷ without, median of {len(ratios)} updates: {np.median(ratios):.2f}")
