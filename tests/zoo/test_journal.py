"""A journal whose last line was torn, and trials whose process was killed."""

import os
import signal
import time
import warnings

import optuna
import pytest
from optuna.trial import TrialState

from sb3_relax.zoo import registry
from sb3_relax.zoo.storage import open_storage
from sb3_relax.zoo.trials import WORKER, fail_killed, mark, this_process

optuna.logging.set_verbosity(optuna.logging.WARNING)


def opened(place):
    return optuna.create_study(study_name="s", storage=open_storage(str(place)), load_if_exists=True)


def objective(trial):
    return trial.suggest_float("x", 0, 1)


@pytest.mark.parametrize("torn", [1, 2, 30, 200])
def test_a_torn_line_is_dropped_and_the_study_goes_on(tmp_path, torn):
    place = tmp_path / "study.log"
    opened(place).optimize(objective, n_trials=4)
    whole = place.read_bytes()
    place.write_bytes(whole[:-torn])
    kept = whole[:-torn].rpartition(b"\n")[0] + b"\n"
    with pytest.warns(
        UserWarning, match=rf"the last line of .*study.log had no end.* its {len(whole) - torn - len(kept)} "
    ):
        opened(place).optimize(objective, n_trials=3)
    assert place.read_bytes().startswith(kept)
    trials = optuna.load_study(study_name="s", storage=open_storage(str(place))).trials
    assert sum(trial.state == TrialState.COMPLETE for trial in trials) >= 4 - 1 + 3
    assert len(trials) == 4 + 3


def test_it_is_dropped_while_others_go_on(tmp_path):
    """The line of one writer that dies meanwhile; and bytes that a disk has not got."""
    place = tmp_path / "study.log"
    study = opened(place)
    for torn in (b'{"op_code":5,"worker_id":"', b"\0" * 100_000):
        study.optimize(objective, n_trials=1)
        with place.open("ab") as file:
            file.write(torn)
        with pytest.warns(UserWarning, match=f"its {len(torn):,} bytes"):
            study.optimize(objective, n_trials=1)
    assert len(opened(place).trials) == 4


def test_a_whole_journal_is_left_as_it_is(tmp_path):
    place = tmp_path / "study.log"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        opened(place).optimize(objective, n_trials=2)
        before = place.read_bytes()
        opened(place)
    assert place.read_bytes().startswith(before)


def begun_in_a_child(place, then):
    """A trial that another process begins, and that process."""
    child = os.fork()
    if child == 0:
        try:
            mark(opened(place).ask())
            then()
        finally:
            os._exit(0)
    return child


def kill_self():
    os.kill(os.getpid(), signal.SIGKILL)


def manager(folder, **options):
    registry.register()
    return registry.ExperimentManager(
        None, "relaxa2c", "CartPole-v1", str(folder), optimize_hyperparameters=True, **options
    )


def test_trials_of_killed_processes_do_not_count(tmp_path, monkeypatch):
    """As many trials as are asked for come to their end, in rl_zoo3's own search."""
    place = tmp_path / "study.log"
    opened(place)
    for _ in range(2):
        os.waitpid(begun_in_a_child(place, kill_self), 0)
    lives = begun_in_a_child(place, lambda: time.sleep(60))
    try:
        while len(opened(place).get_trials(states=[TrialState.RUNNING])) < 3:
            time.sleep(0.05)
        monkeypatch.setattr(registry.ExperimentManager.__mro__[1], "objective", lambda self, trial: 1.0)
        search = manager(
            tmp_path, storage=str(place), study_name="s", max_total_trials=5, no_optim_plots=True, verbose=0
        )
        search.hyperparameters_optimization()
        states = [trial.state for trial in opened(place).trials]
        assert states.count(TrialState.COMPLETE) == 4  # and the one that runs is the fifth
        assert states.count(TrialState.RUNNING) == 1
        assert states.count(TrialState.FAIL) == 2
    finally:
        os.kill(lives, signal.SIGKILL)
        os.waitpid(lives, 0)


def test_trials_of_which_nothing_is_known_are_left(tmp_path):
    study = opened(tmp_path / "study.log")
    study.ask()
    study.ask().set_user_attr(WORKER, {"machine": "another", "process": 1, "started": "1"})
    mark(study.ask())
    reused = study.ask()
    reused.set_user_attr(WORKER, {**this_process(), "started": "1"})  # the number is another process's now
    fail_killed(study)
    assert [trial.state for trial in study.trials] == [TrialState.RUNNING] * 3 + [TrialState.FAIL]
