"""docs/examples/single_file.py is the package's RELAXA2C: update by update, run by run, and in distribution."""

import ast
import types
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
import yaml
from scipy import stats
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.utils import LinearSchedule

from sb3_relax import RELAXA2C
from tests.helpers import float64_model

ROOT = Path(__file__).parent.parent
SOURCE = (ROOT / "docs" / "examples" / "single_file.py").read_text()
#: CartPole whose episodes are cut off after 20 steps, so that even beginners reach the time limit
SHORT = "ShortCartPole-v0"
gym.register(SHORT, "gymnasium.envs.classic_control:CartPoleEnv", max_episode_steps=20)


def single_file(*changes):
    """The script as a module, after ``changes`` of its text: pairs of old and new."""
    source = SOURCE
    for old, new in changes:
        assert source.count(old) == 1, old
        source = source.replace(old, new)
    module = types.ModuleType("single_file")
    exec(compile(source, "single_file.py", "exec"), vars(module))
    return module


def settings():
    """The package's arguments for CartPole, as users get them."""
    arguments = yaml.safe_load((ROOT / "zoo_hyperparams" / "relaxa2c.yml").read_text())["CartPole-v1"]
    del arguments["n_timesteps"]
    kind, rate = arguments["learning_rate"].split("_")
    assert kind == "lin"
    return {**arguments, "learning_rate": LinearSchedule(float(rate), 0.0, 1.0)}


def package(env_id, seed, **more):
    """A RELAXA2C with these settings."""
    arguments = {**settings(), **more}
    env = make_vec_env(env_id, arguments.pop("n_envs"), seed=seed)
    return RELAXA2C(arguments.pop("policy"), env, seed=seed, device="cpu", **arguments)


def float64_package():
    """The same with a random ĉ, in float64, and with a constant learning rate."""
    arguments = {**settings(), "learning_rate": settings()["learning_rate"](1.0)}
    env = make_vec_env("CartPole-v1", arguments.pop("n_envs"), seed=0)
    arch = dict(pi=[64, 64], vf=[64, 64], cv=[64, 64])
    return float64_model(RELAXA2C, env, **arguments, policy_kwargs=dict(net_arch=arch))


class State:
    """What the two have in common, in the single file's terms, as copies. All that knows the package's insides."""

    def __init__(self, module, model):
        policy, guard, network = model.policy, model.control_variate, model.control_variate.variate.network
        self.agent = module.Agent(4, 2).to(policy.action_net.weight.dtype)
        self.control_variate = module.ControlVariate(4, 2).to(policy.action_net.weight.dtype)
        self.generator = torch.Generator().set_state(model.noise_generator.get_state())
        ours = [*self.agent.policy[::2], *self.agent.critic[::2], *self.control_variate.state_layers[::2]]
        ours += [self.control_variate.action_layer, self.control_variate.output_layer]
        theirs = [*policy.mlp_extractor.policy_net[::2], policy.action_net]
        theirs += [*policy.mlp_extractor.value_net[::2], policy.value_net]
        theirs += [network.state_encoder[0], network.state_layer, network.action_layer, network.output_layer]
        for own, other in zip(ours, theirs, strict=True):
            own.load_state_dict(other.state_dict())
        self.control_variate.log_temperature.data.copy_(network.log_temperature)
        self.control_variate.guard.scale = network.scale.item()
        for name in ("size", "cross", "square"):
            setattr(self.control_variate.guard, name, getattr(guard, name).item())

    def numbers(self):
        """Everything that training changes, by name."""
        guard = self.control_variate.guard
        named = {f"ĉ's {name}": value for name, value in self.control_variate.named_parameters()}
        named |= dict(self.agent.named_parameters())
        named |= {name: torch.tensor(getattr(guard, name)) for name in ("scale", "size", "cross", "square")}
        return {name: value.detach().clone() for name, value in named.items()}


def largest_difference(a, b):
    """Relative to the largest number of each tensor, or to 1 where that is smaller."""
    assert a.keys() == b.keys()
    return max(((a[k] - b[k]).abs().max() / max(b[k].abs().max(), 1)).item() for k in a)


@pytest.fixture
def time_order(monkeypatch):
    """Let the package take steps in the order in which they were made, so that each meets the same noise in both."""

    def order(n):
        return np.arange(n).reshape(settings()["n_envs"], -1).T.flatten()

    monkeypatch.setattr(np.random, "permutation", order)


class ScaleAdvantages(BaseCallback):
    """Multiplies Â of a rollout before the update."""

    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def _on_step(self):
        return True

    def _on_rollout_end(self):
        self.model.rollout_buffer.advantages *= self.factor


def compare_updates(module):
    """Updates in float64 from the package's own batches and a random ĉ, one of them with tiny advantages.

    :return: the largest difference after them, and the η of each
    """
    model = float64_package()
    single, shares = State(module, model), []
    for factor in (1, 1, 1, 0.01, 1, 1):
        shares.append(single.control_variate.guard.share())
        model.learn(module.N_ENVS * module.N_STEPS, callback=ScaleAdvantages(factor), reset_num_timesteps=False)
        data = next(model.rollout_buffer.get())
        actions = data.actions.long().flatten()
        batch = data.observations.double(), actions, data.advantages.double(), data.returns.double()
        module.update(single.agent, single.control_variate, batch, module.LEARNING_RATE, single.generator)
    return largest_difference(single.numbers(), State(module, model).numbers()), shares


def compare_runs(module, env_id, total_timesteps):
    """A whole run of both from equal weights, seeds and noise.

    :return: the largest difference after it, and the returns of the episodes of both
    """
    model = package(env_id, 5, stats_window_size=100_000)
    single = State(module, model)
    torch.manual_seed(7)
    model.learn(total_timesteps)
    torch.manual_seed(7)
    environments = module.Environments(env_id, 5)
    module.train(environments, single.agent, single.control_variate, total_timesteps, single.generator)
    theirs = [episode["r"] for episode in model.ep_info_buffer]
    return largest_difference(single.numbers(), State(module, model).numbers()), environments.returns, theirs


def test_same_initial_weights():
    module = single_file()
    theirs = State(module, package("CartPole-v1", 0))
    agent, control_variate = module.Agent(4, 2), module.ControlVariate(4, 2)
    for (name, a), b in zip(agent.named_parameters(), theirs.agent.parameters(), strict=True):
        if name.endswith("weight"):  # orthogonal ones have nothing but their singular values in common
            a, b = torch.linalg.svdvals(a), torch.linalg.svdvals(b)
        torch.testing.assert_close(a, b)
    for a, b in zip(control_variate.parameters(), theirs.control_variate.parameters(), strict=True):
        # zeros, τ, or at least 64 numbers from one distribution
        torch.testing.assert_close(a.square().mean().sqrt(), b.square().mean().sqrt(), rtol=0.2, atol=0)


def test_same_updates(time_order):
    difference, shares = compare_updates(single_file())
    assert sum(0 < share < 1 for share in shares) >= 3  # the guard was at work
    assert difference < 1e-12


@pytest.mark.parametrize("env_id", ["CartPole-v1", SHORT])
def test_same_run(env_id, time_order):
    difference, returns, theirs = compare_runs(single_file(), env_id, total_timesteps=2_500)
    assert returns == theirs
    assert len(returns) > 50
    assert difference < 1e-5


IMPORT = "from sb3_relax.estimators import RELAX, GumbelOneHot\n"
#: mistakes in the single file, each of which the two comparisons must notice
MISTAKES = {
    "what ĉ took is taken once more": (
        IMPORT,
        IMPORT
        + "class GumbelOneHot(GumbelOneHot):\n    def coupling(self, b, z):\n        return -super().coupling(b, z)\n",
    ),
    "φ is not trained": ("estimate.objective.backward()\n    control_variate.optimizer.step()", ""),
    "ĉ is applied in full": ("control_variate.guard.share() * d", "d"),
    "the guard forgets faster": ("0.9 * self.square", "0.8 * self.square"),
    "the guard lets tiny advantages drown the others": ("max(size, 0.1 * self.size)", "size"),
    "ĉ's scale forgets faster": ("0.95 * self.scale**2 + 0.05", "0.9 * self.scale**2 + 0.1"),
    "τ is not learned": ("self.log_temperature.exp()", "0.5"),
    "V takes half of the steps": ("range(N_CRITIC_STEPS)", "range(N_CRITIC_STEPS // 2)"),
    "V is carried over the end of an episode": ("GAMMA * (1 - ends[t]) * values", "GAMMA * values"),
    "Â is carried over the end of an episode": ("GAE_LAMBDA * (1 - ends[t])", "GAE_LAMBDA"),
    "a time limit is an end like any other": ("if not terminated:", "if False:"),
    "the gradient is not clipped": ("agent.parameters(), MAX_GRAD_NORM", "agent.parameters(), 1e9"),
    "Adam has torch's epsilon": ("eps=1e-5", "eps=1e-8"),
    "the learning rate stays": ("max(1 - steps / total_timesteps, 0.0)", "1.0"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_noticed(mistake, time_order):
    module = single_file(MISTAKES[mistake])
    assert compare_updates(module)[0] > 1e-3 or compare_runs(module, SHORT, 1_500)[0] > 1e-3


def mean_returns(returns_of, seeds, total_timesteps=30_000):
    """Mean return of the episodes of training, one number a seed."""
    return [float(np.mean(returns_of(seed, total_timesteps))) for seed in seeds]


def package_returns(seed, total_timesteps):
    model = package("CartPole-v1", seed, stats_window_size=100_000)
    model.learn(total_timesteps)
    return [episode["r"] for episode in model.ep_info_buffer]


@pytest.fixture(scope="module")
def package_mean_returns():
    return mean_returns(package_returns, range(20))


@pytest.mark.slow
def test_same_distribution(package_mean_returns):
    """Of the mean return, by the exact Mann-Whitney test at 1%: other seeds would fail it once in a hundred times."""
    single = mean_returns(single_file().main, range(20, 40))
    assert stats.mannwhitneyu(single, package_mean_returns, method="exact").pvalue > 0.01


@pytest.mark.slow
def test_a_mistake_has_another_distribution(package_mean_returns):
    """The same test tells them apart. Smaller mistakes than this one are left to the comparisons above."""
    module = single_file(MISTAKES["V is carried over the end of an episode"])
    single = mean_returns(module.main, range(20, 40))
    assert stats.mannwhitneyu(single, package_mean_returns, method="exact").pvalue < 0.01


def test_it_can_be_read_in_one_sitting():
    imports = [node for node in ast.walk(ast.parse(SOURCE)) if isinstance(node, (ast.Import, ast.ImportFrom))]
    modules = {
        node.module if isinstance(node, ast.ImportFrom) else name.name for node in imports for name in node.names
    }
    assert {name for name in modules if name.split(".")[0] in ("sb3_relax", "stable_baselines3")} == {
        "sb3_relax.estimators"
    }
    assert len(SOURCE.splitlines()) < 250
