"""What every estimator of ESTIMATORS promises beside its mean: what it touches, counts, refuses and survives."""

import copy
import re

import pytest
import torch
from torch import nn

from sb3_relax.estimators import (
    ESTIMATORS,
    NVIL,
    REBAR,
    RELAX,
    Gaussian,
    GumbelOneHot,
    Implicit,
    Joint,
    KSubset,
    LogisticBernoulli,
    MLPSurrogate,
    Reinforce,
    TwoPhaseEstimator,
    check_unbiased,
    estimators_of,
    gradient_variance,
    make,
)
from tests.estimators import twins
from tests.estimators.problems import event_size, lively

N = 6


def beta(theta):
    return Implicit(torch.distributions.Beta(theta[..., 0].exp(), theta[..., 1].exp(), validate_args=False))


def joint(theta):
    return Joint(
        at=Gaussian(theta[..., :2], theta[..., 2:4]),
        what=GumbelOneHot(theta[..., 4:8].unflatten(-1, (2, 2))),
        on=LogisticBernoulli(theta[..., 8:]),
    )


#: name → (shape of what makes θ, latent of it)
LATENTS = {
    "bits": ((3,), LogisticBernoulli),
    "classes": ((2, 3), GumbelOneHot),
    "masked": ((2, 3), lambda theta: GumbelOneHot(theta, torch.tensor([[True, True, False], [True, True, True]]))),
    "gaussian": ((3, 2), lambda theta: Gaussian(theta[..., 0], theta[..., 1])),
    "gamma": ((3, 2), lambda theta: Implicit(torch.distributions.Gamma(theta[..., 0].exp(), theta[..., 1].exp()))),
    "beta": ((3, 2), beta),
    "dirichlet": ((3,), lambda theta: Implicit(torch.distributions.Dirichlet(theta.exp(), validate_args=False))),
    "joint": ((10,), joint),
    "subset": ((4,), lambda theta: KSubset(theta, 2)),
}
PAIRS = [(name, kind) for name, (shape, of) in LATENTS.items() for kind in estimators_of(of(torch.zeros(shape)))]
every_pair = pytest.mark.parametrize(("latent_name", "name"), PAIRS, ids=[f"{a}-{b}" for a, b in PAIRS])


class Problem:
    """θ made of weights, and an f with parameters that depends on θ as well."""

    def __init__(self, latent_name, batch=(N,), dtype=torch.float64):
        shape, self.of = LATENTS[latent_name]
        self.weights = torch.randn(*batch, *shape, dtype=dtype, requires_grad=True)
        self.latent = self.of(2 * self.weights.tanh())
        self.net = nn.Sequential(nn.Linear(event_size(self.latent), 5), nn.Tanh(), nn.Linear(5, 1)).to(dtype)
        self.calls = 0

    def f(self, b):
        x = b.flatten(-self.latent.sample_ndim)
        self.calls += x.shape[:-1].numel()
        theta = self.latent.theta.clamp(-9, 9).flatten(len(self.latent.batch_shape)).sum(-1)
        return self.net(x).squeeze(-1) + x.sum(-1) * theta.sin()

    def estimator(self, name, **kwargs):
        return lively(make(name, self.latent, **kwargs))

    def grads(self):
        return [self.weights.grad, *(p.grad for p in self.net.parameters())]


def seeded():
    return torch.Generator().manual_seed(3)


def zeros_where_none(gradients, like):
    return [torch.zeros_like(p) if g is None else g for g, p in zip(gradients, like, strict=True)]


def check_backward(problem, estimator):
    """θ, f and φ receive exactly what the contract says."""
    f_parameters, phi = list(problem.net.parameters()), list(estimator.parameters())
    estimate = estimator(problem.latent, problem.f, seeded())
    made_theta = [problem.weights, *f_parameters]
    scalar = (problem.latent.theta * estimate.grad).sum() / N + estimate.value.sum() / N
    expected = torch.autograd.grad(scalar, made_theta, retain_graph=True, allow_unused=True)
    expected_phi = [None] * len(phi)
    if phi and estimate.objective.requires_grad:
        expected_phi = torch.autograd.grad(estimate.objective, phi, retain_graph=True, allow_unused=True)
    estimator(problem.latent, problem.f, seeded()).backward()
    for ours, theirs in zip(problem.grads(), zeros_where_none(expected, made_theta), strict=True):
        assert torch.allclose(torch.zeros(()) if ours is None else ours, theirs, atol=1e-10)
    for parameter, gradient in zip(phi, expected_phi, strict=True):
        assert (parameter.grad is None) == (gradient is None)
        assert gradient is None or torch.allclose(parameter.grad, gradient, atol=1e-10)
    return phi


@every_pair
def test_nothing_leaks(latent_name, name, float64):
    problem = Problem(latent_name)
    phi = check_backward(problem, problem.estimator(name))
    assert problem.weights.grad.abs().max() > 0
    # c is at work in this test, so Eq 6 has something to say
    assert all(p.grad is not None and p.grad.isfinite().all() for p in phi)


@pytest.mark.parametrize("coupled", [True, False])
def test_nothing_leaks_from_rebar_with_a_residual(coupled, float64):
    problem = Problem("bits")
    check_backward(problem, problem.estimator("rebar", residual=MLPSurrogate.of(problem.latent), coupled=coupled))


def test_a_leak_is_caught(float64):
    problem = Problem("bits")
    with pytest.raises(AssertionError):
        check_backward(problem, lively(twins.LeakyREBAR()))


EQ_6 = [(a, b) for a, b in PAIRS if list(make(b, LATENTS[a][1](torch.zeros(LATENTS[a][0]))).parameters())]


def eq_6_error(latent, f, estimator, step=1e-6):
    """Between φ's gradient and central differences of the mean ‖ĝ‖², all randomness held fixed: the largest difference,
    as a share of the largest derivative."""

    def objective():
        return estimator(latent, f, seeded()).grad.square().sum().item() / N

    phi = list(estimator.parameters())
    gradients = zeros_where_none(estimator(latent, f, seeded()).phi_gradients(phi), phi)
    errors, size = [], 0.0
    for parameter, gradient in zip(phi, gradients, strict=True):
        flat = parameter.data.view(-1)
        for i in range(min(2, len(flat))):
            before = flat[i].item()
            flat[i] = before + step
            up = objective()
            flat[i] = before - step
            down = objective()
            flat[i] = before
            errors.append(abs((up - down) / (2 * step) - gradient.view(-1)[i].item()))
            size = max(size, abs(up - down) / (2 * step))
    return max(errors) / size


@pytest.mark.parametrize(("latent_name", "name"), EQ_6, ids=[f"{a}-{b}" for a, b in EQ_6])
def test_phi_descends_eq_6(latent_name, name, float64):
    problem = Problem(latent_name)
    assert eq_6_error(problem.latent, problem.f, problem.estimator(name)) < 1e-6


@pytest.mark.parametrize("name", ["lax", "dlax", "exact_correction", "relaxed_double_cv", "relax"])
def test_phi_trained_on_the_score_term_alone_is_rejected(name, float64):
    problem = Problem("gaussian" if name == "lax" else "bits")
    estimator = problem.estimator(name)
    if name == "exact_correction":
        estimator = twins.ExactOnScoreTermAlone(estimator.surrogate, center=False)
    else:
        estimator.surrogate = twins.ScoreTermOnly(estimator.surrogate)
    assert eq_6_error(problem.latent, problem.f, estimator) > 1e-3


@every_pair
def test_under_no_grad_it_is_the_same_estimate(latent_name, name, float64):
    """Also what trains φ, which has a graph of its own."""
    problem = Problem(latent_name)
    estimator = lively(NVIL(ThetaMean())) if name == "nvil" else problem.estimator(name)
    phi = list(estimator.parameters())
    plain = estimator(problem.latent, problem.f, seeded())
    with torch.no_grad():
        quiet = estimator(problem.latent, problem.f, seeded())
    assert torch.equal(quiet.grad, plain.grad)
    ours, theirs = (zeros_where_none(e.phi_gradients(phi), phi) for e in (quiet, plain))
    assert all(torch.allclose(a, b, atol=1e-12) for a, b in zip(ours, theirs, strict=True))
    assert not phi or any(a.abs().max() > 0 for a in ours)


class ThetaMean(nn.Module):
    """A baseline for any latent: a multiple of the mean of θ."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.7))

    def forward(self, theta):
        return self.weight * theta.flatten(1).mean(1)


def test_nvil_trains_its_baseline_on_squared_error(float64):
    problem = Problem("bits")
    baseline = nn.Sequential(nn.Linear(3, 1), nn.Flatten(-2))
    estimator = lively(NVIL(baseline))
    expected = (
        (problem.f(problem.latent.sample(seeded())).detach() - baseline(problem.latent.theta) - 0.4).square().mean()
    )
    expected = torch.autograd.grad(expected, list(baseline.parameters()))
    estimate = estimator(problem.latent, problem.f, seeded())
    estimate.backward()
    for parameter, gradient in zip(baseline.parameters(), expected, strict=True):
        assert torch.allclose(parameter.grad, gradient)


def test_nvil_learns_its_statistics_from_the_batch_afterwards(float64):
    estimator, latent = NVIL(decay=0.5), LogisticBernoulli(torch.zeros(100, 2, requires_grad=True))
    estimates = []
    for step in range(3):
        estimates.append(estimator(latent, lambda b, step=step: b.sum(-1) + 10 * step))
        estimates[-1].backward()
    assert torch.equal(estimates[0].grad, estimates[0].score_term)  # nothing seen before
    values = [estimate.value for estimate in estimates]
    after_two = 0.5 * values[0].mean() + 0.5 * values[1].mean()
    assert torch.allclose(estimates[2].grad, (values[2] - after_two).unsqueeze(-1) * estimates[2].score)


@every_pair
def test_declared_evaluations_are_those_made(latent_name, name, float64):
    problem = Problem(latent_name)
    estimator = problem.estimator(name)
    estimate = estimator(problem.latent, problem.f)
    expected = estimator.evaluations if name != "exact" else len(problem.latent.support())
    assert problem.calls == N * expected
    assert estimate.value.shape == (N,)
    assert estimate.grad.shape == problem.latent.theta.shape
    assert not estimate.grad.requires_grad


#: estimator → points of c that its definition has, and its arguments. Coupled noise makes one point of z and z̃
POINTS_OF_SURROGATE = {
    "dlax": (1, {}),
    "exact_correction": (8, {}),  # every value of three bits
    "lax": (1, {}),
    "lax_curvature": (1, {}),
    "rebar": (1, {"residual": True}),
    "rebar, independent": (2, {"residual": True, "coupled": False}),
    "relax": (1, {}),
    "relax, independent": (2, {"coupled": False}),
    "relax, 3 draws": (3, {"draws": 3}),
    "relaxed_double_cv": (3, {"samples": 3}),
}


@pytest.mark.parametrize("name", POINTS_OF_SURROGATE)
def test_surrogate_is_asked_for_no_more_points_than_the_definition_has(name, float64):
    """By an estimate and φ's gradient together."""
    points, kwargs = POINTS_OF_SURROGATE[name]
    problem = Problem("gaussian" if name.startswith("lax") else "bits")
    seen = []

    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = MLPSurrogate.of(problem.latent)

        def forward(self, z):
            seen.append(z.shape[: -problem.latent.sample_ndim].numel())
            return self.inner(z)

    asked = "residual" if kwargs.pop("residual", False) else "surrogate"
    estimator = problem.estimator(name.partition(",")[0], **{asked: Counting()}, **kwargs)
    estimator(problem.latent, problem.f).backward()
    assert sum(seen) == N * points


def test_exact_corrections_surrogate_may_look_at_its_points_as_of_another_shape(float64):
    problem = Problem("bits")
    inner = MLPSurrogate.of(problem.latent)

    class OfRows(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = inner

        def forward(self, b):
            return self.inner(b.view(-1, 3)).view(b.shape[:-1])

    ours = make("exact_correction", problem.latent, surrogate=OfRows())(problem.latent, problem.f, seeded())
    theirs = make("exact_correction", problem.latent, surrogate=inner)(problem.latent, problem.f, seeded())
    assert torch.allclose(ours.grad, theirs.grad)


@every_pair
def test_needs_grad_f_is_declared_and_refused_early(latent_name, name, float64):
    problem = Problem(latent_name)
    estimator = problem.estimator(name)

    def black_box(b):
        return problem.f(b.detach()).detach()

    if ESTIMATORS[name].needs_grad_f:
        with pytest.raises(TypeError, match=r"needs ∂f/∂b, but f returned a value without a graph"):
            estimator(problem.latent, black_box)
        assert all(gradient is None for gradient in problem.grads())
    else:
        assert estimator(problem.latent, black_box).grad.isfinite().all()


BAD = {
    "shape": (lambda value: value.unsqueeze(-1), ValueError, "one value per sample"),
    "nan": (lambda value: value * float("nan"), ValueError, r"f\(b\) must be finite; got nan"),
    "number": (lambda value: 3.0, TypeError, "must return a tensor"),
}


@pytest.mark.parametrize("bad", BAD)
@every_pair
def test_bad_values_of_f(latent_name, name, bad, float64):
    problem = Problem(latent_name)
    spoil, error, message = BAD[bad]
    estimator = problem.estimator(name)
    with pytest.raises(error, match=message):
        estimator(problem.latent, lambda b: spoil(problem.f(b)))
    assert all(gradient is None for gradient in problem.grads())
    assert all(parameter.grad is None for parameter in estimator.parameters())


class NaNInGradient(torch.autograd.Function):
    """The identity, whose derivative is NaN at one number of the third element of the batch."""

    @staticmethod
    def forward(ctx, b, sample_ndim):
        ctx.sample_ndim = sample_ndim
        return b.clone()

    @staticmethod
    def backward(ctx, gradient):
        gradient = gradient.clone()
        gradient.flatten(-ctx.sample_ndim)[..., 2, 0] = float("nan")
        return gradient, None


def nothing_was_accumulated(problem, estimator, buffers):
    gradients = [*problem.grads(), *(parameter.grad for parameter in estimator.parameters())]
    return all(gradient is None for gradient in gradients) and all(
        torch.equal(before, after) for before, after in zip(buffers, estimator.buffers(), strict=True)
    )


@pytest.mark.parametrize(("latent_name", "name"), [pair for pair in PAIRS if ESTIMATORS[pair[1]].needs_grad_f])
def test_a_slope_of_f_that_is_nan_is_refused_with_its_index(latent_name, name, float64):
    problem = Problem(latent_name)
    estimator = problem.estimator(name)
    buffers = [buffer.clone() for buffer in estimator.buffers()]
    ndim = problem.latent.sample_ndim
    with pytest.raises(ValueError, match=r"∂f/∂b must be finite; got nan at index \((\d, )?2, 0"):
        estimator(problem.latent, lambda b: problem.f(NaNInGradient.apply(b, ndim))).backward()
    assert nothing_was_accumulated(problem, estimator, buffers)


@every_pair
def test_squares_that_overflow_are_refused_with_the_sample_or_do_no_harm(latent_name, name):
    """In float32 1e30 is a number like any other, and its square is none."""
    problem = Problem(latent_name, dtype=torch.float32)
    estimator = problem.estimator(name)
    buffers = [buffer.clone() for buffer in estimator.buffers()]
    size = torch.ones(N)
    size[3] = 1e30
    estimate = estimator(problem.latent, lambda b: (b.flatten(-problem.latent.sample_ndim).sum(-1) + 2) * size)
    refusal = ""
    try:
        estimate.backward()
    except ValueError as error:
        refusal = str(error)
    if refusal:
        assert re.search(r"squares .* must be finite in torch.float32: ĝ is largest at index \(3,\)", refusal)
        assert nothing_was_accumulated(problem, estimator, buffers)
        assert list(estimator.parameters()) or list(estimator.buffers())
    else:
        gradients = [*problem.grads(), *(parameter.grad for parameter in estimator.parameters())]
        assert all(gradient is None or gradient.isfinite().all() for gradient in gradients)
    assert all(buffer.isfinite().all() for buffer in estimator.buffers())


def test_a_gradient_that_overflows_on_its_way_into_float16_is_refused():
    theta = torch.zeros(2, 3, dtype=torch.float16, requires_grad=True)
    estimate = Reinforce()(LogisticBernoulli(theta), lambda b: torch.tensor([1.0, 1e6]))
    with pytest.raises(
        ValueError, match=r"ĝ in torch.float16 must be finite; got -?inf at index \(1, 0\): scale f down"
    ):
        estimate.backward()
    assert theta.grad is None


def test_running_statistics_leave_out_a_batch_whose_variance_overflows():
    nvil = NVIL()
    for values in ([1e30, 1.0], [1.0, 3.0], [1e30, 1.0]):
        nvil.take_in(torch.tensor(values))
    assert nvil.mean == 2
    assert nvil.variance == 1


@every_pair
def test_parameters_that_are_not_finite(latent_name, name, float64):
    problem = Problem(latent_name)
    theta = problem.latent.theta.detach().clone()
    theta.flatten()[0] = float("nan")
    with pytest.raises(ValueError, match="the latent's parameters must be finite; got nan"):
        problem.estimator(name)(problem.latent.at(theta), problem.f)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_wrong_latents_name_what_would_do(name):
    for latent_name, (shape, of) in LATENTS.items():
        latent = of(torch.zeros(1, *shape))
        if name in estimators_of(latent):
            continue
        with pytest.raises(TypeError, match=rf"takes .*; got {type(latent).__name__}, which these take: .*Reinforce"):
            make(name, latent)
        assert latent_name


def test_unknown_names():
    with pytest.raises(ValueError, match=r"unknown estimator 'relaxx'; for LogisticBernoulli: reinforce, .*relax"):
        make("relaxx", LogisticBernoulli(torch.zeros(3)))


@every_pair
def test_two_phases_are_one_estimator(latent_name, name, float64):
    """Drawing b, learning f(b) elsewhere and finishing is the estimate with f at hand."""
    problem = Problem(latent_name)
    estimator = problem.estimator(name)
    if not isinstance(estimator, TwoPhaseEstimator):
        return
    generator = seeded()
    b = estimator.draw(problem.latent, generator)
    value = torch.tensor(problem.f(b).tolist())
    finished = estimator.finish(problem.latent, b, value, generator=generator)
    generator = seeded()
    assert torch.equal(b, estimator.draw(problem.latent, generator))
    noise = estimator.draw_noise(problem.latent, generator)
    assert torch.allclose(finished.grad, estimator.estimate(problem.latent, problem.f, b, noise).grad)


@every_pair
def test_vmap_over_seeds(latent_name, name, float64):
    """Mapped over given randomness it is the same estimate, and vmap draws randomness of its own."""
    problem = Problem(latent_name)
    estimator = problem.estimator(name)
    draws = [estimator.draw(problem.latent) for _ in range(4)]
    noise = [estimator.draw_noise(problem.latent) for _ in range(4)]
    stacked = [None if given[0] is None else torch.stack(given) for given in (draws, noise)]

    def estimate(b, u):
        return estimator.estimate(problem.latent, problem.f, b, u).grad

    expected = torch.stack([estimate(b, u) for b, u in zip(draws, noise, strict=True)])
    if name == "exact":  # it has nothing to be mapped over
        mapped = torch.func.vmap(lambda _: estimate(None, None))(torch.arange(4))
    else:
        dims = tuple(None if given is None else 0 for given in stacked)
        mapped = torch.func.vmap(estimate, in_dims=dims)(*stacked)
    assert torch.allclose(mapped, expected, atol=1e-12)
    grads = torch.func.vmap(lambda _: estimator(problem.latent, problem.f).grad, randomness="different")(
        torch.arange(20)
    )
    assert grads.shape == (20, *problem.latent.theta.shape)
    if name != "exact":
        assert grads.std(0).amax() > 0


SHAPES = {"no batch": (), "empty": (0,), "two dimensions": (2, 3), "one": (1,)}


@pytest.mark.parametrize("batch", SHAPES)
@every_pair
def test_batches_of_any_shape(latent_name, name, batch, float64):
    problem = Problem(latent_name, SHAPES[batch])
    estimate = problem.estimator(name)(problem.latent, problem.f)
    assert estimate.value.shape == SHAPES[batch]
    assert estimate.grad.shape == problem.latent.theta.shape
    estimate.backward()
    assert problem.weights.grad.isfinite().all()


@every_pair
def test_expanded_and_strided_parameters(latent_name, name, float64):
    """The same numbers in another memory layout give the same estimates."""
    problem = Problem(latent_name)
    estimator = problem.estimator(name)
    theta = problem.latent.theta.detach()[:1].expand_as(problem.latent.theta)
    strided = torch.stack([theta, theta + 1], dim=-1)[..., 0]
    assert not theta.is_contiguous()
    assert not strided.is_contiguous()

    def f(b):
        return problem.net(b.flatten(-problem.latent.sample_ndim)).squeeze(-1)

    grads = [
        copy.deepcopy(estimator)(problem.latent.at(t), f, seeded()).grad
        for t in (theta, strided, theta.clone(memory_format=torch.contiguous_format))
    ]
    assert torch.equal(grads[0], grads[2])
    assert torch.equal(grads[1], grads[2])


EXTREME = {
    "bits": LogisticBernoulli(torch.tensor([[90.0, -90.0, 0.0]]).expand(200, 3)),
    "classes": GumbelOneHot(torch.tensor([[[90.0, -90.0, 0.0], [-90.0, 0.0, 0.1]]]).expand(200, 2, 3)),
    "masked": GumbelOneHot(
        torch.tensor([[[90.0, -90.0, 0.0], [-90.0, 0.0, 0.1]]]).expand(200, 2, 3),
        torch.tensor([[True, True, False], [True, True, True]]),
    ),
    "one bit": LogisticBernoulli(torch.full((200, 1), 90.0)),
    "two classes": GumbelOneHot(torch.tensor([[[90.0, -90.0]]]).expand(200, 1, 2)),
}


@pytest.mark.parametrize("extreme", EXTREME)
@pytest.mark.parametrize("name", ESTIMATORS)
def test_extreme_logits_in_single_precision(extreme, name):
    latent = EXTREME[extreme]
    if name not in estimators_of(latent):
        return
    latent = latent.at(latent.theta.clone().requires_grad_())
    estimator = lively(make(name, latent))

    def f(b):
        return (b.flatten(-latent.sample_ndim) - 0.3).square().sum(-1)

    estimate = estimator(latent, f)
    estimate.backward()
    assert estimate.grad.dtype == torch.float32
    assert estimate.grad.isfinite().all()
    assert latent.theta.grad.isfinite().all()
    assert all(p.grad is None or p.grad.isfinite().all() for p in estimator.parameters())
    if latent.event_ndim == 2:
        # gradients at one-hot logits sum to zero, and a masked class gets none
        assert estimate.grad.sum(-1).abs().max() < 1e-3 * max(1, estimate.grad.abs().max())
        if latent.mask is not None:
            assert estimate.grad[:, 0, 2].abs().max() == 0
    # a certain bit has no gradient; DLAX's estimate of it has its noise all the same, the two score terms being two
    if extreme in ("one bit", "two classes") and name != "dlax":
        assert estimate.grad.abs().max() < 1e-6


def test_masks_are_for_one_hots():
    with pytest.raises(ValueError, match="at least one must be allowed"):
        GumbelOneHot(torch.zeros(2, 3), torch.tensor([[True, True, True], [False, False, False]]))
    with pytest.raises(ValueError, match=r"logits must be \[\*batch, D, K\]"):
        GumbelOneHot(torch.zeros(3))
    with pytest.raises(ValueError, match="got a scalar"):
        LogisticBernoulli(torch.zeros(()))
    with pytest.raises(TypeError, match="for a Normal use Gaussian"):
        Implicit(torch.distributions.Normal(0.0, 1.0))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: make("rloo", LogisticBernoulli(torch.zeros(2)), samples=1),
            "samples must be a whole number of at least 2",
        ),
        (lambda: make("concrete", LogisticBernoulli(torch.zeros(2)), temperature=0.0), "temperature must be positive"),
        (lambda: REBAR(temperature=float("nan")), "temperature must be positive"),
        (lambda: RELAX(MLPSurrogate(2), draws=0), "draws must be a whole number of at least 1"),
        (lambda: NVIL(decay=1.0), r"decay must be in \[0, 1\)"),
        (lambda: NVIL(decay=-0.1), r"decay must be in \[0, 1\)"),
        (lambda: MLPSurrogate(3, hidden=()), "at least one layer"),
    ],
)
def test_bad_settings(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_what_is_measured_has_no_batch(float64):
    latent = LogisticBernoulli(torch.zeros(5, 2))
    for measure in (check_unbiased, gradient_variance):
        with pytest.raises(ValueError, match=r"the latent must have no batch dimensions; got \(5,\)"):
            measure(Reinforce(), latent, lambda b: b.sum(-1))


def test_a_tensor_is_no_latent():
    with pytest.raises(TypeError, match=r"a latent is needed, such as LogisticBernoulli\(logits\); got Tensor"):
        make("relax", torch.zeros(3))
    normal = torch.distributions.Normal(torch.zeros(3), 1.0)
    for call in (lambda: make("rloo", normal), lambda: ESTIMATORS["rloo"]()(normal, lambda b: b.sum(-1))):
        with pytest.raises(TypeError, match=r"a latent is needed, such as as_latent\(distribution\); got Normal"):
            call()


def test_every_class_is_exported_and_documented():
    import sb3_relax.estimators as core

    for kind in ESTIMATORS.values():
        assert getattr(core, kind.__name__) is kind
        assert kind.__name__ in core.__all__
        assert "Example::" in kind.__doc__
        assert isinstance(kind.unbiased, bool)
        assert isinstance(kind.needs_grad_f, bool)
        assert kind.latents
        assert kind.evaluations >= 1
