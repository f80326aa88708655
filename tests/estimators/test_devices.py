"""Every tensor is made on θ's device: on a device without numbers everywhere, and on CUDA where there is one."""

import pytest
import torch
from torch import nn

from sb3_relax.estimators import (
    ESTIMATORS,
    Estimate,
    Gaussian,
    GumbelOneHot,
    Implicit,
    Joint,
    KSubset,
    LogisticBernoulli,
    PerVariable,
    Reinforce,
    bias_z_scores,
    estimators_of,
    exact_gradient,
    layered,
    make,
)
from sb3_relax.estimators.checks import unchecked

#: the device that knows shapes and no numbers: an operation of a tensor on it and of one that was made without
#: ``device=`` is refused, as it is on CUDA
NOWHERE = torch.device("meta")
N = 6

#: name → (shape of what makes θ, latent of it)
LATENTS = {
    "bits": ((3,), LogisticBernoulli),
    "classes": ((2, 3), GumbelOneHot),
    "masked": ((2, 3), lambda theta: GumbelOneHot(theta, theta.new_tensor([[1, 1, 0], [1, 1, 1]]).bool())),
    "gaussian": ((3, 2), lambda theta: Gaussian(theta[..., 0], theta[..., 1])),
    "gamma": ((3, 2), lambda theta: Implicit(torch.distributions.Gamma(*theta.exp().unbind(-1), validate_args=False))),
    "subset": ((4,), lambda theta: KSubset(theta, 2)),
    "joint": (
        (7,),
        lambda theta: Joint(
            at=Gaussian(theta[..., :2], theta[..., 2:4]), what=GumbelOneHot(theta[..., 4:].unsqueeze(-2))
        ),
    ),
}
PAIRS = [(name, kind) for name, (shape, of) in LATENTS.items() for kind in estimators_of(of(torch.zeros(shape)))]


def problem(latent_name, device):
    shape, of = LATENTS[latent_name]
    weights = torch.zeros(N, *shape, device=device, requires_grad=True)
    return weights, of(weights)


@pytest.fixture
def nowhere(monkeypatch):
    """What asks for numbers is left out, and so is autocast, of which torch knows nothing on such a device."""
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda kind: False)
    monkeypatch.setattr(torch.distributions.Distribution, "_validate_args", False)
    with unchecked():
        yield


def square(q):
    """f, which sees that samples come on θ's device."""

    def f(b):
        assert b.device == q.theta.device
        return b.flatten(-q.sample_ndim).square().sum(-1)

    return f


#: slopes of Gamma's samples, which torch does not have on that device, and lists of the classes that a mask allows
ONLY_WITH_NUMBERS = [("gamma", "reparam"), ("gamma", "lax"), ("masked", "exact"), ("masked", "exact_correction")]


@pytest.mark.usefixtures("nowhere")
@pytest.mark.parametrize(("latent_name", "name"), [pair for pair in PAIRS if pair not in ONLY_WITH_NUMBERS])
@pytest.mark.parametrize("how", ["backward", "loss"])
def test_nothing_is_made_elsewhere(latent_name, name, how):
    weights, q = problem(latent_name, NOWHERE)
    estimator = make(name, q)
    estimate = estimator(q, square(q))
    if how == "backward":
        estimate.backward()
    else:
        (2 * estimate.loss()).backward()
    tensors = (estimate.grad, estimate.value, weights.grad, *(p.grad for p in estimator.parameters()))
    assert {tensor.device for tensor in tensors if tensor is not None} == {NOWHERE}
    assert weights.grad is not None


@pytest.mark.usefixtures("nowhere")
@pytest.mark.parametrize("latent_name", LATENTS)
def test_what_a_latent_has_is_where_it_is(latent_name):
    _, q = problem(latent_name, NOWHERE)
    b = q.sample()
    assert {x.device for x in (b, q.log_prob(b), q.score(b), q.mean(), q.mode(), q.entropy(), q.kl(q))} == {NOWHERE}
    assert q.select(0).theta.device == q.expand(2).sample().device == NOWHERE


@pytest.mark.usefixtures("nowhere")
@pytest.mark.parametrize("names", [("relax", "relax"), ("rloo", "rebar"), ("concrete", "concrete"), "rloo"])
def test_layers_make_nothing_elsewhere(names):
    weights, q = problem("bits", NOWHERE)
    net = nn.Linear(3, 3, device=NOWHERE)
    estimators = make(names, q) if isinstance(names, str) else [make(name, q) for name in names]
    layers = [lambda: q, lambda b: LogisticBernoulli(net(b))]
    layered(layers, estimators, lambda a, b: (a * b).sum(-1)).backward()
    assert weights.grad.device == net.weight.grad.device == NOWHERE


@pytest.mark.usefixtures("nowhere")
def test_costs_of_variables_make_nothing_elsewhere():
    weights, q = problem("classes", NOWHERE)
    PerVariable(make("relax", q.each_variable()))(q, lambda b: b.square().sum(-1)).backward()
    assert weights.grad.device == NOWHERE


class MadeOnTheCPU(Reinforce):
    """The mistake that these tests are for."""

    def of_value(self, latent, b, value, noise):
        estimate = super().of_value(latent, b, value, noise)
        return Estimate(latent, value, estimate.grad + torch.zeros(estimate.grad.shape))


@pytest.mark.usefixtures("nowhere")
def test_a_tensor_made_elsewhere_is_seen():
    _, q = problem("bits", NOWHERE)
    with pytest.raises(RuntimeError, match="not on the expected device meta"):
        MadeOnTheCPU()(q, square(q))


cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")


@cuda
@pytest.mark.parametrize(("latent_name", "name"), PAIRS)
def test_on_cuda_every_estimator_gives_a_finite_gradient_there(latent_name, name):
    weights, q = problem(latent_name, torch.device("cuda"))
    estimator = make(name, q)
    estimate = estimator(q, square(q), torch.Generator("cuda").manual_seed(0))
    estimate.backward()
    tensors = [estimate.grad, estimate.value, weights.grad, *estimator.buffers(), *estimator.parameters()]
    tensors += [p.grad for p in estimator.parameters() if p.grad is not None]
    assert {tensor.device.type for tensor in tensors} == {"cuda"}
    assert all(tensor.isfinite().all() for tensor in tensors)


#: what can be enumerated, or integrated, and whose estimators draw; VIMCO's target is a bound
DRAWN = [
    (latent_name, name)
    for latent_name, name in PAIRS
    if ESTIMATORS[name].unbiased and latent_name != "gamma" and name not in ("vimco", "exact")
]


def of_b(q, weights):
    return lambda b: (b.flatten(-q.sample_ndim) @ weights).sin()


@cuda
@pytest.mark.parametrize(("latent_name", "name"), DRAWN)
def test_on_cuda_the_mean_is_the_cpus_exact_gradient(latent_name, name):
    """Enumerated on the CPU, and drawn on CUDA."""
    shape, of = LATENTS[latent_name]
    made_of = 0.5 * torch.randn(shape, generator=torch.Generator().manual_seed(0)).double()
    q = of(made_of)
    weights = torch.linspace(0.5, 1.5, q.sample_shape.numel(), dtype=torch.float64)
    exact = exact_gradient(q, of_b(q, weights)).total
    there = of(made_of.cuda())
    generator = torch.Generator("cuda").manual_seed(1)
    f = of_b(there, weights.cuda())
    z = bias_z_scores(make(name, there), there, f, exact.cuda(), 50_000, generator)
    assert z.device.type == "cuda"
    known = z[z.isfinite()]
    assert len(known) > 0
    assert known.abs().max() < 5


@cuda
def test_on_cuda_exact_is_the_cpus():
    for latent_name in ("bits", "classes", "subset"):
        _, q = problem(latent_name, torch.device("cpu"))
        _, there = problem(latent_name, torch.device("cuda"))
        ours, theirs = (make("exact", latent)(latent, square(latent)).grad for latent in (there, q))
        assert torch.allclose(ours.cpu(), theirs, atol=1e-6)
