"""Canvases: the digit is where it is said to be, and nothing else is more than a fragment."""

import pytest
import torch

from sb3_relax.tasks.attention.canvases import canvases, load_digits, sheets


@pytest.fixture(scope="module")
def digits():
    return load_digits("digits", None, None)["train"]


def drawn(digits, size=300):
    return canvases(digits, torch.arange(size), torch.Generator().manual_seed(0))


def test_the_digit_is_in_its_cell_and_nowhere_else_is_more_than_a_fragment(digits):
    batch = drawn(digits)
    whole = digits.images[:300].flatten(1)
    assert torch.equal(batch.cells[torch.arange(300), batch.place], whole)
    assert torch.equal(batch.label, digits.labels[:300])
    others = batch.cells.clone().reshape(300, 16, 14, 14)
    others[torch.arange(300), batch.place] = 0
    ink = others > 0
    for direction in (-1, -2):
        inked = ink.any(direction)
        first, last = inked.int().argmax(-1), 13 - inked.flip(-1).int().argmax(-1)
        assert ((last - first < 7) | ~inked.any(-1)).all()
    count = ink.flatten(2).any(-1).sum(-1)
    assert set(count.tolist()) == {0, 1, 2, 3, 4}
    assert set(batch.place.tolist()) == set(range(16))


def test_the_view_is_the_canvas_in_small(digits):
    batch = drawn(digits, 5)
    sheet = sheets(batch.cells)
    assert sheet.shape == (5, 56, 56)
    row, column = divmod(batch.place[0].item(), 4)
    cell = sheet[0, 14 * row : 14 * row + 14, 14 * column : 14 * column + 14]
    assert torch.equal(cell, digits.images[0])
    view = batch.view.reshape(5, 8, 8)
    assert view[0, 2 * row, 2 * column] == pytest.approx(cell[:7, :7].mean().item(), abs=1e-6)


def test_everything_comes_of_the_generator(digits):
    assert all(map(torch.equal, drawn(digits), drawn(digits)))


def test_parts_share_no_digit():
    parts = load_digits("digits", None, None)
    assert [len(part.images) for part in parts.values()] == [1297, 200, 300]
    assert all(part.images.shape[1:] == (14, 14) for part in parts.values())
