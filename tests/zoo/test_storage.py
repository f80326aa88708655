"""Optuna's tables, created by many processes at the same moment."""

import subprocess
import sys
import time

import optuna
import pytest

from sb3_relax.errors import UsageError
from sb3_relax.zoo import storage

CODE = """
import sys, time
from sb3_relax.zoo.storage import open_storage
time.sleep(max(0, float(sys.argv[2]) - time.time()))
open_storage(sys.argv[1])
"""


def test_many_processes_at_once(tmp_path):
    url = f"sqlite:///{tmp_path}/study.db"
    start = str(time.time() + 8)  # when all have been imported
    workers = [subprocess.Popen([sys.executable, "-c", CODE, url, start], stderr=subprocess.PIPE) for _ in range(4)]
    errors = [worker.communicate()[1].decode() for worker in workers]
    assert [worker.returncode for worker in workers] == [0] * 4, "\n".join(errors)


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("sqlite:////no/such/folder/study.db", "unable to open"),
        ("study", "must be a journal, a file whose name ends in .log, or the URL"),
        ("nosuch://localhost/study", "must be a journal, a file whose name ends in .log, or the URL"),
    ],
)
def test_a_place_that_cannot_be_opened(monkeypatch, place, message):
    monkeypatch.setattr(storage, "SECONDS", 0.0)
    with pytest.raises(UsageError, match=message) as raised:
        storage.open_storage(place)
    assert str(raised.value).startswith(f"--storage {place}: ")
    assert len(str(raised.value).splitlines()) == 1


@pytest.mark.parametrize("place", ["folder/study.log", "sqlite:///study.db"])
def test_a_trial_that_does_not_exist(monkeypatch, tmp_path, place):
    monkeypatch.chdir(tmp_path)
    study = optuna.create_study(study_name="mine", storage=storage.open_storage(place))
    with pytest.raises(UsageError, match="mine is empty"):
        storage.require_trial(place, "mine", 0)
    study.optimize(lambda trial: 0.0, n_trials=2)
    storage.require_trial(place, "mine", 1)
    with pytest.raises(UsageError, match="--trial-id 2: mine has trials 0 to 1"):
        storage.require_trial(place, "mine", 2)
    with pytest.raises(UsageError, match=r"--study-name yours: .* has mine"):
        storage.require_trial(place, "yours", 0)


def test_a_journal_to_read_from_is_not_created(tmp_path):
    with pytest.raises(UsageError, match="there is no such file"):
        storage.require_trial(f"{tmp_path}/none.log", "mine", 0)
    assert not (tmp_path / "none.log").exists()
