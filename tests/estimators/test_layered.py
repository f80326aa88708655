"""Two stochastic layers: the expectation of every layer's estimate, by enumeration and quadrature of all randomness."""

import itertools
import math

import pytest
import torch
from torch import nn

from sb3_relax.estimators import (
    ESTIMATORS,
    NVIL,
    RLOO,
    VIMCO,
    Concrete,
    Gaussian,
    GumbelOneHot,
    Joint,
    LogisticBernoulli,
    Reinforce,
    RelaxedLatent,
    Reparam,
    check_unbiased,
    layered,
    make,
)
from sb3_relax.estimators.layered import Randomness
from sb3_relax.estimators.proofs.quadrature import product_rule
from tests.estimators.problems import lively

TOLERANCE = 1e-10
BITS = [name for name, kind in ESTIMATORS.items() if issubclass(LogisticBernoulli, kind.latents)]
LAYERABLE = [name for name in BITS if ESTIMATORS[name].unbiased and name != "vimco"]


class Everywhere(Randomness):
    """Every random number is a dimension of one grid: values of b are enumerated, uniforms integrated.

    A first pass finds out what is asked for; in the second every request gets its part of the grid, and ``weight``
    gathers the probability of what was handed out.
    """

    def __init__(self, nodes):
        super().__init__()
        self.nodes = nodes
        self.requests = None
        self.asked = []

    def prepare(self):
        """After the first pass: lay out the grid."""
        sizes = [size for size, _ in self.asked]
        self.requests = iter([part for _, part in self._parts(sizes)])
        self.weight = torch.ones(math.prod(sizes))
        return math.prod(sizes)

    def _parts(self, sizes):
        total = math.prod(sizes)
        flat = torch.arange(total)
        for size, (_, values) in zip(sizes, self.asked, strict=True):
            total //= size
            yield None, (values, flat // total % size)

    def _request(self, values):
        """``[M, …]`` values: one of them now, or all of them along the grid."""
        if self.requests is None:
            self.asked.append((len(values), values))
            return values[:1]
        values, index = next(self.requests)
        return values[index]

    def _samples(self, latent, count=1):
        support = latent.support() if isinstance(latent, RelaxedLatent) else None
        index = torch.cartesian_prod(*[torch.arange(len(support))] * count).reshape(-1, count)
        return self._request(support[index])  # [batch, count, *event]

    def _weigh(self, latent, b):
        if self.requests is not None:
            probability = latent.detach().log_prob(b).exp()
            self.weight = self.weight * (probability.prod(0) if probability.dim() > 1 else probability)

    def sample(self, latent):
        leading = latent.theta.dim() - 1 - latent.event_ndim  # several values of the layer below at once
        count = math.prod(latent.theta.shape[:leading])
        b = self._samples(latent, count).movedim(1, 0)
        b = b.reshape(*latent.theta.shape[:leading], *b.shape[1:])
        self._weigh(latent, b)
        return b

    def draw(self, estimator, latent):
        if estimator.samples == 0:
            return None
        b = self._samples(latent, estimator.samples).movedim(1, 0)
        b = b[0] if estimator.samples == 1 else b
        if self.requests is not None:
            self.weight = self.weight * estimator.probability_of_draws(latent.detach(), b)
        return b

    def noise(self, estimator, latent):
        if estimator.noise_shape(latent) is None:
            return None
        if estimator.samples == 0:
            # ARM and DisARM: jumps at p and 1-p, which differ along the grid, so nodes in relative places of each piece
            return self._pieces(latent)
        node, weight = next(product_rule_of(estimator, latent, self.nodes))
        return self._uniform(latent, node, weight).expand(estimator.noise_shape(latent))

    def _uniform(self, latent, node, weight):
        chosen = self._request(torch.cat([node, weight.unsqueeze(-1)], dim=-1))
        if self.requests is not None:
            self.weight = self.weight * chosen[..., -1]
        return chosen[..., :-1].reshape(latent.theta.shape[:1] + latent.theta.shape[1:])

    def _pieces(self, latent):
        dim = latent.theta.shape[-1]
        piece = self._request(torch.cartesian_prod(*[torch.arange(3)] * dim).reshape(-1, dim))
        p = latent.theta.detach().sigmoid()
        ends = torch.stack([torch.zeros_like(p), torch.minimum(p, 1 - p), torch.maximum(p, 1 - p), torch.ones_like(p)])
        low, high = ends.gather(0, piece.unsqueeze(0))[0], ends.gather(0, piece.unsqueeze(0) + 1)[0]
        if self.requests is not None:
            self.weight = self.weight * (high - low).prod(-1)
        return (low + high) / 2

    def uniform(self, latent):
        node, weight = next(product_rule_of(make("relax", latent), latent, self.nodes))
        return self._uniform(latent, node, weight)


def product_rule_of(estimator, latent, nodes):
    one = latent.at(latent.theta.detach()[0])
    yield from estimator.noise_rule(one, nodes, 1 << 20)


def problem(kind):
    """b1 of one bit (or one of two classes), b2 of one bit; f of both and of θ2's weights."""
    torch.manual_seed(1)
    first = torch.tensor([0.6]) if kind is LogisticBernoulli else torch.tensor([[0.5, -0.4]])
    first.requires_grad_()
    size = first.numel()
    above = nn.Linear(size, 1)
    net = nn.Sequential(nn.Linear(size + 1, 5), nn.Tanh(), nn.Linear(5, 1))

    def layers(batch):
        ndim = 1 if kind is LogisticBernoulli else 2
        return [
            lambda: kind(first.expand(batch, *first.shape)),
            lambda b1: LogisticBernoulli(2 * above(b1.flatten(-ndim))),
        ]

    def f(b1, b2):
        x = torch.cat([b1.flatten(-1 if kind is LogisticBernoulli else -2), b2], dim=-1)
        return 4 * net(x).squeeze(-1) + above.bias.sin() * x.sum(-1)

    return first, above, net, layers, f


def exact(kind):
    """Σ_b1 Σ_b2 p(b1) p(b2|b1) f(b1, b2), differentiated by autograd."""
    first, above, net, layers, f = problem(kind)
    latent = kind(first)
    support = latent.support()
    wide = latent.expand(len(support))
    one, two = layers(len(support))
    total = 0.0
    for bit in (0.0, 1.0):
        b2 = torch.full((len(support), 1), bit)
        total = total + (one().log_prob(support) + two(support).log_prob(b2)).exp() @ f(support, b2)
    assert wide.batch_shape == (len(support),)
    return torch.autograd.grad(total, [first, above.weight, above.bias, *net.parameters()])


@pytest.mark.parametrize("name", LAYERABLE)
@pytest.mark.parametrize("kind", [LogisticBernoulli, GumbelOneHot])
def test_two_layers(kind, name, float64):
    expected = exact(kind)
    first, above, net, layers, f = problem(kind)
    below = name if issubclass(kind, ESTIMATORS[name].latents) else "reinforce"
    # bits: the estimator under test in both layers; classes, whose noise has a dimension more: in the first
    above_it = name if kind is LogisticBernoulli or below != name else "reinforce"
    latents = [layer(*args) for layer, args in zip(layers(1), [(), (kind(first).support()[:1],)], strict=True)]
    estimators = [lively(make(n, latent)) for n, latent in zip((below, above_it), latents, strict=True)]
    # the error of several samples, whose grid is the largest, is below 5e-12 with so few nodes
    source = Everywhere(52 if estimators[0].samples == 1 else 36)
    layered(layers(1), estimators, f, randomness=source)
    batch = source.prepare()
    estimate = layered(layers(batch), estimators, f, randomness=source)
    weight = source.weight.detach()
    assert weight.sum().item() == pytest.approx(1, abs=1e-9)
    # backward() takes batch means; the grid wants weights
    roots = [e.latent.theta for e in estimate.layers] + [estimate.value]
    vectors = [weight.reshape(-1, *(1,) * e.latent.event_ndim) * e.grad for e in estimate.layers] + [weight]
    ours = torch.autograd.grad(roots, [first, above.weight, above.bias, *net.parameters()], vectors)
    for a, b in zip(ours, expected, strict=True):
        assert (a - b).abs().max() < TOLERANCE
    assert max(g.abs().max() for g in expected) > 0.05


class WithItself(RLOO):
    """Every sample is in its own baseline: too small by (K - 1)/K."""

    def weights(self, value):
        return (value - value.mean(0)) / self.samples


def exact_bound(kind, samples):
    """E[log 1/K Σ_k exp f(b_1k, b_2k)] over K joint samples, differentiated by autograd."""
    first, above, net, layers, f = problem(kind)
    support = kind(first).support()
    b1 = support.repeat_interleave(2, 0)
    b2 = torch.tensor([[0.0], [1.0]]).repeat(len(support), 1)
    one, two = layers(len(b1))
    log_p = one().log_prob(b1) + two(b1).log_prob(b2)
    index = torch.cartesian_prod(*[torch.arange(len(b1))] * samples)
    bound = f(b1, b2)[index].logsumexp(1) - math.log(samples)
    return torch.autograd.grad((log_p[index].sum(1).exp() * bound).sum(), [first, above.weight, *net.parameters()])


@pytest.mark.parametrize("estimator", [RLOO(2), RLOO(3), VIMCO(2), WithItself(2)])
@pytest.mark.parametrize("kind", [LogisticBernoulli, GumbelOneHot])
def test_joint_samples_of_two_layers(kind, estimator, float64):
    if isinstance(estimator, VIMCO):
        expected = exact_bound(kind, 2)
    else:
        of_first, of_weight, _, *of_net = exact(kind)
        expected = [of_first, of_weight, *of_net]
    first, above, net, layers, f = problem(kind)
    source = Everywhere(1)
    layered(layers(1), estimator, f, randomness=source)
    batch = source.prepare()
    assert batch == (4**estimator.samples)
    calls = []
    estimate = layered(layers(batch), estimator, lambda *b: calls.append(b) or f(*b), randomness=source)
    assert [b.shape[:2] for b in calls[0]] == [(estimator.samples, batch)] * 2
    assert len(calls) == 1
    weight = source.weight.detach()
    assert weight.sum().item() == pytest.approx(1)
    # the gradients with which a batch of weighted elements would go back
    roots = [e.latent.theta for e in estimate.layers] + [estimate.value]
    vectors = [weight.reshape(-1, *(1,) * e.latent.event_ndim) * e.grad for e in estimate.layers] + [weight]
    vectors[1] = vectors[1] / estimator.samples  # θ_2 has a gradient of its own for each sample
    ours = torch.autograd.grad(roots, [first, above.weight, *net.parameters()], vectors)
    error = max((a - b).abs().max() for a, b in zip(ours, expected, strict=True))
    assert error > 1e-3 if isinstance(estimator, WithItself) else error < TOLERANCE


def test_joint_samples_go_back_as_batch_means(float64):
    first, above, net, layers, f = problem(LogisticBernoulli)
    parameters = [first, above.weight, above.bias, *net.parameters()]
    reference = layered(layers(50), RLOO(3), f, torch.Generator().manual_seed(2))
    one, two = reference.layers
    assert two.grad.shape == (3, 50, 1)
    scalar = (one.latent.theta * one.grad).sum() / 50 + (two.latent.theta * two.grad).sum() / 150
    expected = torch.autograd.grad(scalar + reference.value.mean(), parameters)
    layered(layers(50), RLOO(3), f, torch.Generator().manual_seed(2)).backward()
    assert all(torch.allclose(p.grad, g, atol=1e-12) for p, g in zip(parameters, expected, strict=True))


def test_joint_samples_of_a_layer_that_reads_nothing(float64):
    """Two independent layers are one Joint."""
    q, above = LogisticBernoulli(torch.randn(5, 2)), Gaussian(torch.randn(5, 1), torch.zeros(1))

    def f(a, b):
        return (a.sum(-1) * b.squeeze(-1)).exp()

    estimate = layered([lambda: q, lambda _: above], RLOO(4), f, torch.Generator().manual_seed(0))
    both = Joint(a=q, b=above)
    theirs = RLOO(4)(both, lambda x: f(*both.unpack(x).values()), torch.Generator().manual_seed(0))
    grads = torch.cat([e.grad.flatten(1) for e in estimate.layers], dim=1)
    assert torch.allclose(grads, theirs.grad)


def test_backward_is_the_batch_mean(float64):
    """θ's weights, f's parameters and each φ hold what the estimates say, and nothing else."""
    _, _, net, layers, f = problem(LogisticBernoulli)
    estimators = [lively(make(name, LogisticBernoulli(torch.zeros(1)))) for name in ("relax", "rebar")]
    first, above, net, layers, f = problem(LogisticBernoulli)
    parameters = [first, above.weight, above.bias, *net.parameters()]

    def estimate():
        return layered(layers(50), estimators, f, torch.Generator().manual_seed(2))

    reference = estimate()
    scalar = sum((e.latent.theta * e.grad).sum() for e in reference.layers) / 50 + reference.value.mean()
    expected = torch.autograd.grad(scalar, parameters, retain_graph=True)
    phi = [
        torch.autograd.grad(e.objective, list(estimator.parameters()), retain_graph=True)
        for e, estimator in zip(reference.layers, estimators, strict=True)
    ]
    estimate().backward()
    for parameter, gradient in zip(parameters, expected, strict=True):
        assert torch.allclose(parameter.grad, gradient, atol=1e-12)
    for estimator, gradients in zip(estimators, phi, strict=True):
        for parameter, gradient in zip(estimator.parameters(), gradients, strict=True):
            assert torch.allclose(parameter.grad, gradient, atol=1e-12)


def test_one_layer_is_the_estimator_itself(float64):
    latent = LogisticBernoulli(torch.randn(2, requires_grad=True))
    for name in ("relax", "rloo", "rebar", "disarm"):
        estimator = lively(make(name, latent))

        def f(b):
            return (b - 0.3).square().sum(-1)

        assert check_unbiased(estimator, latent, f).unbiased
        estimate = layered([lambda: latent.expand(40_000)], [estimator], f)
        grad = estimate.layers[0].grad
        z = (grad.mean(0) - check_unbiased(estimator, latent, f).exact) / (grad.std(0) / 200)
        assert z.abs().max() < 4.5


def test_continuous_layers_below_discrete_ones(float64):
    """LAX below a bit by sampling; Reparam there would miss how the bit's distribution moves, and is refused."""
    theta = torch.tensor([[0.3, -0.5]], requires_grad=True)
    n = 200_000

    def layers(batch):
        return [
            lambda: Gaussian(theta[:, 0].expand(batch, 1), theta[:, 1].expand(batch, 1)),
            lambda b1: LogisticBernoulli(2 * b1),
        ]

    def f(b1, b2):
        return (b1.square() + 3 * b2).squeeze(-1)

    one = layers(1)[0]()
    estimators = [lively(make("lax", one)), make("reinforce", LogisticBernoulli(torch.zeros(1)))]
    estimate = layered(layers(n), estimators, f, torch.Generator().manual_seed(0))
    grad = estimate.layers[0].grad.flatten(1)
    node, weight = next(iter(product_rule(hermite(60), 1)))
    mean, log_std = theta[0]
    b1 = mean + log_std.exp() * node[:, 0]
    exact = torch.autograd.grad((weight * (b1.square() + 3 * (2 * b1).sigmoid())).sum(), theta)[0].flatten()
    z = (grad.mean(0) - exact) / (grad.std(0) / math.sqrt(n))
    assert z.abs().max() < 4.5
    with pytest.raises(TypeError, match="differentiates f through the layers above, and one of them is discrete"):
        layered(layers(5), [Reparam(), estimators[1]], f)


def hermite(nodes):
    from sb3_relax.estimators.proofs.quadrature import normal_rule

    return normal_rule(nodes)


def test_gaussian_above_gaussian_by_reparam(float64):
    theta = torch.tensor([[0.3, -0.5]], requires_grad=True)
    layers = [
        lambda: Gaussian(theta[:, 0].expand(50, 1), theta[:, 1].expand(50, 1)),
        lambda b1: Gaussian(2 * b1, torch.zeros_like(b1)),
    ]
    estimate = layered(layers, [Reparam(), Reparam()], lambda b1, b2: (b1 + b2).squeeze(-1))
    # f is linear: ∂/∂μ1 of E[b1 + 2 b1] is 3 in every sample
    assert torch.allclose(estimate.layers[0].grad[:, 0, 0], torch.tensor(3.0))


def test_running_statistics_learn_in_every_layer(float64):
    estimators = [NVIL(), NVIL()]
    layers = [lambda: LogisticBernoulli(torch.zeros(50, 1)), lambda b1: LogisticBernoulli(b1)]
    estimate = layered(layers, estimators, lambda b1, b2: (b1 + 2 * b2).squeeze(-1))
    assert not any(estimator.seen for estimator in estimators)
    estimate.backward()
    assert all(torch.isclose(estimator.mean.double(), estimate.value.mean()) for estimator in estimators)


@pytest.mark.parametrize("name", [name for name in BITS if ESTIMATORS[name].needs_grad_f])
def test_f_that_knows_a_layer_only_through_those_above(name, float64):
    """Its slope between the corners runs through them; at the corners there is none, and the error says why."""
    torch.manual_seed(0)
    first, above = torch.tensor([0.4]), nn.Linear(1, 1)
    latent = LogisticBernoulli(first)
    estimators = [lively(make(name, latent)), make("reinforce", latent)]
    n = 40_000

    def estimate():
        layers = [lambda: latent.expand(n), lambda b1: LogisticBernoulli(3 * above(b1))]
        return layered(layers, estimators, lambda b1, b2: (b2 - 0.3).square().sum(-1), torch.Generator().manual_seed(0))

    if name not in ("concrete", "muprop", "rebar"):
        with pytest.raises(TypeError, match="only through the samples of those above"):
            estimate()
        return
    grad = estimate().layers[0].grad.flatten()
    if ESTIMATORS[name].unbiased:
        p = [(3 * above(torch.tensor([b]))).sigmoid().item() for b in (0.0, 1.0)]
        exact = (0.7**2 - 0.3**2) * (p[1] - p[0]) * (latent.mean() * (1 - latent.mean())).item()
        assert ((grad.mean() - exact) / (grad.std() / n**0.5)).abs() < 4.5


def relaxed_by_hand(first, above, temperatures, n):
    """∂ f(y_1, y_2) by autograd alone, y_l = σ((θ_l + noise) / τ_l), with layered's own uniforms."""
    generator = torch.Generator().manual_seed(0)
    y1 = ((first.expand(n, 2) + torch.rand((n, 2), generator=generator).logit()) / temperatures[0]).sigmoid()
    y2 = ((3 * above(y1) + torch.rand((n, 2), generator=generator).logit()) / temperatures[1]).sigmoid()
    value = of_both(y1, y2)
    return value, torch.autograd.grad(value.mean(), [first, *above.parameters()])


def of_both(b1, b2):
    return (b1 - 0.2).pow(3).sum(-1) + (b1 * b2).sum(-1) + b2[..., 0].square()


def test_concrete_in_every_layer_relaxes_the_whole(float64):
    """Maddison et al.: the layers above, and f, see what is relaxed. Otherwise every other layer is as drawn."""
    torch.manual_seed(0)
    first, above, n = torch.tensor([0.4, -0.3], requires_grad=True), nn.Linear(2, 2), 50
    value, expected = relaxed_by_hand(first, above, (0.5, 0.8), n)
    layers = [lambda: LogisticBernoulli(first.expand(n, 2)), lambda b1: LogisticBernoulli(3 * above(b1))]

    def gradients(*estimators):
        for parameter in (first, *above.parameters()):
            parameter.grad = None
        estimate = layered(layers, estimators, of_both, torch.Generator().manual_seed(0))
        estimate.backward()
        return estimate.value, [p.grad for p in (first, *above.parameters())]

    seen, found = gradients(Concrete(0.5), Concrete(0.8))
    assert torch.allclose(seen, value, atol=1e-12)
    assert all(torch.allclose(a, b, atol=1e-12) for a, b in zip(found, expected, strict=True))
    for others in ((Concrete(0.5, hard_value=True), Concrete(0.8, hard_value=True)), (Concrete(0.5), Reinforce())):
        bits, other = gradients(*others)
        hard = torch.stack([of_both(*pair) for pair in itertools.product(LogisticBernoulli(first).support(), repeat=2)])
        assert (bits.unsqueeze(-1) - hard).abs().min(-1).values.max() < 1e-12
        assert not torch.allclose(other[0], expected[0], atol=1e-3)


def test_bad_calls():
    latent = LogisticBernoulli(torch.zeros(4, 1))
    with pytest.raises(ValueError, match="one estimator per layer"):
        layered([lambda: latent], [], lambda b: b.sum(-1))
    with pytest.raises(TypeError, match="must be RLOO or VIMCO; got Reinforce: give one for each"):
        layered([lambda: latent], Reinforce(), lambda b: b.sum(-1))
    with pytest.raises(TypeError, match=r"VIMCO estimates another objective .* one of all layers"):
        layered([lambda: latent], [VIMCO()], lambda b: b.sum(-1))
    with pytest.raises(TypeError, match="Reparam takes ReparameterisedLatent"):
        layered([lambda: latent], [Reparam()], lambda b: b.sum(-1))
    with pytest.raises(ValueError, match="one value per sample"):
        layered([lambda: latent], [make("relax", latent)], lambda b: b)


@pytest.mark.parametrize("above", [LogisticBernoulli, Gaussian])
def test_a_control_variate_sees_the_samples_above_that_f_saw(above, float64):
    """f knows the layer above alone, and that knows nothing of the one below: what is left of f - c is none of b_1."""
    n, logits = 4000, torch.tensor([0.3, -0.8])

    def second(b1):
        return above(logits.expand(n, 2)) if above is LogisticBernoulli else Gaussian(logits.expand(n, 2), logits)

    def squares(estimator):
        first = LogisticBernoulli(torch.tensor([0.4, 0.1]).expand(n, 2))
        generator = torch.Generator().manual_seed(0)
        # the slope wants b_1 in f
        f = lambda b1, b2: (b2 - 0.2).square().sum(-1) + 0 * b1.sum(-1)  # noqa: E731
        other = make("reinforce", second(None))
        return layered([lambda: first, second], [estimator, other], f, generator).layers[0].grad.square().mean()

    # at a low τ the bits above are those that f saw, but for z near zero
    ours, plain = squares(ESTIMATORS["rebar"](temperature=0.003)), squares(ESTIMATORS["reinforce"]())
    assert ours < (0.02 if above is LogisticBernoulli else 1e-20) * plain


def test_the_temperature_above_is_among_phi(float64):
    """log τ also makes the layers above: its gradient of Eq 6 is that of the whole of c."""
    _, _, _, layers, f = problem(LogisticBernoulli)
    estimators = [lively(make(name, LogisticBernoulli(torch.zeros(1)))) for name in ("rebar", "reinforce")]
    log_temperature = estimators[0].log_temperature

    def objective(change=0.0):
        with torch.no_grad():
            log_temperature.add_(change)
        return layered(layers(50), estimators, f, torch.Generator().manual_seed(2)).layers[0].objective

    (ours,) = torch.autograd.grad(objective(), log_temperature)
    step = 1e-5
    high, low = objective(step).item(), objective(-2 * step).item()
    assert ours.item() == pytest.approx((high - low) / (2 * step), rel=1e-6)
    assert abs(ours.item()) > 1e-3
