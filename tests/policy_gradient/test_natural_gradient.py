"""The natural gradient: its blocks against the exact Fisher matrix, the length of its steps, and what it does to V."""

import copy
import itertools
import math

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from sb3_contrib.common.wrappers import ActionMasker
from stable_baselines3.common.preprocessing import get_action_dim
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import nn

from sb3_relax import LAXA2C, RELAXA2C, HybridRELAXA2C, MaskableRELAXA2C, RecurrentLAXA2C, RecurrentRELAXA2C
from sb3_relax.control_variates import CONTROL_VARIATES
from sb3_relax.errors import UsageError
from sb3_relax.policy_gradient.update_rules.natural_gradient import rule as rule_module
from sb3_relax.policy_gradient.update_rules.natural_gradient.averages import Averages
from sb3_relax.policy_gradient.update_rules.natural_gradient.conjugate_gradients import (
    conjugate_gradients,
    fisher_product,
    flat,
    like,
)
from sb3_relax.policy_gradient.update_rules.natural_gradient.kfac import blocks_of, layers_with
from sb3_relax.policy_gradient.update_rules.natural_gradient.kronecker import KroneckerBlock, patches
from sb3_relax.policy_gradient.update_rules.natural_gradient.rule import TOLERANCE, search
from sb3_relax.policy_gradient.update_rules.natural_gradient.trace import Call, traced
from tests.algorithm.test_hybrid import SPACES as SPACES_OF_PARTS
from tests.algorithm.test_hybrid import HybridEnv
from tests.helpers import ACTION_SPACES, TinyEnv, float64_model

ARCH = dict(net_arch=dict(pi=[6], vf=[6], cv=[4]))
BOX = ACTION_SPACES["box"]


class SharedLayer(BaseFeaturesExtractor):
    """A layer that policy and V share, whose activation works in place where it is asked to."""

    def __init__(self, observation_space, inplace=False):
        super().__init__(observation_space, features_dim=5)
        self.layers = nn.Sequential(nn.Linear(3, 5), nn.ReLU(inplace=inplace))

    def forward(self, observations):
        return self.layers(observations)


class Attention(BaseFeaturesExtractor):
    """Attention between the numbers of an observation."""

    def __init__(self, observation_space):
        super().__init__(observation_space, features_dim=12)
        self.embed = nn.Linear(1, 4)
        self.attend = nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, observations):
        tokens = self.embed(observations.unsqueeze(-1))
        return self.attend(tokens, tokens, tokens, need_weights=False)[0].flatten(1)


class Normed(BaseFeaturesExtractor):
    """A layer without a block."""

    def __init__(self, observation_space):
        super().__init__(observation_space, features_dim=3)
        self.layers = nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3))

    def forward(self, observations):
        return self.layers(observations)


def masked(space):
    env = TinyEnv(ACTION_SPACES[space])
    n = {"discrete": 3, "multidiscrete": 5, "multibinary": 4}[space]
    return ActionMasker(env, lambda env: np.arange(n) != env.unwrapped.t % 2)


def images():
    return TinyEnv(spaces.Discrete(3), observation_space=spaces.Box(0, 255, (1, 36, 36), np.uint8))


PLAIN = {
    space: (lambda space=space, **kw: made(LAXA2C if space == "box" else RELAXA2C, TinyEnv(ACTION_SPACES[space]), **kw))
    for space in ACTION_SPACES
}
KFAC_CASES = {
    **PLAIN,
    "gSDE": lambda **kw: made(LAXA2C, TinyEnv(BOX), use_sde=True, **kw),
    "gSDE squashed": lambda **kw: made(LAXA2C, TinyEnv(BOX), use_sde=True, policy=dict(squash_output=True), **kw),
    "gSDE one std": lambda **kw: made(LAXA2C, TinyEnv(BOX), use_sde=True, policy=dict(full_std=False), **kw),
    "shared": lambda **kw: made(
        RELAXA2C, TinyEnv(ACTION_SPACES["discrete"]), policy=dict(features_extractor_class=SharedLayer), **kw
    ),
    "images": lambda **kw: made(RELAXA2C, images(), name="CnnPolicy", **kw),
    **{
        f"masked {space}": (lambda space=space, **kw: made(MaskableRELAXA2C, masked(space), **kw))
        for space in ("discrete", "multidiscrete", "multibinary")
    },
    "episodes": lambda **kw: made(RELAXA2C, TinyEnv(ACTION_SPACES["discrete"]), n_episodes=4, **kw),
    "several parts": lambda **kw: made(HybridRELAXA2C, HybridEnv(SPACES_OF_PARTS["nested"]), **kw),
}
CG_CASES = {
    "lstm": lambda **kw: made(RecurrentRELAXA2C, TinyEnv(ACTION_SPACES["discrete"]), name="MlpLstmPolicy", **kw),
    "lstm box": lambda **kw: made(RecurrentLAXA2C, TinyEnv(BOX), name="MlpLstmPolicy", **kw),
    "lstm gSDE": lambda **kw: made(RecurrentLAXA2C, TinyEnv(BOX), name="MlpLstmPolicy", use_sde=True, **kw),
    "attention": lambda **kw: made(LAXA2C, TinyEnv(BOX), policy=dict(features_extractor_class=Attention), **kw),
    "norm": lambda **kw: made(LAXA2C, TinyEnv(BOX), policy=dict(features_extractor_class=Normed), **kw),
}


def made(algorithm, env, name="MlpPolicy", policy=None, **kwargs):
    kwargs = {"n_steps": 32, "update_rule": "kfac", **kwargs}
    if algorithm in (RecurrentLAXA2C, RecurrentRELAXA2C):
        policy = dict(lstm_hidden_size=4, **(policy or {}))
    return algorithm(name, env, policy_kwargs={**ARCH, **(policy or {})}, seed=0, device="cpu", **kwargs)


def recorded(model, updates=4):
    """What every step measured, and the KL divergence of the same step as anybody may measure it."""
    steps, step = [], model.update_rule.step

    def spy(output, *rest):
        old = output.latent.detach()
        old = old.at(old.theta.clone())
        norm = step(output, *rest)
        with th.no_grad():
            steps.append((dict(model.update_rule.measured()), old.kl(output.again().latent).mean().item()))
        return norm

    model.update_rule.step = spy
    model.learn(updates * model.n_steps)
    del model.update_rule.step
    return steps


def a_pass(model, n=50, seed=0, observations=None):
    """The policy on states of their own."""
    th.manual_seed(seed)
    model.action_space.seed(seed)
    observations = th.randn(n, 3) if observations is None else observations
    actions = th.as_tensor(np.stack([model.action_space.sample() for _ in range(len(observations))])).float()
    return model.view.evaluate(observations, actions.reshape(len(observations), -1))


def exact_fisher(latent, weights):
    """Column by column, of the batch."""
    product = fisher_product(latent, weights)
    return th.stack([product(column) for column in th.eye(sum(w.numel() for w in weights), dtype=th.float64)])


def traced_blocks(model, output):
    actor = set(model.view.actor_weights)
    trace = traced(output, layers_with(model.policy, actor))
    return trace, blocks_of(model.policy, trace, actor)


def in_layer_order(block):
    """[A, G] → A ⊗ G over the weights and then the bias, as they are flattened."""
    a, g = block
    n_in, n_out = len(a) - 1, len(g)
    index = [o * (n_in + 1) + i for o in range(n_out) for i in range(n_in)]
    index += [o * (n_in + 1) + n_in for o in range(n_out)]
    return th.kron(g, a)[index][:, index]


# -- blocks against the exact Fisher matrix ---------------------------------------------------------------------------


def test_a_linear_layer_at_one_step_is_exact():
    layer = nn.Linear(4, 3).double()
    x, score = th.randn(1, 4, dtype=th.float64), th.randn(1, 3, dtype=th.float64)
    out = layer(x)
    one = flat(th.autograd.grad(out, [layer.weight, layer.bias], score, retain_graph=True))
    block = KroneckerBlock(layer, Call(x, out))
    th.testing.assert_close(in_layer_order(block.statistics(score)), th.outer(one, one))


def test_a_convolution_at_one_step_and_one_position_is_exact():
    layer = nn.Conv2d(2, 3, 3).double()
    x = th.randn(1, 2, 3, 3, dtype=th.float64)
    out = layer(x)
    score = th.randn_like(out)
    one = flat(th.autograd.grad(out, [layer.weight, layer.bias], score))
    th.testing.assert_close(in_layer_order(KroneckerBlock(layer, Call(x, out)).statistics(score)), th.outer(one, one))


def test_a_convolutions_factors_are_those_of_its_gradient():
    """Where x is the same at all positions, and g at different positions has nothing in common, A ⊗ G is exact."""
    layer = nn.Conv2d(2, 3, 2, stride=2).double()
    x = th.randn(1, 2, 2, 2, dtype=th.float64).repeat(1, 1, 2, 3)  # six positions
    out = layer(x)
    block = KroneckerBlock(layer, Call(x, out))
    channels, exact, averages = th.tensor([1.0, 2.0, 3.0], dtype=th.float64), 0, [0, 0]
    for signs in itertools.product((-1.0, 1.0), repeat=6):
        score = th.einsum("c,p->cp", channels, th.tensor(signs, dtype=th.float64)).reshape(1, 3, 2, 3)
        one = flat(th.autograd.grad(out, [layer.weight, layer.bias], score, retain_graph=True))
        exact = exact + th.outer(one, one) / 64
        averages = [mean + part / 64 for mean, part in zip(averages, block.statistics(score), strict=True)]
    th.testing.assert_close(in_layer_order(averages), exact)


@pytest.mark.parametrize("options", [dict(), dict(stride=2), dict(padding=1), dict(dilation=2, stride=(1, 2))])
def test_patches_are_what_the_kernel_sees(options):
    layer = nn.Conv2d(2, 3, (2, 3), **options).double()
    x = th.randn(4, 2, 7, 8, dtype=th.float64)
    out = patches(layer, x) @ layer.weight.flatten(1).T + layer.bias
    th.testing.assert_close(out, layer(x).permute(0, 2, 3, 1).flatten(0, 2))


def test_solve_is_the_inverse_of_the_damped_product():
    layer = nn.Linear(4, 3).double()
    x, g = th.randn(9, 4, dtype=th.float64), th.randn(9, 3, dtype=th.float64)
    block, damping = KroneckerBlock(layer, Call(x, layer(x))), 0.3
    a, b = block.statistics(g)
    gradients = [th.randn_like(p) for p in layer.parameters()]
    rho = ((a.trace() / 5) / (b.trace() / 3)).sqrt()
    damped = [a + math.sqrt(damping) * rho * th.eye(5), b + math.sqrt(damping) / rho * th.eye(3)]
    expected = th.linalg.solve(in_layer_order(damped), flat(gradients))
    th.testing.assert_close(flat(block.solve([a, b], gradients, damping)), expected)


def test_solve_survives_inputs_that_are_all_alike():
    """In float32, with matrices of rank one that the damping is nothing against, or of nothing at all."""
    layer = nn.Linear(64, 64)
    block = KroneckerBlock(layer, Call(100 * th.rand(1, 64), layer(th.rand(1, 64))))
    gradients = [th.randn_like(p) for p in layer.parameters()]
    for g in (1000 * th.randn(1, 64), th.zeros(1, 64)):
        assert flat(block.solve(block.statistics(g), gradients, rule_module.LEAST_DAMPING)).isfinite().all()


def test_a_linear_gaussian_policy_has_the_exact_fisher_matrix():
    """Inputs are Gaussian, and g is independent of them: K-FAC is exact, up to the draws behind G."""
    model = float64_model(LAXA2C, TinyEnv(BOX), policy_kwargs=dict(net_arch=dict(pi=[], vf=[5], cv=[6])))
    output = a_pass(model, 20_000)
    trace, blocks = traced_blocks(model, output)
    theta, latent = trace.latent.theta, trace.latent
    (g,) = th.autograd.grad(theta, [blocks[0].outputs], latent.score(latent.sample()), retain_graph=True)
    exact = exact_fisher(trace.latent, blocks[0].weights)
    found = in_layer_order(blocks[0].statistics(g))
    assert (found - exact).norm() < 0.05 * exact.norm()
    assert (2 * found - exact).norm() > 0.5 * exact.norm()


def test_its_actions_are_drawn_from_the_policy():
    """The policy is sure of its action, and the actions that were taken are others: F has nothing of these."""
    model = PLAIN["discrete"]()
    with th.no_grad():
        model.policy.action_net.bias.copy_(th.tensor([30.0, 0.0, 0.0]))
    output = a_pass(model)
    assert output.sample[:, 0, 0].mean() < 0.6
    estimate = model.control_variate.gradient(output, th.randn(50), model.noise_generator)
    model.update_rule.step(output, estimate, 0 * output.values.sum(), 50, 1e9)
    of_outputs = [value for name, value in model.update_rule.averages.state_dict().items() if name.endswith("_1")]
    assert len(of_outputs) == 2
    assert all(g.trace() < 1e-6 for g in of_outputs)


@pytest.mark.parametrize("options", [dict(), dict(full_std=False), dict(use_expln=True), dict(squash_output=True)])
def test_the_noise_of_gsde_is_exact(options):
    model = float64_model(LAXA2C, TinyEnv(BOX), use_sde=True, policy_kwargs=dict(log_std_init=-0.3, **options))
    with th.no_grad():
        model.policy.log_std += 0.5 * th.randn_like(model.policy.log_std)
    output = a_pass(model)
    trace, blocks = traced_blocks(model, output)
    (block,) = (block for block in blocks if block.weights[0] is model.policy.log_std)
    exact = exact_fisher(trace.latent, block.weights)
    found = block.statistics(None)
    gradient = th.randn_like(model.policy.log_std)
    expected = th.linalg.solve(exact + 0.1 * th.eye(len(exact)), gradient.flatten())
    # SB3 adds 1e-6 to the variance
    th.testing.assert_close(block.solve(found, [gradient], 0.1)[0].flatten(), expected, rtol=1e-5, atol=1e-7)


def test_the_log_std_of_all_states_is_exact():
    model = float64_model(LAXA2C, TinyEnv(BOX))
    trace, blocks = traced_blocks(model, a_pass(model))
    (block,) = (block for block in blocks if block.weights[0] is model.policy.log_std)
    exact = exact_fisher(trace.latent, block.weights)
    gradient = th.randn(2, dtype=th.float64)
    expected = th.linalg.solve(exact + 0.1 * th.eye(2), gradient)
    th.testing.assert_close(block.solve([], [gradient], 0.1)[0], expected)


def test_an_activation_in_place_changes_nothing():
    found = []
    for inplace in (False, True):
        extractor = dict(features_extractor_class=SharedLayer, features_extractor_kwargs=dict(inplace=inplace))
        model = made(RELAXA2C, TinyEnv(ACTION_SPACES["discrete"]), policy=extractor)
        model.learn(64)
        found.append(model.update_rule.state_dict())
    assert found[0].keys() == found[1].keys()
    assert all(th.equal(found[0][name], found[1][name]) for name in found[0])


def test_averages_are_even_at_first_and_fade_later():
    averages, values = Averages(decay=0.75), [3.0, 5.0, 10.0, 2.0, 7.0]
    found = [averages.observe([[th.tensor([value])], []])[0][0].item() for value in values]
    assert found == pytest.approx([3, 4, 6, 5, 0.75 * 5 + 0.25 * 7])
    assert averages.state_dict().keys() == {"steps", "average_0_0"}
    assert averages.observe([[th.ones(2)]])[0][0].tolist() == [1, 1]  # of another policy


@pytest.mark.parametrize("momentum", [0.0, 0.5])
def test_it_steps_along_the_average_of_gradients(momentum):
    """Two batches: what the second step is sized by is the average of both, evenly, or the newest alone."""
    model = PLAIN["discrete"](momentum=momentum)
    seen, solved = [], []
    direction = model.update_rule.direction

    def spy(output, weights, gradients, damping):
        seen.append([part.clone() for part in gradients])
        found = direction(output, weights, gradients, damping)
        solved.append([part.clone() for part in found[0]])
        return found

    model.update_rule.direction = spy
    model.learn(2 * model.n_steps)
    for first, second, g in zip(*seen, solved[1], strict=True):
        assert not th.allclose(first, second)
        th.testing.assert_close(g, (first + second) / 2 if momentum else second)


def test_an_affine_change_of_the_inputs_changes_nothing():
    """Undamped, the policies are the same functions after a step, if they were before it."""
    models = [float64_model(LAXA2C, TinyEnv(BOX), update_rule="kfac", target_kl=1e-3) for _ in range(2)]
    models[1].policy.load_state_dict(models[0].policy.state_dict())
    th.manual_seed(3)
    # policies get observations as float32, which has room for these products
    matrix = th.tensor([[2.0, 0.25, -0.5], [0.75, 1.5, 0.25], [-0.25, 1.0, 2.5]], dtype=th.float64)
    shift = th.tensor([0.5, -1.0, 0.25], dtype=th.float64)
    layer = models[1].policy.mlp_extractor.policy_net[0]
    with th.no_grad():
        layer.weight.copy_(layer.weight @ th.linalg.inv(matrix))
        layer.bias -= layer.weight @ shift
    observations = (16 * th.randn(80, 3, dtype=th.float64)).round() / 16
    seen = [observations, observations @ matrix.T + shift]
    before, after = [], []
    for model, inputs in zip(models, seen, strict=True):
        model.update_rule.damping.zero_()
        output = a_pass(model, observations=inputs)
        before.append(output.latent.theta)
        estimate = model.control_variate.gradient(output, th.randn(80, dtype=th.float64), model.noise_generator)
        model.update_rule.step(output, estimate, 0 * output.values.sum(), 80, 1e9)
        after.append(output.again().latent.theta)
    th.testing.assert_close(*before, rtol=1e-9, atol=1e-9)
    assert not th.allclose(before[0], after[0], atol=1e-3)
    th.testing.assert_close(*after, rtol=1e-6, atol=1e-6)


# -- the length of a step ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", [*KFAC_CASES, *CG_CASES])
@pytest.mark.parametrize("target", [1e-4, 3e-3])
def test_a_step_has_the_kl_that_is_asked_for(case, target):
    model = (KFAC_CASES | CG_CASES)[case](target_kl=target)
    steps = recorded(model)
    if case == "episodes":
        steps = steps[1:]  # the first has no number of steps to be divided by, and is too short to matter
    assert len(steps) >= 3
    for measured, kl in steps:
        assert kl == pytest.approx(measured["kl"], rel=1e-3, abs=1e-9)
        assert kl == pytest.approx(target, rel=TOLERANCE + 1e-3)
    assert (model.update_rule.averages.steps > 0) == (case in KFAC_CASES)


@pytest.mark.parametrize("case", [*KFAC_CASES, *CG_CASES])
def test_without_a_target_it_grows_with_the_root_of_the_number_of_variables(case):
    model = (KFAC_CASES | CG_CASES)[case]()
    assert model.target_kl is None
    assert model.update_rule.target_kl == pytest.approx(0.002 * math.sqrt(get_action_dim(model.action_space)))
    _, kl = recorded(model, 2)[1]
    assert kl == pytest.approx(model.update_rule.target_kl, rel=TOLERANCE + 1e-3)


@pytest.mark.parametrize("case", ["discrete", "box", "gSDE", "shared", "lstm"])
def test_no_step_is_longer_than_stated(case):
    """Large steps, where the prediction is worth little: the worst damping, and V's own steps as well."""
    model = (KFAC_CASES | CG_CASES)[case](target_kl=0.3, learning_rate=0.05, n_steps=8)
    model.update_rule.damping.fill_(1e-6)
    steps = recorded(model, 25)
    assert all(kl <= 0.3 * (1 + TOLERANCE) * 1.001 for _, kl in steps)
    assert max(kl for _, kl in steps) > 0.1


def test_search_by_known_functions():
    state = []

    def of(function):
        state.clear()
        return lambda scale: state.append(scale) or function(scale)

    assert search(of(lambda s: 4 * s**2), 1.0, 10.0) == pytest.approx((0.5, 1.0))
    assert search(of(lambda s: 0.01 * s**2), 1.0, 3.0) == pytest.approx((3, 0.09))  # not longer than it may be
    assert search(of(lambda s: math.inf if s > 0.3 else s**2), 0.04, 10.0)[1] == pytest.approx(0.04, rel=TOLERANCE)
    for bad in (5.0, math.inf):
        assert search(of(lambda s, bad=bad: bad if s > 0 else 0.0), 1.0, 10.0) == (0.0, 0.0)
        assert state[-1] == 0  # standing still


def test_a_flat_objective_is_not_stepped_along_for_long():
    """A policy that is nearly sure of its actions moves them by one root mean square of Â at most."""
    model = PLAIN["discrete"]()
    with th.no_grad():
        model.policy.action_net.bias.copy_(th.tensor([9.0, 0.0, 0.0]))
    before = copy.deepcopy(list(model.policy.parameters()))
    output = model.view.evaluate(th.randn(50, 3), th.zeros(50, 1))
    signal = 4 * th.randn(50)
    estimate = model.control_variate.gradient(output, signal, model.noise_generator)
    model.update_rule.step(output, estimate, 0 * output.values.sum(), 50, 1e9)
    longest = 1 / signal.square().mean().sqrt().item()
    assert model.update_rule.measured()["step_size"] == pytest.approx(longest)
    assert 0 <= model.update_rule.measured()["kl"] < 0.1 * model.update_rule.target_kl
    assert max((p - q).abs().max() for p, q in zip(model.policy.parameters(), before, strict=True)) < 0.1


@pytest.mark.parametrize("critic_learning_rate", [None, 1e-3])
def test_a_schedule_of_the_learning_rate_shortens_the_steps(critic_learning_rate):
    falling = dict(learning_rate=lambda progress: 1e-3 * progress, critic_learning_rate=critic_learning_rate)
    model = PLAIN["discrete"](target_kl=0.005, **falling)
    model.n_steps = 32
    kls = [measured["kl"] for measured, _ in recorded(model, 8)]
    rates = 1 - np.arange(1, 9) / 8
    np.testing.assert_allclose(kls, model.update_rule.target_kl * rates**2, rtol=TOLERANCE + 1e-3, atol=1e-9)


def test_damping_follows_the_prediction():
    rule = PLAIN["discrete"]().update_rule
    for ratio, n_blocks, direction in [
        (0.5, 3, -1),
        (1.0, 3, 0),
        (3.0, 3, 0),
        (3.0, 1, 1),
        (4.0, 3, 1),
        (math.inf, 3, 1),
    ]:
        before = rule.damping.item()
        rule.adapt_damping(ratio, n_blocks)
        assert np.sign(rule.damping.item() - before) == direction
    rule.damping.fill_(rule_module.LEAST_DAMPING)
    rule.adapt_damping(0.1, 1)
    assert rule.damping.item() == pytest.approx(rule_module.LEAST_DAMPING)


# -- what belongs to V, to the entropy and to the estimate ------------------------------------------------------------


def one_update(model, signal, of_loss):
    output = a_pass(model)
    estimate = model.control_variate.gradient(output, signal, model.noise_generator)
    return model.update_rule.step(output, estimate, of_loss(output), 50, 0.5)


@pytest.mark.parametrize("case", ["discrete", "shared"])
def test_v_is_stepped_by_the_policys_optimizer(case):
    """V's own weights are those of A2C's rule; shared ones too, where the policy has nowhere to go."""
    policies = []
    for name in ("kfac", "optimizer"):
        model = KFAC_CASES[case](update_rule=name, control_variate="none")
        signal = th.zeros(50) if case == "shared" else th.randn(50, generator=th.Generator().manual_seed(1))
        one_update(model, signal, lambda output: (output.values - 0.1).square().mean())
        policies.append(model.policy)
        own = model.view.critic_weights if case == "discrete" else model.policy.parameters()
        policies[-1] = [p.detach().clone() for p in own]
    start = KFAC_CASES[case]().policy
    assert len(policies[0]) >= 4
    assert any(not th.equal(p, q) for p, q in zip(policies[0], start.parameters(), strict=False))
    for ours, a2cs in zip(*policies, strict=True):
        th.testing.assert_close(ours, a2cs, rtol=1e-5, atol=1e-7)


def test_the_entropys_gradient_is_part_of_the_natural_step():
    entropies = []
    for weight in (0.0, 10.0):
        model = PLAIN["discrete"](control_variate="none", target_kl=0.01)
        with th.no_grad():
            model.policy.action_net.bias.copy_(th.tensor([1.0, 0.0, 0.0]))
        one_update(model, th.randn(50), lambda output, weight=weight: -weight * output.entropy.mean())
        entropies.append(a_pass(model).entropy.mean().item())
    assert entropies[1] > entropies[0] + 0.01


@pytest.mark.parametrize("variate", CONTROL_VARIATES)
def test_every_control_variate_goes_with_it(variate):
    if variate in ("lax", "factorised", "stein", "stein_quadratic", "stein_quadratic_variance"):
        model = PLAIN["box"](control_variate=variate)
    else:
        model = PLAIN["discrete"](control_variate=variate, **(dict(correction="exact") if variate == "exact" else {}))
    model.learn(96)
    assert model.update_rule.measured()["kl"] > 0


# -- conjugate gradients ----------------------------------------------------------------------------------------------


def test_conjugate_gradients_solve():
    root = th.randn(8, 8, dtype=th.float64)
    matrix, vector = root @ root.T + th.eye(8), th.randn(8, dtype=th.float64)
    th.testing.assert_close(
        conjugate_gradients(lambda v: matrix @ v, vector, 20), th.linalg.solve(matrix, vector), rtol=1e-4, atol=1e-5
    )
    assert not conjugate_gradients(lambda v: matrix @ v, 0 * vector).any()


@pytest.mark.parametrize("space", ACTION_SPACES)
def test_fisher_products_are_those_of_the_scores(space):
    """Σ_y π(y|s) ∂ log π ∂ log πᵀ by enumeration; of a Gaussian, from θ's own Fisher information."""
    model = float64_model(LAXA2C if space == "box" else RELAXA2C, TinyEnv(ACTION_SPACES[space]))
    output = a_pass(model, 5)
    weights = model.view.actor_weights
    latent, total = output.latent, 0
    if space == "box":
        scale = latent.theta.detach()[..., 1].exp()
        information = th.stack([scale**-2, th.full_like(scale, 2.0)], dim=-1).flatten(1)
        scores = [(th.eye(4, dtype=th.float64)[i] * information.sqrt()).reshape(5, 2, 2) for i in range(4)]
        chances = [th.ones(5, dtype=th.float64)] * 4
    else:
        support = latent.support()
        chances = [latent.log_prob(b).exp().detach() for b in support]
        scores = [latent.score(b) for b in support]
    for score, chance in zip(scores, chances, strict=True):
        for n in range(5):
            one = flat(th.autograd.grad(latent.theta[n], weights, score[n], retain_graph=True))
            total = total + chance[n] * th.outer(one, one) / 5
    th.testing.assert_close(exact_fisher(output.again().latent, weights), total, rtol=1e-8, atol=1e-10)


def test_like_is_the_inverse_of_flat():
    parts = [th.randn(2, 3), th.randn(4), th.randn(())]
    assert all(map(th.equal, like(flat(parts), parts), parts))


@pytest.mark.parametrize(("case", "name"), [("lstm", "lstm_actor.weight_ih_l0"), ("attention", "in_proj_weight")])
def test_the_log_says_once_that_conjugate_gradients_are_used(case, name, capsys):
    CG_CASES[case](verbose=1).learn(128)
    said = capsys.readouterr().out
    assert said.count("by conjugate gradients") == 1
    assert name in said


def test_nothing_is_said_of_kfac(capsys):
    PLAIN["discrete"](verbose=1).learn(64)
    assert "conjugate" not in capsys.readouterr().out


# -- as a part of the algorithm ---------------------------------------------------------------------------------------


def test_what_is_logged():
    model = PLAIN["discrete"]().learn(64)
    logged = model.logger.name_to_value
    assert logged["train/kl"] == pytest.approx(model.update_rule.target_kl, rel=TOLERANCE)
    assert logged["train/step_size"] > 0
    assert logged["train/damping"] > 0
    assert "train/kl" not in PLAIN["discrete"](update_rule="optimizer").learn(64).logger.name_to_value


@pytest.mark.parametrize("case", ["discrete", "gSDE", "images", "lstm"])
def test_its_state_is_saved_and_goes_on(case, tmp_path):
    model = (KFAC_CASES | CG_CASES)[case](target_kl=0.007)
    model.learn(96)
    model.save(tmp_path / "agent")
    loaded = type(model).load(tmp_path / "agent", device="cpu")
    assert loaded.target_kl == loaded.update_rule.target_kl == 0.007
    env = model.get_env()
    for each in (model, loaded):
        each.set_env(copy.deepcopy(env))
    for each in (model, loaded):
        saved, own = model.update_rule.state_dict(), each.update_rule.state_dict()
        assert own.keys() == saved.keys()
        assert all(th.equal(own[name], saved[name]) for name in own)
    for each in (model, loaded):
        each.set_random_seed(5)
        each.learn(96, reset_num_timesteps=False)
    assert all(map(th.equal, model.policy.parameters(), loaded.policy.parameters()))
    own, other = model.update_rule.state_dict(), loaded.update_rule.state_dict()
    assert all(th.equal(own[name], other[name]) for name in own)
    assert (len(own) > 3) == (case != "lstm")  # the damping, two numbers of steps, and the averages


def test_the_state_of_before_the_first_update_is_taken_back():
    model = PLAIN["discrete"]()
    before, after = copy.deepcopy(model.get_parameters()), []
    for _ in range(2):
        model.set_parameters(before)
        model.set_random_seed(5)
        model.learn(96)
        after.append(copy.deepcopy(model.get_parameters()["update_rule"]))
    assert after[0].keys() == after[1].keys() > before["update_rule"].keys()
    assert all(th.equal(value, after[1][name]) for name, value in after[0].items())


def test_another_policy_does_not_step_along_the_gradients_of_the_one_before():
    model, other = PLAIN["discrete"]().learn(96), PLAIN["discrete"]()
    assert model.update_rule.momentum.steps > 1
    model.policy = other.policy
    model.learn(model.n_steps, reset_num_timesteps=False)
    assert model.update_rule.momentum.steps == model.update_rule.averages.steps == 1


def test_a_state_without_an_average_of_gradients_begins_one():
    """As agents have it that were saved before there was one."""
    parameters = copy.deepcopy(PLAIN["discrete"]().learn(96).get_parameters())
    rule = parameters["update_rule"]
    parameters["update_rule"] = {name: value for name, value in rule.items() if not name.startswith("momentum.")}
    model = PLAIN["discrete"]().learn(32)
    model.set_parameters(parameters)
    assert model.update_rule.momentum.steps == 0
    assert model.update_rule.averages.steps == rule["averages.steps"]
    model.learn(model.n_steps, reset_num_timesteps=False)
    assert model.update_rule.momentum.steps == 1


@pytest.mark.parametrize("argument", [{"target_kl": 0.01}, {"momentum": 0.5}])
def test_what_is_of_a_natural_gradient_is_refused_without_one(argument):
    with pytest.raises(UsageError, match=r"=0\.\d+ has no effect on update_rule='optimizer'"):
        PLAIN["discrete"](update_rule="optimizer", **argument)


def test_bad_targets_are_refused():
    for bad in (0, -1, math.nan, 2, "0.01"):
        with pytest.raises(UsageError, match="target_kl must be a finite number between"):
            PLAIN["discrete"](target_kl=bad)
    for bad in (-0.1, 1, math.nan, None):
        with pytest.raises(UsageError, match="momentum must be a finite number between"):
            PLAIN["discrete"](momentum=bad)


@pytest.mark.parametrize("case", [*KFAC_CASES, *CG_CASES])
def test_the_distribution_alone_is_that_of_a_whole_pass(case):
    """By the weights as they are then, whether somebody listens to the actor or not."""
    model = (KFAC_CASES | CG_CASES)[case]()
    passes, step = [], model.update_rule.step

    def spy(output, *rest):
        passes.append(output)
        return step(output, *rest)

    model.update_rule.step = spy
    model.learn(model.n_steps)
    output, heard = passes[-1], []
    before = output.latent.theta.detach().clone()
    layers = [layer for layer in model.policy.modules() if type(layer) is nn.Linear]
    for listening in (False, True):
        if listening:
            for layer in layers:
                layer.register_forward_hook(lambda *_: heard.append(1))
        with th.no_grad():
            whole, alone = output.again().latent, output.latent_again()
        assert th.equal(whole.theta, alone.theta)
        assert not th.equal(before, alone.theta)
    assert heard
