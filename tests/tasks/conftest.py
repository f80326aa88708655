"""Runs that take a moment."""

import pytest
import torch

from sb3_relax.tasks import trainer


@pytest.fixture
def quick(monkeypatch):
    """Few gradients behind a variance, few measurements; and torch as it was, which commands set for themselves."""
    monkeypatch.setattr(trainer, "REPEATS", 3)
    monkeypatch.setattr(trainer, "PARTS", 4)
    monkeypatch.setattr(trainer, "STATES", {"early": 1, "late": 4})
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    torch.set_flush_denormal(False)
