"""The whole path from environment to split, against closed forms; and broken twins that it must tell apart."""

import numpy as np
import pytest
import torch as th
from torch.distributions import Categorical

from sb3_relax import LAXA2C, RELAXA2C
from sb3_relax.common.frozen import frozen_copy
from sb3_relax.diagnose import measure as measuring
from sb3_relax.diagnose import restore
from sb3_relax.estimators.proofs.quadrature import normal_rule
from tests.diagnose.problems import (
    CONTEXTS,
    agent,
    exact_parts,
    full_gradient,
    linear_bandit,
    measure,
    score_gradient,
    table_bandit,
)

NOISE = 1.5


def z_scores(split, exact):
    """How far each part is from the truth, in standard errors."""
    return [
        (part.value - truth) / max(part.standard_error, 1e-9 * max(abs(truth), 1))
        for part, truth in zip((split.future, split.action, split.state), exact, strict=True)
    ]


def assert_agrees(split, exact, precision=0.25):
    """Within 4.5 standard errors, which must themselves be small enough for the comparison to say something."""
    assert max(map(abs, z_scores(split, exact))) < 4.5
    assert split.total.standard_error < precision * sum(exact)


def discrete(n_actions, noise, offset=0.0, **kwargs):
    env = table_bandit(n_actions, noise, offset)
    model = agent(RELAXA2C, env, **kwargs)
    actions = th.arange(n_actions)
    with th.no_grad():
        probability = model.policy.get_distribution(th.eye(CONTEXTS)).distribution.probs
    reward = [[env.reward(s, a) for a in range(n_actions)] for s in range(CONTEXTS)]
    return env, model, (actions, probability, reward, noise)


def box(noise):
    env = linear_bandit(noise)
    model = agent(LAXA2C, env)
    node, weight = normal_rule(40)
    with th.no_grad():
        normal = model.policy.get_distribution(th.eye(CONTEXTS)).distribution
    # one grid for all contexts: nodes around 0, reweighted by the density ratio
    actions = (node.flatten() * 2.0).float()[:, None]
    scale = th.distributions.Normal(0.0, 2.0)
    probability = th.stack(
        [
            weight * (th.distributions.Normal(m, s).log_prob(actions[:, 0]) - scale.log_prob(actions[:, 0])).exp()
            for m, s in zip(normal.mean[:, 0], normal.stddev[:, 0], strict=True)
        ]
    )
    assert probability.sum(1) == pytest.approx(1, abs=1e-3)
    reward = [[float(env.reward(s, a.numpy())) for a in actions] for s in range(CONTEXTS)]
    return env, model, (actions, probability, reward, noise)


@pytest.mark.parametrize("noise", [0.0, NOISE])
def test_three_armed_bandit(noise):
    """Without noise Σ_τ = 0; Σ_a and Σ_s by enumeration."""
    env, model, tables = discrete(3, noise)
    exact = exact_parts(model, *tables, score_gradient(model))
    split = measure(model, env)["V(s)", 0]
    assert_agrees(split, exact)
    if noise == 0:
        assert split.future.value == pytest.approx(0, abs=1e-10)


@pytest.mark.parametrize("correction", ["exact", "coupled"])
def test_control_variate_of_discrete_actions(correction):
    """Σ_a with a random ĉ in full; RELAX's is the same plus, apart, its relaxation's noise."""
    env, model, tables = discrete(3, NOISE, correction=correction)
    name = {"exact": "exact", "coupled": "RELAX"}[correction]
    parts = measure(model, env, {name: [frozen_copy(model, 5)]})
    exact = exact_parts(model, *tables, full_gradient(model, 1 if correction == "exact" else 10_000))
    plain = exact_parts(model, *tables, score_gradient(model))
    assert exact[2] == pytest.approx(plain[2], rel=0.02)  # neither Σ_τ nor Σ_s knows of ĉ
    assert_agrees(parts[name, 0], (plain[0], exact[1], plain[2]), precision=0.25)
    assert abs(exact[1] - plain[1]) > 5 * parts[name, 0].action.standard_error  # but Σ_a does
    noise = parts[name, 0].noise
    assert (noise.value > 5 * noise.standard_error) if correction == "coupled" else (noise.value == 0)


@pytest.mark.parametrize("lax", [False, True])
def test_linear_gaussian_bandit(lax):
    """Σ_τ is the reward's noise times E‖∂ log π‖²; Σ_a and Σ_s by quadrature."""
    env, model, tables = box(NOISE)
    parts = measure(model, env, {"LAX": [frozen_copy(model, 5)]})
    gradient = full_gradient(model) if lax else score_gradient(model)
    exact = exact_parts(model, *tables, gradient)
    assert_agrees(parts["LAX" if lax else "V(s)", 0], exact)


def test_two_actions_leave_nothing_beyond_the_best_state_baseline():
    env, model, tables = discrete(2, 0.0, offset=3.0)
    parts = measure(model, env, n_states=300, n_actions=8)
    with_value, best = parts["V(s)", 0], parts["best b(s)", 0]
    assert with_value.action.value > 10 * with_value.action.standard_error
    assert abs(best.action.value) < 4.5 * best.action.standard_error
    assert best.action.standard_error < 0.1 * with_value.action.value
    exact = exact_parts(model, *tables, score_gradient(model))
    assert_agrees(with_value, exact)


def test_three_actions_leave_something():
    """The best state baseline's Σ_a by enumeration, and it is not zero."""
    env, model, (actions, probability, reward, _) = discrete(3, 0.0)
    gradient, expected = score_gradient(model), 0.0
    for s in range(CONTEXTS):
        observation = th.eye(CONTEXTS)[s : s + 1]
        k = [gradient(observation, a[None], 1.0) for a in actions]
        size = sum(p * x.square().sum() for p, x in zip(probability[s], k, strict=True))
        b = sum(p * r * x.square().sum() for p, r, x in zip(probability[s], reward[s], k, strict=True)) / size
        per_action = [(r - b) * x for r, x in zip(reward[s], k, strict=True)]
        mean = sum(p * g for p, g in zip(probability[s], per_action, strict=True))
        expected += sum(p * (g - mean).square().sum() for p, g in zip(probability[s], per_action, strict=True))
    best = measure(model, env, n_states=300, n_actions=10)["best b(s)", 0].action
    truth = float(expected) / CONTEXTS
    assert abs(best.value - truth) < 4.5 * best.standard_error
    assert best.standard_error < truth / 4


def test_every_baseline_measures_the_same_state_part():
    """E[ĝ | s] does not know of baselines: the shared Σ_s is a theorem, and holds when each is measured on its own."""
    env, model, _ = discrete(3, 0.0, correction="exact")
    seen = {}
    original = measuring.split

    def recorded(terms):
        seen[len(seen)] = original(terms)
        return seen[len(seen) - 1]

    measuring.split = recorded
    try:
        measure(model, env, {"exact": [frozen_copy(model, 5)]})
    finally:
        measuring.split = original
    with_value, exact, without = seen[0].state, seen[1].state, seen[2].state
    for other in (without, exact):
        difference = with_value - other
        assert abs(difference.value) < 4.5 * difference.standard_error


# -- broken twins: each must fail where the right code passes ---------------------------------------------------------


def test_futures_that_share_their_noise_are_noticed(monkeypatch):
    """Copies that keep the original's stream of random numbers have one future: Σ_τ would vanish."""
    env, model, tables = discrete(3, NOISE)
    monkeypatch.setattr(restore, "_reseed", lambda found, rng: None)
    split = measure(model, env, n_states=300)["V(s)", 0]
    exact = exact_parts(model, *tables, score_gradient(model))
    assert split.future.value == 0 < exact[0]


def test_a_flipped_correction_is_noticed(monkeypatch):
    env, model, tables = discrete(3, NOISE, correction="exact")
    right = measuring.corrections
    monkeypatch.setattr(measuring, "corrections", lambda *arguments: -right(*arguments))
    split = measure(model, env, {"exact": [frozen_copy(model, 5)]})["exact", 0]
    exact = exact_parts(model, *tables, full_gradient(model))
    assert abs(z_scores(split, exact)[1]) > 6


def test_actions_of_another_policy_are_noticed():
    """Actions of a policy that mostly takes the first, in the place of the agent's own."""
    env, model, tables = discrete(3, 0.0)
    exact = exact_parts(model, *tables, score_gradient(model))
    base = frozen_copy(model, 0)
    right = base.policy.forward

    def forward(observations):
        actions, values, log_prob = right(observations)
        return Categorical(th.tensor([0.8, 0.1, 0.1]).expand(len(actions), 3)).sample(), values, log_prob

    states = measuring.visit(base.policy, restore.EnvSource(env), 600, 600, 10, 0)
    base.policy.forward = forward
    sample = measuring.continue_states(base.policy, states, 3, 2, (1.0,), 0.99, 1, np.random.default_rng(0))
    assert abs(z_scores(measuring._parts(base, sample, {})["V(s)", 0], exact)[1]) > 6
