"""Optuna's tables, created by many processes at the same moment."""

from functools import partial

import optuna
import pytest

from sb3_relax.errors import UsageError
from sb3_relax.zoo import storage
from tests.processes import PROCESSES


def wait_and_act(start, act):
    start.wait(60)
    act()


def together(act, processes=4):
    """So many processes act at one moment: their exit statuses."""
    start = PROCESSES.Barrier(processes)
    workers = [PROCESSES.Process(target=wait_and_act, args=(start, act)) for _ in range(processes)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return [worker.exitcode for worker in workers]


def test_many_processes_at_once(tmp_path):
    assert together(partial(storage.open_storage, f"sqlite:///{tmp_path}/study.db")) == [0] * 4


def test_without_waiting_for_each_other_they_fail(tmp_path):
    """What :func:`open_storage` is for: Optuna's own, at the same moment."""
    url = f"sqlite:///{tmp_path}/study.db"
    assert any(any(together(partial(optuna.storages.get_storage, f"{url}{turn}"))) for turn in range(20))


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
