"""torch.distributions draw from the global generator alone: how their samples follow another one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def following(generator: torch.Generator | None) -> Iterator[None]:
    """Inside, the global generator is a stream of its own that ``generator`` begins; afterwards it is as it was.

    :param generator: ``None`` leaves the global one as it is
    """
    if generator is None:
        yield
        return
    with torch.random.fork_rng():
        torch.manual_seed(int(torch.randint(2**62, (), generator=generator, device=generator.device)))
        yield
