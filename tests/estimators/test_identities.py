"""Per-sample identities between estimators."""

import torch

from sb3_relax.estimators import LAX, RELAX, ExactCorrection, GumbelOneHot, LogisticBernoulli, Reinforce
from sb3_relax.estimators.base import expand_to
from sb3_relax.estimators.quadrature import product_rule, unit_interval_rule
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
            assert torch.equal(estimate.plain, plain)
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


def test_two_classes_are_one_bit(float64):
    """A two-class one-hot with logits (0, l) has the exact-correction gradient of a bit with logit l."""
    bit = LogisticBernoulli(torch.randn(9, 1))
    pair = GumbelOneHot(torch.stack([torch.zeros(9, 1), bit.theta], dim=-1))
    c = torch.nn.Linear(1, 1)
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
