"""torch.distributions as latents: read as torch declares them, scored, moved, and exact in expectation."""

import math
import warnings

import pytest
import torch
from torch.distributions import (
    Bernoulli,
    Beta,
    Categorical,
    Dirichlet,
    Gamma,
    Independent,
    Laplace,
    LogNormal,
    MixtureSameFamily,
    Normal,
    OneHotCategorical,
    StudentT,
    VonMises,
    kl_divergence,
)

from sb3_relax.estimators import (
    LAX,
    RLOO,
    Circular,
    Gaussian,
    GaussianMixture,
    GumbelOneHot,
    Implicit,
    Joint,
    LogGaussian,
    LogisticBernoulli,
    MLPSurrogate,
    PerVariable,
    Reinforce,
    Reparam,
    StudentsT,
    as_latent,
    check_unbiased,
    flatten_samples,
    make,
)
from tests.estimators.problems import lively

B, D, K, C = 4, 3, 5, 2


def positive(*shape):
    return torch.rand(shape) + 0.5


def mixture(*shape):
    return MixtureSameFamily(
        Categorical(logits=torch.randn(*shape, C)), Normal(torch.randn(*shape, C), positive(*shape, C))
    )


#: name → (distribution of a batch shape, kind of latent, shape of what one variable is)
FAMILIES = {
    "bernoulli": (lambda *s: Bernoulli(logits=torch.randn(s)), LogisticBernoulli, ()),
    "bernoulli of probabilities": (lambda *s: Bernoulli(torch.rand(s)), LogisticBernoulli, ()),
    "categorical": (lambda *s: Categorical(logits=torch.randn(*s, K)), GumbelOneHot, (K,)),
    "one-hot": (lambda *s: OneHotCategorical(logits=torch.randn(*s, K)), GumbelOneHot, (K,)),
    "normal": (lambda *s: Normal(torch.randn(s), positive(*s)), Gaussian, ()),
    "log-normal": (lambda *s: LogNormal(torch.randn(s), positive(*s)), LogGaussian, ()),
    "t": (lambda *s: StudentT(3 * positive(*s), torch.randn(s), positive(*s)), StudentsT, ()),
    "gamma": (lambda *s: Gamma(positive(*s), positive(*s)), Implicit, ()),
    "beta": (lambda *s: Beta(positive(*s), positive(*s)), Implicit, ()),
    "von Mises": (lambda *s: VonMises(torch.randn(s), positive(*s)), Circular, (2,)),
    "mixture": (mixture, GaussianMixture, ()),
}
every_family = pytest.mark.parametrize("name", FAMILIES)


def theirs(distribution, b):
    """What torch.distributions call the same sample."""
    if isinstance(distribution, Independent):
        return theirs(distribution.base_dist, b)
    if isinstance(distribution, Categorical):
        return b.argmax(-1)
    return torch.atan2(b[..., 1], b[..., 0]) if isinstance(distribution, VonMises) else b


@every_family
def test_batch_and_event_are_the_distributions_own(name, float64):
    of, kind, own = FAMILIES[name]
    alone = as_latent(of(B))
    assert type(alone) is kind
    assert (alone.batch_shape, alone.sample().shape) == ((B,), (B, 1, *own))
    wide = of(B, D)
    apart, together = as_latent(wide), as_latent(Independent(wide, 1))
    assert (apart.batch_shape, apart.sample().shape) == ((B, D), (B, D, 1, *own))
    assert (together.batch_shape, together.sample().shape) == ((B,), (B, D, *own))
    pixels = as_latent(Independent(Independent(of(B, 2, D), 1), 1))
    assert (pixels.batch_shape, pixels.sample().shape) == ((B,), (B, 2 * D, *own))
    b = together.sample()
    expected = Independent(wide, 1).log_prob(theirs(wide, b))
    assert torch.allclose(together.log_prob(b), expected)
    assert torch.allclose(together.each_variable().theta, apart.theta)
    if kind is StudentsT:
        assert torch.equal(together.each_variable().df, apart.df)
        assert torch.equal(together.select(torch.tensor([1, 3])).df, together.df[[1, 3]])


def test_a_dirichlet_is_one_event(float64):
    latent = as_latent(Dirichlet(positive(B, K)))
    assert (latent.batch_shape, latent.sample().shape) == ((B,), (B, K))
    with pytest.raises(TypeError, match="several Dirichlets in one event"):
        as_latent(Independent(Dirichlet(positive(B, D, K)), 1))


@pytest.mark.parametrize(
    ("of", "parameters"),
    [
        (lambda p: Bernoulli(p[0]), 1),
        (lambda p: Categorical(p[0]), 1),
        (lambda p: OneHotCategorical(logits=p[0]), 1),
        (lambda p: Normal(*p), 2),
        (lambda p: LogNormal(*p), 2),
        (lambda p: StudentT(3.0, *p), 2),
        (lambda p: Gamma(*p), 2),
        (lambda p: Dirichlet(p[0]), 1),
        (lambda p: VonMises(*p), 2),
        (lambda p: MixtureSameFamily(Categorical(logits=p[0]), Normal(p[1], p[2])), 3),
    ],
)
def test_theta_is_attached_to_the_parameters(of, parameters, float64):
    given = [(0.2 + 0.6 * torch.rand(B, K)).requires_grad_() for _ in range(parameters)]
    as_latent(of(given)).theta.square().sum().backward()
    assert all(p.grad.abs().max() > 0 for p in given)


@every_family
def test_score_is_the_derivative_of_log_prob(name, float64):
    latent = as_latent(Independent(FAMILIES[name][0](20, D), 1))
    latent = latent.at(latent.theta.detach().requires_grad_())
    b = latent.sample()
    (gradient,) = torch.autograd.grad(latent.log_prob(b).sum(), latent.theta)
    assert torch.allclose(latent.score(b), gradient, atol=1e-10)


def closed_form(latent, what):
    try:
        return getattr(latent, what)()
    except NotImplementedError:
        return None


@every_family
def test_entropy_mean_and_mode_are_torchs(name, float64):
    distribution = Independent(FAMILIES[name][0](B, D), 1)
    latent, base = as_latent(distribution), distribution.base_dist
    entropy = closed_form(latent, "entropy")
    if name == "von Mises":  # of which torch knows less: by quadrature
        grid = torch.linspace(-math.pi, math.pi, 4001)[:-1].reshape(-1, 1, 1)
        log_p = base.log_prob(grid)
        assert torch.allclose(entropy, -(log_p.exp() * log_p).mean(0).sum(-1) * 2 * math.pi)
        point = torch.stack([grid.cos(), grid.sin()], -1)
        assert torch.allclose(latent.mean(), (log_p.exp().unsqueeze(-1) * point).mean(0) * 2 * math.pi)
        assert torch.allclose(theirs(base, latent.mode()), base.loc)
        return
    if name == "mixture":
        assert entropy is None
        assert closed_form(latent, "mode") is None
        assert torch.allclose(latent.mean(), base.mean)
        return
    assert torch.allclose(entropy, distribution.entropy())
    if name == "categorical":
        assert torch.equal(latent.mean(), base.probs)
        assert torch.equal(latent.mode().argmax(-1), base.mode)
        return
    torch.testing.assert_close(latent.mean(), base.mean, equal_nan=True)
    mode = base.mode if name != "one-hot" else torch.nn.functional.one_hot(base.probs.argmax(-1), K).double()
    torch.testing.assert_close(latent.mode(), mode, equal_nan=True)
    if name.startswith("bernoulli") or name == "one-hot":
        assert torch.allclose(latent.probs, base.probs)
        assert latent.at(latent.theta.detach().requires_grad_()).probs.requires_grad


def test_of_a_joint_they_are_those_of_its_parts(float64):
    parts = dict(a=Gaussian(torch.randn(B, 2), torch.randn(2)), b=GumbelOneHot(torch.randn(B, 2, 3)))
    joint = Joint(**parts)
    assert torch.allclose(joint.entropy(), sum(part.entropy() for part in parts.values()))
    for what in ("mean", "mode"):
        unpacked = joint.unpack(getattr(joint, what)())
        assert all(torch.equal(unpacked[name], getattr(part, what)()) for name, part in parts.items())
    assert joint.variables == 4


def test_extreme_logits_have_finite_entropies():
    for latent in (
        LogisticBernoulli(torch.tensor([[90.0, -90.0, 0.0]], requires_grad=True)),
        GumbelOneHot(torch.tensor([[90.0, -90.0, 0.0]], requires_grad=True), torch.tensor([[True, True, False]])),
    ):
        entropy = latent.entropy().sum()
        (gradient,) = torch.autograd.grad(entropy, latent.theta)
        assert entropy.isfinite()
        assert gradient.isfinite().all()


@pytest.mark.parametrize("name", ["log-normal", "von Mises"])
def test_kl(name, float64):
    of, _, _ = FAMILIES[name]
    p, q = of(B, D), of(B, D)
    ours = as_latent(Independent(p, 1)).kl(as_latent(Independent(q, 1)))
    if name == "log-normal":
        expected = kl_divergence(p, q).sum(-1)
    else:
        grid = torch.linspace(-math.pi, math.pi, 4001)[:-1].reshape(-1, 1, 1)
        expected = (p.log_prob(grid).exp() * (p.log_prob(grid) - q.log_prob(grid))).mean(0).sum(-1) * 2 * math.pi
    assert torch.allclose(ours, expected)
    assert (ours > 0).all()


# expectations of one variable, integrated over its density


def on_the_line(at, stretch=1.0):
    """tanh-sinh's cousin for the line: b = sinh(stretch · sinh(t))."""
    t = torch.linspace(-at, at, 4001)
    inner = stretch * t.sinh()
    return inner.sinh().unsqueeze(-1), inner.cosh() * stretch * t.cosh() * (t[1] - t[0])


def on_the_circle():
    x = torch.linspace(-math.pi, math.pi, 2001)[:-1]
    return torch.stack([x.cos(), x.sin()], -1).unsqueeze(1), torch.full_like(x, 2 * math.pi / len(x))


def positive_line():
    t = torch.linspace(-30, 30, 20001)
    return t.exp().unsqueeze(-1), t.exp() * (t[1] - t[0])


#: name → (latent of θ, θ, points where b is and weights that times the density integrate to 1)
INTEGRABLE = {
    "log-normal": (lambda t: LogGaussian(t[..., 0], t[..., 1]), [[0.3, -0.6]], positive_line),
    "t": (lambda t: StudentsT(torch.tensor(5.0), t[..., 0], t[..., 1]), [[0.4, -0.3]], lambda: on_the_line(3.0)),
    "von Mises": (lambda t: Circular(t[..., 0], t[..., 1]), [[0.7, 0.4]], on_the_circle),
    "concentrated": (lambda t: Circular(t[..., 0], t[..., 1]), [[-2.9, 4.0]], on_the_circle),
    "mixture": (
        lambda t: GaussianMixture(*t.unbind(-1)),
        [[[0.4, -1.0, -0.5], [-0.3, 1.5, 0.2]]],
        lambda: on_the_line(2.2),
    ),
}


def smooth(b):
    """Bounded, and of another value wherever b is."""
    x = b.flatten(b.dim() - 1) if b.dim() < 3 else b.flatten(-2)
    return (1.3 * x + 0.4).sin().sum(-1) + x[..., 0].tanh()


@pytest.mark.parametrize("method", ["reinforce", "reparam", "lax"])
@pytest.mark.parametrize("name", INTEGRABLE)
def test_the_expectation_is_the_exact_gradient(name, method, float64):
    of, theta, nodes = INTEGRABLE[name]
    b, weight = nodes()
    theta = torch.tensor(theta, requires_grad=True)
    latent = of(theta)
    density = latent.expand(len(b)).log_prob(b).exp() * weight
    assert density.sum().item() == pytest.approx(1, abs=1e-10)
    (expected,) = torch.autograd.grad((density * smooth(b)).sum(), theta)
    wide = latent.detach().expand(len(b))
    estimator = {"reinforce": Reinforce, "reparam": Reparam, "lax": lambda: lively(LAX(MLPSurrogate.of(wide)))}[
        method
    ]()
    grad = estimator.estimate(wide, smooth, b, None).grad
    found = (density.detach().reshape(-1, *(1,) * theta.dim()) * grad).sum(0)
    assert (found - expected).abs().max() < 1e-9
    assert expected.abs().max() > 0.05

    class Fixed(LAX):
        """The path left out: what a σ, a κ or a weight does to b."""

        def of_value(self, latent, b, value, noise):
            estimate = super().of_value(latent, b, value, noise)
            zero = Reinforce().of_value(latent, b, value - self.surrogate(b), None).grad
            estimate._grad = zero + (estimate._grad - zero) * 0.9
            return estimate

    if method == "lax":
        twin = Fixed(estimator.surrogate).estimate(wide, smooth, b, None).grad
        assert ((density.detach().reshape(-1, *(1,) * theta.dim()) * twin).sum(0) - expected).abs().max() > 1e-3


@pytest.mark.parametrize("name", ["log-normal", "t", "von Mises", "mixture"])
def test_samples_have_the_density(name, float64):
    """Moments of sines, against quadrature."""
    of, theta, nodes = INTEGRABLE[name]
    latent, n = of(torch.tensor(theta)), 40_000
    b, weight = nodes()
    expected = (latent.expand(len(b)).log_prob(b).exp() * weight * smooth(b)).sum()
    drawn = smooth(latent.expand(n).sample(torch.Generator().manual_seed(0)))
    assert ((drawn.mean() - expected) / (drawn.std() / n**0.5)).abs() < 4.5
    again = latent.expand(5).sample(torch.Generator().manual_seed(3))
    assert torch.equal(again, latent.expand(5).sample(torch.Generator().manual_seed(3)))


@pytest.mark.parametrize("name", ["log-normal", "t", "von Mises", "mixture"])
def test_lax_trains_and_parts_mix(name):
    """In float32 and bfloat16, in a Joint with bits, with a control variate's second derivatives."""
    of, _, _ = INTEGRABLE[name]
    for dtype in (torch.float32, torch.bfloat16):
        shape = (6, 2, C, 3) if name == "mixture" else (6, 2, 2)
        theta = torch.randn(shape, dtype=dtype, requires_grad=True)
        for latent in (of(theta), Joint(a=of(theta), b=LogisticBernoulli(theta.flatten(1)[:, :2]))):
            estimator = lively(make("lax" if not isinstance(latent, Joint) else "relax", latent))
            estimate = estimator(latent, lambda b: b.flatten(1).clamp(-3, 3).sum(-1))
            estimate.backward()
            assert theta.grad.isfinite().all()
            assert all(p.grad.isfinite().all() for p in estimator.parameters())


def test_a_von_mises_wraps_around_without_bias(float64):
    """The reason for points: a control variate of the angle would jump at ±π, where this μ is."""
    theta = torch.tensor([[3.0, 1.0]])
    latent = Circular(theta[..., 0], theta[..., 1])
    b, weight = on_the_circle()
    wide = latent.expand(len(b))
    density = wide.log_prob(b).exp() * weight

    def angle(b):
        return torch.atan2(b[..., 1], b[..., 0]).sum(-1)

    def bias(c):
        """Of c's own correction, which must have mean zero."""
        grad = LAX(c, center=False).finish(wide, b, torch.zeros(len(b))).grad
        return (density.reshape(-1, 1, 1) * grad).sum(0).abs().max()

    assert bias(lambda b: b[..., 0, 1] + b[..., 0, 0].square()) < 1e-12
    assert bias(angle) > 0.1


def test_tails_of_a_mixture_are_finite():
    latent = GaussianMixture(
        torch.tensor([[[3.0, -3.0]]]), torch.tensor([[[-20.0, 20.0]]]), torch.tensor([[[-2.0, 0.0]]])
    )
    for at in (-24.0, -20.0, 0.0, 19.0, 30.0):
        b = torch.full((1, 1), at)
        assert latent.path_gradient(b, torch.ones_like(b)).isfinite().all(), at


def test_errors(float64):
    with pytest.raises(TypeError, match=r"give df\.detach"):
        as_latent(StudentT(torch.tensor([4.0], requires_grad=True), torch.zeros(1), torch.ones(1)))
    with pytest.raises(TypeError, match=r"of mixtures those of Normals alone .* layered\(\[components, numbers\]"):
        as_latent(MixtureSameFamily(Categorical(torch.ones(B, C)), Independent(Normal(torch.zeros(B, C, D), 1.0), 1)))
    with pytest.raises(TypeError, match=r"is known for Laplace\. as_latent takes .*VonMises.*subclass of Latent"):
        as_latent(Laplace(0.0, 1.0))
    with pytest.raises(ValueError, match=r"logits and loc must be \[\*batch, D, C\]"):
        GaussianMixture(torch.zeros(3), torch.zeros(3), torch.zeros(3))
    with pytest.raises(NotImplementedError, match="GaussianMixture has no entropy"):
        as_latent(mixture(B)).entropy()


@pytest.mark.parametrize(
    "latent",
    [GumbelOneHot(torch.zeros(32, 10)), LogisticBernoulli(torch.zeros(32)), Gaussian(torch.zeros(32), torch.zeros(1))],
)
def test_a_batch_that_is_read_as_one_event_is_told(latent):
    """f's mean over what the author takes for the batch hides it: nothing else would say so."""
    with pytest.warns(UserWarning, match=r"is one sample of 32 variables, without a batch.*unsqueeze"):
        Reinforce()(latent, lambda b: b.mean())
    told = pytest.warns(UserWarning, match="is one sample of 32 variables")
    with pytest.raises(ValueError, match="The latent has no batch: all of its variables"), told:
        Reinforce()(latent, lambda b: b.flatten(1).sum(-1) if b.dim() > 1 else b)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ndim = latent.sample_ndim
        for meant in (latent.each_variable(), latent.expand(1)):
            Reinforce()(meant, lambda b: b.flatten(-ndim).sum(-1))
        one = Implicit(Dirichlet(torch.ones(4)))
        for alone in (one, LogisticBernoulli(torch.zeros(1)), GumbelOneHot(torch.zeros(1, 3))):
            Reinforce()(alone, lambda b: b.sum())


class TestFlattenSamples:
    @pytest.mark.parametrize("estimator", ["reinforce", "rloo", "exact", "disarm"])
    def test_an_f_of_matrices_serves_every_estimator(self, estimator, float64):
        x, y = torch.randn(5, 3), torch.randn(5)
        norm = torch.nn.BatchNorm1d(3).eval()  # which takes [N, D] alone
        latent = LogisticBernoulli(torch.randn(5, 3))

        def f(b, x, y):
            assert b.shape == x.shape
            return (norm(b) * x).sum(-1) + y

        kind = make(estimator, latent)
        ours = kind(latent, flatten_samples(f, x, y), torch.Generator().manual_seed(0))
        direct = kind(latent, lambda b: (b * x / (1 + 1e-5) ** 0.5).sum(-1) + y, torch.Generator().manual_seed(0))
        assert torch.allclose(ours.grad, direct.grad)
        assert torch.allclose(ours.value, direct.value)

    def test_one_hots_and_wrong_shapes(self):
        q = GumbelOneHot(torch.zeros(5, 2, 3))
        x = torch.randn(5, 3)
        value = RLOO(4)(q, flatten_samples(lambda b, x: (b.sum(1) * x).sum(-1), x, event_ndim=2)).value
        assert value.shape == (5,)
        with pytest.raises(ValueError, match="Say event_ndim=2 for one-hots"):
            RLOO(4)(q, flatten_samples(lambda b, x: b.sum(-1), x))

    def test_without_inputs(self):
        q = LogisticBernoulli(torch.zeros(2, 5, 3))
        assert RLOO(4)(q, flatten_samples(lambda b: b.sum(1))).value.shape == (2, 5)


def test_per_variable_costs_of_new_latents(float64):
    for name in ("t", "mixture", "von Mises", "log-normal"):
        latent = as_latent(Independent(FAMILIES[name][0](B, D), 1))
        cost = (lambda b: b[..., 0]) if name == "von Mises" else (lambda b: b.sin())
        apart = lively(make("lax", latent.each_variable()))
        assert PerVariable(apart)(latent, cost).grad.shape == latent.theta.shape


def test_log_normals_by_gauss_hermite(float64):
    latent = LogGaussian(torch.tensor([0.2, -0.3]), torch.tensor([-0.7, -0.4]))
    for name in ("reinforce", "rloo", "reparam"):
        assert check_unbiased(
            make(name, latent), latent, lambda b: b.log().pow(3).sum(-1) + b.log().prod(-1), 8
        ).unbiased


def test_what_is_no_distribution_says_so():
    with pytest.raises(TypeError, match=r"as_latent takes one of torch\.distributions, such as .*; got Tensor"):
        as_latent(torch.zeros(3))


def test_rare_components_in_half_precision():
    probs = torch.tensor([0.001, 0.999], dtype=torch.bfloat16)
    parts = torch.distributions.Normal(torch.zeros(2, dtype=torch.bfloat16), torch.ones(2, dtype=torch.bfloat16))
    mixture = as_latent(torch.distributions.MixtureSameFamily(torch.distributions.Categorical(probs=probs), parts))
    assert torch.isclose(mixture.theta[..., 0].softmax(-1).flatten()[0].float(), torch.tensor(0.001), rtol=0.05)
