"""The streams of random numbers that all of a process draws from."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch as th


def torch_streams(device: th.device) -> dict[str, Any]:
    """Where torch's streams are: the one of the processor and, where ``device`` is a GPU, its own."""
    found = {"torch": th.get_rng_state().numpy()}
    if device.type == "cuda":
        found["cuda"] = th.cuda.get_rng_state(device).numpy()
    return found


def streams_of_process(device: th.device) -> dict[str, Any]:
    """Where Python's, NumPy's and torch's global streams are, as dicts, tuples, numbers and arrays.

    :param device: whose stream is looked at beside that of the processor
    """
    return {
        "python": random.getstate(),
        "numpy": np.random.get_state(legacy=False),  # noqa: NPY002  (the stream that SB3 draws from)
        **torch_streams(device),
    }


def set_streams_of_process(streams: dict[str, Any], device: th.device) -> None:
    """Put the global streams back to where they were.

    :param streams: of :func:`streams_of_process`. A GPU's stream is left out where ``device`` is none, or was none
    :param device: that the agent is on
    """
    random.setstate(streams["python"])
    np.random.set_state(streams["numpy"])  # noqa: NPY002
    th.set_rng_state(th.from_numpy(streams["torch"]))
    if device.type == "cuda" and "cuda" in streams:
        th.cuda.set_rng_state(th.from_numpy(streams["cuda"]), device)
