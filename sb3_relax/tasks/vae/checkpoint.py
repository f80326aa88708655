"""Checkpoints of a run of the VAE."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from sb3_relax.tasks import checkpoint
from sb3_relax.tasks.checkpoint import save

__all__ = ["KEYS", "load", "save"]

#: what every version has written
KEYS = {"config", "processes", "iteration", "model", "estimators", "optimizer", "shift", "history", "seconds"}


def load(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """As :func:`sb3_relax.tasks.checkpoint.load`, of a run of the VAE."""
    return checkpoint.load(path, KEYS, device)
