"""Processes: one that is asked to end, and workers that do not outlive the one they work for."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType

#: between two looks at whether the parent lives
SECONDS = 0.5


class Terminated(KeyboardInterrupt):
    """SIGTERM asked this process to end. Whoever cleans up after Ctrl-C does so after this."""


class Termination:
    """Whether SIGTERM came."""

    came = False


@contextlib.contextmanager
def termination_as_interrupt() -> Iterator[Termination]:
    """In the block, SIGTERM raises :class:`Terminated`, as Ctrl-C raises ``KeyboardInterrupt``: training is saved.

    A second one ends the process at once. In another thread than the main one, nothing is changed.

    Example::

        with termination_as_interrupt() as termination:
            train_and_save_even_where_interrupted()
        if termination.came:
            raise SystemExit(143)
    """
    termination = Termination()
    if threading.current_thread() is not threading.main_thread():
        yield termination
        return

    def take(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        termination.came = True
        raise Terminated

    before = signal.signal(signal.SIGTERM, take)
    try:
        yield termination
    finally:
        signal.signal(signal.SIGTERM, before)


def status_of(interrupt: KeyboardInterrupt) -> int:
    """The exit status that shells expect of a process that was interrupted, 130, or terminated, 143."""
    return 128 + (signal.SIGTERM if isinstance(interrupt, Terminated) else signal.SIGINT)


def work_for(parent: int) -> None:
    """In a worker: it ends with the process that started it, be that killed, and leaves Ctrl-C to that one.

    :param parent: the process's number. Where it is this one, nothing is done
    """
    if parent != os.getpid():
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        end_with(parent)


def end_with(parent: int) -> None:
    """This process ends once ``parent``, by which it was started, is no more."""

    def watch() -> None:
        if os.name == "posix":
            while os.getppid() == parent:
                time.sleep(SECONDS)
        elif (process := multiprocessing.parent_process()) is not None:
            process.join()
        else:
            return
        os._exit(1)

    if not any(thread.name == end_with.__name__ for thread in threading.enumerate()):
        threading.Thread(target=watch, name=end_with.__name__, daemon=True).start()


class EndWithParent:
    """What a worker that reads it from a pipe takes for the class ``object``, and ends with its parent from then on.

    For workers that are another package's, and do nothing but what messages name.
    """

    def __reduce__(self) -> tuple[Callable[[], type], tuple[()]]:
        return ending_with_parent, ()


def ending_with_parent() -> type:
    """In the worker that reads an :class:`EndWithParent`."""
    end_with(os.getppid())
    return object
