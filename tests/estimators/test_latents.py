"""The samplers: their law, their gradients, and their behaviour at the edge of float32."""

import pytest
import torch
from scipy import stats
from torch.distributions import Beta, Dirichlet, Gamma, Normal, kl_divergence

from sb3_relax.estimators import Gaussian, GumbelOneHot, Implicit, LogisticBernoulli
from sb3_relax.estimators.latents import MASKED_LOGIT
from tests.estimators.problems import reparameterised

N = 20_000
# Kolmogorov-Smirnov p-values below this reject: about 20 comparisons here, so a false alarm in about 1 run of 5,000
# (and the seed is fixed)
ALPHA = 1e-5


def gumbel(shape):
    return -(-torch.rand(shape, dtype=torch.float64).log()).log()


def unconditional(latent, n):
    """z by its definition, with the core's samplers kept out of it."""
    theta = latent.theta.expand(n, *latent.theta.shape)
    if isinstance(latent, LogisticBernoulli):
        u = torch.rand(theta.shape, dtype=torch.float64)
        return theta + u.log() - (-u).log1p()
    return theta.log_softmax(-1) + gumbel(theta.shape)


@pytest.mark.parametrize(
    "make",
    [
        lambda: LogisticBernoulli(torch.tensor([0.8, -1.5], dtype=torch.float64)),
        lambda: GumbelOneHot(torch.tensor([[0.5, -1.0, 0.9]], dtype=torch.float64)),
    ],
    ids=["bernoulli", "one-hot"],
)
def test_conditional_has_the_law_of_rejection_sampling(make):
    latent = make()
    z = unconditional(latent, 12 * N)
    hard = latent.hard(z).flatten(1)
    for b in latent.support():
        accepted = z[(hard == b.flatten()).all(-1)].flatten(1)[:N]
        wide = latent.at(latent.theta.expand(N, *latent.theta.shape))
        drawn = wide.conditional(b, torch.rand(wide.theta.shape, dtype=torch.float64)).flatten(1)
        for i in range(drawn.shape[1]):
            assert stats.ks_2samp(drawn[:, i], accepted[:, i]).pvalue > ALPHA


def test_the_log_p_b_sampler_fails_the_same_comparison():
    """Teeth: the authors' own sampler locates the chosen class's Gumbel at log p_b."""
    latent = GumbelOneHot(torch.tensor([[0.5, -1.0, 0.9]], dtype=torch.float64))
    z = unconditional(latent, 12 * N)
    accepted = z[z.argmax(-1).flatten() == 0][:N].flatten(1)
    log_p = latent.natural()[0, 0]
    assert stats.ks_2samp(log_p + gumbel(N), accepted[:, 0]).pvalue < ALPHA


@pytest.mark.parametrize(
    "latent",
    [LogisticBernoulli(torch.tensor([0.7])), GumbelOneHot(torch.tensor([[0.5, -1.0, 0.9]]))],
    ids=["bits", "one-hot"],
)
def test_relaxed_samples_have_the_law_of_z_and_b(latent):
    z = latent.expand(20 * N).sample_relaxed(torch.Generator().manual_seed(0))
    location = latent.natural().flatten()
    law = stats.logistic if isinstance(latent, LogisticBernoulli) else stats.gumbel_r
    for i, loc in enumerate(location.tolist()):
        assert stats.kstest(z.flatten(1)[:N, i], law(loc=loc).cdf).pvalue > ALPHA
    b = latent.hard(z)
    p = latent.mean()
    error = (p * (1 - p) / len(b)).sqrt()
    assert ((b.mean(0) - p).abs() < 4.5 * error).all()


def test_recovered_noise_gives_back_the_unconditional_law():
    latent = GumbelOneHot(torch.tensor([[0.5, -1.0, 0.9]], dtype=torch.float64).expand(N, 1, 3))
    b = latent.sample()
    z = reparameterised(latent, b, torch.rand(latent.theta.shape, dtype=torch.float64))
    assert torch.equal(latent.hard(z), b)
    for i in range(3):
        location = latent.natural()[0, 0, i].item()
        assert stats.kstest(z[:, 0, i], stats.gumbel_r(loc=location).cdf).pvalue > ALPHA


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("logit", [-90.0, -20.0, 0.0, 20.0, 90.0])
def test_bernoulli_is_finite_and_right_at_extreme_logits(logit, dtype):
    for bit in (0.0, 1.0):
        theta = torch.full((1000, 1), logit, dtype=dtype, requires_grad=True)
        latent = LogisticBernoulli(theta)
        b = torch.full((1000, 1), bit, dtype=dtype)
        u = torch.rand(1000, 1, dtype=dtype)
        u[0], u[1] = 0.0, 1.0 - torch.finfo(dtype).eps / 2
        z = latent.conditional(b, u)
        (gradient,) = torch.autograd.grad(z.sum(), theta)
        coupling = latent.coupling(b, z.detach())
        for tensor in (z, gradient, coupling, latent.score(b), latent.log_prob(b)):
            assert tensor.isfinite().all()
        assert torch.equal(latent.hard(z), b)
        assert ((coupling >= 0) & (coupling <= 1)).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "logits", [[90.0, -90.0, 0.0], [0.0, 0.0, 90.0], [-90.0, -90.0, -90.0], [0.0, MASKED_LOGIT, 3.0]]
)
def test_one_hot_is_finite_and_right_at_extreme_logits(logits, dtype):
    for drawn in range(3):
        if logits[drawn] == MASKED_LOGIT:
            continue
        theta = torch.tensor([logits], dtype=dtype).expand(1000, 1, 3).clone().requires_grad_()
        latent = GumbelOneHot(theta)
        b = torch.nn.functional.one_hot(torch.full((1000, 1), drawn), 3).to(dtype)
        u = torch.rand(1000, 1, 3, dtype=dtype)
        u[0], u[1] = 0.0, 1.0 - torch.finfo(dtype).eps / 2
        z = latent.conditional(b, u)
        (gradient,) = torch.autograd.grad(z.sum(), theta)
        for tensor in (z, gradient, latent.coupling(b, z.detach()), latent.score(b), latent.log_prob(b)):
            assert tensor.isfinite().all()
        assert torch.equal(latent.hard(z), b)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("latent", [LogisticBernoulli(torch.randn(200, 3)), GumbelOneHot(torch.randn(200, 2, 4))])
def test_the_noise_of_a_conditional_sample(latent, dtype):
    latent = latent.at(latent.theta.to(dtype))
    b, u = latent.sample(), torch.rand(latent.theta.shape, dtype=dtype)
    difference = latent.conditional_noise(b, u) - (latent.conditional(b, u) - latent.natural())
    assert difference.abs().max() < (1e-4 if dtype is torch.float32 else 1e-12)


def test_rounding_leaves_the_noise_its_law_where_theta_is_large():
    """b is sure there, and says nothing of the noise: what a difference of large numbers would lose."""
    u = torch.rand(1000, 1)
    for bit in (0.0, 1.0):
        sure = LogisticBernoulli(torch.full((1000, 1), (2 * bit - 1) * 1e8))
        noise = sure.conditional_noise(torch.full((1000, 1), bit), u)
        assert torch.allclose((2 * bit - 1) * noise, torch.log1p(-u) - u.log(), atol=1e-6)
    masked = GumbelOneHot(torch.randn(1000, 1, 3), torch.tensor([True, False, True]))
    u = torch.rand(1000, 1, 3)
    noise = masked.conditional_noise(masked.sample(), u)[..., 1]
    assert torch.allclose(noise, -(-u[..., 1].log()).log(), atol=1e-6)


def test_a_tie_made_by_rounding_goes_to_the_class_that_was_drawn():
    """Both numbers are -log E_b where E_b is large and the other class's exponential vanishes beside it."""
    info = torch.finfo(torch.float32)
    for drawn in (0, 1):
        latent = GumbelOneHot(torch.zeros(1, 2))
        b = torch.nn.functional.one_hot(torch.tensor([drawn]), 2).float()
        u = torch.full((1, 2), 1 - info.eps / 2)
        u[0, drawn] = info.tiny
        assert torch.equal(latent.hard(latent.conditional(b, u)), b)


def test_masked_classes_are_never_drawn_and_get_no_gradient():
    mask = torch.tensor([True, False, True, False])
    latent = GumbelOneHot(torch.randn(500, 2, 4), mask)
    b = latent.sample()
    assert b[..., ~mask].sum() == 0
    assert (latent.score(b)[..., ~mask] == 0).all()
    assert latent.support().shape == (4, 2, 4)
    with pytest.raises(ValueError, match="at least one must be allowed"):
        GumbelOneHot(torch.zeros(1, 2), torch.tensor([False, False]))


@pytest.mark.parametrize(
    "make",
    [
        lambda t: LogisticBernoulli(t[..., 0]),
        GumbelOneHot,
        lambda t: Gaussian(t[..., 0], t[..., 1]),
    ],
    ids=["bernoulli", "one-hot", "gaussian"],
)
def test_score_is_the_derivative_of_log_prob(make, float64):
    latent = make(torch.randn(7, 3, 2))
    latent = latent.at(latent.theta.clone().requires_grad_())
    b = latent.sample()
    (gradient,) = torch.autograd.grad(latent.log_prob(b).sum(), latent.theta)
    assert torch.allclose(latent.score(b), gradient, atol=1e-12)


@pytest.mark.parametrize("make", [lambda t: LogisticBernoulli(t[..., 0]), GumbelOneHot], ids=["bernoulli", "one-hot"])
def test_coupling_is_the_difference_of_the_two_paths(make, float64):
    """D · v pulled back = ∂(z·v)/∂θ - ∂(z̃·v)/∂θ, by autograd through both samplers with the same noise."""
    latent = make(torch.randn(50, 2, 3))
    latent = latent.at(latent.theta.clone().requires_grad_())
    b, u = latent.sample(), torch.rand(latent.theta.shape)
    z, z_tilde = reparameterised(latent, b, u), latent.conditional(b, u)
    assert torch.allclose(z, z_tilde, atol=1e-10)
    direction = torch.randn_like(z)
    (difference,) = torch.autograd.grad(((z - z_tilde) * direction).sum(), latent.theta)
    closed_form = latent.pull_back(latent.coupling(b, z_tilde.detach()) * direction)
    assert torch.allclose(difference, closed_form, atol=1e-9)


MASK = torch.tensor([[True, False, True], [True, True, False]])


@pytest.mark.parametrize(
    "make",
    [LogisticBernoulli, GumbelOneHot, lambda t: GumbelOneHot(t, MASK)],
    ids=["bits", "one-hots", "masked one-hots"],
)
def test_kl_is_the_mean_of_the_log_ratio(make, float64):
    theta = torch.randn(2, 2, 3)
    if make is LogisticBernoulli:
        theta = theta[..., 0]
    latent, other = make(theta[0]), make(theta[1])
    expected = sum(
        latent.log_prob(b).exp() * (latent.log_prob(b) - other.log_prob(b))
        for b in latent.support()
        if latent.log_prob(b) > -100
    )
    torch.testing.assert_close(latent.kl(other), expected)
    assert expected > 0.01
    torch.testing.assert_close(latent.kl(latent), torch.zeros(()))


@pytest.mark.parametrize(
    ("make", "inner", "theta"),
    [
        (
            lambda t: Gaussian(t[..., 0], t[..., 1]),
            lambda t: Normal(t[..., 0], t[..., 1].exp()),
            torch.randn(2, 4, 3, 2),
        ),
        *(
            (
                lambda t, kind=kind: Implicit(kind(t[..., 0], t[..., 1])),
                lambda t, kind=kind: kind(t[..., 0], t[..., 1]),
                torch.rand(2, 4, 3, 2) + 0.5,
            )
            for kind in (Gamma, Beta)
        ),
        (lambda t: Implicit(Dirichlet(t)), Dirichlet, torch.rand(2, 4, 3) + 0.5),
    ],
    ids=["gaussian", "gamma", "beta", "dirichlet"],
)
def test_kl_is_torchs(make, inner, theta, float64):
    theta = theta.double()
    expected = kl_divergence(inner(theta[0]), inner(theta[1]))
    kl = make(theta[0]).kl(make(theta[1]))
    assert kl.shape == (4,)
    torch.testing.assert_close(kl, expected if expected.dim() == 1 else expected.sum(-1))


def test_the_gradient_of_kl_vanishes_where_a_class_is_masked_or_sure():
    """In float32, at logits where probabilities are 0 and 1."""
    theta = torch.tensor([[90.0, -90.0, 0.0]], requires_grad=True)
    for make in (LogisticBernoulli, GumbelOneHot, lambda t: GumbelOneHot(t, torch.tensor([[True, True, False]]))):
        kl = make(theta.detach()).kl(make(theta)).sum()
        (gradient,) = torch.autograd.grad(kl, theta)
        assert kl.abs() < 1e-5
        assert gradient.abs().max() < 1e-5


def test_a_latent_without_kl_says_so(monkeypatch):
    monkeypatch.delattr(LogisticBernoulli, "kl")
    with pytest.raises(NotImplementedError, match="LogisticBernoulli has no kl"):
        LogisticBernoulli(torch.zeros(2)).kl(LogisticBernoulli(torch.zeros(2)))


def test_enumeration_refuses_what_it_cannot_visit():
    with pytest.raises(ValueError, match="use a relaxed estimator"):
        LogisticBernoulli(torch.zeros(64)).support()


@pytest.mark.parametrize(
    "latent", [GumbelOneHot(torch.zeros(5, 2, 3)), LogisticBernoulli(torch.zeros(5, 4))], ids=["one-hots", "bits"]
)
def test_the_curvature_of_a_relaxation_is_the_derivative_of_its_gradient(latent, float64):
    """In the relaxed sample, along any direction."""
    latent = type(latent)(latent.theta.double())
    relaxed = latent.relax(torch.randn(latent.theta.shape), 0.7).requires_grad_()
    slope, direction = torch.randn(2, *relaxed.shape)
    along = (direction * latent.relax_gradient(relaxed, slope, 0.7)).sum()
    (expected,) = torch.autograd.grad(along, relaxed)
    torch.testing.assert_close(latent.relax_curvature(relaxed, slope, direction, 0.7), expected)
