"""Slips that once gave a wrong gradient without a word."""

import warnings

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from sb3_relax.estimators import (
    DLAX,
    LAX,
    NVIL,
    REBAR,
    RELAX,
    RLOO,
    CurvatureLAX,
    ExactCorrection,
    Gaussian,
    GumbelOneHot,
    Joint,
    LogisticBernoulli,
    PerVariable,
    Reinforce,
    Reparam,
    layered,
    make,
    unstepped,
)

BITS = LogisticBernoulli(torch.zeros(5, 3, requires_grad=True))
NORMALS = Gaussian(torch.zeros(5, 3, requires_grad=True), torch.zeros(5, 3))


def total(b):
    return b.sum(-1)


@pytest.mark.parametrize(
    ("make_estimator", "q"),
    [
        (RELAX, BITS),
        (lambda c: RELAX(c, coupled=False), BITS),
        (lambda c: RELAX(c, draws=2), BITS),
        (DLAX, BITS),
        (ExactCorrection, BITS),
        (lambda c: REBAR(residual=c), BITS),
        (LAX, NORMALS),
        (RELAX, Joint(a=NORMALS, b=BITS)),
    ],
)
def test_a_surrogate_with_a_dimension_too_many(make_estimator, q):
    size = 6 if isinstance(q, Joint) else 3
    estimator = make_estimator(nn.Linear(size, 1))
    with pytest.raises(ValueError, match=r"surrogate must return one value per sample.*squeeze\(-1\)"):
        estimator(q, total)
    make_estimator(nn.Sequential(nn.Linear(size, 1), nn.Flatten(-2)))(q, total).backward()


def test_a_value_that_does_not_vary_over_the_batch_is_refused():
    with pytest.raises(ValueError, match="surrogate must return one value per sample"):
        RELAX(nn.Sequential(nn.Linear(3, 1), nn.Flatten(0)))(
            LogisticBernoulli(torch.zeros(2, 5, 3, requires_grad=True)), total
        )


def in_place(b):
    if not b.requires_grad:
        b.numpy()[...] = 0
    return torch.ones(b.shape[:-1])


@pytest.mark.parametrize("name", ["reinforce", "nvil", "rloo", "disarm", "arms", "relax", "dlax", "exact_correction"])
def test_f_may_write_into_its_samples(name):
    logits = torch.zeros(2000, 1)
    kwargs = {"samples": 4} if name in ("rloo", "arms") else {}
    grads = [
        make(name, LogisticBernoulli(logits), **kwargs)(
            LogisticBernoulli(logits), f, torch.Generator().manual_seed(0)
        ).grad
        for f in (in_place, lambda b: torch.ones(b.shape[:-1]))
    ]
    assert torch.equal(*grads)


def test_f_may_write_into_its_samples_of_one_hots():
    q = GumbelOneHot(torch.zeros(2000, 1, 3))
    f = lambda b: in_place(b.flatten(-2))  # noqa: E731
    assert Reinforce()(q, f, torch.Generator().manual_seed(0)).grad.mean(0).abs().max() < 0.1
    assert RLOO(3)(q, f, torch.Generator().manual_seed(0)).grad.abs().max() == 0


def test_a_context_in_the_generators_place():
    with pytest.raises(TypeError, match=r"generator must be a torch\.Generator; got Tensor.*context=h"):
        Reinforce()(BITS, total, torch.zeros(5, 2))


def test_a_black_box_of_normals_is_told_what_takes_normals():
    with pytest.raises(TypeError, match="LAX for continuous samples"):
        Reparam()(NORMALS, lambda b: (b > 0).sum(-1))


def test_a_surrogate_that_does_not_read_its_sample():
    """RuntimeError of autograd before; and a slope of 0 would be biased where z is read, but detached."""
    inside = nn.Linear(3, 1)

    class OfContext(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.Linear(2, 1)

        def forward(self, z, context):
            return self.net(context).squeeze(-1)

    class Detached(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = inside

        def forward(self, z):
            return self.net(z.detach()).squeeze(-1)

    told = r"no graph to its sample z.*NVIL\(baseline\)"
    for estimator, q in ((LAX, NORMALS), (RELAX, BITS), (DLAX, BITS), (CurvatureLAX, NORMALS)):
        with pytest.raises(ValueError, match=told):
            estimator(OfContext())(q, total, context=torch.ones(5, 2))
        with pytest.raises(ValueError, match=told):
            estimator(Detached())(q, total)
        with pytest.raises(ValueError, match=told):
            estimator(lambda z: torch.ones(z.shape[:-1]))(q, total)


def writes(part, by_numpy=True):
    """f of two layers that sets one layer's sample to 0."""

    def f(*b):
        value = b[0].sum(-1) + b[1].sum(-1)
        if by_numpy:
            b[part].detach().numpy()[...] = 0
        else:
            b[part].zero_()
        return value

    return f


@pytest.mark.parametrize("part", [0, 1])
@pytest.mark.parametrize("by_numpy", [True, False])
@pytest.mark.parametrize("name", ["reinforce", "nvil", "rloo", "relax", "rebar", "joint", "flat"])
def test_f_may_not_write_into_samples_of_layers(name, part, by_numpy):
    """In plain estimators f gets a copy; in layered() the layers and f share their samples."""
    logits = torch.zeros(50, 3, requires_grad=True)
    net = nn.Linear(3, 3)
    layers = [lambda: LogisticBernoulli(logits), lambda b: LogisticBernoulli(net(b))]
    if name in ("joint", "flat"):
        estimators, flatten = RLOO(2), name == "flat"
    else:
        estimators, flatten = [make(name, LogisticBernoulli(logits)) for _ in layers], False
    with pytest.raises(ValueError, match=rf"f has written into the sample of layer {part}.*b\.clone\(\)"):
        layered(layers, estimators, writes(part, by_numpy), flatten=flatten)
    layered(layers, estimators, lambda *b: writes(part, by_numpy)(*(x.clone() for x in b)), flatten=flatten).backward()
    assert logits.grad.abs().max() > 0


def test_a_layer_may_not_write_into_the_samples_below():
    logits = torch.zeros(50, 3, requires_grad=True)

    def above(b):
        theta = 2 * b
        b.numpy()[...] = 0
        return LogisticBernoulli(theta)

    with pytest.raises(ValueError, match="layer 1 has written into the sample of layer 0"):
        layered([lambda: LogisticBernoulli(logits), above], RLOO(2), lambda a, b: (a + b).sum(-1))

    def step(state, b):
        if b is not None:
            b.zero_()
        return LogisticBernoulli(logits), state

    with pytest.raises(ValueError, match="layer 1 has written into the sample of layer 0"):
        layered([step, step], [NVIL(), NVIL()], lambda state, a, b: (a + b).sum(-1), state=())


class Comparing(TorchDispatchMode):
    """Counts what samples are looked after by."""

    def __init__(self):
        super().__init__()
        self.calls = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.calls += func in (torch.ops.aten.equal.default, torch.ops.aten.clone.default)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("estimators", ["joint", "one a layer"])
@pytest.mark.parametrize("costs", [True, False])
def test_samples_of_twice_the_layers_are_compared_twice_as_often(estimators, costs):
    """With a state, T steps cost T steps."""
    logits = torch.zeros(4, 2, requires_grad=True)

    def step(state, b):
        return LogisticBernoulli(logits if b is None else logits + b), state

    def calls(length):
        f = [lambda state, *b: b[-1].sum(-1)] * length if costs else (lambda state, *b: b[-1].sum(-1))
        with Comparing() as comparing:
            layered([step] * length, RLOO(2) if estimators == "joint" else [NVIL()] * length, f, state=())
        return comparing.calls

    short, middle, long = (calls(length) for length in (4, 8, 12))
    assert long - middle == middle - short > 0


@pytest.mark.parametrize("name", ["rloo", "nvil", "joint"])
def test_a_cost_or_a_layers_state_may_not_write_into_samples(name):
    logits = torch.zeros(4, 2, requires_grad=True)
    estimators = RLOO(2) if name == "joint" else [make(name, LogisticBernoulli(logits)) for _ in range(3)]

    def add_up(*b):
        return sum(b).sum(-1)

    def writes(*b):
        value = add_up(*b)
        b[0].detach().numpy()[...] = 2
        return value

    layers = [lambda *b: LogisticBernoulli(logits.expand_as(b[-1]) if b else logits)] * 3
    with pytest.raises(ValueError, match="a cost has written into the sample of layer 0"):
        layered(layers, estimators, [add_up, writes, add_up])

    def step(state, b):
        if len(state) == 2:
            state[0].numpy()[...] = 2  # when it is no longer the layer below
        return LogisticBernoulli(logits), state if b is None else [*state, b]

    with pytest.raises(ValueError, match="a layer that has it from its state, has written into the sample of layer 0"):
        layered([step] * 4, [NVIL()] * 4, lambda state, *b: add_up(*b), state=[])


class Overflowing(Gaussian):
    def at_noise(self, noise):
        return super().at_noise(noise) - torch.inf + torch.inf


def test_a_sample_that_is_no_number_was_not_written_into():
    """An f of it is refused for its value."""
    q = Overflowing(torch.zeros(4, 2, requires_grad=True), torch.zeros(4, 2))
    layers = [lambda: q, lambda b: LogisticBernoulli(b.nan_to_num())]
    with pytest.raises(ValueError, match=r"f\(b\) must be finite; got nan"):
        layered(layers, [NVIL(), NVIL()], lambda a, b: (a + b).sum(-1))


class NotANumber(nn.Module):
    def forward(self, z):
        return 0 / torch.zeros(()) * total(z)


def test_a_c_that_is_no_number_is_named():
    """f and θ were looked at before."""
    estimate = make("relax", BITS, surrogate=NotANumber())(BITS, total)
    with pytest.raises(ValueError, match=r"ĝ must be finite; got nan at index \(0, 0\): .* the control variate"):
        estimate.backward()


def steps_of(q, estimator, optimizer, steps, f=total):
    """Training by an optimizer that may not have φ."""
    for _ in range(steps):
        optimizer.zero_grad()
        estimator(q, f).backward()
        optimizer.step()


def losses_of(estimate, steps=6):
    for _ in range(steps):
        estimate().loss().backward()


def test_a_phi_that_no_optimizer_has(monkeypatch):
    """Nothing but the variance would tell."""
    monkeypatch.setattr(unstepped, "PATIENCE", 5)
    q = LogisticBernoulli(torch.zeros(5, 3, requires_grad=True))
    relax = make("relax", q)
    only_theta = torch.optim.Adam([q.theta], lr=0.01)
    with pytest.warns(UserWarning, match=r"RELAX has had gradients .* 5 backward passes.*estimator\.parameters\(\)"):
        steps_of(q, relax, only_theta, 6)
    with warnings.catch_warnings():  # once
        warnings.simplefilter("error")
        steps_of(q, relax, only_theta, 12)
    layer = make("relax", q)
    with pytest.warns(UserWarning, match="RELAX has had gradients"):
        losses_of(lambda: layered([lambda: q], [layer], total))
    nvil = make("nvil", q, context=2)
    with pytest.warns(UserWarning, match="NVIL has had gradients"):
        losses_of(lambda: nvil(q, total, context=torch.ones(5, 2)))
    two_phase = make("relax", q)
    with pytest.warns(UserWarning, match="RELAX has had gradients"):
        losses_of(lambda: finished(two_phase, q))
    apart = PerVariable(make("relax", q.each_variable()))
    with pytest.warns(UserWarning, match="PerVariable has had gradients"):
        losses_of(lambda: apart.finish(q, b := q.sample(), b))


def finished(estimator, q):
    b = estimator.draw(q)
    return estimator.finish(q, b, total(b))


@pytest.mark.parametrize("by", ["loss", "backward", "losses", "finished"])
def test_estimates_of_one_backward_pass_are_one_pass(by, monkeypatch):
    """Seven layers of one estimator."""
    monkeypatch.setattr(unstepped, "PATIENCE", 5)
    q = LogisticBernoulli(torch.zeros(5, 3, requires_grad=True))
    relax = make("relax", q)

    def one_pass():
        if by == "losses":
            sum(relax(q, total).loss() for _ in range(7)).backward()
        elif by == "finished":
            sum(finished(relax, q).loss() for _ in range(7)).backward()
        else:
            estimate = layered([lambda *b: q] * 7, [relax] * 7, lambda *b: sum(b).sum(-1))
            estimate.backward() if by == "backward" else estimate.loss().backward()

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(5):
            one_pass()
    with pytest.warns(UserWarning, match=r"RELAX has had gradients .* 5 backward passes"):
        one_pass()


def test_phi_that_its_owner_steps_need_not_move(monkeypatch):
    """As of control variates of reinforcement learning: they take φ's gradients, and never call backward."""
    monkeypatch.setattr(unstepped, "PATIENCE", 5)
    q = LogisticBernoulli(torch.zeros(5, 3, requires_grad=True))
    relax, nvil = make("relax", q), make("nvil", q, context=2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(12):
            for estimate in (finished(relax, q), nvil(q, total, context=torch.ones(5, 2))):
                estimate.phi_gradients(estimate.phi)
                estimate.learn()  # statistics alone: the graph to φ has been used
    assert bool(nvil.seen)


@pytest.mark.parametrize("case", ["stepped", "by hand", "fused", "frozen", "eval", "no phi", "flat", "now and then"])
def test_a_phi_that_need_not_be_stepped_or_is(case, monkeypatch):
    monkeypatch.setattr(unstepped, "PATIENCE", 5)
    q = LogisticBernoulli(torch.zeros(5, 3, requires_grad=True))
    relax = make("reinforce", q) if case == "no phi" else make("relax", q)
    parameters = [q.theta, *relax.parameters()]
    optimizer = torch.optim.Adam(parameters if case in ("stepped", "fused") else [q.theta], fused=case == "fused")
    if case == "frozen":
        relax.requires_grad_(False)
    if case == "eval":
        relax.eval()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        if case == "flat":  # nothing to learn: Adam would not move φ either
            steps_of(q, make("relax", q, center=False), optimizer, 20, lambda b: 0 * b.sum(-1))
            return
        for step in range(20):
            steps_of(q, relax, optimizer, 1)
            if case == "by hand" or (case == "now and then" and step % 4 == 0):
                for p in relax.parameters():
                    p.data = p.data - 0.01 * p.grad


@pytest.mark.parametrize("who", ["layer 1", "f"])
@pytest.mark.parametrize("name", ["nvil", "relax", "rloo"])
def test_a_state_that_is_changed_in_place_is_refused(name, who):
    """The context of an earlier layer may be this very tensor."""
    theta = torch.zeros(5, 1, requires_grad=True)

    def step(state, b):
        if b is None:
            state = state + 1
        elif who == "layer 1":
            state += b
        else:
            state = state + b
        q = LogisticBernoulli(theta + 0.1 * state.detach())
        return q.with_context(state) if name != "rloo" else q, state

    def f(state, *b):
        if who == "f":
            state *= 2
        return sum(b).sum(-1) + state.sum(-1)

    like = LogisticBernoulli(theta)
    context = {} if name == "rloo" else {"context": 1}
    each = [make(name, like, **context) for _ in range(2)]
    with pytest.raises(ValueError, match=rf"^{who} has changed the state that it was given in place"):
        layered([step] * 2, each, f, state=torch.zeros(5, 1))
