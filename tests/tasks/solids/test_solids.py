"""Solids: what is rendered is where it is said to be, how likeness is told, and that a run trains."""

import json

import numpy as np
import pytest
import torch

from sb3_relax import optional
from sb3_relax.tasks.guessing.scenes import Scenes
from sb3_relax.tasks.solids import scenes
from sb3_relax.tasks.solids.__main__ import main as solids
from sb3_relax.tasks.solids.problem import Solids, SolidsConfig
from sb3_relax.tasks.solids.scenes import PIXELS, SHAPES, likeness, render, world

pytestmark = pytest.mark.usefixtures("quick")


@pytest.fixture
def few(monkeypatch):
    """A few scenes of each split, which other tests do not get."""
    pytest.importorskip("mitsuba")
    monkeypatch.setattr(scenes, "COUNTS", {"train": 12, "validation": 6, "test": 6})
    scenes.split_of.cache_clear()
    yield
    scenes.split_of.cache_clear()


def shown(x, y, shape="sphere", log_size=0.0):
    """A picture, and the middle of what differs from the empty floor: row and column."""
    picture = render(np.array([x, y, log_size], dtype=np.float32), np.array(SHAPES.index(shape)))
    rows, columns = np.nonzero(np.abs(picture - world().empty).sum(-1) > 0.02)
    return picture, rows.mean(), columns.mean(), len(rows)


@pytest.mark.usefixtures("few")
def test_a_solid_is_where_it_is_said_to_be():
    _, row, column, size = shown(0, 0)
    assert shown(0.5, 0)[2] > column + 2
    assert shown(0, 0.5)[1] < row - 2  # farther away is higher up
    assert shown(0, 0, log_size=0.3)[3] > 1.3 * size
    assert np.array_equal(shown(0.2, 0.1, "cube")[0], shown(0.2, 0.1, "cube")[0])


@pytest.mark.usefixtures("few")
def test_solids_throw_shadows_and_have_a_texture():
    picture, *_ = shown(0, 0, "cube")
    assert ((picture < 0.01).all(-1) & (world().empty > 0.05).all(-1)).sum() > 5
    red, yellow = (picture[..., 0] > 3 * picture[..., 1]), (picture[..., 1] > 2 * picture[..., 2])
    assert red.sum() > 5
    assert (yellow & ~red).sum() > 5


@pytest.mark.usefixtures("few")
def test_likeness():
    place = np.array([[0, 0, 0], [0.1, 0, 0], [0.6, 0.6, -0.3], [-0.6, -0.6, -0.3]], dtype=np.float32)
    pictures = render(place, np.zeros(4, dtype=np.int64))
    assert pictures.shape == (4, PIXELS, PIXELS, 3)
    assert np.allclose(likeness(pictures, pictures), 1)
    near, far, apart = likeness(pictures[0], pictures[1]), likeness(pictures[0], pictures[2]), likeness(*pictures[2:])
    assert 0.95 > near > far >= 0
    assert apart == pytest.approx(0, abs=1e-6)
    assert likeness(pictures[:, None], pictures).shape == (4, 4)
    assert likeness(world().empty, world().empty) == 0


@pytest.mark.usefixtures("few")
def test_solids_of_any_size_are_drawn():
    place = np.array([[1e4, -1e4, 1e4], [0, 0, -1e4]], dtype=np.float32)
    assert np.isfinite(render(place, np.array([1, 2]))).all()


@pytest.mark.usefixtures("few")
def test_scenes_are_always_the_same():
    train = scenes.split_of("train")
    assert np.array_equal(train.picture.numpy(), render(train.place.numpy(), train.shape.numpy()))
    one = train.picture.clone()
    scenes.split_of.cache_clear()
    assert torch.equal(scenes.split_of("train").picture, one)
    assert not torch.equal(scenes.split_of("test").place, scenes.split_of("validation").place)


@pytest.mark.usefixtures("few")
def test_what_is_measured_is_the_likeliest_guess():
    torch.manual_seed(0)
    problem = Solids(SolidsConfig())
    batch = Scenes(*(x[:1].expand(3, *x.shape[1:]) for x in problem.held_out("test")))
    with torch.no_grad():
        for layer in (problem.model.place, problem.model.shape):
            layer.weight.zero_()
            layer.bias.zero_()
        problem.model.place.bias[:3] = batch.place[0]
        problem.model.shape.bias[batch.shape[0]] = 0.01
    measured = problem.measure(batch, torch.Generator())
    assert measured == {"likeness": pytest.approx(1), "shape_accuracy": 1.0}


@pytest.mark.usefixtures("few")
def test_the_command(tmp_path, capsys):
    tiny = ["--calls", "40", "--batch-size", "4", "--estimator", "relax", "rloo", "--seeds", "1"]
    solids([*tiny, "--output", str(tmp_path)])
    assert [run["estimator"] for run in json.loads((tmp_path / "record.json").read_text())["runs"]] == ["relax", "rloo"]
    assert len(list((tmp_path / "pictures").iterdir())) == 2
    assert "likeness, area" in capsys.readouterr().out


def test_without_mitsuba_the_extra_is_named(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(optional, "find_spec", lambda name: None)
    scenes.world.cache_clear()
    scenes.split_of.cache_clear()
    with pytest.raises(SystemExit):
        solids(["--output", str(tmp_path)])
    assert "mitsuba not installed: pip install 'sb3_relax[mitsuba]'" in capsys.readouterr().err


@pytest.mark.usefixtures("few")
def test_networks_see_what_differs_from_the_floor():
    """As it is in pictures, the floor is most of what drives a network, and its guesses soon leave the picture."""
    problem = Solids(SolidsConfig())
    assert (problem.seen(torch.from_numpy(world().empty)) == 0).all()
    scenes.COUNTS["train"] = 200
    scenes.split_of.cache_clear()
    seen = problem.seen(scenes.split_of("train").picture)
    assert 0.9 < seen.std() < 1.1
    shown_by_model = problem.model(seen).context[:, : problem.pixels]
    assert torch.equal(shown_by_model, seen.flatten(1))
    drawn, _ = problem.reconstruct(problem.held_out("test"))
    assert drawn.max() <= 1  # what is compared is the picture itself


@pytest.mark.usefixtures("few")
def test_the_places_gradient_is_kept_from_the_shapes_network():
    """In shared layers the noise of the place, 1/σ times the shape's, drowned what tells shapes apart."""
    torch.manual_seed(0)
    problem = Solids(SolidsConfig())
    guess = problem.model(problem.seen(problem.held_out("test").picture))
    guess.parts["place"].theta.square().sum().backward(retain_graph=True)
    moved = {name for name, p in problem.model.named_parameters() if p.grad is not None and p.grad.any()}
    assert {name.split(".")[0] for name in moved} == {"hidden", "place"}
    problem.model.zero_grad()
    guess.parts["shape"].theta.square().sum().backward()
    moved = {name for name, p in problem.model.named_parameters() if p.grad is not None and p.grad.any()}
    assert {name.split(".")[0] for name in moved} == {"hidden_of_shape", "shape"}
