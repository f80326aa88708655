"""Checkpoints that are whole or absent, whenever the process dies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from sb3_relax.files import write_atomically


def save(path: Path, state: dict[str, Any]) -> None:
    """Write a state, whole or not at all."""
    with write_atomically(path) as file:
        torch.save(state, file)


def load(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Read a state.

    :raises ValueError: for a file that is no checkpoint, saying what to do
    """
    try:
        state = torch.load(path, map_location=device, weights_only=True)
    except (OSError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # what is no pickle raises whatever its first bytes happen to ask for
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise ValueError(f"{path} is damaged or no checkpoint ({reason}); delete it to start anew") from error
    if not isinstance(state, dict) or "config" not in state:
        raise ValueError(f"{path} is no checkpoint of a run; delete it to start anew")
    return state
