"""Control variates that are fitted by regression on recent steps: what each is, and the mistakes that each invites."""

import copy

import numpy as np
import pytest
import torch as th
from gymnasium import spaces

from sb3_relax import LAXA2C, RELAXA2C
from sb3_relax.control_variates import ControlVariateNetwork, Factorised, QProp, Stein
from sb3_relax.control_variates.factorised import alternatives
from sb3_relax.control_variates.proofs import actions_of, measure_bias
from sb3_relax.control_variates.recent_steps import RecentSteps
from sb3_relax.errors import UsageError
from sb3_relax.estimators import LAX, Estimate, Gaussian
from sb3_relax.estimators.estimate import expand_to
from sb3_relax.estimators.latents import LogGaussian
from tests.helpers import ACTION_SPACES, TinyEnv, in_full

SWITCHES = spaces.MultiBinary(4)


def agent(space, name, **kwargs):
    algorithm = LAXA2C if isinstance(space, spaces.Box) else RELAXA2C
    settings = dict(device="cpu", seed=0, cv_guard=False, policy_kwargs=dict(net_arch=[8]))
    return algorithm("MlpPolicy", TinyEnv(space), control_variate=name, **{**settings, **kwargs})


def every_action(model, size=0.5):
    """The variate in float64 with weights that mean something, and one state with all of its actions."""
    generator = th.Generator().manual_seed(1)
    with th.no_grad():
        for parameter in (*model.policy.parameters(), *in_full(model).parameters()):
            parameter.add_(size * th.randn(parameter.shape, generator=generator))
    variate = copy.deepcopy(in_full(model)).double()
    shape = (1, 1) if isinstance(model.action_space, spaces.Discrete) else (1, *model.action_space.shape)
    output = model.view.evaluate(th.rand(1, 3), th.zeros(shape).flatten(1))
    b, probability = actions_of(output, nodes=20)
    many = th.zeros(len(b), dtype=th.int64)
    whole = output.at(many)
    latent = whole.latent.at(whole.latent.theta.detach().double())
    return variate, output, whole._replace(latent=latent, sample=b, features=whole.features.double()), probability


def variance(gradients, probability):
    weight = probability.reshape(-1, *(1,) * (gradients.dim() - 1))
    mean = (weight * gradients).sum(0)
    return (weight * (gradients - mean).square()).sum().item()


# -- Q-Prop -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["qprop", "qprop_conservative"])
@pytest.mark.parametrize("space", ["box", "discrete"])
def test_qprop_leaves_nothing_of_what_is_linear(name, space):
    model = agent(ACTION_SPACES[space], name)
    variate, _, whole, probability = every_action(model)
    with th.no_grad():
        variate.of_share[-1].weight.zero_()
        variate.of_share[-1].bias.fill_(1.0)
    mean = whole.latent.mean()
    linear = whole.latent.inner(variate.slope(whole.features, mean), whole.sample - mean)
    estimate = variate.gradient(whole, linear, model.noise_generator)
    assert variance(estimate.score_term, probability) > 1e-3
    assert variance(estimate.grad, probability) < 1e-15


def test_the_conservative_form_is_all_or_nothing():
    variate, _, whole, _ = every_action(agent(ACTION_SPACES["box"], "qprop_conservative"))
    with th.no_grad():
        for bias, share in ((0.3, 1.0), (-0.3, 0.0)):
            variate.of_share[-1].weight.zero_()
            variate.of_share[-1].bias.fill_(bias)
            assert (variate.share(whole.features) == share).all()


def test_the_adaptive_share_is_the_regressions():
    """Where Â is half of q'·(a - μ) and noise, the share becomes a half."""
    model = agent(ACTION_SPACES["box"], "qprop", n_cv_steps=150)
    variate = in_full(model)
    with th.no_grad():
        variate.network.output_layer.weight.fill_(1.0)
    variate.trained = [*variate.of_share.parameters()]
    model.control_variate.set_learning_rate(0.01)
    output = model.view.evaluate(th.rand(500, 3) - 0.5, th.randn(500, 2))
    mean = output.latent.mean()
    linear = output.latent.inner(variate.slope(output.features, mean), output.sample - mean)
    signal = (0.5 * linear + 0.1 * linear.std() * th.randn(500)).detach()
    variate.fit(output, signal, None, model.noise_generator)
    assert (variate.share(output.features) - 0.5).abs().mean() < 0.05


class NormalisedButForItsCorrection(QProp):
    """Public code: what is left of Â is divided by its size, and what is added again is not."""

    def gradient(self, output, signal, generator):
        score, mean = output.latent.score(output.sample), output.latent.mean()
        slope = self.slope(output.features, mean)
        left = signal - output.latent.inner(slope, output.sample - mean) / 2.0  # Â came divided by 2
        grad = expand_to(left, output.latent) * score + output.latent.mean_gradient(slope)
        return Estimate(output.latent, signal, grad, score=score)


class ShareByTheVeryAction(QProp):
    """As the paper writes it: η is 1 where the very action's Â and q'·(a - μ) have one sign."""

    def gradient(self, output, signal, generator):
        mean = output.latent.mean()
        linear = output.latent.inner(self.slope(output.features, mean), output.sample - mean)
        self.seen = (linear * signal > 0).to(signal)
        return super().gradient(output, signal, generator)

    def share(self, features):
        return self.seen


class SlopeAtTheAction(QProp):
    """The slope is that at the action which was drawn, where what is subtracted has another mean."""

    def gradient(self, output, signal, generator):
        self.sample = output.sample
        return super().gradient(output, signal, generator)

    def slope(self, features, mean):
        return super().slope(features, self.sample)


@pytest.mark.parametrize("broken", [NormalisedButForItsCorrection, ShareByTheVeryAction, SlopeAtTheAction])
def test_broken_qprops_are_rejected(broken):
    model = agent(ACTION_SPACES["box"], broken)
    variate, output, whole, _ = every_action(model)
    signal = whole.sample.sin().sum(-1) + 0.3
    assert not measure_bias(variate, output, signal, model.noise_generator, nodes=20).unbiased


# -- factorised baselines ---------------------------------------------------------------------------------------------


def test_bits_have_no_variance_of_their_own_where_q_is_right():
    """Of what is left, a bit's score is told by the other bits alone."""
    model = agent(SWITCHES, "factorised")
    variate, _, whole, _ = every_action(model)
    with th.no_grad():
        right = variate.network(whole.features, whole.sample)
    grad = variate.gradient(whole, right, model.noise_generator).grad
    for bit in range(4):
        others = [i for i in range(4) if i != bit]
        order = np.lexsort(whole.sample[:, others].T.numpy())
        pairs = grad[order, bit].reshape(-1, 2)
        assert pairs.std() > 1e-3
        th.testing.assert_close(pairs[:, 0], pairs[:, 1])


@pytest.mark.parametrize("space", ["multidiscrete", "multibinary", "box"])
def test_the_baselines_are_the_optimal_ones(space):
    """By hand: E[‖s_i‖² q] / E[‖s_i‖²] over the variable's values, whatever it is itself."""
    model = agent(ACTION_SPACES[space], "factorised")
    variate, _, whole, _ = every_action(model)
    ours = variate.baselines(whole)
    values, _ = alternatives(whole.latent)
    sizes = [2, 3] if space == "multidiscrete" else [2, 2]
    for i, size in enumerate(sizes):
        above = below = 0
        for value in range(size):
            sample = whole.sample.clone()
            sample[:, i] = values[:, i, value].reshape(-1, *sample.shape[2:])
            with th.no_grad():
                q = variate.network(whole.features, sample.flatten(1))
            if space == "box":
                weight = th.ones_like(q)
            else:
                score = whole.latent.score(sample)[:, i].reshape(len(q), -1)
                chosen = whole.latent.probs[:, i].reshape(len(q), -1)
                p = chosen[:, value] if space == "multidiscrete" else (chosen if value else 1 - chosen)[:, 0]
                weight = p.detach() * score.square().sum(1)
            above, below = above + weight * q, below + weight
        th.testing.assert_close(ours[:, i], above / below)


def test_they_do_not_depend_on_how_many_rows_are_held_at_once(monkeypatch):
    model = agent(ACTION_SPACES["multidiscrete"], "factorised")
    variate, _, whole, _ = every_action(model)
    at_once = variate.baselines(whole)
    monkeypatch.setattr("sb3_relax.control_variates.factorised.MOST_HELD", 1)
    th.testing.assert_close(variate.baselines(whole), at_once)


class OwnActionToo(Factorised):
    """A baseline that has seen the variable which it is a baseline for."""

    def baselines(self, output):
        with th.no_grad():
            q = self.network(output.features, output.sample.flatten(1))
        return q.unsqueeze(1).expand(-1, output.latent.variables)


@pytest.mark.parametrize("space", ["multidiscrete", "multibinary", "box"])
def test_baselines_of_their_own_action_are_rejected(space):
    model = agent(ACTION_SPACES[space], OwnActionToo)
    variate, output, _, probability = every_action(model)
    bias = measure_bias(variate, output, th.zeros_like(probability), model.noise_generator, nodes=20)
    assert not bias.unbiased


@pytest.mark.parametrize("space", [spaces.Discrete(3), spaces.Box(-1, 1, (1,))])
def test_one_variable_is_refused(space):
    with pytest.raises(UsageError, match="takes actions of several variables"):
        agent(space, "factorised")


# -- Stein ------------------------------------------------------------------------------------------------------------


def test_stein_is_lax_with_another_fit():
    model = agent(ACTION_SPACES["box"], "stein")
    variate, _, whole, _ = every_action(model)
    signal = th.randn(len(whole.sample), dtype=th.float64)
    c = variate.network.at_states(whole.latent, whole.features)
    expected = LAX(c, center=False).finish(whole.latent, whole.sample, signal)
    th.testing.assert_close(variate.gradient(whole, signal, model.noise_generator).grad, expected.grad.detach())


def test_the_quadratic_form_learns_a_quadratic():
    model = agent(ACTION_SPACES["box"], "stein_quadratic", n_cv_steps=400)
    model.control_variate.set_learning_rate(0.03)
    output = model.view.evaluate(th.rand(300, 3) - 0.5, th.randn(300, 2))
    a, s = output.sample, output.features
    signal = s[:, 0] + (0.5 + s[:, 1]) * a[:, 0] - 0.4 * a[:, 1].square()
    in_full(model).fit(output, signal, None, model.noise_generator)
    with th.no_grad():
        left = signal - in_full(model).network(s, a)
    assert left.square().mean() < 0.02 * signal.square().mean()


def test_the_quadratic_form_lowers_its_own_variance():
    model = agent(ACTION_SPACES["box"], "stein_quadratic_variance", n_cv_steps=200)
    model.control_variate.set_learning_rate(0.02)
    output = model.view.evaluate(th.rand(300, 3) - 0.5, th.randn(300, 2))
    signal = 0.5 + output.sample[:, 0] - 0.4 * output.sample[:, 1].square()
    variate = in_full(model)
    estimate = variate.gradient(output, signal, model.noise_generator)
    before = estimate.moments.square_at(1)
    assert before == pytest.approx(estimate.moments.square_at(0))
    variate.fit(output, signal, estimate, model.noise_generator)
    assert variate.gradient(output, signal, model.noise_generator).moments.square_at(1) < 0.3 * before


class WithoutItsPath(Stein):
    """What is subtracted is not added again."""

    def gradient(self, output, signal, generator):
        with th.no_grad():
            c = self.network(output.features, output.sample)
        score = output.latent.score(output.sample)
        return Estimate(output.latent, signal, expand_to(signal - c, output.latent) * score, score=score)


def test_a_stein_without_its_path_is_rejected():
    model = agent(ACTION_SPACES["box"], WithoutItsPath)
    variate, output, _, probability = every_action(model)
    bias = measure_bias(variate, output, th.zeros_like(probability), model.noise_generator, nodes=20)
    assert not bias.unbiased


# -- what they have in common -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "space"), [("factorised", "multibinary"), ("qprop", "box"), ("stein", "box"), ("qprop", "discrete")]
)
def test_a_batch_is_kept_after_it_was_used(name, space):
    model = agent(ACTION_SPACES[space], name, n_steps=20)
    model.learn(60)
    variate = in_full(model)
    assert len(variate.recent) == 60
    assert model.logger.name_to_value["train/cv_loss"] > 0
    assert isinstance(variate.network, ControlVariateNetwork)
    assert not th.equal(variate.network.output_layer.weight, th.zeros_like(variate.network.output_layer.weight))


def test_what_is_not_finite_is_not_kept():
    model = agent(ACTION_SPACES["multibinary"], "factorised")
    output = model.view.evaluate(th.rand(5, 3), th.zeros(5, 2))
    in_full(model).fit(output, th.full((5,), float("inf")), None, model.noise_generator)
    assert len(in_full(model).recent) == 0


def test_with_a_rate_of_zero_nothing_changes():
    model = agent(ACTION_SPACES["multibinary"], "factorised", cv_learning_rate=0.0).learn(50)
    output = model.view.evaluate(th.rand(5, 3), th.zeros(5, 2))
    estimate = in_full(model).gradient(output, th.randn(5), model.noise_generator)
    assert th.equal(estimate.grad, estimate.score_term)


def test_rows_come_in_their_order():
    recent, generator = RecentSteps(10), th.Generator().manual_seed(0)
    recent.batch_size = 3
    for start in range(0, 16, 4):
        rows = th.arange(start, start + 4)
        recent.add(rows, (rows % 4 != 3).float())
    assert recent.in_order()[0].tolist() == list(range(6, 16))
    starts = set()
    for _ in range(50):
        rows, goes_on = recent.draw_in_order(1, generator)
        assert rows.tolist() == list(range(rows[0], rows[-1] + 1))
        assert len(rows) >= 3
        assert goes_on[-1] == 0
        assert len(rows) < 7
        starts.add(int(rows[0]))
    assert starts == set(range(6, 14))


def test_of_no_rows_there_are_no_columns():
    assert RecentSteps().draw_in_order(-1, th.Generator()) == RecentSteps().draw(th.Generator()) == ()


def test_all_rows_of_a_rollout_are_kept_however_many():
    """Which come environment after environment: of the first ones as of the last."""
    recent = RecentSteps(10)
    recent.add(th.arange(4))
    for start in (0, 100):
        recent.add(th.arange(start, start + 16))
        assert recent.in_order()[0].tolist() == list(range(start, start + 16))
    recent.add(th.arange(3))
    assert recent.in_order()[0].tolist() == [*range(103, 116), 0, 1, 2]


def test_the_gradient_of_a_gaussians_mean():
    for kind, mean in (
        (Gaussian, lambda loc, log: loc),
        (LogGaussian, lambda loc, log: (loc + (2 * log).exp() / 2).exp()),
    ):
        theta = th.randn(4, 3, 2, dtype=th.float64, requires_grad=True)
        latent = kind(theta[..., 0], theta[..., 1])
        slope = th.randn(4, 3, dtype=th.float64)
        th.testing.assert_close(mean(*theta.unbind(-1)).detach(), latent.mean())
        (expected,) = th.autograd.grad((slope * mean(*theta.unbind(-1))).sum(), theta)
        th.testing.assert_close(latent.mean_gradient(slope), expected)
