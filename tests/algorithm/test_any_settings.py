"""Spaces, shapes, types, batch sizes and options drawn at random: what is promised of all agents holds of each.

``make test`` draws a few agents, the same ones each time. ``make test-slow`` draws hundreds.
"""

import io
import itertools

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.utils import obs_as_tensor

from sb3_relax import LAXA2C, RELAXA2C, HybridRELAXA2C
from sb3_relax.control_variates.proofs import actions_of, measure_bias
from sb3_relax.errors import UsageError
from tests.control_variates.test_proofs import anything
from tests.helpers import TinyEnv

FEW, MANY = 8, 200


def drawn(*strategies):
    """A test on a few drawn examples and, slowly, on many; both are the same ones each time."""

    def decorate(check):
        @pytest.mark.parametrize("examples", [FEW, pytest.param(MANY, marks=pytest.mark.slow)])
        def test(examples):
            how = dict(deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
            settings(max_examples=examples, **how)(given(*strategies)(check))()

        test.__name__, test.__doc__ = check.__name__, check.__doc__
        return test

    return decorate


def box(shape, dtype, low, width):
    if dtype is np.uint8:
        return spaces.Box(0, 255, shape, np.uint8)
    return spaces.Box(low, low + width, shape, dtype)


SHAPES = st.sampled_from([(1,), (3,), (2, 2)])
NUMBERS = st.builds(box, SHAPES, st.sampled_from([np.float32, np.float64, np.uint8]), st.floats(-3, 1), st.floats(1, 5))
UNBOUNDED = st.builds(lambda shape: spaces.Box(-np.inf, np.inf, shape, np.float32), SHAPES)
CLASSES = st.lists(st.integers(2, 4), min_size=1, max_size=3)
PARTS = st.one_of(
    NUMBERS,
    UNBOUNDED,
    st.builds(spaces.Discrete, st.integers(1, 5)),
    st.builds(spaces.MultiDiscrete, CLASSES),
    st.builds(spaces.MultiBinary, st.integers(1, 4)),
)
OBSERVATIONS = st.one_of(PARTS, st.dictionaries(st.sampled_from("abc"), PARTS, min_size=1).map(spaces.Dict))
FINITE_ACTIONS = st.one_of(
    st.builds(lambda n, start: spaces.Discrete(n, start=start), st.integers(2, 5), st.integers(-3, 3)),
    st.builds(spaces.MultiDiscrete, CLASSES),
    st.builds(spaces.MultiBinary, st.integers(1, 3)),
)
BOX_ACTIONS = st.builds(
    lambda shape, dtype, low, width: spaces.Box(low, low + width, shape, dtype),
    st.sampled_from([(1,), (2,), (1, 2)]),
    st.sampled_from([np.float32, np.float64]),
    st.floats(-3, 1),
    st.floats(0.1, 5),
)
JOINT_ACTIONS = st.builds(
    lambda parts, as_dict: spaces.Dict(dict(zip("abc", parts, strict=False))) if as_dict else spaces.Tuple(parts),
    st.lists(st.one_of(FINITE_ACTIONS, BOX_ACTIONS), min_size=1, max_size=3),
    st.booleans(),
)
OPTIONS = st.fixed_dictionaries(
    {},
    optional={
        "preset": st.just("fast"),
        "learning_rate": st.sampled_from([1e-4, 1e-2]),
        "gamma": st.sampled_from([0.0, 0.9, 1.0]),
        "gae_lambda": st.sampled_from([0.0, 0.9, 1.0]),
        "ent_coef": st.sampled_from([-0.01, 0.01]),
        "vf_coef": st.sampled_from([0.0, 1.0]),
        "max_grad_norm": st.sampled_from([0.01, 100.0]),
        "use_rms_prop": st.just(False),
        "normalize_advantage": st.sampled_from([True, "running"]),
        "cv_learning_rate": st.sampled_from([0.0, 0.1]),
        "n_cv_steps": st.integers(1, 3),
        "cv_objective": st.just("weights"),
        "cv_guard": st.just(False),
        "cv_action_dependent": st.just(False),
        "control_variate": st.sampled_from(["none", "state"]),
        "update_rule": st.just("kfac"),
        "normalize_observations": st.just(True),
        "initial_action_std": st.sampled_from([0.1, 2.0]),
        "critic_learning_rate": st.just(1e-3),
        "critic_batch_size": st.integers(1, 9),
        "n_critic_steps": st.integers(1, 4),
        "n_episodes": st.integers(1, 5),
    },
)
DISCRETE_OPTIONS = st.fixed_dictionaries(
    {},
    optional={
        "correction": st.sampled_from(["relaxed", "exact"]),
        "n_relaxed": st.integers(1, 3),
        "init_temperature": st.sampled_from([0.1, 2.0]),
    },
)


def of_class(cls, actions, *options):
    merged = st.tuples(*options).map(lambda parts: {key: value for part in parts for key, value in part.items()})
    return st.tuples(st.just(cls), actions, merged)


AGENTS = st.one_of(
    of_class(RELAXA2C, FINITE_ACTIONS, OPTIONS, DISCRETE_OPTIONS),
    of_class(LAXA2C, BOX_ACTIONS, OPTIONS),
    of_class(HybridRELAXA2C, JOINT_ACTIONS, OPTIONS),
)
#: whose gradient is divided by the number of steps
MEAN = st.just({"n_episodes": None})
FINITE_AGENTS = of_class(RELAXA2C, FINITE_ACTIONS, OPTIONS, DISCRETE_OPTIONS, MEAN)
BOX_AGENTS = of_class(LAXA2C, BOX_ACTIONS, OPTIONS, MEAN)


class AnyEnv(TinyEnv):
    """Actions of several parts as well, which have no sum."""

    def step(self, action):
        assert self.action_space.contains(action)
        self.t += 1
        return self._observe(), float(np.sin(self.t)), self.t >= self.length, False, {}


def made(agent, observations, n_envs, n_steps):
    """An agent of these settings, or none where they contradict each other, which is a ``UsageError``."""
    cls, actions, options = agent
    env = make_vec_env(lambda: AnyEnv(actions, 3, observations), n_envs, seed=0)
    policy = "MultiInputPolicy" if isinstance(observations, spaces.Dict) else "MlpPolicy"
    small = dict(policy_kwargs=dict(net_arch=dict(pi=[4], vf=[4])), seed=0, device="cpu")
    try:
        return cls(policy, env, **{"n_steps": n_steps, **small, **options})
    except UsageError:
        return None


def observed(model, count):
    """Observations of the agent's space, as its environments give them."""
    space = model.observation_space
    found = [space.sample() for _ in range(count)]
    if isinstance(space, spaces.Dict):
        return {key: np.stack([one[key] for one in found]) for key in space.spaces}
    return np.stack(found)


def every_action(space):
    """As the environment counts them, ``[M, D]``."""
    if isinstance(space, spaces.Discrete):
        return np.arange(space.start, space.start + space.n).reshape(-1, 1)
    counts = space.nvec if isinstance(space, spaces.MultiDiscrete) else [2] * space.n
    return np.array(list(itertools.product(*map(range, counts))))


def a2c_gradient(model, obs, actions, signal):
    """Σ_a π(a|s) Â(a) ∂ log π(a|s) at the policy's weights, by SB3's ``evaluate_actions``; and the probabilities."""
    everything = obs_as_tensor(repeated(obs, len(actions)), model.device)
    discrete = isinstance(model.action_space, spaces.Discrete)  # of which SB3 takes [M]
    _, log_prob, _ = model.policy.evaluate_actions(
        everything, th.as_tensor(actions).float().squeeze(-1) if discrete else th.as_tensor(actions).float()
    )
    probability = log_prob.detach().exp()
    (probability * signal * log_prob).sum().backward()
    found = {name: weight.grad for name, weight in model.policy.named_parameters()}
    model.policy.zero_grad()
    return {
        name: th.zeros_like(model.policy.get_parameter(name)) if x is None else x for name, x in found.items()
    }, probability


def repeated(obs, count):
    if isinstance(obs, dict):
        return {key: np.repeat(value, count, 0) for key, value in obs.items()}
    return np.repeat(obs, count, 0)


def flat(gradients):
    return th.cat([gradient.flatten() for gradient in gradients.values()])


def numbers_of(model):
    parts = {"policy": model.policy, "cv": model.control_variate, "critic": model.critic, "rule": model.update_rule}
    return {f"{name}.{key}": x for name, part in parts.items() for key, x in part.state_dict().items()}


def same(a, b):
    if isinstance(a, (tuple, list)):
        return all(map(same, a, b))
    return all(same(a[key], b[key]) for key in a) if isinstance(a, dict) else np.array_equal(a, b)


@drawn(AGENTS, OBSERVATIONS, st.integers(1, 3), st.integers(1, 6))
def test_what_was_saved_is_what_is_loaded(agent, observations, n_envs, n_steps):
    """construct → learn → save → load → predict."""
    model = made(agent, observations, n_envs, n_steps)
    assume(model is not None)
    steps = 3 * n_envs * (model.n_steps if model.n_episodes is None else 3 * model.n_episodes)
    before = {name: x.clone() for name, x in numbers_of(model).items()}
    model.learn(steps)
    assert model.num_timesteps >= steps
    assert all(bool(x.isfinite().all()) for x in numbers_of(model).values() if x.is_floating_point())
    assert any(not th.equal(x, before[name]) for name, x in numbers_of(model).items() if name.startswith("policy."))
    file = io.BytesIO()
    model.save(file)
    file.seek(0)
    loaded = type(model).load(file, env=model.get_env(), device="cpu")
    ours, theirs = numbers_of(model), numbers_of(loaded)
    assert ours.keys() == theirs.keys()
    for name, x in ours.items():
        assert th.equal(x, theirs[name]), name
    assert vars(model.hyperparameters.of(loaded)).keys() == vars(model.hyperparameters.of(model)).keys()
    obs = observed(model, 5)
    for deterministic in (True, False):
        actions = []
        for one in (model, loaded):
            th.manual_seed(1)
            one.action_space.seed(1)
            actions.append(one.predict(obs, deterministic=deterministic)[0])
        assert same(*actions)
    loaded.learn(steps, reset_num_timesteps=False)
    assert loaded.num_timesteps >= 2 * steps


@drawn(FINITE_AGENTS, OBSERVATIONS)
def test_the_gradient_is_a2cs_in_expectation(agent, observations):
    """At a state, over all actions with their probabilities, with Â and φ that are anything; SB3's own A2C is asked."""
    model = made(agent, observations, 1, 4)
    assume(model is not None)
    generator = th.Generator().manual_seed(0)
    with th.no_grad():
        for weight in model.policy.parameters():
            weight.add_(0.5 * th.randn(weight.shape, generator=generator))
    anything(model.control_variate)
    obs = observed(model, 1)
    space = model.action_space
    actions = every_action(space)
    signal = th.randn(len(actions), generator=generator)
    expected, probability = a2c_gradient(model, obs, actions, signal)
    # SB3's A2C is as certain that these are all actions
    assert probability.sum().item() == pytest.approx(1, abs=1e-5)

    def ours(copies):
        total = {name: th.zeros_like(x) for name, x in expected.items()}
        many = repeated(obs, copies)
        for action, p, value in zip(actions, probability, signal, strict=True):
            stored = np.repeat(action[None], copies, 0)
            gradient = model.policy_gradient(many, stored, value.repeat(copies))
            total = {name: x + p * gradient[name] for name, x in total.items()}
        return flat(total)

    exact, size = flat(expected), flat(expected).norm().clamp(min=1e-3)
    if not model.control_variate.draws_noise:
        assert (ours(1) - exact).norm() < 1e-4 * size
        return
    draws = th.stack([ours(100) for _ in range(12)])
    error = draws.std(0) / 12**0.5
    # Student's t with 11 degrees of freedom is beyond 12 once in ten million
    assert ((draws.mean(0) - exact).abs() <= 12 * error + 1e-4 * size).all()


@drawn(BOX_AGENTS, OBSERVATIONS)
def test_of_box_actions_too(agent, observations):
    """By quadrature at the parameters of the action distribution."""
    model = made(agent, observations, 1, 4)
    assume(model is not None)
    variate = anything(model.control_variate.double())
    obs = obs_as_tensor(observed(model, 1), model.device)
    output = model.view.evaluate(obs, th.as_tensor(model.action_space.sample()).reshape(1, -1).float())
    b, probability = actions_of(output, nodes=40)
    assert probability.sum().item() == pytest.approx(1, abs=1e-9)
    signal = b.sin().sum(-1) + 0.5 * b[:, 0]
    bias = measure_bias(variate, output, signal, model.noise_generator, n_draws=200)
    assert bias.unbiased, bias
