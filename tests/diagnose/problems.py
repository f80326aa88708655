"""Tasks whose split is known in closed form."""

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces

from sb3_relax.algorithm.copies import frozen_copy
from sb3_relax.diagnose.continuations import continue_states
from sb3_relax.diagnose.measure import _parts
from sb3_relax.diagnose.restore import EnvSource
from sb3_relax.diagnose.states import visit

CONTEXTS = 3


class Bandit(gym.Env):
    """One step: a context of three, a reward r(s, a) + noise · N(0, 1)."""

    observation_space = spaces.Box(0.0, 1.0, (CONTEXTS,), np.float32)

    def __init__(self, action_space, reward, noise=0.0):
        self.action_space = action_space
        self.reward = reward
        self.noise = noise

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.context = int(self.np_random.integers(CONTEXTS))
        return np.eye(CONTEXTS, dtype=np.float32)[self.context], {}

    def step(self, action):
        reward = self.reward(self.context, action) + self.noise * self.np_random.normal()
        return np.zeros(CONTEXTS, np.float32), float(reward), True, False, {}


def table_bandit(n_actions, noise=0.0, offset=0.0):
    """Discrete actions, rewards of a fixed table; the further off, the worse the agent's V is as a baseline."""
    table = np.random.default_rng(0).normal(size=(CONTEXTS, n_actions)) * 2 + offset
    return Bandit(spaces.Discrete(n_actions), lambda s, a: table[s, a], noise)


def linear_bandit(noise=0.0):
    """One Box action, a reward linear in it with a slope of each context's own."""
    slope = np.array([1.0, -2.0, 0.5])
    return Bandit(spaces.Box(-50.0, 50.0, (1,), np.float32), lambda s, a: slope[s] * a[0] + 0.3, noise)


def agent(algorithm, env, **kwargs):
    """A policy and a ĉ with weights that matter; ĉ in full."""
    model = algorithm(
        "MlpPolicy", env, policy_kwargs=dict(net_arch=[8]), seed=0, device="cpu", n_steps=1, cv_guard=False, **kwargs
    )
    th.manual_seed(1)
    with th.no_grad():
        model.policy.action_net.weight.normal_()
        for parameter in model.control_variate.network.output_layer.parameters():
            parameter.normal_(std=0.5)
    return model


def measure(model, env, fitted=None, n_states=600, n_actions=3, n_futures=2, lambdas=(1.0,), seed=0):
    """Every estimator's split, through the pieces that diagnose() puts together."""
    th.manual_seed(seed)
    base = frozen_copy(model, seed)
    states = visit(base.policy, EnvSource(env), n_states, n_states, 100, seed)
    rng = np.random.default_rng(seed)
    sample = continue_states(base.policy, states, n_actions, n_futures, lambdas, base.gamma, base.n_steps, rng)
    return _parts(base, sample, fitted or {})


def exact_parts(model, actions, probability, mean_reward, noise, gradient):
    """Σ_τ, Σ_a, Σ_s by enumeration or quadrature over actions, at the policy's weights.

    :param actions: ``[M]`` or ``[M, 1]``: the nodes
    :param probability: their weights in each context, ``[CONTEXTS, M]``
    :param mean_reward: ``[CONTEXTS, M]``
    :param gradient: (observation, action, advantage) → ĝ at the policy's weights, as one vector, linear in advantage
    """
    future, action, means = 0.0, 0.0, []
    for s in range(CONTEXTS):
        observation = th.eye(CONTEXTS)[s : s + 1]
        value = model.policy.predict_values(observation).item()
        per_action = [gradient(observation, a[None], r - value) for a, r in zip(actions, mean_reward[s], strict=True)]
        slopes = [
            gradient(observation, a[None], 1.0) - gradient(observation, a[None], 0.0) for a in actions
        ]  # ∂ log π at the weights
        p = probability[s]
        mean = sum(q * g for q, g in zip(p, per_action, strict=True))
        future += noise**2 * sum(q * k.square().sum() for q, k in zip(p, slopes, strict=True)) / CONTEXTS
        action += sum(q * (g - mean).square().sum() for q, g in zip(p, per_action, strict=True)) / CONTEXTS
        means.append(mean)
    means = th.stack(means)
    state = (means - means.mean(0)).square().sum(1).mean()
    return float(future), float(action), float(state)


def score_gradient(model):
    """Â ∂ log π by autograd on SB3's own log_prob: no code of ours."""

    def gradient(observation, action, advantage):
        _, log_prob, _ = model.policy.evaluate_actions(observation, action)
        weights = [p for p in model.policy.parameters() if p.requires_grad]
        parts = th.autograd.grad(log_prob.sum() * advantage, weights, allow_unused=True, materialize_grads=True)
        return th.cat([part.flatten() for part in parts]).double()

    return gradient


def full_gradient(model, draws=1):
    """ĝ with ĉ in full, as the algorithm applies it, averaged over draws of the relaxation's noise."""

    def gradient(observation, action, advantage):
        copies = observation.expand(draws, CONTEXTS), action.expand(draws, *action.shape[1:])
        parts = model.policy_gradient(*copies, th.full((draws,), float(advantage)))
        return th.cat([part.flatten() for part in parts.values()]).double()

    return gradient
