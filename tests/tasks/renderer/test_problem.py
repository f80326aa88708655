"""Inverse graphics: unbiased gradients of a mixed latent, a bonus that falls to 0, and what is measured."""

import matplotlib.image
import numpy as np
import pytest
import torch

from sb3_relax.estimators import RELAX
from sb3_relax.estimators.latents import ConditionedJoint
from sb3_relax.tasks.guessing.model import NARROWEST, WIDEST, OfGuess
from sb3_relax.tasks.guessing.problem import GuessingConfig
from sb3_relax.tasks.guessing.scenes import Scenes
from sb3_relax.tasks.problem import CASES, WITHOUT_EXACT
from sb3_relax.tasks.renderer.figures import MISSING, TOO_MUCH, draw_reconstructions
from sb3_relax.tasks.renderer.problem import Renderer
from sb3_relax.tasks.renderer.scenes import scenes


def problem(**settings):
    torch.manual_seed(0)
    return Renderer(GuessingConfig(**settings))


def gradients(renderer):
    return torch.cat([weight.grad.flatten() for weight in renderer.model.parameters()])


def learned():
    """RELAX with a c that is not 0."""
    torch.manual_seed(1)
    c = OfGuess(576)
    for layer in (c.drawn, c.alone):
        torch.nn.init.normal_(layer.weight, std=0.3)
    return RELAX(c)


def mean_and_error(renderer, estimator, batch, generator):
    means = []
    for _ in range(30):
        renderer.model.zero_grad()
        renderer.estimate(estimator, batch, generator).backward()
        means.append(gradients(renderer))
    means = torch.stack(means)
    return means.mean(0), means.std(0) / len(means) ** 0.5


def mean_square_of_z():
    """Of RELAX's gradient less RLOO's, over all weights: 1 or so, where both have one mean."""
    renderer = problem()
    one = scenes(1, torch.Generator().manual_seed(0))
    batch = Scenes(*(x.expand(1000, *x.shape[1:]) for x in one))
    generator = torch.Generator().manual_seed(0)
    ours, error = mean_and_error(renderer, learned(), batch, generator)
    theirs, their_error = mean_and_error(renderer, renderer.estimators("rloo"), batch, generator)
    error = (error.square() + their_error.square()).sqrt()
    told = error > 1e-7
    assert told.sum() > 1000
    return ((ours - theirs) / error)[told].square().mean().item()


def test_one_control_variate_of_place_and_shape_is_unbiased():
    assert mean_square_of_z() < 2


def test_a_missing_path_of_the_place_would_be_seen(monkeypatch):
    monkeypatch.setattr(ConditionedJoint, "path_gradient", lambda self, b, slope: torch.zeros_like(self.theta))
    assert mean_square_of_z() > 10


def test_f_is_one_less_the_intersection_over_union():
    renderer = problem()
    batch = renderer.batch(5, torch.Generator().manual_seed(0))
    guess = renderer.model(batch.picture)
    shape = torch.nn.functional.one_hot(batch.shape, 3).float().unsqueeze(1)
    right = guess.pack({"place": batch.place, "shape": shape})
    assert renderer.f(batch, guess, right).tolist() == [0] * 5
    assert (renderer.f(batch, guess, right.roll(1, 0)) > 0.2).all()
    assert renderer.f(batch, guess, torch.stack([right, right.roll(1, 0)])).shape == (2, 5)


def test_the_bonus_is_the_entropys_gradient_and_falls_to_0():
    renderer = problem(entropy=0.5)
    batch = renderer.batch(4, torch.Generator().manual_seed(0))

    def slope(progress):
        renderer.progress = progress
        guess = renderer.model(batch.picture)
        value = renderer.f(batch, guess, guess.mode())
        assert value.ge(0).all()
        assert value.le(1).all()
        (entropy,) = torch.autograd.grad(guess.entropy().sum(), guess.theta, retain_graph=True)
        return torch.autograd.grad(value.sum(), guess.theta)[0], entropy

    for progress in (0.0, 0.25, 1.0):
        of_f, of_entropy = slope(progress)
        assert torch.allclose(of_f, -0.5 * (1 - progress) * of_entropy)
        assert of_entropy.any()


@pytest.mark.parametrize("name", WITHOUT_EXACT)
def test_every_estimator_trains_the_guesser(name):
    renderer = problem()
    batch = renderer.batch(20, torch.Generator().manual_seed(0))
    estimators = renderer.estimators(name)
    for _ in range(2):  # c and the baseline start at 0, and so do the gradients of their first layers
        renderer.model.zero_grad()
        renderer.estimate(estimators, batch, torch.Generator().manual_seed(0)).backward()
        with torch.no_grad():
            for phi in estimators.parameters():
                phi -= 0.01 * phi.grad
    assert all(weight.grad.abs().sum() > 0 for weight in renderer.model.parameters())
    assert all(phi.grad.abs().sum() > 0 for phi in estimators.parameters())


def test_exact_is_refused():
    assert set(CASES) - set(Renderer.cases) == {"exact"}
    with pytest.raises(ValueError, match="renderer takes relax, nvil, rloo, reinforce; got 'exact'"):
        problem().estimators("exact")


def test_widths_have_bounds():
    renderer = problem()
    picture = renderer.batch(3, torch.Generator().manual_seed(0)).picture
    for bias, width in ((-100.0, NARROWEST), (100.0, WIDEST)):
        with torch.no_grad():
            renderer.model.place.bias[3:] = bias
        scale = renderer.model(picture).parts["place"].theta[..., 1].exp()
        assert torch.allclose(scale, torch.tensor(width), rtol=1e-4)


def test_what_is_measured_is_the_likeliest_guess():
    renderer = problem()
    batch = renderer.batch(6, torch.Generator().manual_seed(0))
    batch = Scenes(*(x[:1].expand(6, *x.shape[1:]) for x in batch))
    with torch.no_grad():
        for layer, bias in ((renderer.model.place, batch.place[0]), (renderer.model.shape, torch.zeros(3))):
            layer.weight.zero_()
            layer.bias[:3] = bias
        renderer.model.shape.bias[batch.shape[0]] = 0.01
    assert renderer.measure(batch, torch.Generator()) == {"iou": 1.0, "shape_accuracy": 1.0}
    other = batch._replace(shape=(batch.shape + 1) % 3)
    assert renderer.measure(other, torch.Generator())["shape_accuracy"] == 0


def test_splits_are_not_the_same():
    renderer = problem()
    assert not torch.equal(renderer.held_out("test").place, renderer.held_out("validation").place)


def test_the_picture(tmp_path):
    problem().draw(tmp_path / "pictures" / "scenes.png")
    assert (tmp_path / "pictures" / "scenes.png").stat().st_size > 1000


def test_colours_of_the_picture(tmp_path):
    target, guess = np.zeros((2, 1, 4, 4), bool)
    target[0, 1, 1] = guess[0, 2, 2] = True
    draw_reconstructions(tmp_path / "pair.png", target, guess)
    sheet = matplotlib.image.imread(tmp_path / "pair.png")[1::3, 1::3, :3]
    assert sheet.shape == (6, 12, 3)
    assert np.allclose(sheet[2, 2], 1)  # the target
    assert np.allclose(sheet[2, 8], MISSING, atol=0.01)
    assert np.allclose(sheet[3, 9], TOO_MUCH, atol=0.01)


def test_a_negative_weight_is_refused():
    with pytest.raises(ValueError, match="entropy must not be negative; got -1"):
        problem(entropy=-1.0)
