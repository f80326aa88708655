"""A process of the environments that dies is named, and nothing hangs."""

import multiprocessing
import os
import re
import signal
import subprocess
import sys
import threading
import time

import pytest
from stable_baselines3.common.vec_env import SubprocVecEnv, VecMonitor

from sb3_relax import RELAXA2C
from sb3_relax.algorithm import workers
from sb3_relax.errors import WorkerDied, one_line
from tests.helpers import ACTION_SPACES, TinyEnv
from tests.scripts.command import ROOT
from tests.test_processes import is_alive


class Dying(TinyEnv):
    """Dies in its own way at its 20th step, where it has one."""

    def __init__(self, how=None):
        super().__init__(ACTION_SPACES["discrete"])
        self.how = how
        self.steps_left = 20

    def step(self, action):
        self.steps_left -= 1
        if self.steps_left == 0 and self.how == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.steps_left == 0 and self.how == "fails":
            raise ZeroDivisionError("of the environment")
        if self.steps_left == 0 and self.how == "exits":
            os._exit(7)
        return super().step(action)


CAUSES = {
    "killed": r"was killed by SIGKILL \(by hand, or for want of memory\)",
    "fails": "ended with exit status 1; where its environment failed, the traceback is printed above",
    "exits": "ended with exit status 7",
}


def in_time(action, seconds):
    """What an action raises, which must not take longer."""
    raised = []

    def run():
        try:
            action()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    assert not thread.is_alive(), "it hangs"
    return raised[0] if raised else None


@pytest.mark.parametrize(
    ("start", "how", "index"),
    [
        ("fork", "killed", 2),
        ("fork", "fails", 0),
        ("fork", "exits", 1),
        pytest.param("forkserver", "killed", 2, marks=pytest.mark.slow),
        pytest.param("spawn", "fails", 1, marks=pytest.mark.slow),
    ],
)
def test_a_worker_that_dies_is_named_and_the_others_end(start, how, index):
    if start not in multiprocessing.get_all_start_methods():
        pytest.skip(f"this system has no {start}")
    makers = [lambda mine=how if number == index else None: Dying(mine) for number in range(3)]
    subproc = SubprocVecEnv(makers, start_method=start)
    env = VecMonitor(subproc)
    model = RELAXA2C("MlpPolicy", env, device="cpu")
    error = in_time(lambda: model.learn(10_000), 60)
    assert isinstance(error, WorkerDied), error
    assert re.match(
        rf"worker {index} of 3 of SubprocVecEnv \(environment {index}, process \d+\) {CAUSES[how]}", str(error)
    )
    assert one_line(error) == str(error)
    assert "\n" not in str(error)
    assert in_time(env.close, 20) is None
    assert not any(process.is_alive() for process in subproc.processes)


class Slow(TinyEnv):
    def __init__(self, seconds):
        super().__init__(ACTION_SPACES["discrete"])
        self.seconds = seconds

    def step(self, action):
        time.sleep(self.seconds)
        return super().step(action)


def test_after_an_interrupt_the_environments_can_be_closed_and_used():
    """It comes when the first has answered, and SB3's close() would wait for the first again."""
    env = SubprocVecEnv([lambda: Slow(0), lambda: Slow(0.5)])
    model = RELAXA2C("MlpPolicy", env, device="cpu")
    threading.Timer(1.2, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        model.learn(1000)
    assert not env.closed
    model.learn(2)
    assert in_time(env.close, 20) is None


def test_other_errors_and_training_that_ends_well_are_as_they_were(monkeypatch):
    monkeypatch.setattr(workers, "LAST_BREATH", 0.1)
    env = SubprocVecEnv([Dying, Dying])
    model = RELAXA2C("MlpPolicy", env, device="cpu")
    model.learn(100)

    def no_input(*_):
        raise EOFError("of something else")

    with pytest.raises(EOFError, match="of something else"):
        model.learn(100, callback=no_input)
    model.learn(100)
    env.close()
    before = threading.active_count()
    time.sleep(0.5)
    assert threading.active_count() <= before


LEARNING = """
import sys
from stable_baselines3.common.vec_env import SubprocVecEnv
from sb3_relax import RELAXA2C
from tests.algorithm.test_workers import Slow

if __name__ == "__main__":
    env = SubprocVecEnv([lambda: Slow(0.01)] * 3, start_method=sys.argv[1])
    model = RELAXA2C("MlpPolicy", env, device="cpu")
    model.learn(30)
    print(*[process.pid for process in env.processes], flush=True)
    model.learn(10**9)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize("start", ["fork", pytest.param("forkserver", marks=pytest.mark.slow)])
def test_workers_end_with_a_process_that_is_killed(start):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", LEARNING, start]
    training = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    numbers = [int(number) for number in training.stdout.readline().split()]
    assert len(numbers) == 3
    training.kill()
    training.wait()
    end = time.monotonic() + 20
    while alive := [number for number in numbers if is_alive(number)]:
        assert time.monotonic() < end, f"{alive} live on"
        time.sleep(0.1)
