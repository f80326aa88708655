"""Functions timed in turns, so that what disturbs the machine disturbs all of them alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Mapping
from typing import TypeVar

import numpy as np
from tqdm import tqdm

Name = TypeVar("Name", bound=Hashable)


def in_turns(
    functions: Mapping[Name, Callable[[], object]],
    rounds: int,
    calls: int,
    clock: Callable[[], float] = time.process_time,
    description: str = "",
) -> dict[Name, np.ndarray]:
    """Seconds of one call of each function, ``[rounds]``.

    A first round is not counted: it warms up, and compiles what is compiled at its first call.

    :param functions: by their names, or what else tells them apart
    :param calls: of each function in a round
    :param clock: gives seconds. That of the process counts the CPU's time of all its threads
    :param description: of the progress bar; none is shown without
    """
    spent: dict[Name, list[float]] = {name: [] for name in functions}
    for number in tqdm(range(rounds + 1), desc=description, leave=False, disable=not description):
        for name, function in functions.items():
            start = clock()
            for _ in range(calls):
                function()
            if number > 0:
                spent[name].append((clock() - start) / calls)
    return {name: np.array(seconds) for name, seconds in spent.items()}
