"""Mixed latents as one: LAX in the continuous parts, RELAX in the discrete ones, one c of all of them."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sb3_relax.estimators import (
    ESTIMATORS,
    LAX,
    NVIL,
    RELAX,
    RLOO,
    ConditionedJoint,
    Estimate,
    Gaussian,
    GumbelOneHot,
    Implicit,
    Joint,
    KSubset,
    LogisticBernoulli,
    MLPSurrogate,
    Reinforce,
    check_unbiased,
    estimators_of,
    exact_gradient,
    layered,
    make,
)
from sb3_relax.estimators.estimate import expand_to
from sb3_relax.estimators.surrogate import value_and_slope
from tests.estimators.problems import leaf, lively

TOLERANCE = 1e-10
REJECTED = 1e-3


def gaussian(*batch, size=1):
    return Gaussian(torch.randn(*batch, size), 0.3 * torch.randn(*batch, size) - 0.5)


#: name → (parts, nodes a dimension)
MIXED = {
    "number and bits": (lambda: dict(a=gaussian(), b=LogisticBernoulli(torch.randn(2))), 36),
    "number and classes": (lambda: dict(a=gaussian(), b=GumbelOneHot(torch.randn(1, 2))), 36),
    "numbers around a bit": (lambda: dict(a=gaussian(), b=LogisticBernoulli(torch.randn(1)), c=gaussian()), 36),
    "masked classes and a number": (
        lambda: dict(b=GumbelOneHot(torch.randn(1, 2), torch.tensor([False, True])), a=gaussian()),
        36,
    ),
    "bit and classes": (lambda: dict(a=LogisticBernoulli(torch.randn(1)), b=GumbelOneHot(torch.randn(1, 2))), 36),
    "a joint one in another": (
        lambda: dict(a=Joint(a=gaussian(), b=LogisticBernoulli(torch.randn(1))), b=LogisticBernoulli(torch.randn(1))),
        36,
    ),
}
#: but for VIMCO, whose bound has no Gauss-Hermite rule of few nodes
TAKERS = [name for name, kind in ESTIMATORS.items() if kind.unbiased and issubclass(ConditionedJoint, kind.latents)]
TAKERS.remove("vimco")


def joint(parts):
    latent = Joint(**parts)
    return latent.at(leaf(latent.theta.detach()))


class Smooth(nn.Module):
    """A c, or an f, in which no two parts are apart from each other; smooth enough for few nodes."""

    def __init__(self, latent, squash=True, scale=1.0):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(latent.sample_shape.numel(), 5), nn.Tanh(), nn.Linear(5, 1))
        self.latent, self.squash, self.scale = latent, squash, scale

    def forward(self, z):
        x = self.latent.relax(z, 1.0) if self.squash else z
        return self.scale * self.net(0.5 * x).squeeze(-1)


def polynomial(latent):
    """f that Gauss-Hermite gets right: of the product of all parts."""
    weights = 0.3 + torch.rand(latent.sample_shape)
    return lambda b: (b * weights).sum(-1).square() + 0.5 * (b * weights).sum(-1)


@pytest.mark.parametrize("name", TAKERS)
@pytest.mark.parametrize("problem", MIXED)
def test_unbiased(name, problem, float64):
    parts, nodes = MIXED[problem]
    latent = joint(parts())
    estimator = lively(make(name, latent))
    check = check_unbiased(estimator, latent, polynomial(latent), nodes if name == "relax" else 8)
    assert check.unbiased, check
    assert check.exact.abs().max() > 1e-2


@pytest.mark.parametrize("coupled", [True, False])
@pytest.mark.parametrize("problem", ["number and bits", "number and classes"])
def test_any_c_is_unbiased(problem, coupled, float64):
    """Through autograd instead of a closed form, and with z and z̃ drawn apart."""
    latent = joint(MIXED[problem][0]())
    assert check_unbiased(RELAX(Smooth(latent, scale=2.0), coupled), latent, polynomial(latent), 44).unbiased


@pytest.mark.slow
def test_three_kinds_at_once(float64):
    latent = joint(dict(a=gaussian(), b=GumbelOneHot(torch.randn(1, 2)), c=LogisticBernoulli(torch.randn(1))))
    assert check_unbiased(RELAX(Smooth(latent)), latent, polynomial(latent), 44).error < TOLERANCE


def test_the_exact_gradient_is_the_product_rule(float64):
    """E[g(a) h(b)] = E[g(a)] E[h(b)], whose gradients are known without any of this."""
    loc, logit = torch.tensor([0.3], requires_grad=True), torch.tensor([0.7], requires_grad=True)
    latent = Joint(a=Gaussian(loc, torch.tensor([-0.5])), b=LogisticBernoulli(logit))

    def f(b):
        part = latent.unpack(b)
        return part["a"].square().sum(-1) * (1 + part["b"].sum(-1))

    mean = (loc.square() + torch.tensor(-1.0).exp()) * (1 + logit.sigmoid())
    expected = torch.autograd.grad(mean.sum(), [loc, logit])
    ours = torch.autograd.grad(latent.theta, [loc, logit], exact_gradient(latent, f).total)
    assert all(map(torch.allclose, ours, expected))


class Twin(RELAX):
    """RELAX on two parts, by hand, with one mistake each."""

    def parts(self, latent, b, value, z, slope):
        return latent.path_gradient(b, slope * latent.coupling(b, z))

    def of_value(self, latent, b, value, noise):
        z = latent.conditional(b, noise)[0]
        c, slope = value_and_slope(self.surrogate, z)
        score = latent.score(b)
        grad = expand_to(value - c, latent) * score + self.parts(latent, b, value, z, slope)
        return Estimate(latent, value, grad, score=score)


class NoPath(Twin):
    """RELAX in the discrete part alone: c sees the continuous one, whose correction is left out."""

    def parts(self, latent, b, value, z, slope):
        coupling = latent.unpack(latent.coupling(b, z))
        return latent.path_gradient(b, slope * latent.pack({**coupling, "a": torch.zeros_like(coupling["a"])}))


class NoCoupling(Twin):
    """The discrete part corrected as if it were continuous."""

    def parts(self, latent, b, value, z, slope):
        return latent.path_gradient(b, slope)


class FreshNoise(Twin):
    """The continuous part's path with noise of its own: the σ of another b."""

    def parts(self, latent, b, value, z, slope):
        return latent.path_gradient(b.flip(0), slope * latent.coupling(b, z))


@pytest.mark.parametrize(("twin", "biased"), [(Twin, False), (NoPath, True), (NoCoupling, True), (FreshNoise, True)])
def test_broken_ones_are_rejected(twin, biased, float64):
    latent = joint(MIXED["number and bits"][0]())
    error = check_unbiased(twin(Smooth(latent, scale=2.0)), latent, polynomial(latent), 40).error
    assert (error > REJECTED) if biased else (error < 1e-7)


def test_of_one_part_it_is_lax_or_relax(float64):
    """Sample by sample: θ's gradient and φ's."""
    continuous, discrete = gaussian(7, size=3), GumbelOneHot(torch.randn(7, 2, 3))
    value = torch.randn(7)
    for part, estimator in ((continuous, LAX), (discrete, RELAX)):
        alone = Joint(only=part)
        c = lively(MLPSurrogate.of(part))
        b, noise = part.sample(), torch.rand(1, *part.noise_shape)
        theirs = estimator(c).finish(part, b, value, noise if estimator is RELAX else None)
        flat = MLPSurrogate.of(alone)
        flat.load_state_dict(c.state_dict())
        ours = RELAX(flat).finish(alone, b.flatten(1), value, noise.flatten(2))
        assert torch.allclose(ours.grad, theirs.grad.flatten(1), atol=1e-12)
        pairs = zip(
            ours.phi_gradients(tuple(flat.parameters())), theirs.phi_gradients(tuple(c.parameters())), strict=True
        )
        assert all(torch.allclose(a, b, atol=1e-12) for a, b in pairs)


def test_a_c_of_one_part_alone_leaves_the_other_as_it_is(float64):
    """c of the continuous part: LAX's ĝ there, and what Reinforce with f - c gives in the discrete part."""
    latent = Joint(a=gaussian(5, size=2), b=LogisticBernoulli(torch.randn(5, 3)))
    b, value = latent.sample(), torch.randn(5)

    def c(x):
        return x.square().sum(-1)

    estimate = RELAX(lambda z: c(latent.unpack(z)["a"])).finish(latent, b, value, torch.rand(1, *latent.noise_shape))
    part = latent.unpack(b)
    lax = LAX(c).finish(latent.parts["a"], part["a"], value).grad
    rest = (value - c(part["a"])).unsqueeze(-1) * latent.parts["b"].score(part["b"])
    assert torch.allclose(estimate.grad, torch.cat([lax.flatten(1), rest], dim=-1))


def test_parts_share_one_theta_and_keep_their_own(float64):
    loc, logits = torch.randn(4, 2, requires_grad=True), torch.randn(4, 3, requires_grad=True)
    latent = Joint(a=Gaussian(loc, torch.zeros(2)), b=LogisticBernoulli(logits))
    assert latent.batch_shape == (4,)
    assert latent.theta.shape == (4, 7)
    assert latent.sample_shape == (5,)
    assert latent.noise_shape == (4, 3)
    b = latent.sample()
    parts = latent.unpack(b)
    assert parts["a"].shape == (4, 2)
    assert torch.equal(latent.pack(parts), b)
    log_prob = latent.parts["a"].log_prob(parts["a"]) + latent.parts["b"].log_prob(parts["b"])
    assert torch.equal(latent.log_prob(b), log_prob)
    (by_theta,) = torch.autograd.grad(latent.log_prob(b).sum(), latent.theta, retain_graph=True)
    assert torch.allclose(by_theta, latent.score(b))
    by_parameters = torch.autograd.grad(latent.theta, [loc, logits], by_theta)
    assert torch.allclose(by_parameters[1], latent.parts["b"].score(parts["b"]))
    assert latent.at(latent.theta).theta is latent.theta


def test_masks_stay_with_their_steps(float64):
    mask = torch.tensor([[[True, False, True]], [[True, True, False]]])
    latent = Joint(a=gaussian(2), b=GumbelOneHot(torch.randn(2, 1, 3), mask))
    swapped = latent.select(torch.tensor([1, 0]))
    assert torch.equal(swapped.theta, latent.theta[[1, 0]])
    slope = torch.randn(2, 4)
    b = latent.sample()
    ours = swapped.path_gradient(b[[1, 0]], slope[[1, 0]])
    assert torch.equal(ours, latent.path_gradient(b, slope)[[1, 0]])
    assert torch.equal(latent.select(0).theta, latent.theta[0])


def test_z_stands_for_b(float64):
    latent = Joint(a=gaussian(9, size=2), b=GumbelOneHot(torch.randn(9, 2, 3)), c=LogisticBernoulli(torch.randn(9, 2)))
    z = latent.sample_relaxed(torch.Generator().manual_seed(1))
    b = latent.hard(z)
    assert torch.equal(latent.unpack(b)["a"], latent.unpack(z)["a"])
    assert set(latent.unpack(b)["b"].unique().tolist()) == {0.0, 1.0}
    again = latent.conditional(b, torch.rand(3, *latent.noise_shape))
    assert again.shape == (3, 9, 10)
    assert torch.equal(latent.hard(again), b.expand(3, 9, 10))


@pytest.mark.parametrize(
    "part",
    [
        lambda: gaussian(6, size=3),
        lambda: GumbelOneHot(torch.randn(6, 2, 3)),
        lambda: LogisticBernoulli(torch.randn(6, 3)),
        lambda: Implicit(torch.distributions.Gamma(torch.rand(6, 3) + 1, torch.rand(6, 3) + 1)),
        lambda: Implicit(torch.distributions.Beta(torch.rand(6, 3) + 1, torch.rand(6, 3) + 1)),
        lambda: Implicit(torch.distributions.Dirichlet(torch.rand(6, 3) + 1)),
        lambda: Joint(a=gaussian(6), b=LogisticBernoulli(torch.randn(6, 2))),
    ],
)
def test_a_change_is_the_transpose_of_a_gradient(part, float64):
    latent = part()
    b = latent.sample()
    slope, v = torch.randn(4, *b.shape), torch.randn(4, *latent.theta.shape)
    there = (latent.path_gradient(b.expand_as(slope), slope) * v).sum()
    back = (slope * latent.path_change(b.expand_as(slope), v)).sum()
    assert torch.allclose(there, back)


def test_it_trains_c(float64):
    """One c of both parts learns what neither can know alone: f = a · (2b - 1)."""
    latent = Joint(a=Gaussian(torch.zeros(64, 1), torch.zeros(1)), b=LogisticBernoulli(torch.zeros(64, 1)))
    relax = make("relax", latent, draws=4, center=False)
    optimizer = torch.optim.Adam(relax.parameters(), lr=0.02)
    objectives = []
    for _ in range(300):
        estimate = relax(latent, lambda b: 2 + b[..., 0] * (2 * b[..., 1] - 1))
        relax.zero_grad()
        estimate.backward()
        optimizer.step()
        objectives.append(estimate.objective.item())
    assert sum(objectives[-20:]) < 0.3 * sum(objectives[:20])


def test_as_a_layer(float64):
    """Below another layer, and above one."""
    logits = torch.randn(5, 2, requires_grad=True)
    bits = LogisticBernoulli(logits)

    def above(b):
        return Joint(a=Gaussian(b, torch.zeros(2)), b=LogisticBernoulli(b + 1))

    c = [MLPSurrogate(2, squash="sigmoid"), MLPSurrogate.of(above(torch.zeros(5, 2)))]
    layered([lambda: bits, above], [RELAX(each) for each in c], lambda b, x: x.sum(-1) + b.sum(-1)).backward()
    assert logits.grad.abs().max() > 0


def with_subset():
    """A number, and two of three things: a part that has no relaxation."""
    return joint(dict(a=gaussian(), b=KSubset(torch.randn(3), 2)))


@pytest.mark.parametrize("name", ["reinforce", "nvil", "rloo"])
def test_a_part_without_a_relaxation_is_unbiased(name, float64):
    latent = with_subset()
    f = polynomial(latent)
    check = check_unbiased(lively(make(name, latent)), latent, f, 8)
    assert check.unbiased, check
    assert check.exact.abs().max() > 1e-2
    wrong = check_unbiased(Uncentred(), latent, f, 8)  # of the score, b - μ, the mean left out
    assert wrong.error > REJECTED


class Uncentred(Reinforce):
    def of_value(self, latent, b, value, noise):
        marginals = latent.parts["b"].marginals
        return Estimate(latent, value, value[..., None] * (latent.score(b) + F.pad(marginals, (2, 0))))


def test_a_part_without_a_relaxation_is_all_else_that_a_latent_is(float64):
    latent = Joint(a=gaussian(6), b=KSubset(torch.randn(6, 4), 2), c=GumbelOneHot(torch.randn(6, 1, 3)))
    b = latent.sample(torch.Generator().manual_seed(0))
    parts = latent.unpack(b)
    assert (parts["b"].sum(-1) == 2).all()
    assert torch.equal(latent.pack(parts), b)
    each = [(latent.parts[name], parts[name]) for name in parts]
    assert torch.allclose(latent.log_prob(b), sum(part.log_prob(x) for part, x in each))
    assert torch.allclose(latent.entropy(), sum(part.entropy() for part, _ in each))
    assert torch.equal(latent.unpack(latent.mode())["b"], latent.parts["b"].mode())
    assert torch.allclose(latent.unpack(latent.mean())["b"], latent.parts["b"].marginals)
    assert latent.kl(latent).abs().max() < 1e-12
    chosen = latent.select(torch.tensor([3, 1]))
    assert torch.equal(chosen.score(b[[3, 1]]), latent.score(b)[[3, 1]])
    assert chosen.parts["b"].k == 2
    assert copy.copy(latent).with_context(torch.zeros(6, 1)).parts.keys() == latent.parts.keys()
    logits = torch.zeros(6, 4, requires_grad=True)
    layers = [lambda: Joint(pick=KSubset(logits, 1)), lambda b: LogisticBernoulli(b)]
    layered(layers, [RLOO(2), NVIL()], lambda b, x: x.sum(-1) + b[..., 0]).backward()
    assert logits.grad.abs().max() > 0


def test_the_estimators_of_a_joint_are_those_that_take_it():
    latent = with_subset()
    names = estimators_of(latent)
    assert {"reinforce", "nvil", "rloo"} <= {*names}
    for name in names:
        make(name, latent)(latent.select(None), lambda b: b.sum(-1))
    with pytest.raises(TypeError, match="which these take") as told:
        make("lax", latent)
    assert "RELAX" not in str(told.value)


class Named(Joint):
    """A subclass, which takes what it likes."""

    def __init__(self, logits):
        super().__init__(bits=LogisticBernoulli(logits), number=Gaussian(logits, 0 * logits))
        self.logits = logits


class NamedForRELAX(ConditionedJoint):
    def __init__(self, logits):
        super().__init__(bits=LogisticBernoulli(logits), number=Gaussian(logits, 0 * logits))
        self.logits = logits


@pytest.mark.parametrize(("kind", "name"), [(Named, "nvil"), (NamedForRELAX, "nvil"), (NamedForRELAX, "relax")])
def test_a_subclass(kind, name):
    logits = torch.zeros(3, 2, requires_grad=True)
    latent = kind(logits)
    assert type(latent) is type(latent.at(latent.theta)) is type(copy.copy(latent)) is kind
    assert latent.logits is logits
    make(name, latent)(latent, lambda b: b.sum(-1)).backward()
    assert logits.grad.abs().max() > 0


@pytest.mark.parametrize(
    ("make_it", "error", "message"),
    [
        (lambda: Joint(), ValueError, "at least one part"),
        (
            lambda: Joint(a=torch.zeros(2)),
            TypeError,
            "part 'a' must be a latent; got Tensor",
        ),
        (
            lambda: Joint(a=gaussian(2), b=LogisticBernoulli(torch.zeros(3, 1))),
            ValueError,
            r"one batch shape; got {'a': \(2,\), 'b': \(3,\)}",
        ),
        (
            lambda: RELAX(Smooth(with_subset()))(with_subset(), lambda b: b.sum(-1)),
            TypeError,
            "RELAX takes LogisticBernoulli, GumbelOneHot, ConditionedJoint; got Joint, which these take: .*NVIL",
        ),
        (lambda: make("relax", with_subset()), TypeError, "RELAX takes .*; got Joint, which these take: .*NVIL"),
        (lambda: make("relax", Joint(a=with_subset())), TypeError, "RELAX takes .*; got Joint"),
        (lambda: make("relax", Named(torch.zeros(2, 1))), TypeError, "RELAX takes .*ConditionedJoint; got Named"),
        (
            lambda: ConditionedJoint(a=gaussian(), b=KSubset(torch.randn(3), 2)),
            TypeError,
            r"part 'b' must be relaxed or reparameterised; got KSubset: Joint\(...\) takes any latent",
        ),
        (
            lambda: Joint(a=gaussian(), b=LogisticBernoulli(torch.zeros(2))).unpack(torch.zeros(4, 7)),
            ValueError,
            r"has 3 numbers, {'a': 1, 'b': 2}; got a tensor of shape \(4, 7\)",
        ),
        (lambda: make("lax", Joint(a=gaussian())), TypeError, "LAX takes ReparameterisedLatent; got ConditionedJoint"),
    ],
)
def test_errors(make_it, error, message):
    with pytest.raises(error, match=message):
        make_it()
