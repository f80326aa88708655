"""A training process among others: its threads, one process at a time in a folder, and signals that ask it to stop."""

from __future__ import annotations

import signal
from contextlib import AbstractContextManager
from pathlib import Path
from types import FrameType, TracebackType

import torch
from filelock import FileLock, Timeout


def prepare_cpu(threads: int) -> None:
    """The number of threads, and denormals taken as zero: saturated units make many, and each is slow."""
    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)


def claim(folder: Path) -> AbstractContextManager[object]:
    """The folder is this process's until the context ends, or the process dies in whatever way.

    :raises ValueError: where another process has it
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        return FileLock(folder / "train.lock", timeout=0).acquire()
    except Timeout:
        raise ValueError(
            f"another process is training in {folder}: wait for it, stop it (the workers of a torchrun that was "
            "killed live on), or use another folder"
        ) from None


class Stop:
    """Whether SIGINT (Ctrl-C) or SIGTERM asked this process to stop; a second signal ends it at once, as without this.

    Only in a process's main thread.

    Example::

        with Stop() as stop:
            while not stop():
                ...
    """

    def __init__(self) -> None:
        self.signal: int | None = None  #: the one that came

    def __enter__(self) -> Stop:
        self._before = {number: signal.signal(number, self._take) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __call__(self) -> bool:
        return self.signal is not None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._restore()

    def _take(self, number: int, frame: FrameType | None) -> None:
        self.signal = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
