"""Kill what writes files, again and again, at moments drawn at random, and look after every kill at what is there.

    python -m scripts.attacks.kills                            # 50 kills of each
    python -m scripts.attacks.kills --subject vae --kills 5    # 5 of one

After every kill all that is on the disk must be readable, and nothing may be missing or changed that was there before.
Then the same work is begun again, and goes on. Work that comes to its end is looked at as a whole, and begun anew in
another folder. The record of each subject goes to results/kills of the folder that this is run in, or of ``--output``.
It tells how many kills there were, how many of them left a file that was being written, and how much work survived.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from tqdm import tqdm

from scripts.attacks.subjects import SUBJECTS, Subject
from scripts.records import add_output, provenance, write_record

#: in which processes end by themselves whose parent was killed
PATIENCE = 60.0


class Campaign:
    """Kills of one subject.

    :param subject: what is killed
    :param folder: to work in; each round of the work has a folder in it
    :param seed: of the moments, and of which process is killed
    """

    def __init__(self, subject: Subject, folder: Path, seed: int):
        self.subject = subject
        self.folder = folder
        self.random = random.Random(seed)
        self.counts = {"kills": 0, "kills_of_workers": 0, "files_half_written": 0, "rounds_completed": 0, "items": 0}
        self.before: dict[str, Any] = {}
        self.half_written: set[str] = set()

    @property
    def round(self) -> Path:
        """The folder of the work that goes on."""
        return self.folder / f"round{self.counts['rounds_completed']}"

    def run(self, kills: int) -> None:
        """So many kills, and then the work up to its end.

        :raises AssertionError: where something was lost, changed, or cannot be read
        """
        workers: list[BaseProcess] = []
        self.round.mkdir(parents=True)
        try:
            while self.counts["kills"] < kills:
                workers = [worker for worker in workers if worker.is_alive() or self._require_success(worker)]
                if self.subject.is_complete(self.round):
                    self._end_round(workers)
                    workers = []
                while len(workers) < self.subject.at_once:
                    workers.append(self._started())
                self._wait(self.random.uniform(0, self.subject.longest), workers)
                victim = self.random.choice(workers)
                if victim.is_alive():
                    self._kill(victim)
                    workers.remove(victim)
                    self._look()
            while not self.subject.is_complete(self.round):
                workers = [worker for worker in workers if worker.is_alive() or self._require_success(worker)]
                workers = workers or [self._started()]
                self._wait(1.0, workers)
            self._end_round(workers)
        finally:
            for worker in workers:
                for process in members(worker):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(process, signal.SIGKILL)

    def _started(self) -> BaseProcess:
        return forked(work, self.subject, self.round, self.folder / "said.log")

    def _wait(self, seconds: float, workers: list[BaseProcess]) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end and all(worker.is_alive() for worker in workers):
            time.sleep(0.005)

    def _kill(self, worker: BaseProcess) -> None:
        """One process of the worker's own, and then the worker, with which all others must end."""
        others = [process for process in members(worker) if process != worker.pid]
        if others and self.random.random() < 0.5:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.random.choice(others), signal.SIGKILL)
            self.counts["kills_of_workers"] += 1
            self._wait(self.random.uniform(0, 1), [worker])
        worker.kill()
        worker.join()
        self.counts["kills"] += 1
        end = time.monotonic() + PATIENCE
        while left := members(worker):
            assert time.monotonic() < end, f"processes {left} outlive the one they work for by {PATIENCE:.0f} s"
            time.sleep(0.05)

    def _look(self) -> None:
        """What is there now, after a kill."""
        self.half_written |= {path.name for path in self.round.rglob(".*.partial")}
        self.counts["files_half_written"] = len(self.half_written)
        now = self.subject.state(self.round)
        self.subject.require_kept(self.before, now)
        self.before = now

    def _end_round(self, workers: list[BaseProcess]) -> None:
        """The work is complete: whoever is still at it finds that nothing is left to do."""
        for worker in workers or [self._started()]:
            self._require_success(worker)
        now = self.subject.state(self.round)
        self.subject.require_kept(self.before, now)
        self.subject.require_whole(self.round)
        left = list(self.round.rglob(".*.partial"))
        assert not left, f"what killed writers left was not removed: {left}"
        self.counts["items"] += self.subject.items(now)
        self.counts["rounds_completed"] += 1
        self.round.mkdir()
        self.before = {}

    def _require_success(self, worker: BaseProcess) -> bool:
        """A worker that ended by itself has done its work. Always false: it is no longer at work."""
        worker.join()
        said = (self.folder / "said.log").read_text(errors="replace")
        assert worker.exitcode == 0, f"the work ended with status {worker.exitcode}:\n{said[-5000:]}"
        return False


def forked(target: Callable[..., None], *arguments: Any) -> BaseProcess:
    """A fork of this process, at work, that may be killed at any moment without harm to this one."""
    process = multiprocessing.get_context("fork").Process(target=with_own_lock, args=(target, *arguments))
    process.start()
    return process


def with_own_lock(target: Callable[..., None], *arguments: Any) -> None:
    """Progress bars of a fork hold its parent's lock while they are drawn: killed then, it would stop the parent's."""
    tqdm.set_lock(threading.RLock())
    target(*arguments)


def work(subject: Subject, folder: Path, said: Path) -> None:
    """In a process of its own, the leader of a group: do the work, and write what it says into a file."""
    os.setsid()
    output = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, sys.stdout.fileno())
    os.dup2(output, sys.stderr.fileno())
    subject.work(folder)
    # multiprocessing would wait for workers of loky's that nothing is asked of any more: a command ends without them
    os._exit(0)


def members(worker: BaseProcess) -> list[int]:
    """The processes of a worker's group, itself among them, that have not ended."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, IndexError):
            state, _, group = (path / "stat").read_text().rpartition(")")[2].split()[:3]
            if int(group) == worker.pid and state != "Z":
                found.append(int(path.name))
    return found


@contextlib.contextmanager
def folder_for(keep: Path | None) -> Iterator[Path]:
    """Where the work is done: a folder that is removed, or one that stays."""
    if keep is not None:
        keep.mkdir(parents=True, exist_ok=True)
        yield keep
    else:
        with tempfile.TemporaryDirectory() as name:
            yield Path(name)


def attacked(name: str, kills: int, seed: int, keep: Path | None = None) -> dict[str, Any]:
    """The record of a campaign.

    :param name: of the subject
    :param kills: how many
    :param seed: of what is random in it
    :param keep: a folder in which what the work wrote stays
    :raises AssertionError: where something was lost, changed, or cannot be read
    """
    subject, start = SUBJECTS[name](), time.monotonic()
    with folder_for(keep) as folder:
        campaign = Campaign(subject, folder, seed)
        campaign.run(kills)
    seconds = round(time.monotonic() - start, 1)
    return {"subject": name, "item": subject.item, "seed": seed, **campaign.counts, "seconds": seconds, **provenance()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--subject", nargs="+", choices=list(SUBJECTS), default=list(SUBJECTS))
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="a folder in which what the work wrote stays")
    add_output(parser, "kills/SUBJECT.json")
    arguments = parser.parse_args()
    for name in arguments.subject:
        keep = None if arguments.keep is None else arguments.keep / name
        record = attacked(name, arguments.kills, arguments.seed, keep)
        write_record(arguments.output / "kills" / f"{name}.json", record)
        print(
            f"{name}: "
            + ", ".join(f"{key} {value}" for key, value in record.items() if isinstance(value, (int, float)))
        )


if __name__ == "__main__":
    main()
