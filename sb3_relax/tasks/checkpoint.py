"""Checkpoints that are whole or absent, whenever the process dies, and that are checked before they are used."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Set
from pathlib import Path
from typing import Any

import torch

from sb3_relax.files import NotWhole, read_archive, sealed, write_whole

#: the member of the archive that torch wrote
STATE = "state.pth"


def save(path: Path, state: dict[str, Any]) -> None:
    """Write a state, whole or not at all."""
    written = io.BytesIO()
    torch.save(state, written)
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as members:
        members.writestr(STATE, written.getvalue())
    write_whole(path, sealed(archive.getvalue()))


def load(path: Path, keys: Set[str], device: torch.device | str = "cpu") -> dict[str, Any]:
    """Read a state. Its digest is checked first; a checkpoint of earlier versions has a CRC-32 of each tensor instead.

    :param keys: what the state must have
    :raises ValueError: for a file that is no checkpoint, or no longer whole, saying what to do
    """
    content = path.read_bytes()
    try:
        members = read_archive(content)
        # earlier versions wrote torch's archive alone, which has several members
        state = read_archive(content, needs_digest=True)[STATE] if STATE in members else content
        loaded = torch.load(io.BytesIO(state), map_location=device, weights_only=True)
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # what is no pickle raises whatever its first bytes happen to ask for
        kind = "" if isinstance(error, NotWhole) else f"{type(error).__name__}: "
        reason = f"{kind}{error}".splitlines()[0]
        raise ValueError(f"{path} is damaged or no checkpoint ({reason}); delete it to start anew") from error
    if not isinstance(loaded, dict) or not loaded.keys() >= keys:
        raise ValueError(f"{path} is no checkpoint of a run; delete it to start anew")
    return loaded
