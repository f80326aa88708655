"""Environments of a user's own module in the current folder: in every command, with the algorithm left to be chosen."""

import importlib
import runpy
import subprocess
import sys
from pathlib import Path

import gymnasium as gym
import pytest
import yaml
from stable_baselines3.common.monitor import load_results
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_relax import RELAXA2C
from sb3_relax.zoo import cli, masks
from sb3_relax.zoo.choice import choose_algorithm
from sb3_relax.zoo.preparation import with_algorithm
from sb3_relax.zoo.registry import ALGORITHMS

MINE = Path(__file__).with_name("mine.py")
NAMES = ("MyEnv-v0", "Masked-v0", "Unmasked-v0", "Parts-v0", "Torques-v0", "Mixed-v0", "Pairs-v0", "Broken-v0")
#: short, quiet runs
SMALL = ("-n", "400", "--device", "cpu", "--num-threads", "1", "--verbose", "0", "-f", "logs")


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    """A user's folder, which only ``sb3-relax`` itself may put on the path: a console script has not."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(MINE.read_text())
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry not in ("", str(tmp_path))])
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    yield
    for name in NAMES:
        gym.registry.pop(name, None)
    sys.modules.pop("mine", None)


def ways(name):
    return [["--env", name, "--gym-packages", "mine"], ["--env", f"mine:{name}"], [f"--env=mine:{name}"]]


@pytest.mark.parametrize("which", ways("MyEnv-v0"), ids=" ".join)
def test_train_enjoy_and_record(which, capsys):
    path = list(sys.path)
    cli.main(["train", *which, *SMALL, "--eval-freq", "200", "--eval-episodes", "1"])
    assert "Without --algo, relaxa2c is taken: RELAXA2C takes Discrete(4) actions" in capsys.readouterr().out
    assert Path("logs/relaxa2c/MyEnv-v0_1/MyEnv-v0.zip").is_file()
    assert Path("logs/relaxa2c/MyEnv-v0_1/best_model.zip").is_file()
    cli.main(["enjoy", *which, "-f", "logs", "-n", "50", "--no-render", "--reward-log", "rewards"])
    assert len(load_results("rewards")) == 5
    cli.main(["record", *which, "-f", "logs", "-n", "20", "-o", "videos"])
    assert list(Path("videos").glob("*.mp4"))
    assert sys.path == path


def test_tune(capsys):
    cli.main(["tune", "--env", "mine:MyEnv-v0", *SMALL, "--n-trials", "1", "--eval-episodes", "1", "--no-optim-plots"])
    assert "Without --algo, relaxa2c is taken" in capsys.readouterr().out
    assert list(Path("logs/relaxa2c").glob("report_*.csv"))


@pytest.mark.parametrize("which", ways("MyEnv-v0"), ids=" ".join)
def test_diagnose(which, monkeypatch):
    """Up to where an agent would be trained."""

    def made(action_space):
        raise InterruptedError(action_space)

    monkeypatch.setattr("sb3_relax.diagnose.cli.algorithm_of", made)
    with pytest.raises(InterruptedError, match=r"Discrete\(4\)"):
        cli.main(["diagnose", *which])


def test_plots_need_no_module(monkeypatch, capsys):
    monkeypatch.setattr("matplotlib.pyplot.show", lambda: None)
    Path("logs/relaxa2c/Other-v0_1").mkdir(parents=True)
    cli.main(["plot", "-a", "relaxa2c", "-e", "not_installed:Other-v0", "-f", "logs", "--gym-packages", "mine"])
    assert "Nothing to plot: no data" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "algorithm"),
    [
        ("Torques-v0", "laxa2c"),
        ("Parts-v0", "relaxa2c"),
        ("Masked-v0", "relaxa2c_mask"),
        ("Mixed-v0", "relaxa2c_hybrid"),
        ("Pairs-v0", "relaxa2c_hybrid"),
    ],
)
def test_the_algorithm_is_chosen_by_the_actions(name, algorithm):
    """A Dict of observations needs another policy than the default entry's."""
    cli.main(["train", "--env", f"mine:{name}", *SMALL, "--eval-freq", "-1"])
    assert Path(f"logs/{algorithm}/{name}_1/{name}.zip").is_file()
    config = yaml.unsafe_load(Path(f"logs/{algorithm}/{name}_1/{name}/config.yml").read_text())
    assert config["policy"] == ("MultiInputPolicy" if name == "Parts-v0" else "MlpPolicy")
    cli.main(["enjoy", "--env", f"mine:{name}", "-f", "logs", "-n", "20", "--no-render"])


def test_masks_that_no_algorithm_takes_are_not_passed_over_in_silence():
    mine = runpy.run_path("mine.py")
    gym.register("Broken-v0", type("MaskedMixed", (mine["Mixed"],), {"action_masks": lambda self: [True] * 3}))
    name, reason = choose_algorithm("Broken-v0", None, ALGORITHMS)
    assert name == "relaxa2c_hybrid"
    assert "leaves the masks out" in reason
    assert "leaves the masks out" not in choose_algorithm("Masked-v0", None, ALGORITHMS)[1]
    assert "masks" not in choose_algorithm("Mixed-v0", None, ALGORITHMS)[1]


def test_a_choice_that_leaves_masks_out_says_so(monkeypatch):
    monkeypatch.syspath_prepend(".")
    importlib.import_module("mine")
    monkeypatch.setattr(gym.spec("Masked-v0").entry_point, "action_space", gym.spaces.Box(-1, 1, (2,)))
    assert choose_algorithm("Masked-v0", None, ALGORITHMS) == (
        "laxa2c",
        "LAXA2C takes Box(-1.0, 1.0, (2,), float32) actions, and leaves the masks out",
    )


def test_diagnose_does_not_drop_masks(capsys):
    with pytest.raises(SystemExit):
        cli.main(["diagnose", "--env", "mine:Masked-v0"])
    assert "error: Masked-v0 has action masks, and the diagnosis acts without: name --algo" in capsys.readouterr().err


def test_diagnose_says_what_measures_actions_of_several_parts(capsys):
    with pytest.raises(SystemExit):
        cli.main(["diagnose", "--env", "mine:Pairs-v0"])
    assert "GradientVarianceCallback measures its gradient while it does" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["train", "compare", "diagnose"])
def test_an_environment_whose_module_is_not_named(command, capsys):
    with pytest.raises(SystemExit):
        cli.main([command, "--env", "MyEnv-v0"])
    error = capsys.readouterr().err
    assert "error: unknown environment 'MyEnv-v0'" in error
    assert "--env MODULE:MyEnv-v0, or --gym-packages MODULE" in error


def test_a_wrapper_of_the_entry_has_the_masks(capsys):
    which = ("--env", "mine:Unmasked-v0", "--conf-file", "mine.yml")
    Path("mine.yml").write_text("Unmasked-v0: {policy: MlpPolicy, n_timesteps: 100, env_wrapper: mine.UnderMasks}\n")
    cli.main(["train", *which, "--algo", "relaxa2c_mask", *SMALL, "--eval-freq", "200", "--eval-episodes", "1"])
    assert Path("logs/relaxa2c_mask/Unmasked-v0_1/best_model.zip").is_file()
    # where none is named, the wrapper is not made before it is known whether it may be run
    assert with_algorithm("train", ["--env", "Unmasked-v0", *which[2:]])[-1] == "relaxa2c"
    assert (
        "env_wrapper was not asked for masks: where it has them, name --algo relaxa2c_mask" in capsys.readouterr().out
    )
    with_algorithm("train", ["--env", "Unmasked-v0"])
    assert "env_wrapper" not in capsys.readouterr().out


def test_an_agent_to_go_on_with_keeps_its_algorithm(capsys):
    which = ("--env", "mine:MyEnv-v0")
    cli.main(["train", *which, "--algo", "a2c_matched", *SMALL, "--eval-freq", "-1"])
    cli.main(["train", *which, "-i", "logs/a2c_matched/MyEnv-v0_1/MyEnv-v0.zip", *SMALL, "--eval-freq", "-1"])
    assert Path("logs/a2c_matched/MyEnv-v0_2/MyEnv-v0.zip").is_file()
    assert "Without --algo, a2c_matched is taken" in capsys.readouterr().out


def test_actions_that_nothing_takes(monkeypatch, capsys):
    class Pair(gym.Env):
        action_space = gym.spaces.Graph(gym.spaces.Discrete(2), None)
        observation_space = gym.spaces.Discrete(2)

    gym.register("Broken-v0", Pair)
    with pytest.raises(SystemExit):
        cli.main(["train", "--env", "Broken-v0"])
    assert "sb3-relax: error: no algorithm takes the action space Graph(" in capsys.readouterr().err


@pytest.mark.slow
def test_the_environment_is_found_in_other_processes():
    command = [sys.executable, "-m", "sb3_relax.zoo", "train", "--env", "mine:MyEnv-v0", *SMALL, "--vec-env", "subproc"]
    done = subprocess.run([*command, "-params", "n_envs:2"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# -- episodes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("more", [[], ["n_episodes:4"]])
def test_training_stops_after_so_many_episodes(more):
    """Of each environment, as SB3 counts them, beside a callback of the entry; also where whole episodes are taken."""
    Path("mine.yml").write_text(
        "MyEnv-v0: {policy: MlpPolicy, n_timesteps: 100000, n_envs: 2,\n"
        "  callback: [stable_baselines3.common.callbacks.LogEveryNTimesteps: {n_steps: 64}]}\n"
    )
    arguments = [
        "--env",
        "mine:MyEnv-v0",
        "-conf",
        "mine.yml",
        "-f",
        "logs",
        "--eval-freq",
        "-1",
        "--max-episodes",
        "7",
    ]
    cli.main(["train", *arguments, *(["-params", *more] if more else [])])
    run = Path("logs/relaxa2c/MyEnv-v0_1")
    assert RELAXA2C.load(run / "MyEnv-v0.zip").num_timesteps == 7 * 2 * 10
    (log, stop) = yaml.unsafe_load((run / "MyEnv-v0" / "config.yml").read_text())["callback"]
    assert list(log) == ["stable_baselines3.common.callbacks.LogEveryNTimesteps"]
    assert next(iter(stop.values()))["max_episodes"] == 7
    cli.main(["train", "--env", "mine:MyEnv-v0", *SMALL, "--eval-freq", "-1"])  # the next knows nothing of it
    assert RELAXA2C.load("logs/relaxa2c/MyEnv-v0_2/MyEnv-v0.zip").num_timesteps == 400


# -- masks ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algo", ["relaxa2c_mask", "relaxa2c_mask_lstm"])
def test_masks_reach_every_command(algo):
    """Evaluations while training and tuning, enjoy and record; a forbidden action would raise. Under VecNormalize."""
    which = ("--env", "mine:Masked-v0", "--algo", algo)
    evaluated = ("--eval-episodes", "2", "-params", "normalize:True", "n_envs:2")
    cli.main(["train", *which, *SMALL, "--eval-freq", "100", *evaluated])
    assert Path(f"logs/{algo}/Masked-v0_1/best_model.zip").is_file()
    cli.main(["enjoy", *which, "-f", "logs", "-n", "100", "--no-render", "--stochastic"])
    cli.main(["enjoy", *which, "-f", "logs", "-n", "20", "--no-render", "--n-envs", "2"])
    cli.main(["record", *which, "-f", "logs", "-n", "50", "--stochastic", "-o", "videos"])
    cli.main(["tune", *which, *SMALL, *evaluated, "--n-trials", "1", "--no-optim-plots", "--n-evaluations", "2"])


def test_an_agent_under_masks_never_acts_without():
    mine = runpy.run_path("mine.py")
    plain, masked = DummyVecEnv([mine["MyEnv"]]), DummyVecEnv([mine["Masked"]])
    assert masks.showing_masks(plain) is plain
    masked = masks.showing_masks(masked)
    agent = masks.MaskableRELAXA2C("MlpPolicy", masked, device="cpu")
    first = masked.reset()
    assert (masks.masks_of(first) == [[True, False, True, False]]).all()
    second = masked.step([0])[0]
    assert (masks.masks_of(second) == [[False, True, False, True]]).all()
    assert {int(agent.predict(second)[0][0]) for _ in range(50)} <= {1, 3}
    for stranger in (first, second.copy(), plain.reset()):
        with pytest.raises(masks.UsageError, match="acts under masks"):
            agent.predict(stranger)
    agent.predict(plain.reset(), action_masks=[True, False, True, False])


# -- a search without a result ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("storage", [[], ["--storage", "study.log", "--study-name", "s"]])
def test_a_search_all_of_whose_trials_fail(capsys, storage):
    with pytest.raises(SystemExit):
        cli.main(["tune", "--algo", "relaxa2c", "--env", "mine:Broken-v0", *SMALL, "--n-trials", "2", *storage])
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("sb3-relax: error")]
    assert "none of its trials was completed; the last that failed: trial 1: rewards must be finite" in line
