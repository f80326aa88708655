"""Checkpoints that are whole or absent, whenever the process dies."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch


def save(path: Path, state: dict[str, Any]) -> None:
    """Write a state: to a file beside it, to the disk, and only then in its place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    with open(partial, "wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the new name too
    finally:
        os.close(folder)


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
