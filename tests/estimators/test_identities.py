"""Per-sample identities between estimators."""

import pytest
import torch

from sb3_relax.estimators import (
    ARM,
    DLAX,
    LAX,
    REBAR,
    RELAX,
    RLOO,
    RODEO,
    VIMCO,
    DisARM,
    DoubleCV,
    Exact,
    ExactCorrection,
    Gaussian,
    GumbelOneHot,
    LogisticBernoulli,
    MuProp,
    Reinforce,
    gradient_variance,
    make,
)
from sb3_relax.estimators.estimate import expand_to
from sb3_relax.estimators.methods.double_cv import WARM_UP
from sb3_relax.estimators.proofs.exact import samples_with_probability
from sb3_relax.estimators.proofs.quadrature import product_rule, unit_interval_rule
from tests.estimators import twins
from tests.estimators.problems import gaussian, gaussian_net, hard_net, relaxed_net


def test_without_surrogate_every_estimator_is_reinforce(float64):
    def zero(x):
        return (0 * x).flatten(-event).sum(-1)

    for latent in (LogisticBernoulli(torch.randn(6, 3)), GumbelOneHot(torch.randn(6, 2, 3))):
        event = latent.event_ndim
        b, value = latent.sample(), torch.randn(6)
        plain = Reinforce().finish(latent, b, value).grad
        for estimator in (RELAX(zero), RELAX(zero, coupled=False), ExactCorrection(zero)):
            estimate = estimator.finish(latent, b, value)
            assert torch.equal(estimate.grad, plain)
            assert torch.equal(estimate.score_term, plain)
    event = 1
    latent = gaussian()
    b, value = latent.sample(), torch.tensor(2.0)
    assert torch.equal(LAX(zero).finish(latent, b, value).grad, Reinforce().finish(latent, b, value).grad)


def f_smooth(b):
    return b.sin().sum(-1) + b.prod(-1)


def reparameterisation_gradient(latent, b):
    loc, log_scale = latent.theta.detach().unbind(-1)
    theta = latent.theta.detach().clone().requires_grad_()
    noise = (b - loc) / log_scale.exp()
    executed = theta[..., 0] + theta[..., 1].exp() * noise
    return torch.autograd.grad(f_smooth(executed), theta)[0]


def test_lax_with_c_equal_f_is_reparameterisation_at_the_executed_noise(float64):
    latent = gaussian()
    b = latent.sample()
    grad = LAX(f_smooth).finish(latent, b, f_smooth(b)).grad
    assert torch.allclose(grad, reparameterisation_gradient(latent, b), atol=1e-12)


def test_fresh_noise_in_the_correction_alone_fails_that_identity(float64):
    """It is unbiased, so only a per-sample check can tell: the correlation that lowers the variance is gone."""
    latent = gaussian()
    b = latent.sample()
    grad = twins.FreshCorrectionLAX(f_smooth).finish(latent, b, f_smooth(b)).grad
    assert not torch.allclose(grad, reparameterisation_gradient(latent, b), atol=1e-3)


def test_with_two_actions_a_control_variate_is_a_state_baseline(float64):
    """|A| = 2: exact correction is [f(b) - p0·c1 - p1·c0] ∂ log p, sample by sample."""
    latent = GumbelOneHot(torch.randn(1, 2))
    c = hard_net(latent)
    p = latent.theta.softmax(-1)[0]
    c0, c1 = c(latent.support())
    baseline = p[0] * c1 + p[1] * c0
    for b, value in zip(latent.support(), torch.randn(2), strict=True):
        expected = (value - baseline) * latent.score(b)
        assert torch.allclose(ExactCorrection(c).finish(latent, b, value).grad, expected, atol=1e-12)


def test_with_two_actions_relax_is_a_baseline_plus_relaxation_noise(float64):
    """RELAX given b, averaged over its own noise, is b times one number for both actions: a baseline again."""
    latent = GumbelOneHot(torch.randn(1, 2))
    c = relaxed_net(latent)
    baselines = []
    for b in latent.support():
        node, weight = next(iter(product_rule(unit_interval_rule(60), 2)))
        wide = latent.at(latent.theta.expand(len(node), 1, 2))
        estimate = RELAX(c).finish(wide, b.expand(len(node), 1, 2), torch.zeros(len(node)), node.reshape(1, -1, 1, 2))
        mean = (expand_to(weight, wide) * estimate.grad).sum(0)
        baseline = -mean / latent.score(b)
        assert torch.allclose(baseline[0, 0], baseline[0, 1], atol=1e-10)
        baselines.append(baseline[0, 0])
        assert estimate.grad.std(0).max() > 1e-3
    assert torch.allclose(baselines[0], baselines[1], atol=1e-9)


def test_one_class_carries_no_gradient(float64):
    latent = GumbelOneHot(torch.randn(4, 1, 1))
    estimate = RELAX(relaxed_net(GumbelOneHot(torch.zeros(1, 1)))).finish(latent, latent.sample(), torch.randn(4))
    assert estimate.grad.abs().max() == 0
    for name in ("coupled_categorical", "carms"):
        assert make(name, latent, samples=3)(latent, lambda b: b.sum((-2, -1))).grad.abs().max() == 0


def test_two_classes_are_one_bit(float64):
    """A two-class one-hot with logits (0, l) has the exact-correction gradient of a bit with logit l."""
    bit = LogisticBernoulli(torch.randn(9, 1))
    pair = GumbelOneHot(torch.stack([torch.zeros(9, 1), bit.theta], dim=-1))
    c = torch.nn.Linear(1, 1).requires_grad_(False)
    b, value = bit.sample(), torch.randn(9)
    as_pair = torch.stack([1 - b, b], dim=-1)
    of_bit = ExactCorrection(lambda x: c(x).squeeze(-1)).finish(bit, b, value).grad
    of_pair = ExactCorrection(lambda x: c(x[..., 1]).squeeze(-1)).finish(pair, as_pair, value).grad
    assert torch.allclose(of_pair[..., 1], of_bit, atol=1e-12)
    assert torch.allclose(of_pair[..., 0], -of_bit, atol=1e-12)


def test_gaussian_batches_of_any_shape(float64):
    latent = gaussian()
    wide = latent.at(latent.theta.expand(2, 3, *latent.theta.shape))
    estimate = LAX(gaussian_net(latent))(wide, f_smooth)
    assert estimate.grad.shape == (2, 3, 2, 2)
    assert estimate.value.shape == (2, 3)


def test_rebar_is_relax_with_the_relaxed_objective(float64):
    latent = LogisticBernoulli(torch.randn(9, 3))
    net = hard_net(LogisticBernoulli(torch.zeros(3))).requires_grad_(False)
    for coupled in (True, False):
        rebar = REBAR(temperature=0.4, scale=0.7, coupled=coupled)
        relax = RELAX(lambda z: 0.7 * net((z / 0.4).sigmoid()), coupled=coupled)
        noise = rebar.draw_noise(latent)
        b = latent.sample()
        expected = relax.finish(latent, b, net(b).detach(), noise).grad
        assert torch.allclose(rebar.estimate(latent, net, b, noise).grad, expected)


def test_rebar_without_scale_is_reinforce_and_with_residual_alone_is_relax(float64):
    latent = LogisticBernoulli(torch.randn(9, 3))
    residual, net = relaxed_net(LogisticBernoulli(torch.zeros(3))), hard_net(LogisticBernoulli(torch.zeros(3)))
    b = latent.sample()
    noise = REBAR().draw_noise(latent)
    value = net(b).detach()
    plain = Reinforce().finish(latent, b, value).grad
    assert torch.allclose(REBAR(scale=0.0).estimate(latent, net, b, noise).grad, plain)
    with_residual = REBAR(scale=0.0, residual=residual).estimate(latent, net, b, noise).grad
    assert torch.allclose(with_residual, RELAX(residual).finish(latent, b, value, noise).grad)


def test_dlax_without_c_is_reinforce(float64):
    latent = GumbelOneHot(torch.randn(6, 2, 3))
    b, value = latent.sample(), torch.randn(6)
    grad = DLAX(lambda z: (0 * z).sum((-2, -1))).finish(latent, b, value).grad
    assert torch.equal(grad, Reinforce().finish(latent, b, value).grad)


def test_rloo_is_reinforce_less_the_others(float64):
    latent = LogisticBernoulli(torch.randn(6, 3))
    b, value = latent.expand(4).sample(), torch.randn(4, 6)
    centred = (value - value.mean(0)).unsqueeze(-1)
    assert torch.allclose(RLOO(4).finish(latent, b, value).grad, (centred * latent.score(b)).sum(0) / 3)


def test_vargrad_is_rloo(float64):
    """The derivative of half the variance of K log-weights, of which q is part, with the samples held fixed."""
    theta = torch.randn(6, 3, requires_grad=True)
    latent = LogisticBernoulli(theta)
    b, log_p = latent.expand(4).sample(), torch.randn(4, 6)
    log_weight = latent.log_prob(b) - log_p
    (expected,) = torch.autograd.grad((log_weight.var(0) / 2).sum(), theta)
    estimator = make("vargrad", latent, samples=4)
    assert isinstance(estimator, RLOO)
    assert torch.allclose(estimator.finish(latent, b, log_weight.detach()).grad, expected)


def test_disarm_is_arm_given_the_pair(float64):
    """DisARM is ARM with u integrated out given the two samples: on every piece of (0, 1), ARM's mean is DisARM."""
    latent = LogisticBernoulli(torch.tensor([0.8]))
    p = latent.theta.sigmoid().item()
    for low, high in ((0.0, 1 - p), (1 - p, p), (p, 1.0)):
        wide = latent.expand(2)
        u = torch.tensor([[low + 0.2 * (high - low)], [high - 0.2 * (high - low)]])  # symmetric about the middle
        arm, disarm = (e.estimate(wide, lambda b: 3 * b.sum(-1) + 1, None, u).grad for e in (ARM(), DisARM()))
        assert torch.allclose(arm.mean(0), disarm.mean(0))


def test_double_cv_without_scale_is_rloo_and_at_minus_one_knows_a_linear_f(float64):
    latent = LogisticBernoulli(torch.randn(50, 4))
    weight = torch.randn(4)
    b = latent.expand(3).sample()
    linear = DoubleCV(3, scale=-1.0).estimate(latent, lambda b: b @ weight, b, None).grad
    assert torch.allclose(linear, latent.mean_gradient(weight.expand(50, 4)))  # the gradient, without variance
    net = hard_net(LogisticBernoulli(torch.zeros(4)))
    grad = DoubleCV(3, scale=0.0).estimate(latent, net, b, None).grad
    assert torch.allclose(grad, RLOO(3).finish(latent, b, net(b).detach()).grad)


def test_double_cv_starts_from_the_least_squares_of_earlier_batches(float64):
    """Its first batch is RLOO's; then α is known, for an f that is linear and for one whose slopes say nothing."""
    latent = LogisticBernoulli(torch.zeros(64, 4))
    weight = torch.randn(4)
    functions = {-1.0: lambda b: b @ weight, 0.0: lambda b: b.prod(-1) + 1e4 * (b * (1 - b)).sum(-1)}
    for alpha, f in functions.items():
        estimator, generator = DoubleCV(), torch.Generator().manual_seed(0)
        b = latent.expand(2).sample(generator)
        first = estimator.estimate(latent, f, b, None)
        assert torch.allclose(first.grad, RLOO(2).finish(latent, b, f(b)).grad)
        first.backward()
        assert estimator.least_squares.item() == pytest.approx(alpha, abs=0.05)
        for _ in range(WARM_UP - 1):
            estimator(latent, f, generator).backward()
        assert estimator.least_squares.item() == pytest.approx(alpha, abs=0.02)
        known = estimator.products.clone()
        estimator(latent, f, generator).backward()  # from here on Eq 6 has it alone
        assert torch.equal(estimator.products, known)
    paper = DoubleCV(scale=-1.0)
    paper(latent, functions[0.0]).backward()
    assert paper.least_squares == 0


def test_double_cv_of_an_older_pickle_goes_on_as_it_was():
    state = DoubleCV(scale=-0.7).__getstate__()
    del state["_buffers"]["products"]
    older = DoubleCV.__new__(DoubleCV)
    older.__setstate__(state)
    assert older.least_squares == 0
    assert older.scale == torch.tensor(-0.7)


def test_double_cv_of_an_older_file_goes_on_as_it_was():
    older = DoubleCV(scale=-0.7).state_dict()
    del older["products"]
    estimator = DoubleCV()
    estimator.load_state_dict(older)
    estimator(LogisticBernoulli(torch.zeros(8, 3)), lambda b: b.sum(-1).square()).backward()
    assert estimator.scale.item() == pytest.approx(-0.7)
    assert estimator.least_squares == 0


def test_rodeo_without_scales_is_rloo(float64):
    latent = LogisticBernoulli(torch.randn(50, 4))
    net = hard_net(LogisticBernoulli(torch.zeros(4)))
    rodeo = RODEO(3)
    with torch.no_grad():
        rodeo.baseline_scale.zero_()
        rodeo.global_scale.zero_()
    b = latent.expand(3).sample()
    assert torch.allclose(rodeo.estimate(latent, net, b, None).grad, RLOO(3).finish(latent, b, net(b).detach()).grad)


def test_muprop_knows_a_linear_f(float64):
    for latent in (LogisticBernoulli(torch.randn(50, 4)), GumbelOneHot(torch.randn(50, 2, 3))):
        weight = torch.randn(latent.sample().shape[1:])
        grad = MuProp()(latent, lambda b, w=weight: (b * w).flatten(1).sum(1)).grad
        assert torch.allclose(grad, latent.mean_gradient(weight.expand_as(latent.sample())))


def test_vimco_with_two_samples_by_hand(float64):
    latent = LogisticBernoulli(torch.randn(1, 2))
    b, w = latent.expand(2).sample(), torch.tensor([[0.3], [-1.0]])
    bound = 0.5 * (w[0].exp() + w[1].exp())
    # each log-weight replaced by the other: the bound is that other
    expected = (bound.log() - w[1]) * latent.score(b[0]) + (bound.log() - w[0]) * latent.score(b[1])
    estimate = VIMCO(2).finish(latent, b, w)
    assert torch.allclose(estimate.grad, expected)
    assert torch.allclose(estimate.value, bound.log())


def test_exact_has_no_variance_and_knows_the_expectation(float64):
    latent = GumbelOneHot(torch.randn(1, 3).expand(5, 1, 3))
    net = hard_net(GumbelOneHot(torch.zeros(1, 3)))
    estimate = Exact()(latent, net)
    expected = (latent.probabilities[0, 0] * net(torch.eye(3).unsqueeze(1))).sum()
    assert torch.allclose(estimate.value, expected.expand(5))
    assert torch.allclose(estimate.grad, estimate.grad[:1].expand_as(estimate.grad))


@pytest.mark.parametrize("samples", [2, 3])
def test_rodeo_starts_where_bits_hear_least_of_each_other(samples, float64):
    """For a linear f, H the Taylor term and β = 1: the mean of Var(ĝ_i | bit i of every sample), enumerated, in γ."""
    latent, weight = LogisticBernoulli(torch.tensor([0.5, -0.8, 0.1])), torch.tensor([1.0, -2.0, 0.5])
    b, probability = samples_with_probability(latent, samples=samples)

    def cross_talk(scale):
        rodeo = RODEO(samples)
        rodeo.global_scale.data.fill_(scale)
        grad = rodeo.estimate(latent.expand(len(probability)), lambda b: b @ weight, b, None).grad
        total = 0.0
        for i in range(3):
            own = (b[:, :, i].T * 2 ** torch.arange(samples)).sum(1)
            for value in own.unique():
                p, g = probability[own == value], grad[own == value, i]
                total += (p @ (g - p @ g / p.sum()).square()).item()
        return total

    start = RODEO(samples).global_scale.item()
    assert cross_talk(start) < min(cross_talk(start + 0.02), cross_talk(start - 0.02))
    assert 0 < cross_talk(start) < 0.2 * cross_talk(0.0)
    assert cross_talk(start) / cross_talk(0.0) == pytest.approx((1 - 2 * start) ** 2 + start**2 / (samples - 1))


def test_learned_parts_lower_the_variance():
    """Eq 6 by gradient descent does what it is for, for every estimator that has a φ to train."""
    torch.manual_seed(0)
    bits = LogisticBernoulli(torch.tensor([0.4, -0.3, 0.2]))

    def f(b):
        return (b - 0.45).square().sum(-1) + b[..., 0] * b[..., 1]

    continuous = Gaussian(torch.tensor([0.4, -0.3, 0.2]), torch.tensor(-1.0))
    names = ("relax", "rebar", "dlax", "double_cv", "relaxed_double_cv", "rodeo", "exact_correction", "lax")
    for name in names:
        one = continuous if name == "lax" else bits
        estimator = make(name, one)
        if name == "double_cv":
            torch.nn.init.zeros_(estimator.scale)
        before = gradient_variance(estimator, one, f, 20_000)
        optimizer = torch.optim.Adam(estimator.parameters(), 1e-2)
        for _ in range(300):
            optimizer.zero_grad()
            estimator(one.expand(64), f).backward()
            optimizer.step()
        after = gradient_variance(estimator, one, f, 20_000)
        assert after.variance + 4 * after.standard_error < before.variance - 4 * before.standard_error, name
