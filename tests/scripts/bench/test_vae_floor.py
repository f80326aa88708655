"""What an iteration of the VAE is made of."""

import json

import pytest
import torch

from scripts.bench import vae_floor
from tests.scripts.command import script


def test_products_are_seen_backward_too():
    x, weight = torch.randn(3, 5), torch.randn(7, 5, requires_grad=True)
    with vae_floor.Products() as products:
        (x @ weight.T).sum().backward()
    assert sum(products.seen.values()) == 2  # forward, and the weight's gradient
    assert vae_floor.floating_point_operations(products.seen) == 2 * 2 * 3 * 5 * 7


def test_matrices_lie_in_memory_as_those_that_were_seen():
    seen = torch.randn(4, 6).T
    made = vae_floor.matrix(*seen.shape, *seen.stride(), seeds=1)
    assert (made.shape, made.stride()) == (seen.shape, seen.stride())
    assert vae_floor.matrix(*seen.shape, *seen.stride(), seeds=3).shape == (3, 6, 4)


@pytest.mark.slow
def test_vae_floor(tmp_path, monkeypatch):
    script("bench.vae_floor", "--rounds", 1, "--seeds", 2, "--output", tmp_path)
    rows = json.loads((tmp_path / "vae" / "floor.json").read_text())["rows"]
    assert [row["estimator"] for row in rows] == [*vae_floor.ESTIMATORS]
    assert all(row["over_floor"]["plain"] > 1 for row in rows)
