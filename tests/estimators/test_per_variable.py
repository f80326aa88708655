"""Costs of single variables: exact by enumeration, less variance, and refused where they are not what is declared."""

import math

import pytest
import torch
from torch import nn

from sb3_relax.estimators import (
    ESTIMATORS,
    NVIL,
    Gaussian,
    GumbelOneHot,
    Implicit,
    Joint,
    LogisticBernoulli,
    PerVariable,
    Reinforce,
    check_unbiased,
    exact_gradient,
    gradient_variance,
    layered,
    make,
)
from tests.estimators.problems import DISCRETE, gaussian, leaf, lively

TOLERANCE = 1e-10
MASK = torch.tensor([[True, False, True], [True, True, True]])
LATENTS = {
    "two bits": (DISCRETE["two bits"][0], 60),
    "two variables of classes": (lambda: GumbelOneHot(leaf(torch.randn(2, 3)), MASK), 1),
    "numbers": (gaussian, 8),
}


class OwnCosts(nn.Module):
    """f_d(b_d), another function for every d; of θ_d as well."""

    def __init__(self, latent):
        super().__init__()
        self.latent, self.ndim = latent, latent.sample_ndim
        self.theta = latent.theta  # the leaf
        self.shift = nn.Parameter(torch.randn(latent.sample_shape))

    def forward(self, b):
        x = (b - self.shift).pow(3) - 2 * (b * self.shift).sin()
        x = x if self.ndim == 1 else x.sum(-1)
        return x + (x + 1) * self.theta.reshape(len(self.theta), -1).clamp(-9, 9).sum(-1).sin()


def cases():
    torch.manual_seed(0)
    for problem, (of, _) in LATENTS.items():
        for name, kind in ESTIMATORS.items():
            if not (kind.unbiased and isinstance(of(), kind.latents)) or name in ("vimco", "relaxed_double_cv"):
                continue
            # noise of classes would fill a grid of six dimensions; what is right for bits is the same code
            if problem == "two bits" or make(name, of()).noise_shape(of()) is None:
                yield problem, name


def of_variables(name, latent, **kwargs):
    return PerVariable(lively(make(name, latent.each_variable(), **kwargs)))


@pytest.mark.parametrize(("problem", "name"), list(cases()))
def test_unbiased(problem, name, float64):
    of, nodes = LATENTS[problem]
    latent = of()
    f = OwnCosts(latent)
    if problem == "numbers":  # what Gauss-Hermite gets right
        f = lambda b: (b.pow(3) - b) * torch.tensor([1.0, 2.0])  # noqa: E731
        nodes = {"lax": 160, "lax_curvature": 240}.get(name, nodes)
    check = check_unbiased(of_variables(name, latent), latent, f, nodes)
    assert check.unbiased, check
    assert torch.allclose(check.exact, exact_gradient(latent, lambda b: f(b).sum(-1), nodes).total)
    assert check.exact.abs().max() > 0.05


def test_a_cost_of_two_variables_makes_it_biased(float64):
    """Why it is refused."""
    latent = DISCRETE["two bits"][0]()

    def mixed(b):
        return b * b.flip(-1) * 3

    assert check_unbiased(of_variables("reinforce", latent), latent, mixed).error > 1e-3


@pytest.mark.parametrize("name", ["rloo", "relax", "disarm"])
def test_each_variable_hears_its_own_cost_alone(name, float64):
    latent, dim = LogisticBernoulli(torch.linspace(-1, 1, 20)), 20

    def costs(b):
        return (b - 0.3).square() * 4

    together = gradient_variance(make(name, latent), latent, lambda b: costs(b).sum(-1), 4000).variance
    apart = gradient_variance(of_variables(name, latent), latent, costs, 4000).variance
    assert apart < 0.3 * together
    assert dim == len(latent.theta)


@pytest.mark.parametrize("name", [name for name, kind in ESTIMATORS.items() if issubclass(GumbelOneHot, kind.latents)])
def test_it_is_the_estimator_with_the_variables_in_the_batch(name, float64):
    """θ's gradient is D times a batch mean over B · D, φ's too (Eq 6 of the whole), and f's is of the sum."""
    weights = torch.randn(5, 2, 3, requires_grad=True)
    f = nn.Linear(3, 1)

    def backward(estimator, latent, of):
        weights.grad = f.weight.grad = None
        estimator.zero_grad()
        estimate = estimator(latent, of, torch.Generator().manual_seed(0))
        return estimate

    inner = lively(make(name, GumbelOneHot(weights, MASK).each_variable()))
    buffers = {key: value.clone() for key, value in inner.state_dict().items()}
    backward(
        inner, GumbelOneHot(weights, MASK).each_variable(), lambda b: f(b).flatten(-2).squeeze(-1).square() * 2
    ).backward(weight=2)
    expected = [g if g is None else g.clone() for g in (weights.grad, f.weight.grad)]
    phi = [p.grad for p in inner.parameters()]
    inner.load_state_dict(buffers)
    latent = GumbelOneHot(weights, MASK)
    estimate = backward(PerVariable(inner, check=False), latent, lambda b: f(b).squeeze(-1).square() * 2)
    assert estimate.value.shape == (5,)
    assert estimate.grad.shape == weights.shape
    estimate.backward()
    assert torch.allclose(weights.grad, expected[0])
    assert torch.allclose(f.weight.grad, expected[1])
    for parameter, gradient in zip(inner.parameters(), phi, strict=True):
        # NVIL's and none other's is not Eq 6
        assert gradient is None or torch.allclose(parameter.grad, gradient)
    assert weights.grad[:, 0, 1].abs().max() == 0


@pytest.mark.parametrize("name", ["reinforce", "relax", "rloo", "dlax", "nvil"])
def test_in_two_phases(name, float64):
    latent = GumbelOneHot(torch.randn(5, 2, 3))
    estimator = of_variables(name, latent)
    b = estimator.draw(latent)
    noise = estimator.draw_noise(latent)
    value = torch.randn(*b.shape[:-1])
    finished = estimator.finish(latent, b, value, noise)
    assert torch.allclose(finished.grad, estimator.estimate(latent, lambda _: value, b, noise).grad)
    with pytest.raises(TypeError, match="REBAR needs f at hand"):
        of_variables("rebar", latent).finish(latent, b, value)


def test_a_context_tells_the_variables_apart(float64):
    latent = GumbelOneHot(torch.randn(5, 2, 3, requires_grad=True))
    h = torch.randn(5, 2, 7)
    estimator = of_variables("relax", latent, context=7)
    estimator(latent, lambda b: b[..., 0], context=h).backward()
    assert estimator.estimator.surrogate.of_context.weight.grad.abs().max() > 0
    baseline = nn.Sequential(nn.Linear(7, 1), nn.Flatten(-2))
    PerVariable(NVIL(baseline))(latent, lambda b: b[..., 0], context=h).backward()
    with pytest.raises(ValueError, match=r"must begin with the batch's shape \(5, 2\)"):
        estimator(latent, lambda b: b[..., 0], context=torch.randn(5, 7))


class TestCheck:
    @pytest.mark.parametrize("batch", [1, 3, 40])
    @pytest.mark.parametrize("pair", [(0, 1), (3, 0), (2, 4)])
    def test_one_wrong_dependence_is_found_and_named(self, batch, pair, float64):
        latent, (cost, on) = LogisticBernoulli(torch.zeros(batch, 5)), pair
        seen = []

        def f(b):
            seen.append(1)
            values = (b - 0.3).square()
            other = torch.zeros_like(values)
            other[..., cost] = 1e-3 * b[..., on]
            return values + other

        estimator = PerVariable(Reinforce())
        with pytest.raises(ValueError, match=rf"f\(b\)\[\.\.\., {cost}\] changed with variable {on}"):
            estimator(latent, f)
        # the first look: once as drawn, once for every `batch` variables, once for whether f is certain, all at most
        assert len(seen) <= 2 + math.ceil(5 / batch)
        PerVariable(Reinforce(), check=False)(latent, f)

    @pytest.mark.parametrize(
        "latent",
        [
            LogisticBernoulli(torch.zeros(4, 5)),
            GumbelOneHot(torch.zeros(4, 5, 3)),
            Gaussian(torch.zeros(2, 2, 5), torch.zeros(5)),
            Implicit(torch.distributions.Gamma(torch.ones(4, 5), torch.ones(4, 5))),
        ],
    )
    def test_own_costs_pass_and_are_looked_at_ever_less_often(self, latent):
        calls = []

        def f(b):
            calls.append(1)
            return b if latent.sample_ndim == 1 else b[..., 0]

        estimator = PerVariable(Reinforce())
        look = 1 + math.ceil(5 / 4)
        for expected in (1 + 8 * look, 1 + look, 1, 1 + look, 1, 1, 1, 1 + look, 1):
            calls.clear()
            state = torch.get_rng_state()
            grad = estimator(latent, f).grad
            assert len(calls) == expected
        torch.set_rng_state(state)
        assert torch.equal(PerVariable(Reinforce())(latent, f).grad, grad)  # the check draws nothing of what others do

    def test_wrong_classes_are_found(self):
        latent = GumbelOneHot(torch.zeros(6, 4, 3))
        with pytest.raises(ValueError, match="depend on their own variable alone"):
            PerVariable(Reinforce())(latent, lambda b: b[..., 0] * b[..., 1].sum(-1, keepdim=True))

    @pytest.mark.parametrize(("batch", "classes"), [(4, 3), (16, 16), (128, 64)])
    def test_reads_that_meet_are_found(self, batch, classes):
        """The second read pays nothing unless the first one is where it is, which two draws hardly ever are."""
        found = 0
        for seed in range(10):
            logits = torch.randn(batch, 2, classes, generator=torch.Generator().manual_seed(seed))
            estimator = PerVariable(Reinforce())
            try:
                for _ in range(64):
                    estimator(GumbelOneHot(logits), lambda b: b[..., 0] * (b[..., :1, :] * b).sum(-1))
            except ValueError:
                found += 1
        assert found == 10

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
    def test_masks_are_kept(self, dtype):
        """Where all variables get one value, no variable gets what its mask forbids."""
        mask = torch.tensor([[True, True, False], [False, True, True]])
        seen = []

        def f(b):
            seen.append(b)
            return b[..., 0]

        PerVariable(Reinforce())(GumbelOneHot(torch.zeros(20, 2, 3, dtype=dtype), mask), f)
        assert (torch.stack(seen)[..., ~mask] == 0).all()
        assert any(bool((b[:, 0] == b[:, 1]).all(-1).any()) for b in seen)

    def test_numbers_that_are_far_apart_are_left_where_they_are(self):
        """A cost may be good for the values of its own variable alone."""
        latent = Gaussian(torch.tensor([[5.0, -2.0]] * 4), torch.full((4, 2), -3.0))
        assert PerVariable(Reinforce())(latent, lambda b: (b * torch.tensor([1.0, -1.0])).log()).value.isfinite().all()

    def test_a_random_f_says_so(self):
        latent = LogisticBernoulli(torch.zeros(6, 4))
        with pytest.raises(ValueError, match=r"returns other values for the same b.*check=False"):
            PerVariable(Reinforce())(latent, lambda b: b + torch.rand(b.shape))

    def test_a_single_variable_has_nothing_to_be_checked(self):
        calls = []
        PerVariable(Reinforce())(LogisticBernoulli(torch.zeros(6, 1)), lambda b: calls.append(1) or b)
        assert len(calls) == 1


def test_errors():
    latent = LogisticBernoulli(torch.zeros(6, 3))
    with pytest.raises(ValueError, match="one value per sample"):
        PerVariable(Reinforce())(latent, lambda b: b.sum(-1))
    with pytest.raises(TypeError, match="numbers of a Dirichlet depend on each other"):
        PerVariable(Reinforce())(Implicit(torch.distributions.Dirichlet(torch.ones(6, 3))), lambda b: b)
    with pytest.raises(TypeError, match="parts of a Joint are not alike"):
        PerVariable(Reinforce())(Joint(a=latent), lambda b: b)
    with pytest.raises(TypeError, match="LAX takes ReparameterisedLatent; got LogisticBernoulli"):
        PerVariable(make("lax", Gaussian(torch.zeros(3), torch.zeros(3))))(latent, lambda b: b)
    with pytest.raises(TypeError, match="has nothing that could read the context"):
        PerVariable(Reinforce())(latent, lambda b: b, context=torch.zeros(6, 3, 1))
    with pytest.raises((TypeError, ValueError)):  # f of layers is one number
        layered([lambda: latent], [PerVariable(Reinforce())], lambda b: b.sum(-1))


def test_without_a_control_variate_it_is_what_it_is_compared_with(float64):
    latent = LogisticBernoulli(torch.randn(50, 3))
    cost = lambda b: b * torch.tensor([1.0, -2.0, 3.0])  # noqa: E731
    estimate = PerVariable(Reinforce())(latent, cost)
    torch.testing.assert_close(estimate.score_term, estimate.grad)
    assert estimate.moments.variance_at(1) == pytest.approx(estimate.moments.variance_at(0))


def test_what_is_no_estimator_of_one_variable_says_how_to_make_one():
    q = GumbelOneHot(torch.zeros(8, 6, 4))

    def f(b):
        return b[..., 0]

    with pytest.raises(ValueError, match=r"reads samples of 24 numbers .* \(1, 4\).*q.each_variable\(\)"):
        PerVariable(make("relax", q))(q, f)
    with pytest.raises(TypeError, match=r"not its name: make\('relax', q\)"):
        PerVariable("relax")
    with pytest.raises(TypeError, match="got the class Reinforce"):
        PerVariable(Reinforce)
    context = torch.randn(8, 6, 5)
    PerVariable(make("nvil", q.each_variable(), context=5))(q, f, context=context)
