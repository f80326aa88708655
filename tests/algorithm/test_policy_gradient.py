"""The algorithms' own gradient, in float64 without sampling noise: actions enumerated, relaxation noise integrated."""

import itertools

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces

from sb3_relax import LAXA2C, RELAXA2C
from sb3_relax.estimators import Estimate
from sb3_relax.estimators.proofs.quadrature import normal_rule, product_rule, unit_interval_rule
from sb3_relax.policy_gradient import policy_view
from tests.estimators import twins
from tests.helpers import ACTION_SPACES, TinyEnv, float64_model, in_full, randomise


def estimated(model, output, advantages, noise=None):
    """ĝ with ĉ in full, its noise drawn from the model's stream or given."""
    if noise is None:
        return in_full(model).gradient(output, advantages, model.noise_generator)
    c = in_full(model).network.at_states(output.latent, output.features)
    return in_full(model).estimator(c).finish(output.latent, output.sample, advantages, noise)


def enumerate_actions(space):
    if isinstance(space, spaces.Discrete):
        return th.arange(space.n).reshape(-1, 1)
    sizes = space.nvec if isinstance(space, spaces.MultiDiscrete) else [2] * space.n
    return th.tensor(list(itertools.product(*map(range, sizes))))


def as_seen(model, actions):
    if isinstance(model.action_space, spaces.Discrete):
        return actions.flatten()
    return actions.double() if isinstance(model.action_space, spaces.MultiBinary) else actions


def derivative(scalar, model):
    """∂ scalar / ∂ every policy weight, as one vector."""
    parameters = [p for p in model.policy.parameters() if p.requires_grad]
    gradients = th.autograd.grad(scalar, parameters, allow_unused=True, materialize_grads=True)
    return th.cat([gradient.flatten() for gradient in gradients])


def at_weights(model, estimate, weight):
    """Σ weight · ĝ carried to the policy's weights, as one vector."""
    latent = estimate.latent
    weighted = estimate.grad * weight.reshape(-1, *(1,) * latent.event_ndim)
    return derivative((latent.theta * weighted).sum(), model)


def plain_gradient(model, obs, actions, weight, **context):
    """Σ weight · ∂ log π by autograd on SB3's own log_prob: no code of ours."""
    _, log_prob, _ = model.policy.evaluate_actions(obs, as_seen(model, actions), **context)
    return derivative((weight * log_prob).sum(), model)


def noise_grid(theta_shape, nodes, live):
    """Quadrature nodes for the relaxation noise of one step (see expected_gradient); ½ where noise cannot matter."""
    live = th.ones(theta_shape, dtype=th.bool) if live is None else live
    node, weight = next(iter(product_rule(unit_interval_rule(nodes), int(live.sum()), chunk=10**8)))
    full = th.full((len(node), *theta_shape), 0.5, dtype=th.float64)
    full[:, live] = node
    return full, weight


def expected_at_weights(model, obs, actions, weights, advantages, nodes, live=None, widen=lambda n: {}):
    """E over the relaxation noise of Σ_a weight_a ĝ(a), at the policy's weights.

    :param widen: what the policy needs beside the observation, for n copies of it
    """
    total = 0.0
    for action, weight, advantage in zip(actions, weights, advantages, strict=True):
        one = model.view.evaluate(obs, action.unsqueeze(0), **widen(1))
        event = one.latent.theta.shape[1:]
        if in_full(model).estimator(lambda z: z).noise_shape(one.latent) is None:
            estimate = estimated(model, one, advantage.reshape(1))
            total = total + at_weights(model, estimate, weight.reshape(1))
            continue
        node, node_weight = noise_grid(event, nodes, live)
        n = len(node)
        wide_actions = action.unsqueeze(0).expand(n, *action.shape)
        wide = model.view.evaluate(obs.expand(n, *obs.shape[1:]), wide_actions, **widen(n))
        shape = in_full(model).estimator(lambda z: z).noise_shape(wide.latent)
        estimate = estimated(model, wide, advantage.expand(n), node.expand(shape))
        total = total + at_weights(model, estimate, weight * node_weight)
    return total


NODES = {"discrete": 32, "multibinary": 60}


@pytest.mark.parametrize("correction", ["coupled", "relaxed", "exact"])
@pytest.mark.parametrize("space", ["discrete", "multibinary"])
def test_expectation_is_that_of_the_plain_score_function(space, correction):
    model = float64_model(RELAXA2C, TinyEnv(ACTION_SPACES[space]), correction=correction, init_temperature=0.8)
    obs = th.randn(1, 3)
    actions = enumerate_actions(model.action_space)
    with th.no_grad():
        _, log_prob, _ = model.policy.evaluate_actions(obs.expand(len(actions), 3), as_seen(model, actions))
    probability, advantages = log_prob.exp(), th.randn(len(actions), dtype=th.float64) * 3
    assert probability.sum().item() == pytest.approx(1)
    exact = plain_gradient(model, obs.expand(len(actions), 3), actions, probability * advantages)
    ours = expected_at_weights(model, obs, actions, probability, advantages, NODES[space])
    assert exact.abs().max() > 0.01
    assert (ours - exact).abs().max() < 1e-9


MULTI_DISCRETE = {
    # unequal sizes are padded to the widest: [1, 3] lives in [3, 3], where five of six noises cannot matter but three
    "padded": ([1, 3], "coupled", 32, [[False, False, False], [True, True, True]]),
    "padded, independent": ([1, 3], "relaxed", 32, [[False, False, False], [True, True, True]]),
    "two variables": ([2, 2], "coupled", 28, [[True, True], [True, True]]),
    "exact": ([2, 3], "exact", 1, None),
}


@pytest.mark.parametrize("case", MULTI_DISCRETE)
def test_multidiscrete(case):
    sizes, correction, nodes, live = MULTI_DISCRETE[case]
    model = float64_model(RELAXA2C, TinyEnv(spaces.MultiDiscrete(sizes)), correction=correction, init_temperature=1.0)
    obs, actions = th.randn(1, 3), enumerate_actions(model.action_space)
    with th.no_grad():
        _, log_prob, _ = model.policy.evaluate_actions(obs.expand(len(actions), 3), actions)
    probability, advantages = log_prob.exp(), th.randn(len(actions), dtype=th.float64) * 3
    exact = plain_gradient(model, obs.expand(len(actions), 3), actions, probability * advantages)
    ours = expected_at_weights(model, obs, actions, probability, advantages, nodes, live and th.tensor(live))
    assert exact.abs().max() > 0.01
    assert (ours - exact).abs().max() < 1e-9


@pytest.mark.parametrize("correction", ["coupled", "relaxed"])
def test_multidiscrete_of_real_sizes(correction):
    """[2, 4, 3], padded to [4, 4, 4], by z-scores of 100,000 estimates: nine of them, at a fixed seed.

    A right estimator fails at 6e-5 of seeds.
    """
    model = float64_model(
        RELAXA2C, TinyEnv(spaces.MultiDiscrete([2, 4, 3])), correction=correction, init_temperature=0.7
    )
    randomise(model, 4.0)
    obs, actions = th.randn(1, 3), enumerate_actions(model.action_space)
    advantages = th.randn(len(actions), dtype=th.float64) * 3
    with th.no_grad():
        _, log_prob, _ = model.policy.evaluate_actions(obs.expand(len(actions), 3), actions)
    step = model.view.evaluate(obs.expand(len(actions), 3), actions)
    exact = ((log_prob.exp() * advantages)[:, None, None] * step.latent.score(step.sample)).sum(0)
    drawn = th.multinomial(log_prob.exp(), 100_000, replacement=True)
    wide = model.view.evaluate(obs.expand(len(drawn), 3), actions[drawn])
    estimate = estimated(model, wide, advantages[drawn])
    padded = th.arange(4) >= th.tensor([[2], [4], [3]])
    assert (estimate.grad[:, padded] == 0).all()
    grad, exact = estimate.grad[:, ~padded], exact[~padded]
    error = grad.std(0) / len(drawn) ** 0.5
    assert ((grad.mean(0) - exact) / error).abs().max() < 4.5
    # ĉ is at work, and a bias of 10% of the gradient would be seen
    assert (estimate.score_term[:, ~padded] - grad).abs().max() > 1
    assert (exact / error).abs().max() > 45


def test_padding_is_inert():
    """The padded class is never relaxed into ĉ's input and gets neither score nor correction."""
    model = float64_model(RELAXA2C, TinyEnv(ACTION_SPACES["multidiscrete"]))
    actions = enumerate_actions(model.action_space)
    step = model.view.evaluate(th.randn(len(actions), 3), actions)
    estimate = estimated(model, step, th.randn(len(actions), dtype=th.float64))
    assert estimate.grad.shape == (6, 2, 3)
    assert (estimate.grad[:, 0, 2] == 0).all()
    assert (estimate.grad[:, 0, :2] != 0).all()
    other_noise = th.rand(1, 6, 2, 3, dtype=th.float64)
    moved = other_noise.clone()
    moved[:, :, 0, 2] = 0.123
    a = estimated(model, step, step.values.detach(), other_noise).grad
    assert th.equal(a, estimated(model, step, step.values.detach(), moved).grad)


def broken(model, twin):
    """The model with a broken estimator in the place of its own."""
    in_full(model).estimator = twin
    return model


@pytest.mark.parametrize("twin", [twins.FlippedCorrection, twins.DoubledCorrection, twins.DetachedTilde])
def test_broken_estimators_are_rejected_by_the_same_comparison(twin):
    model = float64_model(RELAXA2C, TinyEnv(spaces.Discrete(2)), init_temperature=0.8)
    randomise(model, scale=10.0)
    obs, actions = th.randn(1, 3), enumerate_actions(model.action_space)
    with th.no_grad():
        _, log_prob, _ = model.policy.evaluate_actions(obs.expand(2, 3), actions.flatten())
    probability, advantages = log_prob.exp(), th.tensor([1.0, -2.0], dtype=th.float64)
    exact = plain_gradient(model, obs.expand(2, 3), actions, probability * advantages)
    assert (expected_at_weights(model, obs, actions, probability, advantages, 60) - exact).abs().max() < 1e-9
    ours = expected_at_weights(broken(model, twin), obs, actions, probability, advantages, 60)
    assert (ours - exact).abs().max() > 1e-3


def box_grid(model, nodes):
    """One state, Gauss-Hermite's weights, and the actions (before any tanh) at its nodes, attached to the policy."""
    node, weight = (th.cat(part) for part in zip(*product_rule(normal_rule(nodes), 2), strict=True))
    wide_obs = th.randn(1, 3).expand(len(node), 3)
    model.policy.evaluate_actions(wide_obs, th.zeros(len(node), 2, dtype=th.float64))
    normal = model.policy.action_dist.distribution
    return wide_obs, weight, normal.mean + normal.stddev * node


def test_the_log_p_b_sampler_is_rejected_by_the_same_comparison(monkeypatch):
    """The authors' own conditional Gumbel, in the place of the latent's."""
    model = float64_model(RELAXA2C, TinyEnv(spaces.Discrete(3)), init_temperature=0.8)
    randomise(model, scale=10.0)
    obs, actions = th.randn(1, 3), enumerate_actions(model.action_space)
    with th.no_grad():
        _, log_prob, _ = model.policy.evaluate_actions(obs.expand(3, 3), actions.flatten())
    probability, advantages = log_prob.exp(), th.tensor([1.0, -2.0, 0.5], dtype=th.float64)
    exact = plain_gradient(model, obs.expand(3, 3), actions, probability * advantages)
    assert (expected_at_weights(model, obs, actions, probability, advantages, 52) - exact).abs().max() < 1e-8
    right = policy_view.to_latent
    monkeypatch.setattr(policy_view, "to_latent", lambda d: twins.LogPbGumbel(right(d).theta))
    ours = expected_at_weights(model, obs, actions, probability, advantages, 52)
    assert (ours - exact).abs().max() > 1e-3


@pytest.mark.parametrize("gsde", [False, True])
def test_box_with_polynomial_advantages(gsde):
    """Gauss-Hermite over the executed action; the truth is the reparameterised derivative of E[A(a)] by autograd."""
    model = float64_model(LAXA2C, TinyEnv(ACTION_SPACES["box"]), use_sde=gsde)
    wide_obs, weight, executed = box_grid(model, 120)

    def advantage(a):
        return a[:, 0] ** 3 - 2 * a[:, 0] * a[:, 1] + a[:, 1] ** 2

    truth = derivative((weight * advantage(executed)).sum(), model)

    actions = executed.detach()
    step = model.view.evaluate(wide_obs, actions)
    ours = at_weights(model, estimated(model, step, advantage(actions)), weight)
    assert truth.abs().max() > 0.01
    assert (ours - truth).abs().max() < 1e-9

    step = model.view.evaluate(wide_obs, actions)
    fresh = at_weights(model, estimated(broken(model, twins.FreshNoiseLAX), step, advantage(actions)), weight)
    assert (fresh - truth).abs().max() > 1e-3


def test_squashed_box_with_polynomial_advantages():
    """The same with tanh and gSDE, for a ĉ with random weights."""
    model = float64_model(
        LAXA2C, TinyEnv(ACTION_SPACES["box"]), use_sde=True, policy_kwargs=dict(squash_output=True, log_std_init=-1.0)
    )
    wide_obs, weight, executed = box_grid(model, 100)

    def advantage(a):
        return a[:, 0] ** 2 - a[:, 0] * a[:, 1] + 2 * a[:, 1]

    truth = derivative((weight * advantage(th.tanh(executed))).sum(), model)
    actions = th.tanh(executed).detach()
    estimate = estimated(model, model.view.evaluate(wide_obs, actions), advantage(actions))
    ours = at_weights(model, estimate, weight)
    assert truth.abs().max() > 0.01
    assert (estimate.grad - estimate.score_term).abs().max() > 0.1  # ĉ is at work
    assert (ours - truth).abs().max() < 1e-9


def test_squashed_actions_use_the_action_before_tanh():
    model = float64_model(
        LAXA2C, TinyEnv(ACTION_SPACES["box"]), use_sde=True, policy_kwargs=dict(squash_output=True, log_std_init=-1.0)
    )
    squashed = th.tanh(th.randn(6, 2, dtype=th.float64))
    step = model.view.evaluate(th.randn(6, 3), squashed)
    assert th.allclose(step.sample, th.atanh(squashed), atol=1e-9)
    # the Jacobian of tanh does not depend on θ, so the score is that of the normal
    plain = plain_gradient(model, th.zeros(6, 3), squashed, th.ones(6, dtype=th.float64))
    step = model.view.evaluate(th.zeros(6, 3), squashed)
    ours = at_weights(model, _score_only(step), th.ones(6, dtype=th.float64))
    assert th.allclose(ours, plain, atol=1e-9)


def _score_only(step):
    score = step.latent.score(step.sample)
    return Estimate(step.latent, th.ones(len(score), dtype=score.dtype), score)


class TwoStates(gym.Env):
    """A tabular MDP: two states, three actions, two steps. Never stepped: it lends its spaces and tables."""

    observation_space = spaces.Discrete(2)
    action_space = spaces.Discrete(3)
    start = np.array([0.4, 0.6])
    move = np.random.default_rng(0).dirichlet(np.ones(2), size=(2, 3))  # p(s' | s, a)
    reward = np.random.default_rng(1).normal(size=(2, 3)) * 2
    horizon = 2

    def reset(self, *, seed=None, options=None):
        return 0, {}

    def step(self, action):
        return 0, 0.0, True, False, {}


@pytest.mark.parametrize("correction", ["coupled", "exact"])
def test_tabular_mdp_with_returns(correction):
    """Σ over trajectories of p(trajectory) Σ_t ĝ_t with returns = ∂ expected return, by autograd on the sum itself."""
    model = float64_model(RELAXA2C, TwoStates(), correction=correction, init_temperature=0.8)
    env = TwoStates()
    states = th.arange(2)

    def log_pi():
        actions = th.arange(3).repeat(2)
        _, log_prob, _ = model.policy.evaluate_actions(states.repeat_interleave(3), actions)
        return log_prob.reshape(2, 3)

    table = log_pi()
    expected_return, pieces = 0.0, []
    for s0, a0, s1, a1 in itertools.product(range(2), range(3), range(2), range(3)):
        probability = env.start[s0] * table[s0, a0].exp() * env.move[s0, a0, s1] * table[s1, a1].exp()
        r0, r1 = env.reward[s0, a0], env.reward[s1, a1]
        expected_return = expected_return + probability * (r0 + r1)
        pieces += [(s0, a0, probability.item(), r0 + r1), (s1, a1, probability.item(), r1)]
    truth = derivative(expected_return, model)

    ours = 0.0
    for state in range(2):
        mine = [piece for piece in pieces if piece[0] == state]
        actions = th.tensor([[action] for _, action, _, _ in mine])
        weights = th.tensor([p for _, _, p, _ in mine], dtype=th.float64)
        returns = th.tensor([g for _, _, _, g in mine], dtype=th.float64)
        # a baseline makes no difference; V is subtracted as in training
        value = model.policy.predict_values(states[state : state + 1]).item()
        ours = ours + expected_at_weights(model, states[state : state + 1], actions, weights, returns - value, 32)
    assert truth.abs().max() > 0.01
    assert (ours - truth).abs().max() < 1e-9


class Chain(gym.Env):
    """One state; action 1 goes on for a reward of 1, action 0 ends the episode, and so does the fourth step."""

    observation_space = spaces.Box(-1.0, 1.0, (3,), np.float32)
    action_space = spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        self.t = 0
        return np.ones(3, np.float32), {}

    def step(self, action):
        self.t += 1
        return np.ones(3, np.float32), float(action), action == 0 or self.t == 4, False, {}


CHAIN = [[1] * going_on + [0] for going_on in range(4)] + [[1] * 4]


@pytest.mark.parametrize("earlier", [0.0, 2.5])
def test_whole_episodes_of_any_length_give_the_true_gradient(earlier):
    """Every episode of the chain, enumerated: the first update, which has no earlier one to go by, and later ones.

    Divided by its own length, as a batch mean, the gradient would be another.
    """
    model = float64_model(RELAXA2C, Chain(), correction="exact", n_episodes=1, max_episode_steps=10, cv_guard=False)
    model.expected_steps.average.fill_(earlier)
    obs = th.ones(1, 3)

    def probability(actions):
        _, log_prob, _ = model.policy.evaluate_actions(obs.expand(len(actions), 3), th.tensor(actions))
        return log_prob.sum().exp()

    truth = derivative(sum(probability(actions) * sum(actions) for actions in CHAIN), model)
    ours = own = 0.0
    for actions in CHAIN:
        returns = th.tensor([float(sum(actions[t:])) for t in range(len(actions))]).double()
        gradient = model.policy_gradient(obs.expand(len(actions), 3), th.tensor(actions), returns)
        flat = probability(actions).item() * th.cat([gradient[n].flatten() for n, _ in model.policy.named_parameters()])
        ours, own = ours + flat * (earlier or 10), own + flat * (earlier or 10) / len(actions)
    assert (ours - truth).abs().max() < 1e-10
    length = sum(probability(actions).item() * len(actions) for actions in CHAIN)
    assert (own * length - truth).abs().max() > 0.01


@pytest.mark.parametrize("n_episodes", [None, 2])
@pytest.mark.parametrize("space", list(ACTION_SPACES))
def test_policy_gradient_is_what_train_descends(space, n_episodes):
    """Ascent direction and batch mean: SGD without clipping, V or entropy moves the weights by lr · policy_gradient."""
    algorithm = LAXA2C if space == "box" else RELAXA2C
    model = algorithm(
        "MlpPolicy",
        TinyEnv(ACTION_SPACES[space]),
        learning_rate=0.1,
        n_steps=16,
        n_episodes=n_episodes,
        vf_coef=0.0,
        max_grad_norm=1e9,
        cv_guard=False,
        seed=0,
        policy_kwargs=dict(optimizer_class=th.optim.SGD),
        device="cpu",
    )
    with th.no_grad():
        for parameter in model.control_variate.network.output_layer.parameters():
            parameter.normal_()
    model.learn(16)
    model.expected_steps.average.fill_(10.0)  # what divides whole episodes, and no other batch
    before = {name: p.detach().clone() for name, p in model.policy.named_parameters()}
    model.collect_rollouts(model.env, _no_callback(model), model.rollout_buffer, model.n_steps)
    state = model.noise_generator.get_state()
    order = np.random.get_state()  # noqa: NPY002  (SB3's generator, of the order of a batch)
    data = next(model.rollout_buffer.get(batch_size=None))
    gradient = model.policy_gradient(data.observations, data.actions, data.advantages)
    assert set(gradient) == set(before)
    assert all(gradient[name].abs().max() == 0 for name in gradient if "value" in name)
    model.noise_generator.set_state(state)
    np.random.set_state(order)  # noqa: NPY002
    model.train()
    for name, parameter in model.policy.named_parameters():
        assert th.allclose(parameter, before[name] + 0.1 * gradient[name], atol=1e-6), name


def _no_callback(model):
    from stable_baselines3.common.callbacks import CallbackList

    callback = CallbackList([])
    callback.init_callback(model)
    return callback


def test_policy_gradient_takes_arrays_and_multi_dimensional_box():
    space = spaces.Box(-1.0, 1.0, (2, 2), np.float32)
    model = LAXA2C("MlpPolicy", TinyEnv(space), seed=0, device="cpu")
    gradient = model.policy_gradient(np.zeros((5, 3), np.float32), np.ones((5, 2, 2), np.float32), np.ones(5))
    assert gradient["log_std"].shape == (4,)
    with pytest.raises(ValueError, match="advantages must have shape"):
        model.policy_gradient(np.zeros((5, 3), np.float32), np.ones((5, 2, 2), np.float32), np.ones((5, 1)))
