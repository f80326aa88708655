"""Environments in processes of their own: one that dies ends training with an error that says so, and nothing hangs."""

from __future__ import annotations

import contextlib
import multiprocessing.connection
import os
import signal
import socket
import threading
from collections.abc import Iterator
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import SubprocVecEnv, VecEnv, VecEnvWrapper

from sb3_relax.errors import WorkerDied
from sb3_relax.processes import EndWithParent

#: seconds that a worker is given to be gone after its pipe has broken, which Python closes first
LAST_BREATH = 10.0
#: seconds that a worker is given to answer, or to end where it is asked to
PATIENCE = 2.0
#: seconds between two looks at whether the watch is over
MOMENT = 0.2


class WatchedWorkers(BaseAlgorithm):
    """The part of an algorithm that watches the processes of a SubprocVecEnv while it learns."""

    def learn(self, *args: Any, **kwargs: Any) -> Any:
        """As SB3's.

        :raises WorkerDied: where a process of the environments has died; they are closed then
        """
        with watched(self.env):
            return super().learn(*args, **kwargs)  # type: ignore[safe-super]  # A2C's


@contextlib.contextmanager
def watched(env: VecEnv | None) -> Iterator[None]:
    """A worker of a SubprocVecEnv that dies in the block ends it with an error.

    SB3 reads a dead worker's pipe. Of processes that were forked, the others hold its other end open, so that this
    waits for ever; and ``close()`` waits for answers that were read before the error, or an interrupt, came. Where this
    process is killed, the workers end too.

    :param env: which may be wrapped, or have no processes
    :raises WorkerDied: naming the worker and what it died of; the others are ended, and the environment is closed
    """
    while isinstance(env, VecEnvWrapper):
        env = env.venv
    if not isinstance(env, SubprocVecEnv) or env.closed:
        yield
        return
    over = threading.Event()
    threading.Thread(target=_watch, args=(env, over), daemon=True).start()
    try:
        _end_with_this_process(env)
        yield
    except (EOFError, ConnectionError) as error:
        dead = _dead(env)
        if dead is None:
            raise
        over.set()
        message = f"worker {dead} of {len(env.processes)} of SubprocVecEnv (environment {dead}, process "
        message += f"{env.processes[dead].pid}) {_cause(env.processes[dead].exitcode)}. The others were ended, and the "
        _close(env)
        raise WorkerDied(f"{message}environment is closed: make it anew to go on") from error
    except KeyboardInterrupt:
        over.set()
        _take_answers(env)
        raise
    finally:
        over.set()


def _end_with_this_process(env: SubprocVecEnv) -> None:
    """Workers that were forked hold each other's pipes open, and would wait for ever where this process is killed."""
    if not env.waiting:
        for remote in env.remotes:
            remote.send(("is_wrapped", EndWithParent()))
        for remote in env.remotes:
            remote.recv()


def _watch(env: SubprocVecEnv, over: threading.Event) -> None:
    """Shut the pipe of a worker that has died, so that nobody waits for its answer."""
    left = dict(enumerate(env.processes))
    while left and not over.is_set():
        ended = multiprocessing.connection.wait([process.sentinel for process in left.values()], MOMENT)
        for index in [index for index, process in left.items() if process.sentinel in ended]:
            del left[index]
            if os.name == "posix" and not over.is_set():  # elsewhere a pipe breaks with its process
                with contextlib.suppress(OSError), socket.socket(fileno=os.dup(env.remotes[index].fileno())) as pipe:
                    pipe.shutdown(socket.SHUT_RDWR)


def _dead(env: SubprocVecEnv) -> int | None:
    """The index of the first worker that is no more, once there is one."""
    ended = multiprocessing.connection.wait([process.sentinel for process in env.processes], LAST_BREATH)
    for index, process in enumerate(env.processes):
        if process.sentinel in ended:
            process.join()  # its files are closed before it is gone, and before its exit status is known
            return index
    return None


def _take_answers(env: SubprocVecEnv) -> None:
    """Read what workers still answer to a step that was interrupted, after which the environment can be used."""
    left: list[Any] = list(env.remotes) if env.waiting else []
    try:
        while left and (ready := multiprocessing.connection.wait(left, PATIENCE)):
            for remote in [remote for remote in left if remote in ready]:
                left.remove(remote)
                remote.recv()
        env.waiting = False
    except Exception:  # an answer was interrupted halfway, or the workers have been interrupted too
        _close(env)


def _cause(status: int | None) -> str:
    if status is not None and status < 0:
        name = signal.Signals(-status).name
        return f"was killed by {name}{' (by hand, or for want of memory)' if name == 'SIGKILL' else ''}"
    return f"ended with exit status {status}; where its environment failed, the traceback is printed above"


def _close(env: SubprocVecEnv) -> None:
    """What SB3's ``close()`` does, without waiting for anybody's answer."""
    for process in env.processes:
        process.terminate()
    for process in env.processes:
        process.join(PATIENCE)
        if process.is_alive():
            process.kill()
            process.join()
    for remote in env.remotes:
        remote.close()
    env.waiting, env.closed = False, True
