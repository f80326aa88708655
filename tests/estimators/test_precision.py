"""Every estimator at every type of θ and of f's values, and under autocast."""

import pytest
import torch
from torch import nn
from torch.distributions import Bernoulli, Categorical, OneHotCategorical

from sb3_relax.estimators import (
    ESTIMATORS,
    LAX,
    RELAX,
    RODEO,
    Gaussian,
    GumbelOneHot,
    LogisticBernoulli,
    MLPSurrogate,
    TwoPhaseEstimator,
    as_latent,
    bias_z_scores,
    estimators_of,
    layered,
    make,
)
from tests.estimators.problems import lively, weights
from tests.estimators.test_contract import LATENTS, PAIRS, every_pair, seeded, zeros_where_none

N = 6
HALF = [torch.float16, torch.bfloat16]
FLOATS = [*HALF, torch.float32, torch.float64]
WHOLE = [torch.int64, torch.uint8, torch.bool]
every_half = pytest.mark.parametrize("dtype", HALF, ids=str)
every_float = pytest.mark.parametrize("dtype", FLOATS, ids=str)
LAYERABLE = [name for name in estimators_of(LogisticBernoulli(torch.zeros(2))) if name != "vimco"]


def latent_of(latent_name, dtype=torch.float32, batch=(N,)):
    """A latent and the leaf it is made of."""
    shape, of = LATENTS[latent_name]
    leaf = torch.randn(*batch, *shape).to(dtype).requires_grad_()
    return of(leaf), leaf


def computing(dtype):
    return torch.float64 if dtype is torch.float64 else torch.float32


def phi_gradients(estimator, estimate):
    phi = list(estimator.parameters())
    return zeros_where_none(estimate.phi_gradients(phi, retain_graph=True), phi) if phi else []


def all_equal(ours, theirs):
    return all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def quadratic(latent):
    """A smooth f, computed in single precision."""
    return lambda b: (weights(x := b.float().flatten(-latent.sample_ndim)) * (x - 0.3).square()).sum(-1) + 2


@every_half
@every_pair
def test_half_precision_is_single_precision_rounded(latent_name, name, dtype):
    """The same randomness gives the samples, scores and ĝ of a float32 copy of θ: nothing is computed in halves."""
    latent, leaf = latent_of(latent_name, dtype)
    estimator = lively(make(name, latent))
    assert all(parameter.dtype == torch.float32 for parameter in estimator.parameters())
    f, types = quadratic(latent), set()

    def watched(b):
        types.add(b.dtype)
        return f(b)

    half = estimator(latent, watched, seeded())
    wide = latent.at(latent.theta.detach().float())
    full = estimator(wide, lambda b: f(b.to(dtype)), seeded())
    assert types == {dtype}
    assert half.grad.dtype == latent.theta.dtype == dtype
    assert torch.equal(half.grad, full.grad.to(dtype))
    assert torch.equal(half.value, full.value)
    assert all_equal(phi_gradients(estimator, half), phi_gradients(estimator, full))
    half.backward()
    assert leaf.grad.dtype == dtype
    assert leaf.grad.isfinite().all()
    assert leaf.grad.abs().max() > 0


@every_half
@pytest.mark.parametrize("latent_name", LATENTS)
def test_latents_compute_half_precision_in_single_precision(latent_name, dtype):
    latent, leaf = latent_of(latent_name, dtype)
    wide = latent.at(latent.theta.detach().float())
    b = latent.sample(seeded())
    assert b.dtype == torch.float32
    assert torch.equal(b, wide.sample(seeded()))
    assert torch.equal(latent.score(b), wide.score(b))
    assert torch.equal(latent.log_prob(b), wide.log_prob(b))
    other = latent.at(0.5 * latent.theta.detach())
    assert torch.equal(latent.kl(other), wide.kl(wide.at(other.theta.float())))
    latent.log_prob(b).sum().backward()
    assert leaf.grad.dtype == dtype


@every_half
@pytest.mark.parametrize("p", [0.018, 0.001])
def test_rare_bits_in_half_precision(p, dtype):
    n = 200_000
    theta = torch.logit(torch.tensor([p])).to(dtype)
    p = theta.double().sigmoid()
    latent = LogisticBernoulli(theta.expand(n, 1))
    rate = latent.sample(seeded()).double().mean()
    assert abs(rate - p) < 4.5 * (p * (1 - p) / n).sqrt()
    for name in ("reinforce", "rloo", "disarm", "relax"):
        estimator = lively(make(name, latent))
        scores = bias_z_scores(estimator, LogisticBernoulli(theta), lambda b: b.sum(-1) + 1, p * (1 - p), n, seeded())
        assert scores.abs().max() < 4.5, name


@every_half
@pytest.mark.parametrize("kind", [Bernoulli, Categorical, OneHotCategorical])
def test_rare_probabilities_in_half_precision(kind, dtype):
    """torch's own logits of .001 in bfloat16 are those of .0078."""
    probs = torch.tensor([[0.001, 0.999]]).to(dtype).requires_grad_()
    latent = as_latent(kind(probs=probs, validate_args=False))
    assert latent.theta.dtype == dtype
    # as well as a logit can be told in this type
    assert latent.probabilities.flatten()[0].item() == pytest.approx(0.001, rel=8 * torch.finfo(dtype).eps)
    latent.log_prob(latent.sample()).sum().backward()
    assert probs.grad.isfinite().all()
    logits = torch.randn(3, 2).to(dtype)
    assert torch.equal(as_latent(kind(logits=logits)).theta.reshape(3, 2), kind(logits=logits).logits)


def value_of(dtype, latent):
    """f whose values have type ``dtype``, the same numbers in any: with a slope in b where there can be one."""
    event = latent.sample_ndim

    def f(b):
        x = b.flatten(-event)
        return x.sum(-1).to(dtype) if dtype.is_floating_point else (x.sum(-1) > 1).to(dtype)

    return f


@every_float
@every_pair
def test_f_of_any_type(latent_name, name, dtype):
    for value_type in [*FLOATS, *WHOLE]:
        torch.default_generator.manual_seed(0)
        latent, leaf = latent_of(latent_name, dtype)
        estimator, f = lively(make(name, latent)), value_of(value_type, latent)
        if ESTIMATORS[name].needs_grad_f and not value_type.is_floating_point:
            with pytest.raises(TypeError, match="needs ∂f/∂b, but f returned a value without a graph"):
                estimator(latent, f, seeded())
            continue
        estimate = estimator(latent, f, seeded())
        expected = estimator(latent, lambda b, f=f: f(b).to(computing(dtype)), seeded())
        assert estimate.grad.dtype == dtype
        assert estimate.value.dtype == computing(dtype)
        assert torch.equal(estimate.grad, expected.grad)
        assert all(gradient.isfinite().all() for gradient in phi_gradients(estimator, estimate))
        estimate.backward()
        assert leaf.grad.dtype == dtype
        assert leaf.grad.isfinite().all()


@every_float
@every_pair
def test_a_value_of_any_type_learned_later(latent_name, name, dtype):
    for value_type in [*FLOATS, *WHOLE]:
        torch.default_generator.manual_seed(0)
        latent, leaf = latent_of(latent_name, dtype)
        estimator = lively(make(name, latent))
        if not isinstance(estimator, TwoPhaseEstimator):
            return
        b = estimator.draw(latent, seeded())
        value = (10 * torch.rand(b.shape[: b.dim() - latent.sample_ndim])).to(value_type)
        estimate = estimator.finish(latent, b, value, generator=seeded())
        expected = estimator.finish(latent, b, value.to(computing(dtype)), generator=seeded())
        assert torch.equal(estimate.grad, expected.grad)
        if latent_name in ("bits", "classes", "masked"):  # samples in any type
            of_whole = estimator.finish(latent, b.long(), value, generator=seeded())
            assert torch.equal(of_whole.grad, expected.grad)
        estimate.backward()
        assert leaf.grad.dtype == dtype
        assert leaf.grad.isfinite().all()


class HalfNet(nn.Module):
    """The second of two layers, a network in θ's type that refuses samples of any other."""

    def __init__(self, dtype):
        super().__init__()
        self.linear = nn.Linear(2, 3).to(dtype)

    def forward(self, b):
        assert b.dtype == self.linear.weight.dtype
        return self.linear(b)


@every_float
@pytest.mark.parametrize("name", LAYERABLE)
@pytest.mark.parametrize("value_type", [torch.bfloat16, torch.float64], ids=str)
def test_layers_of_any_type(name, value_type, dtype):
    first, net = torch.randn(N, 2).to(dtype).requires_grad_(), HalfNet(dtype)

    def f(b1, b2):
        assert b1.dtype == b2.dtype == dtype
        return ((b1 - 0.3).square().sum(-1) + (b2 - 0.3).square().sum(-1)).to(value_type)

    def run(first, above, f):
        layers = [lambda: LogisticBernoulli(first), lambda b: LogisticBernoulli(above(b))]
        estimators = [lively(make(name, layers[0]())), lively(make(name, LogisticBernoulli(torch.zeros(3).to(first))))]
        return layered(layers, estimators, f, seeded())

    torch.manual_seed(0)
    ours = run(first, net, f)
    torch.manual_seed(0)
    wide = computing(dtype)
    full = run(
        first.detach().to(wide), lambda b: net(b.to(dtype)).to(wide), lambda b1, b2: f(b1.to(dtype), b2.to(dtype))
    )
    assert torch.equal(ours.value, full.value)
    # slopes of f are in θ's type, where they are added up
    tolerance = 8 * torch.finfo(dtype).eps
    for estimate, expected in zip(ours.layers, full.layers, strict=True):
        assert estimate.grad.dtype == dtype
        assert torch.allclose(estimate.grad.to(wide), expected.grad, rtol=tolerance, atol=tolerance)
    ours.backward()
    for gradient in (first.grad, *(p.grad for p in net.parameters())):
        assert gradient.dtype == dtype
        assert gradient.isfinite().all()


def test_layers_of_two_types():
    """A layer of bits in bfloat16 below a Gaussian in float64: each gets its gradient in its own type."""
    bits, loc = torch.zeros(N, 2, dtype=torch.bfloat16), torch.zeros(N, 2, dtype=torch.float64)
    bits.requires_grad_()
    loc.requires_grad_()
    layers = [lambda: LogisticBernoulli(bits), lambda b: Gaussian(loc + b, torch.zeros(()).to(loc))]
    estimators = [make("relax", layers[0]()), LAX(MLPSurrogate(2).double())]
    layered(layers, estimators, lambda b1, b2: (b1 * b2).sum(-1)).backward()
    assert bits.grad.dtype == torch.bfloat16
    assert loc.grad.dtype == torch.float64


@every_float
def test_logits_of_minus_infinity_are_refused_with_the_remedy(dtype):
    logits = torch.randn(N, 2, 3).to(dtype)
    logits[..., 1] = -torch.inf
    latents = [LogisticBernoulli(logits[:, 0]), GumbelOneHot(logits)]
    for latent in latents:
        message = (
            r"the latent's parameters must be finite; got -inf at index .*: clamp them, .*mask=logits > -torch.inf"
        )
        f = lambda b, latent=latent: b.flatten(-latent.sample_ndim).sum(-1)  # noqa: E731
        for name in estimators_of(latent):
            estimator = make(name, latent)
            with pytest.raises(ValueError, match=message):
                estimator(latent, f)
            if isinstance(estimator, TwoPhaseEstimator):
                b = torch.zeros(*estimator.draw(latent).shape)
                with pytest.raises(ValueError, match=message):
                    estimator.finish(latent, b, f(b))
            if name != "vimco":
                with pytest.raises(ValueError, match=message):
                    layered([lambda latent=latent: latent], [estimator], f)


@every_float
@pytest.mark.parametrize("name", estimators_of(GumbelOneHot(torch.zeros(1, 2))))
def test_logits_of_minus_infinity_under_a_mask(name, dtype):
    logits = torch.randn(N, 2, 3).to(dtype)
    logits[..., 1] = -torch.inf
    logits.requires_grad_()
    latent = GumbelOneHot(logits, mask=logits > -torch.inf)
    estimator = lively(make(name, latent))
    estimator(latent, quadratic(latent)).backward()
    assert logits.grad.isfinite().all()
    assert (logits.grad[..., 1] == 0).all()
    assert all(p.grad is None or p.grad.isfinite().all() for p in estimator.parameters())


def watching_autocast(f, seen):
    def watched(*b):
        seen.append(torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu"))
        return f(*b)

    return watched


def autocast(dtype=torch.bfloat16):
    return torch.autocast("cpu", dtype=dtype)


@every_pair
def test_autocast_reaches_f_alone(latent_name, name):
    """ĝ and φ's gradients are those without it, backward() inside it included; f runs under it."""
    latent, leaf = latent_of(latent_name)
    estimator, seen = lively(make(name, latent)), []
    f = quadratic(latent)
    plain = estimator(latent, f, seeded())
    expected = [plain.grad, *phi_gradients(estimator, plain)]
    with autocast():
        estimate = estimator(latent, watching_autocast(f, seen), seeded())
        found = [estimate.grad, *phi_gradients(estimator, estimate)]
        estimate.backward()
        assert torch.is_autocast_enabled("cpu")
    assert all_equal(found, expected)
    assert leaf.grad.isfinite().all()
    assert seen
    assert all(dtype == torch.bfloat16 for dtype in seen)


@every_pair
def test_autocast_where_the_value_is_learned_later(latent_name, name):
    latent, _ = latent_of(latent_name)
    estimator = lively(make(name, latent))
    if not isinstance(estimator, TwoPhaseEstimator):
        return
    b = estimator.draw(latent, seeded())
    value = quadratic(latent)(b)
    plain = estimator.finish(latent, b, value, generator=seeded())
    with autocast():
        estimate = estimator.finish(latent, b, value, generator=seeded())
        found = [estimate.grad, *phi_gradients(estimator, estimate)]
    assert all_equal(found, [plain.grad, *phi_gradients(estimator, plain)])


class Ramp(nn.Module):
    """A surrogate of the user's own whose values are large and differ little: what bfloat16 could not tell apart."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(2, 1)
        nn.init.constant_(self.linear.bias, 100.0)

    def forward(self, z):
        return self.linear(0.1 * z.sigmoid()).squeeze(-1)


def test_autocast_does_not_bias():
    """Where it reached c, c(z) would be constant and its slope would not: E[ĝ] would be off by what c explains."""
    latent = LogisticBernoulli(torch.tensor([0.3, -0.8]))
    relax = RELAX(Ramp())
    p = latent.probabilities.double()
    with autocast():
        scores = bias_z_scores(relax, latent, lambda b: 100 + 0.1 * b.sum(-1), 0.1 * p * (1 - p), 50_000, seeded())
    assert scores.abs().max() < 4.5


@pytest.mark.parametrize("name", LAYERABLE)
def test_autocast_of_layers(name):
    """Layers and f run under it, whoever calls them; the estimators do not."""
    first, net, seen = torch.randn(N, 2), nn.Linear(2, 3), []
    f = watching_autocast(lambda b1, b2: (b1 - 0.3).square().sum(-1) + (b2 - 0.3).square().sum(-1), seen)
    above = watching_autocast(lambda b: LogisticBernoulli(net(b)), seen)
    layers = [lambda: LogisticBernoulli(first.clone().requires_grad_()), above]
    estimators = [lively(make(name, LogisticBernoulli(torch.zeros(size)))) for size in (2, 3)]
    with autocast():
        estimate = layered(layers, estimators, f, seeded())
        estimate.backward()
    assert all(dtype == torch.bfloat16 for dtype in seen)
    assert net.weight.grad.isfinite().all()
    for estimator in estimators:
        assert all(p.dtype == torch.float32 for p in estimator.parameters())


def test_numbers_that_are_none():
    bits = LogisticBernoulli(torch.zeros(3, 2))
    whole = LogisticBernoulli(torch.zeros(3, 2, dtype=torch.int64))
    for name in estimators_of(bits):
        estimator = make(name, bits)
        with pytest.raises(TypeError, match=r"must be floating-point numbers; got torch.int64: call float\(\)"):
            estimator(whole, lambda b: b.sum(-1))
        with pytest.raises(TypeError, match=r"f must return a tensor of real numbers; got torch.complex64"):
            estimator(bits, lambda b: b.sum(-1).to(torch.complex64))
        with pytest.raises(ValueError, match=r"f\(b\) in torch.float32 must be finite; got inf"):
            estimator(bits, lambda b: 1e300 * (1 + b.double().sum(-1)))
        if isinstance(estimator, TwoPhaseEstimator):
            b = estimator.draw(bits)
            with pytest.raises(TypeError, match="f must return a tensor of real numbers; got ndarray"):
                estimator.finish(bits, b, b.sum(-1).numpy())


def test_parts_in_another_type_are_named():
    bits = LogisticBernoulli(torch.zeros(3, 2, dtype=torch.float64))
    for estimator in (RELAX(MLPSurrogate(2)), RELAX(MLPSurrogate(2), coupled=False), RODEO()):
        message = rf"parameters of {type(estimator).__name__} are in torch.float32: call its to\(torch.float64\)"
        with pytest.raises(TypeError, match=message):
            estimator(bits, lambda b: b.square().sum(-1))
    relax = RELAX(MLPSurrogate(2))
    with pytest.raises(TypeError, match=r"call its to\(torch.float64\)"):
        relax.finish(bits, bits.sample(), torch.zeros(3))
    with pytest.raises(TypeError, match=r"call its to\(torch.float64\)"):
        layered([lambda: bits], [relax], lambda b: b.sum(-1))
    # what is wrong with f is f's own to say
    with pytest.raises(RuntimeError, match="dtype"):
        RELAX(MLPSurrogate(2).double())(bits, nn.Linear(2, 1))


def test_pairs_are_all_there():
    assert {name for _, name in PAIRS} == set(ESTIMATORS)


@pytest.mark.parametrize("name", ["double_cv", "muprop", "relaxed_double_cv", "rebar"])
@pytest.mark.parametrize("types", [(torch.float32, torch.float64), (torch.float64, torch.float32)], ids=str)
def test_a_single_number_among_phi_takes_on_any_type(name, types):
    """As a scale, or log τ: their gradients are computed in θ's type and kept in their own."""
    latent = LogisticBernoulli(torch.zeros(5, 2, dtype=types[1]))
    estimator = make(name, latent)
    numbers = [parameter for parameter in estimator.parameters() if parameter.dim() == 0]
    for parameter in numbers:
        parameter.data = parameter.data.to(types[0])
    estimate = estimator(latent, lambda b: (b - 0.3).square().sum(-1))
    estimate.backward()
    assert numbers
    assert all(parameter.grad.dtype == types[0] for parameter in numbers)
