"""E[ĝ] equals the exact gradient to 1e-10: b enumerated, noise integrated, no sampling. Broken twins do not.

Every unbiased estimator of ESTIMATORS is enrolled by its name alone.
"""

import weakref

import pytest
import torch

from sb3_relax.estimators import (
    ESTIMATORS,
    LAX,
    NVIL,
    REBAR,
    RELAX,
    RLOO,
    VIMCO,
    CurvatureLAX,
    DoubleCV,
    Gaussian,
    GumbelOneHot,
    LinearisedReparam,
    LogGaussian,
    LogisticBernoulli,
    MLPSurrogate,
    MuProp,
    Reparam,
    check_unbiased,
    make,
)
from sb3_relax.estimators.proofs import exact
from sb3_relax.estimators.proofs.exact import MAX_NOISE_NODES
from sb3_relax.estimators.registry import settings_of
from tests.estimators import twins
from tests.estimators.problems import DISCRETE, OBJECTIVES, gaussian, gaussian_net, hard_net, leaf, lively, relaxed_net

TOLERANCE = 1e-10
REJECTED = 1e-3

UNBIASED = [name for name, kind in ESTIMATORS.items() if kind.unbiased]


def takes(name, latent, objective):
    kind = ESTIMATORS[name]
    return isinstance(latent, kind.latents) and not (kind.needs_grad_f and objective == "black box")


def pairs(problems, objectives):
    torch.manual_seed(0)
    for problem in problems:
        latent = DISCRETE[problem][0]()
        for name in UNBIASED:
            for objective in objectives:
                if takes(name, latent, objective):
                    yield problem, name, objective


def error(estimator, latent, f, nodes):
    return check_unbiased(estimator, latent, f, nodes).error


@pytest.mark.parametrize(
    ("problem", "name", "objective"), list(pairs(["one bit", "two bits", "two classes"], OBJECTIVES))
)
def test_every_objective(problem, name, objective, float64):
    latent, nodes = DISCRETE[problem][0](), DISCRETE[problem][1]
    check = check_unbiased(lively(make(name, latent)), latent, OBJECTIVES[objective](latent), nodes, TOLERANCE)
    assert check.unbiased, check
    assert objective == "constant" or check.exact.abs().max() > 1e-3


def long_ones_apart(cases):
    """Several samples and noise multiply: b^K times the nodes of a quadrature over every noise."""
    for problem, name, objective in cases:
        latent, nodes = DISCRETE[problem][0](), DISCRETE[problem][1]
        estimator = make(name, latent)
        rows = len(latent.support()) ** estimator.samples
        if estimator.noise_shape(latent) is not None:
            rows *= nodes ** latent.theta.numel()
        yield pytest.param(problem, name, objective, marks=[pytest.mark.slow] if rows > 500_000 else [])


@pytest.mark.parametrize(
    ("problem", "name", "objective"),
    list(long_ones_apart(pairs(["three bits", "three classes", "masked classes"], ["network", "black box"]))),
)
def test_larger_problems(problem, name, objective, float64):
    latent, nodes = DISCRETE[problem][0](), DISCRETE[problem][1]
    assert error(lively(make(name, latent)), latent, OBJECTIVES[objective](latent), nodes) < TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in UNBIASED if issubclass(GumbelOneHot, ESTIMATORS[name].latents)])
def test_four_classes(name, float64):
    """Surrogates are small: two samples and 32^4 nodes are 17 million estimates, and c was nearly all their time."""
    latent, nodes = GumbelOneHot(leaf(torch.randn(1, 4))), 40 if name == "rebar" else 32
    assert error(with_small_surrogate(name, latent), latent, OBJECTIVES["network"](latent), nodes) < TOLERANCE


def with_small_surrogate(name, latent):
    """An estimator by name; its surrogate, where it has one, with one hidden layer of eight."""
    kind = ESTIMATORS[name]
    parts = {"surrogate": MLPSurrogate.of(latent, hidden=[8])} if "surrogate" in settings_of(kind) else {}
    return lively(make(name, latent, **parts))


def test_the_grid_of_four_classes_rejects_a_wrong_relaxed_double_cv(float64):
    """With fewer nodes, whose error is far below what a mistake makes."""
    latent = GumbelOneHot(leaf(torch.randn(1, 4)))
    f, right = OBJECTIVES["network"](latent), with_small_surrogate("relaxed_double_cv", latent)
    assert error(right, latent, f, 12) < 0.1 * REJECTED
    assert error(twins.UncoupledDoubleCV(right.surrogate), latent, f, 12) > REJECTED


class Saved:
    """A tensor that a graph keeps."""

    def __init__(self, tensor):
        self.tensor = tensor.detach()  # a saved output would keep the graph that keeps it


def test_a_check_keeps_no_graph_of_its_parts(float64, monkeypatch):
    """Values of an f with parameters have graphs, which filled the memory while they were added up."""
    latent = GumbelOneHot(leaf(torch.randn(1, 3)))
    alive, numbers, parts = weakref.WeakSet(), [], exact.weighted_estimates

    def small_parts(*args):
        for part in parts(*args, chunk=1 << 8):
            numbers.append(len(alive))
            yield part

    def pack(tensor):
        saved = Saved(tensor)
        alive.add(saved)
        return saved

    monkeypatch.setattr(exact, "weighted_estimates", small_parts)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda saved: saved.tensor):
        check_unbiased(lively(make("relax", latent)), latent, OBJECTIVES["with θ"](latent), 12)
    assert len(numbers) > 10
    assert 0 < max(numbers) <= 2 * numbers[0]


@pytest.mark.parametrize("samples", [3, 4])
@pytest.mark.parametrize("name", ["rloo", "vimco", "unordered_set", "arms", "double_cv", "rodeo"])
def test_several_samples(name, samples, float64):
    latent = LogisticBernoulli(leaf(torch.randn(2)))
    estimator = lively(make(name, latent, samples=samples))
    for objective in ("network", "with θ"):
        assert error(estimator, latent, OBJECTIVES[objective](latent), 1) < TOLERANCE


@pytest.mark.parametrize("problem", ["one bit", "two bits", "two classes"])
def test_independent_noise(problem, float64):
    """z and z̃ drawn apart, in RELAX, REBAR and REBAR with a learned residual."""
    latent, nodes = DISCRETE[problem][0](), DISCRETE[problem][1]
    f = OBJECTIVES["network"](latent)
    residual = MLPSurrogate.of(latent)
    for estimator in (
        RELAX(relaxed_net(latent), coupled=False),
        lively(make("relax", latent, coupled=False)),
        lively(make("rebar", latent, coupled=False)),
        lively(make("rebar", latent, coupled=False, center=True)),
        lively(make("rebar", latent, center=True)),
        lively(make("rebar", latent, coupled=False, residual=residual)),
        lively(make("rebar", latent, residual=residual)),
        lively(make("relax", latent, draws=3)),
    ):
        assert error(estimator, latent, f, nodes) < TOLERANCE


@pytest.mark.parametrize("problem", ["two bits", "three classes"])
def test_surrogates_of_the_relaxed_sample(problem, float64):
    """Through autograd instead of a closed-form slope, with a temperature."""
    latent, nodes = DISCRETE[problem][0](), DISCRETE[problem][1]
    assert error(RELAX(relaxed_net(latent)), latent, OBJECTIVES["black box"](latent), nodes) < TOLERANCE


@pytest.mark.parametrize("kind", [NVIL, MuProp])
def test_with_a_baseline(kind, float64):
    latent = LogisticBernoulli(leaf(torch.randn(2)))
    net = torch.nn.Linear(2, 1)
    estimator = lively(kind(baseline=torch.nn.Sequential(net, torch.nn.Flatten(-2))))
    assert error(estimator, latent, OBJECTIVES["network"](latent), 1) < TOLERANCE


def test_nvil_normalised_is_the_gradient_over_a_number(float64):
    latent = LogisticBernoulli(leaf(torch.randn(2)))
    check = check_unbiased(lively(NVIL(normalise=True)), latent, OBJECTIVES["network"](latent))
    assert not check.unbiased
    assert torch.allclose(check.expected, check.exact / 2.0**0.5)


def test_nvil_never_multiplies(float64):
    """The divisor is max(1, √v): a small variance is left alone."""
    latent = LogisticBernoulli(leaf(torch.randn(2)))
    estimator = lively(NVIL(normalise=True))
    estimator.variance.fill_(0.25)
    assert check_unbiased(estimator, latent, OBJECTIVES["network"](latent)).unbiased


def polynomial(b):
    return (b**3).sum(-1) - 2 * b.prod(-1) + 0.5 * b[..., 0] ** 2


@pytest.mark.parametrize("name", [name for name in UNBIASED if issubclass(Gaussian, ESTIMATORS[name].latents)])
def test_gaussian_by_gauss_hermite(name, float64):
    latent = gaussian()
    # few nodes are exact for the polynomial; tanh surrogates and log-sum-exp bounds converge geometrically
    slow = {"lax": (polynomial, 60), "lax_curvature": (polynomial, 80), "vimco": (lambda b: 0.3 * b.sum(-1), 16)}
    f, nodes = slow.get(name, (polynomial, 8))
    assert error(lively(make(name, latent)), latent, f, nodes) < TOLERANCE


def test_linearised_reparam(float64):
    """With and without the diagonal, of normals and of log-normals; a quadratic has no noise at all."""
    latent = gaussian()
    for estimator in (LinearisedReparam(), LinearisedReparam(diagonal=False)):
        assert error(estimator, latent, polynomial, 8) < TOLERANCE
        assert error(estimator, latent, lambda b: 3 * b[..., 0] - b[..., 1], 8) < TOLERANCE  # without a curvature
    assert error(twins.Linearised(), latent, polynomial, 8) > REJECTED
    matrix = torch.randn(2, 2)

    def quadratic(b):
        return ((b @ matrix) * b).sum(-1) + b[..., 0]

    wide = gaussian().expand(50)
    assert LinearisedReparam()(wide, quadratic).grad.std(0).max() < 1e-12
    assert Reparam()(wide, quadratic).grad.std(0).max() > 0.1
    loc, log_scale = torch.tensor([0.3, -0.2]), torch.tensor([-1.0, -0.7])
    positive, normal = LogGaussian(loc, log_scale), Gaussian(loc, log_scale)
    epsilon = torch.randn(30, 2)
    grads = [
        LinearisedReparam().estimate(q.expand(30), f, q.expand(30).at_noise(epsilon), None).grad
        for q, f in ((positive, polynomial), (normal, lambda b: polynomial(b.exp())))
    ]
    assert torch.allclose(*grads)


def quartic(b):
    return (b**4).sum(-1) - b.prod(-1) + b.square().prod(-1)


def test_curvature_lax_with_a_polynomial_surrogate(float64):
    """Exact with few nodes, of log-normals too; with half of the curvature, or without σ², it is not."""
    latent = gaussian()
    positive = LogGaussian(leaf(torch.tensor([0.3, -0.2])), leaf(torch.tensor([-1.5, -1.7])))
    assert error(CurvatureLAX(quartic), latent, polynomial, 8) < TOLERANCE
    assert error(CurvatureLAX(lambda b: b[..., 0] * b[..., 1]), latent, polynomial, 8) < TOLERANCE
    assert error(CurvatureLAX(lambda b: 2 * b[..., 0] + b[..., 1].square()), positive, polynomial, 40) < TOLERANCE
    for twin in (twins.HalfCurvature, twins.UnscaledCurvature):
        assert error(twin(quartic), latent, polynomial, 8) > REJECTED


def test_curvature_lax_is_lax_but_for_the_scale(float64):
    """μ's part is LAX's, sample by sample. Where c is a quadratic f, log σ's has no noise, and LAX's has."""
    matrix = torch.randn(2, 2)

    def quadratic(b):
        return ((b @ matrix) * b).sum(-1) + b[..., 0]

    wide = gaussian().expand(50)
    ours, theirs = (
        kind(quadratic, center=False)(wide, quadratic, torch.Generator().manual_seed(0)).grad
        for kind in (CurvatureLAX, LAX)
    )
    assert torch.allclose(ours[..., 0], theirs[..., 0])
    assert ours[..., 1].std(0).max() < 1e-12
    assert theirs[..., 1].std(0).min() > 0.05
    # E[b'Ab] = tr(AΣ) + μ'Aμ
    assert torch.allclose(ours[0, :, 1], 2 * (2 * wide.theta[0, :, 1]).exp() * matrix.diagonal())


def test_lax_with_a_network(float64):
    latent = gaussian()
    estimator = LAX(gaussian_net(latent, 1.0))
    errors = [error(estimator, latent, polynomial, n) for n in (20, 80)]
    assert errors[1] < TOLERANCE < errors[0]


def test_lax_with_a_polynomial_surrogate_is_exact_with_few_nodes(float64):
    latent = gaussian()
    estimator = LAX(lambda b: (b**4).sum(-1) - b.prod(-1))
    assert error(estimator, latent, polynomial, 8) < TOLERANCE


@pytest.mark.parametrize("twin", [twins.DetachedTilde, twins.FlippedCorrection, twins.DoubledCorrection])
@pytest.mark.parametrize("problem", ["two bits", "three classes"])
def test_broken_relax_is_rejected(twin, problem, float64):
    latent, nodes = DISCRETE[problem][0](), DISCRETE[problem][1]
    assert error(twin(relaxed_net(latent)), latent, OBJECTIVES["network"](latent), nodes) > REJECTED


def test_a_bias_that_couples_two_draws_is_rejected(float64):
    """Where the grid has room for every draw's own nodes; shared nodes never see two draws apart."""
    latent, nodes = DISCRETE["one bit"][0](), DISCRETE["one bit"][1]
    f, surrogate = OBJECTIVES["network"](latent), relaxed_net(latent)
    assert error(RELAX(surrogate, coupled=False), latent, f, nodes) < TOLERANCE
    assert error(twins.CrossTerm(surrogate), latent, f, nodes) == pytest.approx(1 / 6)
    # two draws of two samples: four bits' worth of noise would not fit, two do
    assert nodes**2 <= MAX_NOISE_NODES < nodes**4


@pytest.mark.parametrize("coupled", [True, False])
def test_broken_samplers_are_rejected(coupled, float64):
    theta = torch.tensor([[0.5, -1.0, 0.9]])
    f = OBJECTIVES["network"](GumbelOneHot(theta))
    surrogate = relaxed_net(GumbelOneHot(theta))
    assert error(RELAX(surrogate, coupled), GumbelOneHot(theta), f, 52) < TOLERANCE
    assert error(RELAX(surrogate, coupled), twins.LogPbGumbel(theta), f, 52) > REJECTED

    theta = torch.tensor([0.8, -1.5])
    f = OBJECTIVES["network"](LogisticBernoulli(theta))
    surrogate = relaxed_net(LogisticBernoulli(theta))
    assert error(RELAX(surrogate, coupled), LogisticBernoulli(theta), f, 60) < TOLERANCE
    assert error(RELAX(surrogate, coupled), twins.WrongSignBernoulli(theta), f, 60) > REJECTED


def test_fresh_noise_is_rejected(float64):
    latent = gaussian()
    surrogate = gaussian_net(latent)
    assert error(LAX(surrogate), latent, polynomial, 80) < 1e-9
    assert error(twins.FreshNoiseLAX(surrogate), latent, polynomial, 80) > REJECTED


def test_statistics_from_the_same_batch_are_rejected(float64):
    """A batch of two, enumerated: what is subtracted from f must come from earlier batches."""
    one = LogisticBernoulli(torch.tensor([0.4]))
    f = hard_net(one, 5.0)
    exact = check_unbiased(NVIL(), one, f).exact
    b = torch.tensor([[[i], [j]] for i in (0.0, 1.0) for j in (0.0, 1.0)])  # four batches of two
    kinds = (
        (NVIL, False),
        (twins.SameBatchNVIL, True),
        (lambda: lively(RELAX(Zero())), False),
        (lambda: twins.SameBatchCentre(Zero()), True),
    )
    for kind, biased in kinds:
        batch = one.expand(2)
        mean = sum(
            batch.log_prob(pair).sum().exp() * kind().finish(batch, pair, f(pair).detach()).grad.mean(0) for pair in b
        )
        assert ((mean - exact).abs().max() > REJECTED) == biased


def test_least_squares_of_the_same_batch_are_rejected(float64):
    """Two elements of two samples of a bit, enumerated: α must be that of earlier batches."""
    one = LogisticBernoulli(torch.tensor([0.4]))
    f = hard_net(one, 5.0)
    batch, exact = one.expand(2), check_unbiased(RLOO(), one, f).exact
    draws = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 4).reshape(-1, 2, 2, 1)  # [16, K, batch, D]
    for kind, biased in ((lambda: DoubleCV(scale=-0.3), False), (twins.SameBatchDoubleCV, True)):
        mean = sum(
            batch.log_prob(b).sum().exp() * kind().estimate(batch, f, b, None).grad.mean(0).detach() for b in draws
        )
        assert ((mean - exact).abs().max() > REJECTED) == biased


class Zero(torch.nn.Module):
    """c = 0."""

    def forward(self, z):
        return 0 * z.sum(-1)


def test_a_wrong_double_cv_is_rejected(float64):
    """The correction at the wrong scale."""

    class Twin(DoubleCV):
        def estimate(self, latent, f, b, noise):
            estimate = super().estimate(latent, f, b, noise)
            estimate._grad = estimate._grad * 1.1
            return estimate

    latent = LogisticBernoulli(leaf(torch.randn(2)))
    assert error(Twin(), latent, OBJECTIVES["network"](latent), 1) > REJECTED


def test_several_draws_keep_the_mean(float64):
    """ĝ with K draws is the mean of K single-draw estimates with the same noise."""
    latent = GumbelOneHot(torch.randn(5, 2, 3))
    for coupled in (True, False):
        surrogate = relaxed_net(GumbelOneHot(torch.zeros(2, 3)))
        b, value = latent.sample(), torch.randn(5)
        several = RELAX(surrogate, coupled, draws=4)
        noise = torch.rand(several.noise_shape(latent))
        singles = noise.unbind(-4)  # draws is the dimension before [*batch, D, K]
        single = RELAX(surrogate, coupled)
        grads = [single.finish(latent, b, value, u.unsqueeze(-4)).grad for u in singles]
        assert torch.allclose(several.finish(latent, b, value, noise).grad, torch.stack(grads).mean(0))


def test_check_unbiased_refuses_single_precision():
    with pytest.raises(ValueError, match="must be float64"):
        check_unbiased(RLOO(), LogisticBernoulli(torch.zeros(2)), lambda b: b.sum(-1))
    with pytest.raises(TypeError, match="takes LogisticBernoulli, GumbelOneHot; got Gaussian"):
        check_unbiased(REBAR(), gaussian(), polynomial)


def test_vimco_target_is_the_bound(float64):
    """Exact by hand for one bit and K = 2: Σ p(b1) p(b2) log ½ (w1 + w2), differentiated by autograd."""
    theta = torch.tensor([0.3], requires_grad=True)
    log_weight = torch.tensor([0.2, -1.4])
    p = torch.stack([1 - theta.sigmoid(), theta.sigmoid()]).flatten()
    bound = sum(p[i] * p[j] * (0.5 * (log_weight[i].exp() + log_weight[j].exp())).log() for i in (0, 1) for j in (0, 1))
    (expected,) = torch.autograd.grad(bound, theta)
    check = check_unbiased(VIMCO(), LogisticBernoulli(theta), lambda b: log_weight[b.long().squeeze(-1)])
    assert check.unbiased
    assert torch.allclose(check.exact, expected)
