"""``loss()``: as any loss of torch's, and its backward pass is ``backward()``."""

import pytest
import torch
from torch import nn

from sb3_relax.estimators import NVIL, RELAX, LogisticBernoulli, Reinforce, layered, make
from tests.estimators.problems import lively
from tests.estimators.test_contract import Problem, every_pair, seeded


def gradients_of(tensors):
    """Gradients, 0 where there are none, and a clean slate for the next pass."""
    found = [torch.zeros_like(t) if t.grad is None else t.grad for t in tensors]
    for tensor in tensors:
        tensor.grad = None
    return found


def all_close(ours, theirs):
    return all(torch.allclose(a, b, atol=1e-12) for a, b in zip(ours, theirs, strict=True))


@every_pair
def test_it_is_the_backward_pass(latent_name, name, float64):
    problem = Problem(latent_name)
    estimator = problem.estimator(name)
    made, phi = [problem.weights, *problem.net.parameters()], list(estimator.parameters())

    def estimate():
        return estimator(problem.latent, problem.f, seeded())

    saved = {key: value.clone() for key, value in estimator.state_dict().items()}
    estimate().backward(retain_graph=True)
    remembered = {key: value.clone() for key, value in estimator.state_dict().items()}
    expected, expected_phi = gradients_of(made), gradients_of(phi)
    for factor in (1.0, -3.0):
        estimator.load_state_dict(saved)
        one = estimate()
        loss = one.loss()
        assert loss.shape == ()
        assert torch.isclose(loss, one.value.mean())
        (factor * loss).backward(retain_graph=True)
        # φ lowers the variance whichever way θ goes
        assert all_close(gradients_of(made), [factor * g for g in expected])
        assert all_close(gradients_of(phi), [abs(factor) * g for g in expected_phi])
        assert all(torch.equal(estimator.state_dict()[key], remembered[key]) for key in remembered)
        estimator.load_state_dict(saved)
        estimate().backward(weight=factor, retain_graph=True)
        assert all_close(gradients_of(made), [factor * g for g in expected])
        assert all_close(gradients_of(phi), [abs(factor) * g for g in expected_phi])


class Encoder(nn.Module):
    """An encoder, an estimator, and two losses of what the encoder gives."""

    def __init__(self, name="rebar"):
        super().__init__()
        self.net = nn.Linear(3, 4)
        self.decoder = nn.Linear(4, 1)
        settings = {"center": True} if name == "rebar" else {}
        self.estimator = lively(make(name, LogisticBernoulli(torch.zeros(4)), **settings))

    def estimate(self, x, generator=None):
        q = LogisticBernoulli(self.net(x).tanh())
        return q, self.estimator(q, lambda b: self.decoder(b).squeeze(-1).square(), generator or seeded())

    def forward(self, x):
        q, estimate = self.estimate(x)
        return estimate.loss() + 0.1 * q.theta.square().mean()


@pytest.mark.parametrize("name", ["rebar", "relax", "nvil", "rloo", "muprop", "relaxed_double_cv"])
def test_other_losses_in_any_order(name, float64):
    torch.manual_seed(0)
    model, x = Encoder(name), torch.randn(5, 3)
    parameters = list(model.parameters())

    def other(q):
        return 0.1 * q.theta.square().mean()

    model.estimate(x)[1].backward()
    q, _ = model.estimate(x)
    other(q).backward()
    expected = gradients_of(parameters)
    saved = model.state_dict()
    saved = {key: value.clone() for key, value in saved.items()}

    def sum_of_both(q, estimate):
        (other(q) + estimate.loss()).backward()

    def ours_first(q, estimate):
        estimate.backward(retain_graph=True)
        other(q).backward()

    def ours_last(q, estimate):
        other(q).backward(retain_graph=True)
        estimate.backward()

    def made_before(q, estimate):
        loss = estimate.loss()
        other(q).backward(retain_graph=True)
        loss.backward()

    if name == "nvil":  # the statistics of one batch moved the next
        model.estimator.mean.fill_(0.4)
        saved["estimator.mean"] = torch.tensor(0.4)
    if hasattr(model.estimator, "running_mean"):
        saved["estimator.running_mean.mean"] = torch.tensor(0.4)
        saved["estimator.running_mean.batches"] = torch.tensor(0)
    if hasattr(model.estimator, "products"):
        saved["estimator.products"] = make(name, LogisticBernoulli(torch.zeros(4))).products
    for order in (sum_of_both, ours_first, ours_last, made_before):
        model.load_state_dict(saved)
        order(*model.estimate(x))
        assert all_close(gradients_of(parameters), expected), order.__name__


def test_two_estimates_are_two_losses(float64):
    torch.manual_seed(0)
    model, x = Encoder(), torch.randn(5, 3)
    parameters = list(model.parameters())
    theta = model.net(x)
    q = LogisticBernoulli(theta)
    estimates = [model.estimator(q, lambda b: model.decoder(b).squeeze(-1), seeded()) for _ in range(2)]
    (estimates[0].loss() + 2 * estimates[1].loss()).backward()
    found = gradients_of(parameters)
    model.estimator.running_mean.mean.fill_(0.4)
    q = LogisticBernoulli(model.net(x))
    model.estimator(q, lambda b: model.decoder(b).squeeze(-1), seeded()).backward(weight=3)
    assert all_close(found, gradients_of(parameters))


def test_accumulated_gradients(float64):
    """Halves of a batch, each divided by two, are the batch."""
    torch.manual_seed(0)
    model, x = Encoder("reinforce"), torch.randn(6, 3)
    q, _ = model.estimate(x)
    b = q.sample(seeded())

    def finish(part):
        latent = LogisticBernoulli(model.net(x[part]).tanh())
        return model.estimator.finish(latent, b[part], model.decoder(b[part]).squeeze(-1).square())

    finish(slice(None)).backward()
    expected = gradients_of(list(model.parameters()))
    for part in (slice(3), slice(3, 6)):
        (finish(part).loss() / 2).backward()
    assert all_close(gradients_of(list(model.parameters())), expected)


def test_a_grad_scaler_steps_as_without():
    torch.manual_seed(0)
    weights = []
    for scaler in (None, torch.amp.GradScaler("cpu", init_scale=2.0**12)):
        torch.manual_seed(0)
        model, x = Encoder(), torch.randn(5, 3)
        optimizer = torch.optim.Adam(model.parameters(), 0.01)
        for _ in range(3):
            optimizer.zero_grad()
            if scaler is None:
                model(x).backward()
                optimizer.step()
            else:
                scaler.scale(model(x)).backward()
                scaler.step(optimizer)
                scaler.update()
        weights.append([p.detach().clone() for p in model.parameters()])
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(*weights, strict=True))


def test_a_scaled_loss_keeps_what_float16_could_not_tell_from_zero():
    theta = torch.zeros(4096, 2, dtype=torch.float16, requires_grad=True)
    estimate = Reinforce()(LogisticBernoulli(theta), lambda b: 1e-4 * (b.sum(-1) + 1))
    estimate.backward(retain_graph=True)
    (lost,) = gradients_of([theta])
    (2.0**16 * estimate.loss()).backward()
    (kept,) = gradients_of([theta])
    assert lost.abs().max() < 1e-7
    assert torch.allclose(kept.float() / 2**16, estimate.grad.float() / 4096, rtol=0.01)


def test_distributed_data_parallel_sees_every_gradient(tmp_path):
    """Its hooks, here one that doubles, get the gradients of θ's network, of f and of φ alike."""
    torch.manual_seed(0)
    model, x = Encoder(), torch.randn(5, 3)
    model(x).backward()
    expected = [2 * g for g in gradients_of(list(model.parameters()))]
    model.estimator.running_mean.mean.fill_(0.4)
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        parallel = nn.parallel.DistributedDataParallel(model)

        def doubled(_, bucket):
            future = torch.futures.Future()
            future.set_result(2 * bucket.buffer())
            return future

        parallel.register_comm_hook(None, doubled)
        parallel(x).backward()
        found = gradients_of(list(model.parameters()))
    finally:
        torch.distributed.destroy_process_group()
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(found, expected, strict=True))
    assert all(g.abs().max() > 0 for g in found)


@pytest.mark.parametrize(
    "names", [("rebar", "relax"), ("rebar", "rebar"), ("nvil", "double_cv"), ("concrete", "concrete")]
)
def test_layers_have_a_loss_too(names, float64):
    torch.manual_seed(0)
    x, encoder, above = torch.randn(5, 3), nn.Linear(3, 2), nn.Linear(2, 2)
    estimators = nn.ModuleList([lively(make(name, LogisticBernoulli(torch.zeros(2)))) for name in names])
    saved = {key: value.clone() for key, value in estimators.state_dict().items()}
    parameters = [*encoder.parameters(), *above.parameters(), *estimators.parameters()]

    def estimate():
        estimators.load_state_dict(saved)
        h = encoder(x)
        layers = [lambda: LogisticBernoulli(h), lambda b: LogisticBernoulli(above(b) + h)]
        return layered(layers, list(estimators), lambda a, b: (a * b - 0.3 * a + b).sum(-1).square(), seeded())

    estimate().backward()
    expected = gradients_of(parameters)
    one = estimate()
    (-2 * one.loss()).backward(retain_graph=True)
    n = len(list(estimators.parameters()))
    scales = [-2.0] * (len(parameters) - n) + [2.0] * n
    expected = [scale * g for scale, g in zip(scales, expected, strict=True)]
    assert all_close(gradients_of(parameters), expected)
    one.backward(weight=-2)
    assert all_close(gradients_of(parameters), expected)


def test_a_batch_is_remembered_once():
    nvil, latent = NVIL(), LogisticBernoulli(torch.zeros(20, 2, requires_grad=True))
    nvil(latent, lambda b: b.sum(-1)).backward()
    estimate = nvil(latent, lambda b: b.sum(-1) + 7)
    estimate.backward(retain_graph=True)
    mean = nvil.mean.clone()
    estimate.backward(retain_graph=True)
    estimate.loss().backward()
    assert torch.equal(nvil.mean, mean)


def test_without_grad_mode_it_is_a_number():
    latent = LogisticBernoulli(torch.zeros(20, 2, requires_grad=True))
    relax = make("relax", latent)
    estimate = relax(latent, lambda b: b.sum(-1))
    with torch.no_grad():
        assert not estimate.loss().requires_grad
        assert estimate.loss() == estimate.value.mean()
        estimate.backward()  # as torch's own
    assert latent.theta.grad.abs().max() > 0
    assert any(p.grad is not None for p in relax.parameters())


def test_frozen_everywhere_is_refused_in_spite_of_the_running_mean():
    latent = LogisticBernoulli(torch.zeros(20, 2))
    relax = make("relax", latent).requires_grad_(False)
    with pytest.raises(RuntimeError, match="nowhere to put a gradient"):
        relax(latent, lambda b: b.sum(-1)).backward()
    with pytest.raises(RuntimeError, match="does not require grad"):
        relax(latent, lambda b: b.sum(-1)).loss().backward()


def test_parameters_of_phi_may_change_before_the_backward_pass():
    """Its gradient was taken by ``loss()``, as torch's own losses have what they need saved."""
    latent = LogisticBernoulli(torch.zeros(20, 2, requires_grad=True))
    relax = lively(make("relax", latent))
    loss = RELAX(relax.surrogate)(latent, lambda b: b.sum(-1)).loss()
    with torch.no_grad():
        relax.surrogate.output.weight.add_(1)
    loss.backward()
    assert relax.surrogate.output.weight.grad.isfinite().all()
