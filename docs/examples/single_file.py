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
# # The method in one file
#
# This is RELAXA2C on CartPole without Stable-Baselines3: the environment loop, the networks, the estimator and the
# update, to be read in one sitting. The settings are those of `zoo_hyperparams/relaxa2c.yml`. From equal weights, seeds
# and noise it takes the same actions as the package, and reaches the same weights up to rounding, as
# `tests/test_single_file.py` shows. Do not expect much of ĉ here: with only two actions it can do no more than a better
# state baseline would. This is a script and a notebook: `jupytext --to notebook single_file.py`.
#
# ## The idea
#
# A policy network maps a state s to logits θ, and the action a is drawn from π(a|s) = softmax(θ). The advantage Â says
# by how much better than usual the action turned out. A2C moves θ along Â ∂ log π(a|s), where ∂ is the derivative in θ.
# This estimate is noisy. RELAX (https://arxiv.org/abs/1711.00123) makes it less noisy, with the same mean:
#
# - **It subtracts a guess.** A network ĉ guesses Â from the state and the action, and only Â - ĉ multiplies ∂ log π.
# - **It adds back what it took.** The guess has removed, on average, the derivative of E[ĉ]. Since ĉ is a known, smooth
#   function, this can be estimated with less noise, by the derivative of ĉ itself.
# - **It learns to guess.** ĉ's weights φ are trained to make the variance of the estimate small.

# %%
import argparse

import gymnasium as gym
import numpy as np
import torch
from torch import nn
from torch.distributions import Categorical
from torch.nn import functional as F

from sb3_relax.estimators import RELAX, GumbelOneHot

N_ENVS, N_STEPS = 8, 32  # an update sees 32 steps of each of 8 environments
GAMMA, GAE_LAMBDA = 0.99, 0.95
LEARNING_RATE, CV_LEARNING_RATE = 5e-3, 3e-3  # of the policy and V, where it falls linearly to 0, and of ĉ
N_CRITIC_STEPS, VALUE_COEF, MAX_GRAD_NORM = 10, 0.05, 5.0  # V takes 10 steps in each update

# %% [markdown]
# ## The policy and the critic
#
# They are two separate tanh networks with A2C's orthogonal initialisation. The policy's last layer starts near zero, so
# that all actions are about equally likely at first. One Adam steps both networks.


# %%
def mlp(n_inputs, n_outputs, last_gain):
    layers = [nn.Linear(n_inputs, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, n_outputs)]
    for layer, gain in zip(layers[::2], (np.sqrt(2), np.sqrt(2), last_gain), strict=True):
        nn.init.orthogonal_(layer.weight, gain)
        nn.init.zeros_(layer.bias)
    return nn.Sequential(*layers)


class Agent(nn.Module):
    def __init__(self, n_features, n_actions):
        super().__init__()
        self.policy = mlp(n_features, n_actions, last_gain=0.01)
        self.critic = mlp(n_features, 1, last_gain=1.0)
        self.optimizer = torch.optim.Adam(self.parameters(), eps=1e-5)

    def value(self, observations):
        return self.critic(observations).squeeze(-1)


# %% [markdown]
# ## The control variate ĉ and its guard
#
# A discrete action has no derivative in θ, but it can be drawn by way of something that has one: where G is Gumbel
# noise, the largest entry of z = log π + G is a draw of the action (the Gumbel-max trick). So ĉ reads softmax(z/τ), a
# softened one-hot action, which is smooth in θ. The temperature τ belongs to φ.
#
# The last layer starts at zero, so that training starts as plain A2C. The output is scaled by the size of earlier
# advantages, so that one learning rate serves small and large rewards.
#
# A ĉ that has not learned yet, or that has fallen behind the policy, adds noise. Therefore only a share η of it is
# applied, the share that earlier batches speak for. Let g be the estimate without ĉ, and g + d the one with ĉ. The mean
# of ‖g + ηd‖² is smallest at η = -E⟨g, d⟩ / E‖d‖². The guard keeps both averages over earlier batches. Each batch is
# divided by its own E‖g‖², so that all of them count alike, however large their advantages are.


# %%
class ControlVariate(nn.Module):
    def __init__(self, n_features, n_actions):
        super().__init__()
        self.state_layers = nn.Sequential(nn.Linear(n_features, 64), nn.Tanh(), nn.Linear(64, 64))
        self.action_layer = nn.Linear(n_actions, 64, bias=False)
        self.output_layer = nn.Linear(64, 1)
        nn.init.zeros_(self.output_layer.weight)
        nn.init.zeros_(self.output_layer.bias)
        self.log_temperature = nn.Parameter(torch.tensor(0.5).log())
        self.optimizer = torch.optim.Adam(self.parameters(), lr=CV_LEARNING_RATE)
        self.guard = Guard()

    def forward(self, z, observations):  # [draws, N, 1, K] (an action of K classes), [draws, N, F] to [draws, N]
        action = (z / self.log_temperature.exp()).softmax(-1).squeeze(-2)
        hidden = torch.tanh(self.state_layers(observations) + self.action_layer(action))
        return self.guard.scale * self.output_layer(hidden).squeeze(-1)


class Guard:
    scale = 1.0  # the root mean square of the advantages
    size = cross = square = 0.0  # earlier batches' E‖g‖², and their E⟨g, d⟩ and E‖d‖² as parts of it

    def share(self):  # η; before there is any evidence it is 0, which is A2C
        return min(max(-self.cross / self.square, 0.0), 1.0) if self.square > 0 else 0.0

    def observe(self, advantages, g, d):
        first, mean_square = self.size == 0, advantages.square().mean().item()
        self.scale = (mean_square if first else 0.95 * self.scale**2 + 0.05 * mean_square) ** 0.5
        size, cross, square = (((x * y).sum() / len(x)).item() for x, y in ((g, g), (g, d), (d, d)))
        divisor = max(size, 0.1 * self.size)  # a batch with tiny advantages must not drown the others
        self.cross = 0.9 * self.cross + cross / divisor
        self.square = 0.9 * self.square + square / divisor
        self.size = size if first else 0.9 * self.size + 0.1 * size


# %% [markdown]
# ## The environment loop
#
# The environments are stepped together, and each starts a new episode when its last one has ended. An episode that a
# time limit cut off would have gone on: the value of the state that it reached is added to its last reward.
#
# Â is generalised advantage estimation (Schulman et al. 2016): Â_t = δ_t + γλ Â_{t+1} with
# δ_t = r_t + γV(s_{t+1}) - V(s_t), and nothing is carried over the end of an episode. V's target is Â_t + V(s_t).


# %%
class Environments:
    def __init__(self, env_id, seed):
        self.envs = [gym.wrappers.RecordEpisodeStatistics(gym.make(env_id)) for _ in range(N_ENVS)]
        self.observations = np.stack([env.reset(seed=seed + i)[0] for i, env in enumerate(self.envs)])
        self.returns = []  # of the episodes that have ended


@torch.no_grad()
def collect(environments, agent):
    observations = torch.zeros(N_STEPS, *environments.observations.shape)
    actions = torch.zeros(N_STEPS, N_ENVS, dtype=torch.long)
    rewards, ends = torch.zeros(N_STEPS, N_ENVS), torch.zeros(N_STEPS, N_ENVS)
    values, advantages = torch.zeros(N_STEPS + 1, N_ENVS), torch.zeros(N_STEPS + 1, N_ENVS)
    for t in range(N_STEPS):
        observations[t] = torch.as_tensor(environments.observations)
        actions[t] = Categorical(logits=agent.policy(observations[t])).sample()
        values[t] = agent.value(observations[t])
        for i, env in enumerate(environments.envs):
            observation, reward, terminated, truncated, info = env.step(int(actions[t, i]))
            rewards[t, i] = reward
            if terminated or truncated:
                ends[t, i] = 1.0
                if not terminated:
                    rewards[t, i] += GAMMA * agent.value(torch.as_tensor(observation))
                environments.returns.append(float(info["episode"]["r"]))
                observation, _ = env.reset()
            environments.observations[i] = observation

    values[-1] = agent.value(torch.as_tensor(environments.observations))
    for t in reversed(range(N_STEPS)):
        delta = rewards[t] + GAMMA * (1 - ends[t]) * values[t + 1] - values[t]
        advantages[t] = delta + GAMMA * GAE_LAMBDA * (1 - ends[t]) * advantages[t + 1]
    return tuple(x.flatten(0, 1) for x in (observations, actions, advantages[:-1], (advantages + values)[:-1]))


# %% [markdown]
# ## The update
#
# RELAX needs a relaxed action z, and a relaxed action z̃ that is known to stand for the action a that was taken:
#
# ĝ = [Â - ĉ(z̃, s)] ∂ log π(a|s) + ∂ĉ(z, s) - ∂ĉ(z̃, s)   (Eq 8)
#
# One draw of z̃ given a serves for both, since a is itself a draw of the policy. The two then have the same value, and
# only their derivatives in log π differ, by a factor D between 0 and 1 that is known in closed form. This leaves
# [Â - ĉ(z, s)] ∂ log π(a|s), and D ∂ĉ/∂z carried from log π to θ. `RELAX` computes it ([Estimators](../estimators.md)).
#
# To lower the variance of ĝ, φ follows ∂φ Var(ĝ) = ∂φ E‖ĝ‖² (Eq 6), which holds since E[ĝ] does not depend on φ.
#
# **The order matters.** E[ĝ] is the mean of A2C's estimate for every ĉ, scale and η that were fixed before the actions
# were drawn. So the estimate comes first, and what φ and the guard learn from this batch serves the next one.


# %%
def update(agent, control_variate, batch, learning_rate, generator=None):
    observations, actions, advantages, value_targets = batch
    # 1. Estimate ĝ with ĉ in full, then apply the share of ĉ that earlier batches speak for.
    theta = agent.policy(observations).unsqueeze(-2)  # [N, 1, K]
    taken = F.one_hot(actions, theta.shape[-1]).unsqueeze(-2).to(theta.dtype)
    relax = RELAX(control_variate, center=False)  # V centres Â
    estimate = relax.finish(GumbelOneHot(theta), taken, advantages, generator=generator, context=observations)
    g = advantages.reshape(-1, 1, 1) * estimate.score  # Â ∂ log π(a|s), the estimate without ĉ
    d = estimate.grad - g
    applied = g + control_variate.guard.share() * d

    # 2. Step the policy and V, as A2C does. Then step V alone: Adam skips the policy, which has no gradient then.
    agent.optimizer.param_groups[0]["lr"] = learning_rate
    for step in range(N_CRITIC_STEPS):
        agent.optimizer.zero_grad()
        loss = VALUE_COEF * F.mse_loss(agent.value(observations), value_targets)
        if step == 0:  # the derivative of Σ applied · θ in the policy's weights is the policy gradient
            loss = loss - (applied * theta).sum() / len(actions)
        loss.backward()
        nn.utils.clip_grad_norm_(agent.parameters(), MAX_GRAD_NORM)
        agent.optimizer.step()

    # 3. Step φ on Eq 6: the objective is the batch's mean of ‖ĝ‖², and its graph leads to φ alone.
    control_variate.optimizer.zero_grad()
    estimate.objective.backward()
    control_variate.optimizer.step()

    # 4. Let the guard see how well ĉ did.
    control_variate.guard.observe(advantages, g, d)


def train(environments, agent, control_variate, total_timesteps, generator=None):
    steps = 0
    while steps < total_timesteps:
        batch = collect(environments, agent)
        steps += N_STEPS * N_ENVS
        learning_rate = LEARNING_RATE * max(1 - steps / total_timesteps, 0.0)
        update(agent, control_variate, batch, learning_rate, generator)


def main(seed, total_timesteps, env_id="CartPole-v1"):
    torch.manual_seed(seed)
    environments = Environments(env_id, seed)
    sizes = environments.observations.shape[-1], int(environments.envs[0].action_space.n)
    train(environments, Agent(*sizes), ControlVariate(*sizes), total_timesteps)
    return environments.returns


# %%
if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--timesteps", type=int, default=100_000)
    arguments, _ = parser.parse_known_args()  # a notebook is started with arguments of its own
    returns = main(arguments.seed, arguments.timesteps)
    print(f"{len(returns)} episodes; mean return of the last 100: {np.mean(returns[-100:]):.0f}")
