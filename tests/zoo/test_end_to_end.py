"""train → enjoy → continue → tune, and what rl_zoo3 offers besides, through the command line in a folder of its own."""

import os
import subprocess
import sys
import zipfile

import numpy as np
import optuna
import pytest
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.monitor import load_results
from stable_baselines3.common.vec_env import VecNormalize

from sb3_relax import LAXA2C, RELAXA2C
from sb3_relax.zoo import cli

CLASSES = {"laxa2c": (LAXA2C, "Pendulum-v1"), "relaxa2c": (RELAXA2C, "CartPole-v1")}
#: short runs for the tests
SMALL = ("-n", "512", "--seed", "1", "--device", "cpu", "--num-threads", "1", "-f", "logs")


def in_process(*argv):
    cli.main(argv)


class Shell:
    """Runs commands in subprocesses of a folder, as a user does."""

    def __init__(self, folder):
        self.folder = folder
        self.env = {**os.environ, "MPLBACKEND": "Agg", "SDL_VIDEODRIVER": "dummy", "OMP_NUM_THREADS": "1"}

    def start(self, *argv):
        command = [sys.executable, "-m", "sb3_relax.zoo", *argv]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        return subprocess.Popen(command, cwd=self.folder, env=self.env, text=True, **pipes)

    def __call__(self, *argv):
        return self.finish(self.start(*argv))

    @staticmethod
    def finish(process):
        output, _ = process.communicate(timeout=300)
        assert process.returncode == 0, output
        return output


def loaded(folder, algo, run):
    cls, env_id = CLASSES[algo]
    return cls.load(folder / "logs" / algo / f"{env_id}_{run}" / f"{env_id}.zip", device="cpu")


def train_enjoy_continue_tune(zoo, folder, algo):
    _, env_id = CLASSES[algo]
    which = ("--algo", algo, "--env", env_id)
    runs = folder / "logs" / algo
    zoo("train", *which, *SMALL, "--eval-freq", "256", "--eval-episodes", "1", "--save-freq", "256")
    first = loaded(folder, algo, 1)
    assert first.num_timesteps >= 512
    assert (runs / f"{env_id}_1" / "best_model.zip").exists()
    assert len(list((runs / f"{env_id}_1").glob("rl_model_*_steps.zip"))) == 2
    config = (runs / f"{env_id}_1" / env_id / "config.yml").read_text()
    assert f"- - n_envs\n    - {first.n_envs}\n" in config
    stats = runs / f"{env_id}_1" / env_id / "vecnormalize.pkl"
    assert stats.exists() == (algo == "laxa2c")  # Pendulum-v1 is normalised, CartPole-v1 is not

    zoo("enjoy", *which, "-n", "200", "--no-render", "-f", "logs", "--reward-log", "rewards")
    assert len(load_results(str(folder / "rewards"))) >= 1

    zoo("train", *which, *SMALL, "--eval-freq", "-1", "-i", str(runs / f"{env_id}_1" / f"{env_id}.zip"))
    second = loaded(folder, algo, 2)
    assert second._n_updates == 2 * first._n_updates
    before, after = (
        np.concatenate([p.detach().numpy().ravel() for p in m.policy.parameters()]) for m in (first, second)
    )
    assert 0 < np.abs(before - after).max() < 1  # went on from there

    journal = str(folder / "study.log")
    tune = (
        "tune",
        *which,
        *SMALL,
        "--study-name",
        "s",
        "--n-evaluations",
        "1",
        "--pruner",
        "none",
        "--eval-episodes",
        "1",
    )
    zoo(*tune, "--storage", journal, "--n-trials", "2", "--n-startup-trials", "1", "--no-optim-plots")
    backend = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(journal))
    study = optuna.load_study(study_name="s", storage=backend)
    assert [trial.state.name for trial in study.trials] == ["COMPLETE", "COMPLETE"]
    assert len(list(runs.glob("report_*.csv"))) == 1

    zoo("train", *which, *SMALL, "--eval-freq", "-1", "--storage", journal, "--study-name", "s", "--trial-id", "1")
    assert loaded(folder, algo, 4).n_steps == study.trials[1].user_attrs["n_steps"]  # 3 was the search's own folder


@pytest.mark.parametrize("algo", CLASSES)
def test_train_enjoy_continue_tune(algo, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    train_enjoy_continue_tune(in_process, tmp_path, algo)


@pytest.mark.slow
@pytest.mark.parametrize("algo", CLASSES)
def test_the_same_in_subprocesses(algo, tmp_path):
    train_enjoy_continue_tune(Shell(tmp_path), tmp_path, algo)


@pytest.mark.slow
@pytest.mark.parametrize("storage", ["sqlite:///study.db", "study.log"])
def test_two_workers_share_a_study(tmp_path, storage):
    shell = Shell(tmp_path)
    which = ("--algo", "relaxa2c", "--env", "CartPole-v1", "--storage", storage, "--study-name", "shared")
    limits = ("--n-trials", "3", "--n-startup-trials", "1", "--eval-episodes", "1", "--no-optim-plots")
    workers = [shell.start("tune", *which, *SMALL[:-1], f"logs{i}", *limits) for i in range(2)]
    for worker in workers:
        shell.finish(worker)
    url = f"sqlite:///{tmp_path}/study.db"
    if storage.endswith(".log"):
        url = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(tmp_path / storage)))
    trials = optuna.load_study(study_name="shared", storage=url).trials
    assert [trial.number for trial in trials] == list(range(6))
    assert all(trial.state.is_finished() for trial in trials)


WANDB = """
import json, pathlib
class Run:
    class config:
        setdefaults = staticmethod(lambda values: None)
def init(**kwargs):
    pathlib.Path("wandb.json").write_text(json.dumps([kwargs["sync_tensorboard"], kwargs["config"]["algo"]]))
    return Run()
"""


@pytest.mark.slow
def test_callbacks_wrappers_and_tracking(tmp_path):
    (tmp_path / "wandb.py").write_text(WANDB)
    config = tmp_path / "mine.yml"
    config.write_text(
        "Pendulum-v1: {policy: MlpPolicy, n_timesteps: 256, n_envs: 2, normalize: 'dict(norm_reward=False)',\n"
        "  callback: [stable_baselines3.common.callbacks.LogEveryNTimesteps: {n_steps: 64}],\n"
        "  env_wrapper: [gymnasium.wrappers.RescaleAction: {min_action: -1, max_action: 1}],\n"
        "  vec_env_wrapper: [stable_baselines3.common.vec_env.VecCheckNan: {raise_exception: true}]}\n"
    )
    shell = Shell(tmp_path)
    arguments = (
        "-conf",
        str(config),
        "-f",
        "logs",
        "--eval-freq",
        "-1",
        "--vec-env",
        "subproc",
        "--log-interval",
        "-2",
    )
    output = shell("train", "--algo", "laxa2c", "--env", "Pendulum-v1", "--track", *arguments)
    assert (tmp_path / "wandb.json").read_text() == '[true, "laxa2c"]'
    assert list((tmp_path / "runs").rglob("events.out.tfevents.*"))  # --track turns tensorboard on
    assert output.count("total_timesteps") == 4  # every 64 of 256 steps
    run = tmp_path / "logs" / "laxa2c" / "Pendulum-v1_1"
    assert LAXA2C.load(run / "Pendulum-v1.zip").action_space.high == 1
    stats = VecNormalize.load(str(run / "Pendulum-v1" / "vecnormalize.pkl"), make_vec_env("Pendulum-v1"))
    assert (stats.norm_obs, stats.norm_reward) == (True, False)


@pytest.mark.slow
def test_record_and_plot(tmp_path):
    pytest.importorskip("pygame", reason="gymnasium draws classic control with pygame-ce")
    shell = Shell(tmp_path)
    which = ("--algo", "relaxa2c", "--env", "CartPole-v1", "-f", "logs")
    for _ in range(2):  # two of everything: rl_zoo3's plots squeeze what there is one of
        shell("train", *which, "-n", "2000", "--eval-freq", "1000", "--eval-episodes", "2")
    shell("record", *which, "-n", "50", "-o", "videos")
    (video,) = (tmp_path / "videos").glob("*.mp4")
    assert video.stat().st_size > 1000
    shell("plot", "-a", "relaxa2c", "-e", "CartPole-v1", "-f", "logs", "-w", "2")
    output = shell("plot-eval", "-a", "relaxa2c", "-e", "CartPole-v1", "-f", "logs", "-o", "all", "--no-million")
    assert "CartPole" in output
    shell("plot-file", "-i", "all.pkl")


def test_a_saved_agent_needs_no_rl_zoo3(tmp_path, monkeypatch):
    """Nothing of rl_zoo3's is pickled into the agent."""
    monkeypatch.chdir(tmp_path)
    in_process("train", "--algo", "laxa2c", "--env", "Pendulum-v1", *SMALL, "--eval-freq", "-1")
    with zipfile.ZipFile(tmp_path / "logs" / "laxa2c" / "Pendulum-v1_1" / "Pendulum-v1.zip") as archive:
        assert "rl_zoo3" not in archive.read("data").decode()
