"""``sb3-relax compare``: three arms that differ by the control variate alone, and reruns that go on."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import gymnasium as gym
import pytest
import yaml

from sb3_relax.compare import cli, runs
from sb3_relax.compare.arms import arms_of, keep_entries
from sb3_relax.zoo import cli as zoo
from sb3_relax.zoo.registry import ALGORITHMS

MINE = Path(__file__).parents[1] / "zoo" / "mine.py"
NAMES = ("MyEnv-v0", "Masked-v0", "Parts-v0", "Torques-v0", "Mixed-v0", "Broken-v0")
RUNS = {f"{arm}-{seed}.json" for arm in ("relaxa2c", "state-baseline", "a2c") for seed in range(2)}


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "mine.py").write_text(MINE.read_text())
    yield
    for name in NAMES:
        gym.registry.pop(name, None)
    sys.modules.pop("mine", None)


@pytest.fixture
def _here(monkeypatch):
    """Runs in this process, which is quicker than to start others."""

    def run_all(jobs, count, landed):
        for job in jobs:
            landed(job, runs.failure_of(job))

    monkeypatch.setattr(runs, "run_all", run_all)


def compare(*more, env="mine:MyEnv-v0", seeds="2", steps="60"):
    return cli.main(["--env", env, "--n-timesteps", steps, "--seeds", seeds, "--jobs", "2", *more])


def recorded(folder="compare/MyEnv-v0"):
    return {file.name: json.loads(file.read_text()) for file in Path(folder, "runs").glob("*.json")}


def test_in_processes_of_their_own(capsys):
    """One command: a table, a sentence for each comparison, a plot, and a record of every run."""
    arguments = ["--env", "mine:MyEnv-v0", "-n", "200", "--seeds", "2", "--jobs", "2"]
    with pytest.raises(SystemExit) as stop:
        zoo.main(["compare", *arguments])
    assert stop.value.code == 0
    output = capsys.readouterr().out
    assert "Without --algo, relaxa2c is taken" in output
    assert "the entry default of" in output
    records = recorded()
    assert set(records) == RUNS
    for record in records.values():
        assert record["timesteps"] == 200
        assert record["episode_steps"] == list(range(10, 201, 10))
        assert (record["variance_ratio"] == 1) == (record["arm"] == "a2c")
    text = Path("compare/MyEnv-v0/table.md").read_text()
    assert text in output
    assert [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("| ")] == [
        "",
        "RELAXA2C",
        "A2C with ĉ(s)",
        "A2C",
    ]
    assert "take at least --seeds 4" in text
    assert Path("compare/MyEnv-v0/returns.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.usefixtures("_here")
def test_the_same_command_goes_on(capsys):
    compare()
    before = recorded()
    Path("compare/MyEnv-v0/runs/a2c-1.json").unlink()  # as if it had been killed before that
    capsys.readouterr()
    compare()
    output = capsys.readouterr().out
    assert "5 of 6 runs are in compare/MyEnv-v0" in output
    assert [line for line in output.splitlines() if ", seed " in line] == ["[6/6] A2C, seed 1"]
    after = recorded()
    for name, record in after.items():
        assert record["episode_returns"] == before[name]["episode_returns"]  # seeded
    assert all(after[name] == before[name] for name in RUNS - {"a2c-1.json"})
    compare(seeds="3")
    assert len(recorded()) == 9


@pytest.mark.usefixtures("_here")
def test_runs_of_other_settings_are_not_mixed(capsys):
    compare(seeds="1")
    first = {name: Path("compare/MyEnv-v0", f"{name}.yml").read_text().splitlines()[0] for name in ("relaxa2c", "a2c")}
    assert first == {
        "relaxa2c": "# sb3-relax train --algo relaxa2c --env MyEnv-v0 --conf-file relaxa2c.yml",
        "a2c": "# sb3-relax train --algo a2c_matched --env MyEnv-v0 --conf-file a2c.yml",
    }
    with pytest.raises(SystemExit) as stop:
        compare(seeds="1", steps="80")
    assert stop.value.code == 2
    assert "compare/MyEnv-v0 holds runs with other settings (relaxa2c.yml has" in capsys.readouterr().err
    compare("--output", "elsewhere", seeds="1", steps="80")
    assert {record["timesteps"] for record in recorded("elsewhere").values()} == {80}


@pytest.mark.usefixtures("_here")
def test_one_seed_has_no_interval(capsys):
    compare(seeds="1")
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| RELAXA2C")]
    assert len(rows) == 1
    assert "[" not in rows[0]


@pytest.mark.usefixtures("_here")
def test_a_failed_run_leaves_the_others_alone(capsys, monkeypatch):
    fit = runs.run

    def run(job):
        if job.arm.name == "a2c":
            raise ValueError("does not fit")
        fit(job)

    monkeypatch.setattr(runs, "run", run)
    assert compare() == 1
    output = capsys.readouterr()
    assert "A2C, seed 1: failed" in output.out
    assert "does not fit" in output.err
    assert "2 of 6 runs failed; the same command tries them again" in output.err
    assert "| A2C with ĉ(s)" in output.out
    monkeypatch.setattr(runs, "run", fit)
    assert compare() == 0
    assert set(recorded()) == RUNS


@pytest.mark.usefixtures("_here")
def test_no_episode_ended(capsys):
    assert compare(steps="5", seeds="1") == 0
    output = capsys.readouterr().out
    assert output.count("no episode ended") >= 3
    assert "RELAXA2C and A2C cannot be compared" in output


@pytest.mark.usefixtures("_here")
@pytest.mark.parametrize(
    ("name", "algorithm", "baseline"),
    [
        ("Masked-v0", "relaxa2c_mask", "relaxa2c_mask"),
        ("Torques-v0", "laxa2c", "a2c_matched"),
        ("Mixed-v0", "relaxa2c_hybrid", "relaxa2c_hybrid"),
    ],
)
def test_masks_and_box_actions_and_both_kinds(name, algorithm, baseline):
    assert compare(env=f"mine:{name}", seeds="1") == 0
    records = recorded(f"compare/{name}")
    assert records["a2c-0.json"]["algorithm"] == baseline
    assert records[f"{algorithm}-0.json"]["algorithm"] == records["state-baseline-0.json"]["algorithm"] == algorithm


def test_errors_are_known_before_the_first_run(capsys):
    Path("mine.yml").write_text("MyEnv-v0: {policy: MlpPolicy, n_timesteps: 10, gama: 0.9}\n")
    for more, message in (
        (["--conf-file", "mine.yml"], "did you mean 'gamma'"),
        (["--algo", "a2c"], "unknown algorithm 'a2c'"),
        (["--jobs", "0"], "--jobs must be a whole number >= 1"),
        (["-n", "0"], "--n-timesteps must be a whole number >= 1"),
    ):
        with pytest.raises(SystemExit) as stop:
            compare(*more)
        assert stop.value.code == 2
        assert message in capsys.readouterr().err
    assert not Path("compare").exists()


@pytest.mark.parametrize("algorithm", [name for name in ALGORITHMS if name != "a2c_matched"])
def test_the_arms_differ_by_the_control_variate_alone(algorithm):
    entry = {"policy": "MlpPolicy", "n_steps": 8, "n_critic_steps": 3, "cv_learning_rate": 1e-2, "n_cv_steps": 2}
    entry |= {} if algorithm.startswith("laxa2c") else {"correction": "relaxed", "n_relaxed": 2}
    ours, state, a2c = arms_of(algorithm, "Ours", entry)
    assert ours.entry == entry
    common = {"policy": "MlpPolicy", "n_steps": 8, "n_critic_steps": 3}
    assert state.entry == {**common, "cv_learning_rate": 1e-2, "n_cv_steps": 2, "cv_action_dependent": False}
    matched = algorithm in ("laxa2c", "relaxa2c")
    assert a2c.entry == (common if matched else {**common, "control_variate": "none"})
    assert yaml.safe_load(yaml.safe_dump(state.entry)) == state.entry


@pytest.mark.usefixtures("_here")
def test_an_entry_of_schedules_and_another_update_rule():
    """Each arm's file is read by the machine's own encoding, and says what the entry says but for ĉ."""
    shared = {"ent_coef": "lin_0.01", "critic_learning_rate": "lin_2e-3", "update_rule": "kfac", "target_kl": 0.01}
    entry = {"policy": "MlpPolicy", "n_timesteps": 200, "cv_learning_rate": "lin_1e-2", **shared, "env_wrapper": "ĉ"}
    Path("mine.yml").write_text(yaml.safe_dump({"MyEnv-v0": {k: v for k, v in entry.items() if k != "env_wrapper"}}))
    assert compare("--conf-file", "mine.yml", seeds="1") == 0
    for record in recorded().values():
        assert record["hyperparams"].items() >= shared.items()
        assert ("cv_learning_rate" in record["hyperparams"]) == (record["arm"] != "a2c")
    keep_entries(arms_of("relaxa2c", "Ours", entry), "MyEnv-v0", Path("folder"))
    assert all(file.read_bytes().isascii() for file in Path("folder").glob("*.yml"))
    keep_entries(arms_of("relaxa2c", "Ours", entry), "MyEnv-v0", Path("folder"))


class Killed:
    """What kills the process that it is handed to, as want of memory does."""

    def __reduce__(self):
        return os._exit, (1,)


def test_a_killed_process_says_what_helps():
    landed = []
    runs.run_all([Killed()], 1, lambda _, error: landed.append(error))
    assert len(landed) == 1
    assert "with fewer --jobs takes less memory" in landed[0]


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_stopped_and_started_again(how):
    """Whatever had ended is kept, nothing half written counts, and no process is left.

    Runs are long enough for the signal to arrive before the last has ended, on a busy machine too.
    """
    arguments = ["--env", "mine:MyEnv-v0", "-n", "4000", "--seeds", "2", "--jobs", "2"]
    command = [sys.executable, "-m", "sb3_relax.zoo", "compare", *arguments]
    stopped = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    while not recorded():
        time.sleep(0.1)
        assert stopped.poll() is None
    stopped.send_signal(how)
    output, _ = stopped.communicate(timeout=60)  # its pipe is open as long as a process of it is there
    assert ("stopped: the same command goes on from here" in output) == (how == signal.SIGINT)
    before = recorded()
    assert 0 < len(before) < 6
    assert cli.main(arguments) == 0
    after = recorded()
    assert set(after) == RUNS
    assert all(after[name] == record for name, record in before.items())
