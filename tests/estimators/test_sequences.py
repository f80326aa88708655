"""Layers that hand on a state, and costs of layers: exact by enumeration, and the same as without a state."""

import itertools

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
    LogisticBernoulli,
    MLPSurrogate,
    Reinforce,
    layered,
    make,
)
from tests.estimators.problems import lively
from tests.estimators.test_layered import LAYERABLE, Everywhere

TOLERANCE = 1e-10
REJECTED = 1e-3


class Recurrent(nn.Module):
    """Steps of a recurrent network, each of which draws a bit, with costs of the states and the bits."""

    def __init__(self, steps=2):
        super().__init__()
        torch.manual_seed(3)
        self.steps = steps
        self.first = nn.Parameter(torch.randn(3))
        self.recur, self.of_bit = nn.Linear(3, 3), nn.Linear(1, 3, bias=False)
        self.logits, self.out = nn.Linear(3, 1), nn.Linear(4, 1)
        self.calls = 0

    def start(self, batch):
        return self.first.expand(batch, 3)

    def next_state(self, state, b):
        self.calls += 1
        return (self.recur(state) + (0 if b is None else self.of_bit(b))).tanh()

    def step(self, state, b):
        state = self.next_state(state, b)
        return LogisticBernoulli(2 * self.logits(state)), state

    def cost(self, state, *b):
        state = state.expand(*b[-1].shape[:-1], 3)  # without a state handed on, the first is that of no sample
        return 3 * self.out(torch.cat([state, b[-1]], dim=-1)).squeeze(-1).sin() + self.first.sum().sin() * b[0][..., 0]

    # the same without a state

    def state_after(self, start, *b):
        state = start
        for below in (None, *b):
            state = self.next_state(state, below)
        return state

    def layers(self, start):
        return [lambda *b: LogisticBernoulli(2 * self.logits(self.state_after(start, *b)))] * self.steps

    def costs(self, start):
        return [lambda *b: self.cost(self.state_after(start, *b[:-1]), *b)] * self.steps

    def exact(self, costs):
        """∂ E[Σ_l cost_l] by autograd, every path of bits visited; the last cost alone where there is one f."""
        paths = torch.tensor(list(itertools.product((0.0, 1.0), repeat=self.steps))).unsqueeze(-1)
        state, log_p, total, b = self.start(len(paths)), 0.0, 0.0, []
        for step in range(self.steps):
            latent, state = self.step(state, b[-1] if b else None)
            b.append(paths[:, step])
            log_p = log_p + latent.log_prob(b[-1])
            if costs or step + 1 == self.steps:
                total = total + self.cost(state, *b)
        return torch.autograd.grad((log_p.exp() * total).sum(), list(self.parameters()))


class Forgetful(Recurrent):
    """A state without a graph: log p(b_l|b_<l) knows of the weights only what the last step does with them."""

    def step(self, state, b):
        latent, state = super().step(state, b)
        return latent, state.detach()


def integrated(network, estimators, costs):
    """The expectation of layered's gradient at the network's weights."""
    f = [network.cost] * network.steps if costs else network.cost

    def run(batch, source):
        state = network.start(batch)
        return layered([network.step] * network.steps, estimators, f, randomness=source, state=state)

    source = Everywhere(52)
    run(1, source)
    estimate = run(source.prepare(), source)
    weight = source.weight.detach()
    assert weight.sum().item() == pytest.approx(1, abs=1e-9)
    roots = [e.latent.theta for e in estimate.layers] + [estimate.value]
    vectors = [weight.reshape(-1, *(1,) * e.latent.event_ndim) * e.grad for e in estimate.layers] + [weight]
    for i, e in enumerate(estimate.layers):  # θ of every joint sample has a gradient of its own
        if e.grad.dim() > 2:
            vectors[i] = vectors[i] / len(e.grad)
    return torch.autograd.grad(roots, list(network.parameters()), vectors)


def error(found, expected):
    return max((a - b).abs().max().item() for a, b in zip(found, expected, strict=True))


def lively_ones(name, steps):
    return [lively(make(name, LogisticBernoulli(torch.zeros(1)))) for _ in range(steps)]


#: a quadrature of four bits and two uniforms takes long
BY_TIME = [pytest.param(n, marks=[pytest.mark.slow] if n == "relaxed_double_cv" else []) for n in LAYERABLE]


@pytest.mark.parametrize("costs", [False, True], ids=["one f", "costs"])
@pytest.mark.parametrize("name", BY_TIME)
def test_gradients_run_back_through_the_states(name, costs, float64):
    network = Recurrent()
    expected = network.exact(costs)
    assert error(integrated(network, lively_ones(name, 2), costs), expected) < TOLERANCE
    assert max(g.abs().max() for g in expected) > 0.05


@pytest.mark.parametrize("costs", [False, True], ids=["one f", "costs"])
def test_three_steps(costs, float64):
    network = Recurrent(3)
    expected = network.exact(costs)
    for estimators in (lively_ones("reinforce", 3), lively_ones("exact", 3), RLOO(2)):
        assert error(integrated(network, estimators, costs), expected) < TOLERANCE


def test_a_state_without_a_graph_is_rejected(float64):
    """It is not the gradient, although every layer's own θ gets what it should."""
    assert error(integrated(Forgetful(3), lively_ones("reinforce", 3), False), Recurrent(3).exact(False)) > REJECTED


def test_costs_that_look_ahead_are_rejected(float64):
    """What the l-th function gets ends with b_l; one that knows the next bit by other ways makes ĝ biased."""
    network = Recurrent()
    expected = network.exact(True)
    honest = network.cost
    network.cost = lambda state, *b: honest(state, *b)
    assert error(integrated(network, lively_ones("reinforce", 2), True), expected) < TOLERANCE

    class Ahead(Reinforce):
        """Weighs a bit with the costs from the next layer on."""

        def of_value(self, latent, b, value, noise):
            return super().of_value(latent, b, value - self.paid, noise)

    ahead = Ahead()
    costs = []

    def remembered(state, *b):
        costs.append(honest(state, *b).detach())
        ahead.paid = costs[-1]
        return honest(state, *b)

    network.cost = remembered
    assert error(integrated(network, [ahead, Reinforce()], True), expected) > REJECTED


PAIRS = [name for name, kind in ESTIMATORS.items() if issubclass(LogisticBernoulli, kind.latents) and name != "vimco"]


@pytest.mark.parametrize("costs", [False, True], ids=["one f", "costs"])
@pytest.mark.parametrize("name", [*PAIRS, "joint rloo", "joint vimco"])
def test_a_state_changes_nothing_but_the_work(name, costs, float64):
    """Sample by sample: values, gradients of the network, and φ's, with the state and without."""
    if name == "joint vimco" and costs:
        return
    network = Recurrent(3)
    kind = {"joint rloo": RLOO(2), "joint vimco": VIMCO(3)}
    estimators = kind.get(name) or nn.ModuleList(lively_ones(name, 3))
    parameters = [*network.parameters(), *estimators.parameters()]
    saved = {key: value.clone() for key, value in estimators.state_dict().items()}

    def gradients(with_state):
        estimators.load_state_dict(saved)
        for parameter in parameters:
            parameter.grad = None
        network.calls, start = 0, network.start(7)
        each = estimators if name in kind else list(estimators)
        generator = torch.Generator().manual_seed(1)
        if with_state:
            f = [network.cost] * 3 if costs else network.cost
            estimate = layered([network.step] * 3, each, f, generator, state=start)
        else:
            f = network.costs(start) if costs else network.costs(start)[-1]
            estimate = layered(network.layers(start), each, f, generator)
        estimate.backward()
        return estimate.value, [p.grad for p in parameters], network.calls

    value, ours, calls = gradients(True)
    expected_value, expected, more_calls = gradients(False)
    assert torch.allclose(value, expected_value, atol=1e-12)
    for a, b in zip(ours, expected, strict=True):
        assert (a is None) == (b is None)
        assert a is None or torch.allclose(a, b, atol=1e-12)
    # three steps where nothing but f's value is needed; 1 + 2 + 3 and as many again for f without the state
    once = name in kind or isinstance(estimators[0], (NVIL, Reinforce)) or name in ("relax", "dlax", "exact_correction")
    assert calls == 3 if once or name == "concrete" else calls < more_calls
    assert more_calls >= 9


def test_work_grows_with_the_steps(float64):
    network = Recurrent(8)
    layered([network.step] * 8, lively_ones("relax", 8), network.cost, state=network.start(5)).backward()
    assert network.calls == 8


def test_a_state_of_any_containers(float64):
    """Tuples, lists and dicts, with what is no tensor; a layer that appends to a list changes no other one's."""

    def step(state, b):
        state["seen"].append(torch.zeros(4, 1) if b is None else b)
        state["number"] += 1
        # a batch of 4, or 2 × 4 where two values are asked for at once
        assert len(state["seen"]) == state["number"]
        h = state["lstm"][0] if b is None else state["lstm"][0] + b
        return LogisticBernoulli(h), {**state, "lstm": (h, state["lstm"][1])}

    def f(state, *b):
        assert state["number"] == len(state["seen"]) == 3
        return sum(x.square().sum(-1) for x in b) + state["lstm"][0].sum(-1)

    for estimators in (
        [RLOO(2), RLOO(2), Reinforce()],
        [make("disarm", LogisticBernoulli(torch.zeros(1)))] * 3,
        RLOO(2),
    ):
        start = {"lstm": (torch.randn(4, 1, requires_grad=True), torch.zeros(4, 2)), "seen": [], "number": 0}
        layered([step] * 3, estimators, f, state=start).backward()
        assert start["lstm"][0].grad.isfinite().all()


def test_a_state_may_be_the_context(float64):
    """A layer's latent brings it, and the baseline or surrogate of that layer reads it."""
    network = Recurrent(3)
    c = MLPSurrogate.of(LogisticBernoulli(torch.zeros(1)), context=3)
    baseline = nn.Sequential(nn.Linear(3, 1), nn.Flatten(-2))

    def step(state, b):
        latent, state = network.step(state, b)
        return latent.with_context(state), state

    estimators = [lively(make("relax", LogisticBernoulli(torch.zeros(1)), surrogate=c)), NVIL(baseline), NVIL(baseline)]
    layered([step] * 3, estimators, network.cost, state=network.start(6)).backward()
    assert c.of_context.weight.grad.abs().max() > 0
    assert baseline[0].weight.grad.abs().max() > 0


def test_gaussian_and_classes_with_a_state(float64):
    """Other latents, and slopes through the layers above and their states."""
    mix = nn.Linear(3, 2)

    def place(h, b):
        return Gaussian(h[..., :2], torch.zeros(2)), h

    def choose(h, b):
        h = h + torch.cat([b, b[..., :1]], dim=-1)
        return GumbelOneHot(mix(h).unsqueeze(-2)), h

    def f(h, place, choice):
        return (h.sum(-1) + (choice.squeeze(-2) * mix.weight.sum(-1)).sum(-1) - place.sum(-1)).square()

    h = torch.randn(5, 3, requires_grad=True)
    lax = lively(make("lax", Gaussian(torch.zeros(2), torch.zeros(2))))
    for above in ("rebar", "muprop", "relax", "rloo"):
        h.grad = None
        top = lively(make(above, GumbelOneHot(torch.zeros(1, 2))))
        layered([place, choose], [lax, top], f, state=h).backward()
        assert h.grad.abs().max() > 0


def test_errors(float64):
    network = Recurrent(2)
    bits = LogisticBernoulli(torch.zeros(4, 1))
    with pytest.raises(TypeError, match=r"layer 0 must return a latent; got tuple: .* give the first one by state="):
        layered([lambda: (bits, None)], [Reinforce()], lambda b: b.sum(-1))
    with pytest.raises(
        TypeError, match="with state=, layer 0 must return its latent and the next state; got LogisticBern"
    ):
        layered([lambda h, b: bits], [Reinforce()], lambda h, b: b.sum(-1), state=())
    with pytest.raises(ValueError, match="one cost for each layer is needed; got 1 for 2 layers"):
        layered([network.step] * 2, [Reinforce()] * 2, [network.cost], state=network.start(4))
    with pytest.raises(ValueError, match="at least one layer"):
        layered([], [], lambda: 0)
    with pytest.raises(TypeError, match="VIMCO's objective is a bound of whole samples, and no sum of costs"):
        layered([network.step] * 2, VIMCO(), [network.cost] * 2, state=network.start(4))

    def of_lstm(state, b):  # [layers, batch, H], as nn.LSTM has it
        return LogisticBernoulli(state[0]), state

    with pytest.raises(ValueError, match=r"must begin with the batch's shape \(4,\); got \(2, 4, 1\)"):
        layered([of_lstm] * 2, [RLOO(2)] * 2, lambda h, a, b: b.sum(-1), state=torch.zeros(2, 4, 1))
    # whole numbers and truth values are added up as numbers
    estimate = layered(
        [lambda: bits, lambda b: bits], [Reinforce()] * 2, [lambda a: a[..., 0] >= 0, lambda a, b: b[..., 0] >= 0]
    )
    assert torch.equal(estimate.value, torch.full((4,), 2.0))


def test_concrete_relaxes_states_as_well(float64):
    network = Recurrent(2)
    generator = torch.Generator().manual_seed(0)
    u = [torch.rand((5, 1), generator=generator) for _ in range(2)]
    state, b, log_weight = network.start(5), None, []
    for noise in u:
        latent, state = network.step(state, b)
        b = ((latent.theta + noise.logit()) / 0.5).sigmoid()
        log_weight.append(b)
    value = network.cost(state, *log_weight)
    expected = torch.autograd.grad(value.mean(), list(network.parameters()))
    estimate = layered(
        [network.step] * 2,
        [Concrete(0.5), Concrete(0.5)],
        network.cost,
        torch.Generator().manual_seed(0),
        state=network.start(5),
    )
    estimate.backward()
    assert error([p.grad for p in network.parameters()], expected) < 1e-9


class Cells(nn.Module):
    """A recurrent cell of torch's, which takes one dimension of the batch; an input that comes by the state."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(4)
        self.cell, self.head, self.out = nn.GRUCell(5, 3), nn.Linear(3, 3), nn.Linear(5, 1)

    def step(self, state, b):
        h, x = state
        h = self.cell(torch.cat([x, x.new_zeros(len(x), 3) if b is None else b.squeeze(-2)], dim=-1), h)
        return GumbelOneHot(2 * self.head(h).unsqueeze(-2), torch.tensor([True, True, True])).with_context(h), (h, x)

    def f(self, state, *b):
        return 5 * self.out(torch.cat([state[1], b[-1].squeeze(-2)], dim=-1)).squeeze(-1).sin() + state[0].sum(-1)

    def rows(self, function):
        """A layer, or f, that takes any dimensions before the last: what ``flatten`` makes needless."""

        def of_rows(state, *b):
            leading = state[0].shape[:-1]
            flat = [None if x is None else x.reshape(-1, 1, 3) for x in b]
            returned = function(tuple(x.reshape(-1, x.shape[-1]) for x in state), *flat)
            if isinstance(returned, torch.Tensor):
                return returned.reshape(leading)
            latent, new = returned
            theta = latent.theta.reshape(*leading, 1, 3)
            return GumbelOneHot(theta), tuple(x.reshape(*leading, x.shape[-1]) for x in new)

        return of_rows


@pytest.mark.parametrize("estimators", [lambda: RLOO(3), lambda: [RLOO(3)] * 3, lambda: [make("double_cv", ONE)] * 3])
def test_several_samples_in_the_first_dimension_of_the_batch(estimators, float64):
    """As by hand, to the last bit of the noise."""
    network = Cells()
    state = (torch.randn(4, 3), torch.randn(4, 2))
    steps, by_hand = [network.step] * 3, [network.rows(network.step)] * 3
    found = []
    for layers, f, flatten in ((steps, network.f, True), (by_hand, network.rows(network.f), False)):
        network.zero_grad()
        generator = torch.Generator().manual_seed(0)
        layered(layers, estimators(), f, generator, state=state, flatten=flatten).backward()
        found.append([parameter.grad.clone() for parameter in network.parameters()])
    assert all(torch.allclose(a, b, atol=1e-12) for a, b in zip(*found, strict=True))
    assert max(gradient.abs().max() for gradient in found[0]) > 0.01


ONE = GumbelOneHot(torch.zeros(1, 3, dtype=torch.float64))


def test_a_cell_that_takes_one_dimension_says_what_to_do(float64):
    network, state = Cells(), (torch.randn(4, 3), torch.randn(4, 2))
    for estimators in (RLOO(), [RLOO()] * 2):
        with pytest.raises(ValueError, match=r"layer 1 was called with several samples .*\[2, 4, .*flatten=True"):
            layered([network.step] * 2, estimators, network.f, state=state)
    x = torch.randn(4, 2)

    def closed_over(h, b):
        latent, (h, _) = network.step((h, x), b)
        return latent, h

    def f(h, *b):
        return torch.ones(4)

    with pytest.raises(
        ValueError, match=r"layer 1 was called .* tensors \[8, ...\], and failed .* must come by the state"
    ):
        layered([closed_over] * 2, RLOO(), f, state=state[0], flatten=True)
    with pytest.raises(ValueError, match=r"f must return what begins with \(8,\).*got \(4,\).*come by the state"):
        layered([network.step] * 2, RLOO(), f, state=state, flatten=True)


def test_an_independent_layer_is_no_part_of_what_is_flattened(float64):
    """It knows nothing of the K samples, and its latent keeps the batch's shape."""
    theta, weight = torch.randn(4, 2), torch.randn(2, 2)
    layers = [lambda: LogisticBernoulli(theta), lambda b: LogisticBernoulli(theta), lambda b, c: LogisticBernoulli(c)]
    grads = []
    for flatten in (True, False):
        generator = torch.Generator().manual_seed(0)
        estimate = layered(layers, RLOO(), lambda *b: (b[0] @ weight * b[1]).sum(-1), generator, flatten=flatten)
        grads.append(torch.cat([e.grad.flatten() for e in estimate.layers]))
    assert torch.allclose(*grads)


@pytest.mark.parametrize("batch", [2, 3])
def test_a_sample_of_an_independent_layer_is_not_taken_for_several(float64, batch):
    """[B, D] looks like [K, B] where these are equal."""
    theta = torch.randn(2, batch, 2).requires_grad_()
    layers = [lambda: LogisticBernoulli(theta[0]), lambda b: LogisticBernoulli(theta[1])]
    grads = []
    for flatten in (True, False):
        generator = torch.Generator().manual_seed(0)
        estimate = layered(layers, [RLOO(), RLOO()], lambda a, b: a.sum(-1) * b.sum(-1), generator, flatten=flatten)
        grads.append(torch.cat([e.grad.flatten() for e in estimate.layers]))
    assert torch.allclose(*grads)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda bits, step: layered([step] * 2, RLOO(), lambda h, *b: 0),
            r"layer 0 is called with the samples below it, here 0, .* give the first one by state=",
        ),
        (
            lambda bits, step: layered([lambda: bits, step], RLOO(), lambda *b: 0),
            r"layer 1 is called with the samples below it, here 1, .* give the first one by state=",
        ),
        (
            lambda bits, step: layered([lambda: bits], RLOO(), lambda h, b: 0, state=()),
            "with state=, layer 0 is called with the state and the sample of the layer below, 2 arguments",
        ),
        (
            lambda bits, step: layered([step], RLOO(), lambda b: 0, state=()),
            "with state=, f is called with the state and samples, 2 arguments",
        ),
        (lambda bits, step: layered([step], "rloo", lambda *b: 0, state=()), r"not its name: make\('rloo', q\) makes"),
        (
            lambda bits, step: layered([step], ["rloo"], lambda *b: 0, state=()),
            r"not its name: make\('rloo', q\) makes",
        ),
        (lambda bits, step: layered([step], [RLOO], lambda *b: 0, state=()), r"such as RLOO\(\) .* got the class RLOO"),
    ],
)
def test_what_a_stack_is_made_of(call, message):
    bits = LogisticBernoulli(torch.zeros(4, 2))
    with pytest.raises(TypeError, match=message):
        call(bits, lambda h, b: (bits, h))


def test_a_type_error_inside_a_layer_is_its_own():
    def layer(h, b):
        return len(3)

    with pytest.raises(TypeError, match=r"object of type 'int' has no len\(\)"):
        layered([layer], RLOO(), lambda h, b: 0, state=())
