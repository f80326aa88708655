"""Hard attention: its gradient by enumeration, and what is measured."""

import pytest
import torch

from sb3_relax.tasks.attention.problem import AttentionConfig, make_attention
from sb3_relax.tasks.problem import CASES


def problem(**settings):
    torch.manual_seed(0)
    return make_attention(AttentionConfig(**settings), None, None)


def expected_loss(attention, batch):
    """E[f] of every canvas, over every sequence of cells, with a graph."""
    one_hots = torch.eye(16).unsqueeze(1)

    def below(state, b, log_p, drawn):
        latent, state = attention.step(batch, state, b)
        total = 0
        for cell in one_hots:
            choice = cell.expand(len(batch.view), 1, 16)
            joint = log_p + latent.log_prob(choice)
            if len(drawn) + 1 == attention.glimpses:
                total = total + joint.exp() * attention.f(batch, state, *drawn, choice)
            else:
                total = total + below(state, choice, joint, [*drawn, choice])
        return total

    return below(attention.start(batch), None, torch.zeros(len(batch.view)), [])


def gradients(model):
    return torch.cat([weight.grad.flatten() for weight in model.parameters()])


def test_exact_is_the_gradient_of_the_expected_cross_entropy():
    attention = problem()
    batch = attention.batch(6, torch.Generator().manual_seed(0))
    expected_loss(attention, batch).mean().backward()
    expected = gradients(attention.model)
    attention.model.zero_grad()
    attention.estimate(attention.estimators("exact"), batch, torch.Generator()).backward()
    assert torch.allclose(gradients(attention.model), expected, atol=1e-6)


def mean_square_of_z(attention, name):
    """Of all weights' gradients of one canvas: 1 or so, where their mean over noise is the gradient by enumeration."""
    one = attention.batch(1, torch.Generator().manual_seed(0))
    expected_loss(attention, one).mean().backward()
    expected = gradients(attention.model)
    copies = type(one)(*(x.expand(500, *x.shape[1:]) for x in one))
    estimators, generator, means = attention.estimators(name), torch.Generator().manual_seed(0), []
    for _ in range(20):
        attention.model.zero_grad()
        attention.estimate(estimators, copies, generator).backward()
        means.append(gradients(attention.model))
    means = torch.stack(means)
    error = means.std(0) / len(means) ** 0.5
    told = error > 1e-7
    assert told.sum() > 1000
    return ((means.mean(0) - expected) / error)[told].square().mean().item()


@pytest.mark.parametrize("name", ["relax", "rloo"])
def test_two_glimpses_are_unbiased(name):
    assert mean_square_of_z(problem(glimpses=2, entropy=1.0), name) < 4


def test_a_memory_without_a_graph_would_be_seen(monkeypatch):
    attention = problem(glimpses=2, entropy=1.0)
    step, enumerate_all = attention.step, expected_loss

    def detaching(batch, state, b):
        latent, (known, entropy) = step(batch, state, b)
        return latent, (known.detach(), entropy)

    def then_without(*given):
        loss = enumerate_all(*given)
        attention.step = detaching
        return loss

    monkeypatch.setitem(globals(), "expected_loss", then_without)
    assert mean_square_of_z(attention, "relax") > 40


@pytest.mark.parametrize("glimpses", [1, 3])
@pytest.mark.parametrize("name", CASES)
def test_every_estimator_trains_the_locator_and_the_classifier(name, glimpses):
    attention = problem(glimpses=glimpses)
    if name == "exact" and glimpses > 1:
        with pytest.raises(ValueError, match="exact would visit 4,096 samples of 3 glimpses: it takes one"):
            attention.estimators(name)
        return
    batch = attention.batch(40, torch.Generator().manual_seed(0))
    attention.estimate(attention.estimators(name), batch, torch.Generator().manual_seed(0)).backward()
    assert all(weight.grad.abs().sum() > 0 for weight in attention.model.parameters())


def test_what_is_measured():
    attention = problem()
    batch = attention.held_out("test")
    batch = batch._replace(place=torch.full_like(batch.place, 3), label=torch.full_like(batch.label, 7))
    with torch.no_grad():
        attention.model.place.bias[3] = attention.model.classes.bias[7] = 1e4
    assert attention.measure(batch, torch.Generator()) == {"accuracy": 1.0, "hit_rate": 1.0}
    batch = batch._replace(place=batch.place + 1)
    assert attention.measure(batch, torch.Generator())["hit_rate"] == 0


def test_the_picture(tmp_path):
    problem(glimpses=2).draw(tmp_path / "pictures" / "glimpses.png")
    assert (tmp_path / "pictures" / "glimpses.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"glimpses": 0}, "glimpses must be at least 1; got 0"),
        ({"entropy": -1.0}, "entropy must not be negative; got -1.0"),
        ({"dataset": "omniglot"}, "unknown labelled data set 'omniglot'; there are 'mnist', 'digits'"),
    ],
)
def test_errors(settings, message):
    with pytest.raises(ValueError, match=message):
        problem(**settings)
