"""Campaigns of kills: a few of each subject, slowly, and that a campaign notices what is lost."""

import subprocess
import time

import pytest
from tqdm import tqdm

from sb3_relax.files import write_whole
from scripts.attacks import kills
from scripts.attacks.subjects import SUBJECTS, Subject


@pytest.mark.slow
@pytest.mark.parametrize("name", SUBJECTS)
def test_nothing_is_lost(name):
    record = kills.attacked(name, kills=5, seed=1)
    assert record["kills"] == 5
    assert record["items"] > 0


class TornFiles(Subject):
    """Files of which the name is there before the content."""

    longest = 0.3

    def work(self, folder):
        for number in range(1000):
            with (folder / f"{number}").open("w") as file:
                time.sleep(0.01)
                file.write("whole")

    def state(self, folder):
        texts = {path.name: path.read_text() for path in folder.iterdir()}
        assert "" not in texts.values(), "a file is not whole"
        return texts

    def is_complete(self, folder):
        return len(list(folder.iterdir())) == 1000


class LostFiles(TornFiles):
    """Of which each takes the place of the one before."""

    def work(self, folder):
        for number in range(1000):
            write_whole(folder / f"{number}", b"whole")
            (folder / f"{number - 1}").unlink(missing_ok=True)
            time.sleep(0.01)


class Orphans(TornFiles):
    """Whose worker does not end with it."""

    def work(self, folder):
        subprocess.run(["sleep", "5"])


@pytest.mark.parametrize(
    ("subject", "message"),
    [(TornFiles, "not whole"), (LostFiles, "is lost"), (Orphans, "outlive the one they work for")],
)
def test_a_campaign_notices(subject, message, monkeypatch):
    monkeypatch.setitem(SUBJECTS, "broken", subject)
    monkeypatch.setattr(kills, "PATIENCE", 0.2)
    with pytest.raises(AssertionError, match=message):
        kills.attacked("broken", kills=30, seed=0)


def draw_for_ever(drawing):
    tqdm.get_lock().acquire()
    drawing.touch()
    time.sleep(60)


def test_one_that_is_killed_while_it_draws_a_bar_does_not_stop_bars_here(tmp_path):
    list(tqdm(range(2)))
    worker = kills.forked(draw_for_ever, tmp_path / "drawing")
    while not (tmp_path / "drawing").exists():
        assert worker.is_alive()
        time.sleep(0.01)
    worker.kill()
    worker.join()
    locks = tqdm.get_lock().locks
    taken = [lock for lock in locks if lock.acquire(False)]
    for lock in taken:
        lock.release()
    assert taken == locks
