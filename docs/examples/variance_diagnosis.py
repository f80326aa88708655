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
# # Can a control variate help in your environment?
#
# LAX and RELAX subtract a learned ĉ(a, s) from the advantage and put its expectation back. That changes one part of the
# policy gradient's variance only. By the law of total variance, one step's gradient varies because of
#
# - **Σ_τ**, the future: after the same action in the same state, different things happen;
# - **Σ_a**, the action: in the same state, different actions are drawn;
# - **Σ_s**, the state.
#
# A control variate in the step's own action acts on Σ_a alone (Tucker et al. 2018, https://arxiv.org/abs/1802.10031),
# and a baseline b(s) already takes off some of it. `diagnose` measures all of this at an agent's policy, and says
# whether it is worth it.
#
# This is a script and a notebook: `jupytext --to notebook variance_diagnosis.py`.

# %%
import gymnasium as gym
import numpy as np
from gymnasium import spaces
from stable_baselines3.common.env_util import make_vec_env

from sb3_relax import LAXA2C
from sb3_relax.diagnose import diagnose
from sb3_relax.diagnose.plot import plot

# %% [markdown]
# ## An environment of your own
#
# A point on a line is pushed to the origin, by a noisy push and at a price. Nothing is special about it: its state is
# kept in attributes and its noise comes from `self.np_random`. So copies of it can be continued from any state, each
# with a future of its own, which is how Σ_τ and Σ_a are told apart. Where copying fails, episodes are played again from
# their seed; where neither reproduces the environment, `diagnose` reports the variance over whole rollouts alone.


# %%
class Push(gym.Env):
    observation_space = spaces.Box(-np.inf, np.inf, (1,), np.float32)
    action_space = spaces.Box(-3.0, 3.0, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x, self.t = self.np_random.normal(), 0
        return np.array([self.x], np.float32), {}

    def step(self, action):
        push = float(action[0]) + 0.3 * self.np_random.normal()
        self.x, self.t = 0.9 * self.x + 0.3 * push, self.t + 1
        reward = -(self.x**2) - 0.05 * push**2
        return np.array([self.x], np.float32), reward, False, self.t >= 50, {}


# %% [markdown]
# ## An agent, trained for a moment
#
# Any LAXA2C, RELAXA2C, A2C or PPO will do. The split depends on the policy: measure where you train.

# %%
model = LAXA2C("MlpPolicy", make_vec_env(Push, n_envs=4, seed=0), n_steps=16, seed=0, device="cpu")
model.learn(5_000)

# %% [markdown]
# ## The diagnosis
#
# Small sizes, to be quick; the defaults are larger. λ is GAE's: the smaller, the less of the future in the advantage.

# %%
result = diagnose(
    model,
    Push,
    lambdas=(1.0, 0.0),
    n_states=96,
    n_episodes=32,
    n_rollouts=60,
    n_fit_steps=2_048,
    n_fit_updates=200,
)
print(result.sentence)

# %% [markdown]
# Each row is an estimator. The best state baseline b(s), which also knows the steps left in the rollout, is not fitted:
# its variance is computed from the samples, so no fitted baseline can be better, and what a control variate gains
# beyond it, for one step's gradient, is the action's alone.

# %%
for row in result.rows:
    over_rollouts = "" if row.rollouts_ratio is None else f"over rollouts ÷ V(s): {row.rollouts_ratio.bracketed}"
    print(f"λ = {row.gae_lambda:<4g} {row.name:10} Σ_τ {row.future}   Σ_a {row.action}   {over_rollouts}")

# %%
plot(result, "variance_diagnosis.png")
result.save("variance_diagnosis.json")

# %% [markdown]
# ## In training
#
# ĉ was fitted here while the policy waited for it. To see what it does while the policy moves, measure during training:
#
# ```python
# from sb3_relax.callbacks import GradientVarianceCallback, TensorboardLayoutCallback
#
# model.learn(100_000, callback=GradientVarianceCallback(make_vec_env(Push, n_envs=4), verbose=1))
# ```
