"""Scenes: what is drawn is where and what it is said to be, with hard edges."""

import numpy as np
import pytest
import torch

from sb3_relax.tasks.renderer.scenes import CENTRES, SHAPES, UNIT, intersection_over_union, rasterise, scenes


def one(x, y, size, shape):
    place = np.array([x, y, np.log(size / UNIT)], dtype=np.float32)
    return rasterise(place, np.array(SHAPES.index(shape)))


def test_a_disc_has_its_radius():
    disc = one(0.25, -0.5, 0.3, "disc")
    inside = (CENTRES - 0.25) ** 2 + (CENTRES[:, None] + 0.5) ** 2 < 0.09
    assert np.array_equal(disc, inside)
    assert inside.sum() == pytest.approx(np.pi * 0.09 * 144, rel=0.1)


@pytest.mark.parametrize(("shape", "columns", "rows"), [("lying bar", 18, 6), ("standing bar", 6, 18)])
def test_a_bar_is_three_sizes_long_and_one_wide(shape, columns, rows):
    bar = one(0, 0, 0.5, shape)
    assert (bar.any(0).sum(), bar.any(1).sum(), bar.sum()) == (columns, rows, columns * rows)
    moved = one(2 / 24, -4 / 24, 0.5, shape)
    assert np.array_equal(moved, np.roll(bar, (-2, 1), (0, 1)))


def test_edges_are_hard():
    assert np.array_equal(one(0.01, 0, 0.5, "lying bar"), one(0.012, 0, 0.5, "lying bar"))


def test_scenes_are_wholly_inside_and_of_all_shapes():
    batch = scenes(2000, torch.Generator().manual_seed(0))
    assert batch.picture.shape == (2000, 24, 24)
    assert batch.shape.bincount().min() > 500
    size = UNIT * batch.place[:, 2].exp()
    assert (size.min() >= 0.199, size.max() <= 0.401, size.std() > 0.05) == (True, True, True)
    assert ((batch.place[:, :2].abs() + 1.5 * size.unsqueeze(-1)) <= 1.0001).all()
    for index, name in enumerate(SHAPES):
        which = int((batch.shape == index).nonzero()[0])
        x, y, log_size = batch.place[which].tolist()
        assert np.array_equal(batch.picture[which].numpy(), one(x, y, UNIT * np.exp(log_size), name))
    assert all(map(torch.equal, batch, scenes(2000, torch.Generator().manual_seed(0))))


def test_intersection_over_union():
    empty, half, whole = np.zeros((4, 4), bool), np.zeros((4, 4), bool), np.ones((4, 4), bool)
    half[:2] = True
    pictures = np.stack([whole, half, empty])
    assert intersection_over_union(pictures, half).tolist() == [0.5, 1, 0]
    assert intersection_over_union(pictures[:, None], pictures).shape == (3, 3)
    assert intersection_over_union(empty, empty) == 0
