"""What is known of the input: it reaches c and the baselines, is held fixed, and is never ignored without a word."""

import pytest
import torch
from torch import nn

from sb3_relax.estimators import (
    DLAX,
    LAX,
    NVIL,
    REBAR,
    RELAX,
    ExactCorrection,
    Gaussian,
    GumbelOneHot,
    Joint,
    LogisticBernoulli,
    MLPSurrogate,
    MuProp,
    RelaxedDoubleCV,
    ThetaSurrogate,
    check_unbiased,
    layered,
    make,
)
from tests.estimators.problems import DISCRETE, OBJECTIVES, gaussian, leaf, lively
from tests.estimators.test_contract import seeded, zeros_where_none
from tests.estimators.test_unbiased import polynomial

H = 3
TOLERANCE = 1e-10


class OfBoth(nn.Module):
    """A surrogate of the user's own: of z and the context, side by side."""

    def __init__(self, latent):
        super().__init__()
        self.event_ndim = latent.sample_ndim
        self.net = nn.Sequential(nn.Linear(latent.sample_shape.numel() + H, 5), nn.Tanh(), nn.Linear(5, 1))

    def forward(self, z, context):
        x = z.sigmoid().flatten(-self.event_ndim)
        return 2 * self.net(torch.cat([x, context], dim=-1)).squeeze(-1)


def network(latent, kind=MLPSurrogate):
    c = lively(kind.of(latent, hidden=[5], context=H))
    nn.init.normal_(c.output.weight, std=0.4)
    return c


class Baseline(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(H, 1)

    def forward(self, context):
        return self.linear(context).squeeze(-1)


ESTIMATORS_WITH_CONTEXT = {
    "relax": lambda q: RELAX(network(q)),
    "relax, independent": lambda q: RELAX(network(q), coupled=False),
    "relax, of z and θ": lambda q: RELAX(network(q, ThetaSurrogate)),
    "relax, own": lambda q: RELAX(OfBoth(q)),
    "dlax": lambda q: DLAX(network(q)),
    "exact_correction": lambda q: ExactCorrection(network(q)),
    "exact_correction, of z and θ": lambda q: ExactCorrection(network(q, ThetaSurrogate)),
    "exact_correction, own": lambda q: ExactCorrection(OfBoth(q)),
    "rebar": lambda q: lively(REBAR(residual=network(q), baseline=Baseline())),
    "relaxed_double_cv": lambda q: lively(RelaxedDoubleCV(network(q))),
    "nvil": lambda q: lively(NVIL(Baseline())),
    "muprop": lambda q: lively(MuProp(Baseline())),
}


@pytest.mark.parametrize("name", ESTIMATORS_WITH_CONTEXT)
@pytest.mark.parametrize("problem", ["one bit", "two classes"])
def test_unbiased(problem, name, float64):
    latent, nodes = DISCRETE[problem][0](), DISCRETE[problem][1]
    estimator = ESTIMATORS_WITH_CONTEXT[name](latent)
    check = check_unbiased(estimator, latent.with_context(torch.randn(H)), OBJECTIVES["network"](latent), nodes)
    assert check.error < TOLERANCE


def test_unbiased_of_numbers(float64):
    latent = gaussian()
    estimator = LAX(network(latent))
    assert check_unbiased(estimator, latent.with_context(torch.randn(H)), polynomial, 60).error < TOLERANCE


class Peeking(RELAX):
    """The context knows b."""

    def of_value(self, latent, b, value, noise):
        return super().of_value(latent.with_context(b.repeat(*[1] * (b.dim() - 1), H)), b, value, noise)


def test_a_context_that_knows_b_is_rejected(float64):
    latent, nodes = DISCRETE["one bit"][0](), DISCRETE["one bit"][1]
    assert check_unbiased(Peeking(network(latent)), latent, OBJECTIVES["network"](latent), nodes).error > 1e-3


class Opaque(nn.Module):
    """A surrogate of which autograd knows all and the core nothing."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def given(self, latent):
        c = self.inner.given(latent)
        return lambda z: c(z)


@pytest.mark.parametrize("kind", [MLPSurrogate, ThetaSurrogate])
@pytest.mark.parametrize("coupled", [True, False])
def test_backward_pass_by_hand_is_autograds(coupled, kind, float64):
    latent, h = GumbelOneHot(torch.randn(5, 2, 3)), torch.randn(5, H)
    c = network(latent, kind)
    phi = list(c.parameters())

    def gradients(c):
        estimate = RELAX(c, coupled)(latent, lambda b: b[..., 0].sum(-1).square(), seeded(), context=h)
        return zeros_where_none(estimate.phi_gradients(phi), phi)

    assert all(torch.allclose(a, b, atol=1e-10) for a, b in zip(gradients(c), gradients(Opaque(c)), strict=True))
    assert gradients(c)[-1].abs().max() > 0


def test_it_is_a_network_of_z_and_the_context(float64):
    latent, h = Gaussian(torch.randn(5, 2), torch.zeros(2)), torch.randn(5, H)
    c, wide = network(latent), MLPSurrogate(2 + H, hidden=[5])
    with torch.no_grad():
        wide.layers[0].weight.copy_(torch.cat([c.layers[0].weight, c.of_context.weight], dim=1))
        wide.layers[0].bias.copy_(c.layers[0].bias)
        wide.output.load_state_dict(c.output.state_dict())
    z = torch.randn(4, 5, 2)
    expected = wide(torch.cat([z, h.expand(4, 5, H)], dim=-1))
    assert torch.allclose(c.given(latent.with_context(h))(z), expected)


@pytest.mark.parametrize("make_q", [lambda: LogisticBernoulli(torch.zeros(6, 2)), lambda: joint(torch.zeros(6, 2))])
def test_forward_and_finish_read_it_and_hold_it_fixed(make_q):
    q = make_q()
    relax, h = RELAX(network(q)), torch.randn(6, H, requires_grad=True)
    estimate = relax(q, lambda b: b.sum(-1), seeded(), context=h)
    other = relax(q, lambda b: b.sum(-1), seeded(), context=h + 1)
    assert not torch.equal(estimate.grad, other.grad)
    estimate.backward()
    assert h.grad is None
    assert relax.surrogate.of_context.weight.grad.abs().max() > 0
    assert q.context is None
    b, value, noise = q.sample(), torch.randn(6), torch.rand(1, *q.noise_shape)
    finished = relax.finish(q, b, value, noise, context=h)
    assert torch.equal(finished.grad, relax.finish(q.with_context(h), b, value, noise).grad)


def joint(theta):
    return Joint(a=Gaussian(theta, torch.zeros(2)), b=LogisticBernoulli(theta))


def test_it_goes_where_the_latent_goes():
    h = torch.randn(6, H)
    mask = torch.tensor([True, True, False])
    for q in (LogisticBernoulli(torch.zeros(6, 2)), GumbelOneHot(torch.zeros(6, 1, 3), mask), joint(torch.zeros(6, 2))):
        known = q.with_context(h)
        assert torch.equal(known.select(torch.tensor([2, 0])).context, h[[2, 0]])
        assert torch.equal(known.detach().context, h)
        assert known.expand(4).context.shape == (4, 6, H)


def test_half_precision_and_whole_numbers():
    q = LogisticBernoulli(torch.zeros(6, 2, dtype=torch.bfloat16, requires_grad=True))
    relax = RELAX(MLPSurrogate.of(q, context=H))
    relax(q, lambda b: b.sum(-1), context=torch.randn(6, H, dtype=torch.float64)).backward()

    class OfLabels(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = nn.Embedding(4, 2)

        def forward(self, z, label):
            return (self.embedding(label) * z.sigmoid()).sum(-1)

    c = OfLabels()
    RELAX(c, coupled=False)(q, lambda b: b.sum(-1), context=torch.tensor([0, 1, 2, 3, 0, 1])).backward()
    assert c.embedding.weight.grad.abs().max() > 0


def test_layers_read_it(float64):
    first, net, h = torch.zeros(6, 2, requires_grad=True), nn.Linear(2, 2), torch.randn(6, H)
    bits = LogisticBernoulli(torch.zeros(2))

    def run(estimators, context):
        layers = [lambda: LogisticBernoulli(first), lambda b: LogisticBernoulli(net(b))]
        return layered(layers, estimators, lambda a, b: (a * b - 0.3 * a).sum(-1), seeded(), context=context)

    estimators = [RELAX(network(bits)), REBAR(residual=network(bits))]
    ours, theirs = run(estimators, h), run(estimators, h + 1)
    assert all(not torch.equal(a.grad, b.grad) for a, b in zip(ours.layers, theirs.layers, strict=True))
    run([make("reinforce", bits), estimators[0]], h).backward()
    with pytest.raises(TypeError, match="no layer's estimator has a surrogate or a baseline"):
        run([make("reinforce", bits), make("rloo", bits)], h)


def test_c_of_the_input_learns_what_c_alone_cannot():
    """f = the input's own sign times a bit: each half of the batch wants a baseline of its own."""
    torch.manual_seed(0)
    sign = torch.tensor([1.0, -1.0]).repeat(32).unsqueeze(-1)
    q = LogisticBernoulli(torch.zeros(64, 1, requires_grad=True))
    left = []
    for context in (None, 1):
        relax = make("relax", q, context=context, hidden=[8])
        optimizer = torch.optim.Adam(relax.parameters(), 0.1)
        squares = []
        for _ in range(60):
            given = {} if context is None else {"context": sign}
            estimate = relax(q, lambda b: (sign * b).sum(-1), **given)
            optimizer.zero_grad()
            estimate.backward()
            optimizer.step()
            squares.append((estimate.grad - sign / 4).square().mean().item())
        left.append(sum(squares[-20:]))
    assert left[1] < 0.3 * left[0]


bits = LogisticBernoulli(torch.zeros(4, 2, requires_grad=True))
numbers = Gaussian(torch.zeros(4, 2, requires_grad=True), torch.zeros(2))
net = nn.Sequential(nn.Linear(2, 1), nn.Flatten(-2))


def total(b):
    return b.sum(-1)


@pytest.mark.parametrize("name", ["reinforce", "rloo", "nvil", "muprop", "rebar", "exact"])
def test_what_reads_no_context_says_so(name):
    with pytest.raises(TypeError, match="has nothing that could read the context: leave it out, or"):
        make(name, bits)(bits, total, context=torch.zeros(4, H))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: RELAX(MLPSurrogate(2))(bits, total, context=torch.zeros(4, H)),
            TypeError,
            r"this MLPSurrogate reads none: make it by MLPSurrogate.of\(q, context=3\)",
        ),
        (
            lambda: RELAX(MLPSurrogate.of(bits, context=H))(bits, total),
            TypeError,
            "reads a context of size 3: call the estimator with context=",
        ),
        (
            lambda: RELAX(MLPSurrogate.of(bits, context=2))(bits, total, context=torch.zeros(4, H)),
            ValueError,
            r"reads a context of shape \(4, 2\); got \(4, 3\)",
        ),
        (
            lambda: RELAX(MLPSurrogate.of(bits, context=H))(bits, total, context=torch.zeros(H)),
            ValueError,
            r"must begin with the batch's shape \(4,\); got a tensor of shape \(3,\)",
        ),
        (
            lambda: LAX(ThetaSurrogate(2))(numbers, total),
            TypeError,
            "of a discrete latent; got Gaussian",
        ),
        (lambda: ThetaSurrogate(2)(torch.zeros(2)), TypeError, r"reads more than z: call given\(latent\)\(z\)"),
        (lambda: MLPSurrogate(2, context=1)(torch.zeros(2)), TypeError, "reads more than z"),
        (
            lambda: make("relax", bits, surrogate=MLPSurrogate(2), hidden=[8]),
            TypeError,
            "hidden would shape the default surrogate",
        ),
        (
            lambda: make("nvil", bits, baseline=net, context=H),
            TypeError,
            "hidden and context would shape a baseline: leave them out, or leave out baseline=",
        ),
        (lambda: make("nvil", bits, hidden=[8]), TypeError, "say its size as well, context="),
        (lambda: make("rloo", bits, context=H), TypeError, "RLOO has no setting 'context': it has samples"),
        (lambda: make("relax", bits, sample=2), TypeError, "RELAX has no setting 'sample': it has surrogate, hidden, "),
        (
            lambda: RELAX(MLPSurrogate(3))(bits, total),
            ValueError,
            r"reads samples of 3 numbers in 1 dimensions, and those of the latent have shape \(2,\)",
        ),
    ],
)
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize("name", ["nvil", "muprop", "rebar"])
def test_a_baseline_of_the_context_by_name(name):
    """It starts at 0, and learns what the context says of f."""
    torch.manual_seed(0)
    context = torch.randn(256, H)
    q, f = LogisticBernoulli(torch.zeros(256, 2)), lambda b: b.sum(-1) + 9 * context[:, 0]
    estimator = make(name, q, context=H, hidden=[16])
    assert estimator.baseline(context).abs().max() == 0
    optimizer, squares = torch.optim.Adam(estimator.baseline.parameters(), 0.02), []
    for _ in range(200):
        optimizer.zero_grad()
        estimate = estimator(q, f, context=context)
        estimate.backward()
        squares.append(estimate.grad.square().mean().item())
        optimizer.step()
    if name == "nvil":  # the others know f's mean from elsewhere
        assert sum(squares[-20:]) < 0.2 * sum(squares[:20])
    assert all(parameter.grad is not None for parameter in estimator.baseline.parameters())


NEVER_TRAINED = {
    "relax": lambda c: RELAX(c)(bits, total),
    "relax, independent": lambda c: RELAX(c, coupled=False)(bits, total),
    "dlax": lambda c: DLAX(c)(bits, total),
    "lax": lambda c: LAX(c)(numbers, total),
    "exact_correction": lambda c: ExactCorrection(c)(bits, total),
    "relaxed_double_cv": lambda c: RelaxedDoubleCV(c)(bits, total),
    "rebar": lambda c: REBAR(residual=c)(bits, total),
    "nvil": lambda c: NVIL(c)(bits, total),
    "muprop": lambda c: MuProp(c)(bits, total),
    "rebar, baseline": lambda c: REBAR(baseline=c)(bits, total),
}


class Hidden(nn.Module):
    """A module that keeps its network from torch."""

    def __init__(self):
        super().__init__()
        self.nets = [net]

    def forward(self, z):
        return self.nets[0](z)


@pytest.mark.parametrize("case", NEVER_TRAINED)
def test_parameters_that_nothing_would_train_are_an_error(case):
    call = NEVER_TRAINED[case]
    for c in (lambda z: net(z), Hidden()):
        with pytest.raises(TypeError, match="has parameters that would never be trained"):
            call(c)
    call(net).backward()
    call(lambda z: z.sum(-1))  # without parameters there is nothing to train
    call(net.requires_grad_(False))
    call(lambda z: net(z))
    net.requires_grad_(True)


def test_make_takes_a_surrogate_or_its_settings():
    c = MLPSurrogate(2)
    assert make("relax", bits, surrogate=c).surrogate is c
    for name, q in (("relax", bits), ("dlax", bits), ("lax", numbers), ("exact_correction", bits)):
        assert make(name, q, hidden=[7, 5], context=H).surrogate.layers[1].weight.shape == (5, 7)
    made = make("relaxed_double_cv", bits, hidden=[7], context=H, samples=3)
    assert made.surrogate.context == H
    q = LogisticBernoulli(leaf(torch.zeros(4, 2)))
    made(q, lambda b: (b - 0.3).square().sum(-1), context=torch.zeros(4, H)).backward()
