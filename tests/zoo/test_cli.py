"""The command line's own work: its table, its errors, and the card that push_to_hub writes."""

import gc
import importlib.util
import subprocess
import sys
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
from matplotlib import pyplot as plt

from sb3_relax import LAXA2C, RELAXA2C, optional
from sb3_relax.errors import AgentNotFound
from sb3_relax.zoo import cli


def error_of(capsys, *argv):
    gc.collect()  # what earlier tests left may have something to say when it is collected
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        cli.main(argv)
    assert stop.value.code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["tain"], "unknown command 'tain', did you mean 'train'"),
        (["train", "--algo", "relax2c"], "unknown algorithm 'relax2c', did you mean 'relaxa2c'"),
        (
            ["enjoy", "--algo", "laxa2c", "--env", "pendulum-v1"],
            "unknown environment 'pendulum-v1', did you mean 'Pend",
        ),
        (["plot", "-a", "laxa2", "-e", "Pendulum-v1", "-f", "logs"], "did you mean 'laxa2c'"),
    ],
)
def test_a_name_that_does_not_exist(capsys, argv, message):
    assert message in error_of(capsys, *argv)


#: arguments → what is said, in one line
MISTAKES = {
    "the algorithm does not take the actions": (
        ["train", "--algo", "laxa2c", "--env", "CartPole-v1"],
        "LAXA2C takes Box action spaces; got Discrete(2): use sb3_relax.RELAXA2C instead (--algo relaxa2c)",
    ),
    "the same when tuning": (
        ["tune", "--algo", "relaxa2c", "--env", "Pendulum-v1", "-n", "64", "--n-trials", "1"],
        "use sb3_relax.LAXA2C instead (--algo laxa2c)",
    ),
    "a policy of another family": (
        ["train", "--algo", "relaxa2c", "--env", "CartPole-v1", "-params", "policy:'MlpLstmPolicy'"],
        "(--algo laxa2c_lstm or relaxa2c_lstm)",
    ),
    "a rate": (
        ["train", "--algo", "relaxa2c", "--env", "CartPole-v1", "-params", "cv_learning_rate:-1"],
        "cv_learning_rate must be a finite number >= 0 (or a schedule of such numbers); got -1",
    ),
    "a schedule": (
        ["train", "--algo", "relaxa2c", "--env", "CartPole-v1", "-params", "learning_rate:'exp_1'"],
        "learning_rate must be a number, or lin_ and a number as in lin_3e-3; got 'exp_1'",
    ),
    "text for a number": (
        ["train", "--algo", "relaxa2c", "--env", "CartPole-v1", "-params", "gae_lambda:'0.9'"],
        "gae_lambda must be a finite number between 0 and 1; got '0.9'",
    ),
    "no environments": (
        ["train", "--algo", "relaxa2c", "--env", "CartPole-v1", "-params", "n_envs:0"],
        "n_envs must be a whole number >= 1; got 0",
    ),
    "none to watch": (
        ["enjoy", "--algo", "relaxa2c", "--env", "CartPole-v1", "--n-envs", "0"],
        "--n-envs must be a whole number >= 1; got 0",
    ),
    "a key that does not exist": (
        ["train", "--algo", "relaxa2c", "--env", "CartPole-v1", "-params", "gama:0.9"],
        "unknown hyper-parameter of relaxa2c 'gama', did you mean 'gamma'?",
    ),
    "text without quotes": (
        ["train", "--algo", "relaxa2c", "--env", "CartPole-v1", "-params", "policy:MlpPolicy"],
        "-params takes key:value, each value in Python (text in quotes of its own",
    ),
    "an entry that does not exist": (
        ["train", "--algo", "relaxa2c", "--env", "Acrobot-v1", "-conf", "mine.yml"],
        "unknown entry of mine.yml 'Acrobot-v1'",
    ),
    "no file of hyper-parameters": (
        ["train", "--algo", "relaxa2c", "--env", "CartPole-v1", "-conf", "none.yml"],
        "hyper-parameters cannot be read from none.yml",
    ),
    "no agent to go on with": (
        ["train", "--algo", "relaxa2c", "--env", "CartPole-v1", "-i", "none.zip"],
        "-i must name the .zip file of an agent, and there is none at none.zip",
    ),
    "another's agent to go on with": (
        ["train", "--algo", "relaxa2c", "--env", "CartPole-v1", "-i", "laxa2c.zip"],
        "laxa2c.zip holds an agent of sb3_relax.LAXA2C",
    ),
    "nothing to plot": (
        ["plot", "-a", "relaxa2c", "-e", "CartPole-v1", "-f", "nowhere"],
        "nothing to plot: there is no folder nowhere/relaxa2c",
    ),
    "no run of that environment": (
        ["plot-eval", "-a", "relaxa2c", "laxa2c", "-e", "Acrobot", "CartPole-v0", "-f", "runs"],
        "nothing to plot: no folder in runs/relaxa2c has Acrobot or CartPole-v0 in its name; "
        "there are CartPole-v1_1, MyEnv-v0_1",
    ),
    "no run at all": (
        ["plot", "-a", "laxa2c", "-e", "Pendulum", "-f", "empty"],
        "nothing to plot: no folder in empty/laxa2c has Pendulum in its name; there is none",
    ),
    "capitals in the name of a folder": (
        ["plot", "-a", "RELAXA2C", "-e", "CartPole", "-f", "runs"],
        "unknown algorithm 'RELAXA2C', did you mean 'relaxa2c'",
    ),
    "nothing gathered": (["plot-file", "-i", "none.pkl"], "there is no file none.pkl; sb3-relax plot-eval -o writes"),
    "nothing gathered, without ending": (["plot-file", "--input", "none", "-iqm"], "there is no file none.pkl"),
    "an environment that push_to_hub cannot make": (
        ["push_to_hub", "--algo", "relaxa2c", "--env", "MyEnv-v0", "-f", "runs", "-orga", "someone"],
        "unknown environment 'MyEnv-v0'",
    ),
    "a trial without its study": (
        ["train", "--algo", "relaxa2c", "--env", "CartPole-v1", "--storage", "study.log", "--trial-id", "0"],
        "a trial's hyper-parameters are named by --storage, --study-name and --trial-id together: --study-name is miss",
    ),
    "a study without a trial": (
        ["train", "--algo", "relaxa2c", "--env", "CartPole-v1", "--study-name", "mine"],
        "--storage and --trial-id are missing",
    ),
    "a search that begins at a trial of no study": (
        ["tune", "--algo", "relaxa2c", "--env", "CartPole-v1", "--study-name", "mine", "--trial-id", "0"],
        "--storage is missing",
    ),
    "a search of nothing": (
        ["tune", "--algo", "relaxa2c", "--env", "CartPole-v1", "--n-trials", "0"],
        "--n-trials must be a whole number >= 1; got 0",
    ),
    "no episodes": (
        ["train", "--algo", "relaxa2c", "--env", "CartPole-v1", "--max-episodes", "0"],
        "--max-episodes must be a whole number >= 1; got 0",
    ),
    "a search by episodes": (
        ["train", "--optimize", "--algo", "relaxa2c", "--env", "CartPole-v1", "--max-episodes", "5"],
        "--max-episodes is for training",
    ),
    "tracking without wandb": (
        ["train", "--algo", "relaxa2c", "--env", "CartPole-v1", "--track"],
        "--track needs wandb: pip install wandb",
    ),
    "the baseline under another name": (
        ["train", "--algo", "relaxa2c", "--env", "CartPole-v1", "-params", "cv_learning_rate:0"],
        "use --algo a2c_matched",
    ),
    "the baseline with a control variate": (
        ["train", "--algo", "a2c_matched", "--env", "CartPole-v1", "-params", "control_variate:'relax'"],
        "a2c_matched has no control variate: use --algo laxa2c (Box actions) or relaxa2c",
    ),
    "masks that the environment does not have": (
        ["train", "--algo", "relaxa2c_mask", "--env", "CartPole-v1", "--eval-freq", "-1"],
        "the environment has no method action_masks()",
    ),
    "no module": (
        ["train", "--algo", "relaxa2c", "--env", "none_such:MyEnv-v0"],
        "--env none_such:MyEnv-v0: there is no package 'none_such' that could be imported, neither installed nor in",
    ),
    "a module that does not register it": (
        ["train", "--algo", "relaxa2c", "--env", "json:MyEnv-v0"],
        "unknown environment 'MyEnv-v0'",
    ),
    "no package": (
        ["train", "--algo", "relaxa2c", "--env", "CartPole-v1", "--gym-packages", "none_such"],
        "--gym-packages: there is no package 'none_such'",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_of_the_users_is_one_line(capsys, monkeypatch, tmp_path, mistake):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sb3_relax.zoo.arguments.find_spec", lambda name: None if name == "wandb" else object())
    Path("mine.yml").write_text("CartPole-v1: {policy: MlpPolicy, n_timesteps: 10}\n")
    LAXA2C("MlpPolicy", "Pendulum-v1", device="cpu").save("laxa2c.zip")
    Path("empty/laxa2c").mkdir(parents=True)
    for run in ("CartPole-v1_1", "MyEnv-v0_1"):
        folder = Path("runs/relaxa2c", run, run[:-2])
        folder.mkdir(parents=True)
        folder.with_suffix(".zip").touch()
    argv, message = MISTAKES[mistake]
    said = error_of(capsys, *argv)
    (line,) = [line for line in said.splitlines() if "error" in line]
    assert line.startswith("sb3-relax: error: "), said
    assert message in line


@pytest.mark.parametrize(
    ("command", "name"),
    [("plot", "CartPole"), ("plot", "MyEnv-v0"), ("plot-eval", "ALE-Pong-v5"), ("plot-eval", "cut")],
)
def test_plots_find_runs_by_part_of_their_name(capsys, monkeypatch, tmp_path, command, name):
    """Of environments that need not be installed here."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("matplotlib.get_backend", lambda: "agg")
    monkeypatch.setattr("matplotlib.pyplot.show", lambda: None)
    plt.close("all")
    for run in ("CartPole-v1_1", "MyEnv-v0_1", "ALE-Pong-v5_1", "cut-short"):
        (tmp_path / "logs" / "laxa2c" / run).mkdir(parents=True)
    cli.main([command, "-a", "laxa2c", "-e", name, "none_such", "-f", "logs"])
    output = capsys.readouterr().out
    assert ("Eval not found for" in output) == (command == "plot-eval")
    assert "Nothing to plot: no data" in output


def write_evaluations(logs, *runs):
    for name in runs:
        run = logs / "relaxa2c" / name
        run.mkdir(parents=True)
        np.savez(run / "evaluations.npz", timesteps=np.arange(1, 4), results=np.ones((3, 5)))


def test_plot_file_reads_what_plot_eval_wrote(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("matplotlib.pyplot.show", lambda: None)
    write_evaluations(tmp_path / "logs", "MyEnv-v0_1", "MyEnv-v0_2")  # plot-file leaves single runs out
    cli.main(["plot-eval", "-a", "RELAXA2C", "-e", "MyEnv", "-f", "logs", "-o", "gathered"])
    for name in ("gathered", "gathered.pkl"):
        cli.main(["plot-file", "-i", name])


@pytest.mark.parametrize(
    ("backend", "options", "saved"),
    [("agg", [], ["plot-eval-2.png", "plot-eval.png"]), ("agg", ["--no-display"], []), ("tkagg", [], [])],
)
def test_plots_are_saved_where_there_is_no_screen(capsys, monkeypatch, tmp_path, backend, options, saved):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("matplotlib.get_backend", lambda: backend)
    monkeypatch.setattr("matplotlib.pyplot.show", lambda: None)
    plt.close("all")
    write_evaluations(tmp_path / "logs", "MyEnv-v0_1", "MyEnv-v0_2", "Other-v0_1")
    cli.main(["plot-eval", "-a", "relaxa2c", "-e", "MyEnv", "without-runs", "Other", "-f", "logs", *options])
    assert sorted(file.name for file in tmp_path.glob("*.png")) == saved
    assert capsys.readouterr().out.count("No screen to show it on: saved plot-eval") == len(saved)
    plt.close("all")


def test_the_hub_has_agents_of_environments_that_are_not_here(monkeypatch):
    def download(*_, **__):
        raise InterruptedError("asked")

    monkeypatch.setattr("huggingface_sb3.load_from_hub", download)
    with pytest.raises(InterruptedError, match="asked"):
        cli.main(["load_from_hub", "--algo", "relaxa2c", "--env", "ALE-Pong-v5", "-f", "logs", "-orga", "someone"])


@pytest.mark.parametrize("error", [ValueError, TypeError, AssertionError, FileNotFoundError])
def test_a_bug_keeps_its_traceback(monkeypatch, tmp_path, error):
    def broken(self):
        raise error("a bug")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(RELAXA2C, "_setup_model", broken)
    with pytest.raises(error, match="a bug"):
        cli.main(["train", "--algo", "relaxa2c", "--env", "CartPole-v1", "-f", "logs"])


def test_a_package_that_lacks_another_keeps_its_traceback(monkeypatch, tmp_path):
    (tmp_path / "lacking.py").write_text("import none_such\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="none_such"):
        cli.main(["train", "--algo", "relaxa2c", "--env", "CartPole-v1", "--gym-packages", "lacking"])


@pytest.mark.parametrize("command", ["enjoy", "record", "push_to_hub"])
def test_no_trained_agent_says_where_and_how_to_train_one(capsys, monkeypatch, tmp_path, command):
    monkeypatch.chdir(tmp_path)
    which = [command, "--algo", "relaxa2c", "--env", "CartPole-v1", "-f", "logs"]
    which += ["-orga", "someone"] if command == "push_to_hub" else []
    train = "To train one: sb3-relax train --algo relaxa2c --env CartPole-v1 -f logs"
    message = error_of(capsys, *which)
    assert message.startswith("sb3-relax: error: The logs/relaxa2c folder was not found. There is no agent in logs.")
    assert train in message

    for run in ("relaxa2c/Acrobot-v1_1/Acrobot-v1.zip", "laxa2c/Pendulum-v1_3/best_model.zip"):
        (tmp_path / "logs" / run).parent.mkdir(parents=True)
        (tmp_path / "logs" / run).touch()
    (tmp_path / "logs" / "relaxa2c" / "CartPole-v1_2").mkdir()  # a run that was cut short
    message = error_of(capsys, *which)
    assert "path: logs/relaxa2c/CartPole-v1_2/CartPole-v1.zip" in message
    assert "Agents in logs (the number is --exp-id): laxa2c/Pendulum-v1_3, relaxa2c/Acrobot-v1_1." in message
    assert train in message


def test_agents_of_ours_are_not_asked_of_sb3s_hub(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    message = error_of(capsys, "enjoy", "--algo", "relaxa2c", "--env", "CartPole-v1")
    assert "-f names another folder (train's own is logs)" in message

    def download(**_):
        raise InterruptedError("asked")

    monkeypatch.setattr("rl_zoo3.load_from_hub.download_from_hub", download)
    with pytest.raises(InterruptedError, match="asked"):
        cli.main(["enjoy", "--algo", "ppo", "--env", "CartPole-v1"])


def test_a_missing_extra_says_which_to_install(capsys, monkeypatch):
    monkeypatch.setattr(optional, "find_spec", lambda name: None if name in ("rl_zoo3", "pandas") else object())
    message = "rl_zoo3, pandas not installed: pip install 'sb3_relax[zoo]'"
    assert message in error_of(capsys, "train", "--algo", "relaxa2c")


@pytest.mark.parametrize(
    ("command", "said"), [("train", "--max-episodes N"), ("enjoy", "Without --algo"), ("plot", "")]
)
def test_help_says_what_rl_zoo3s_leaves_out(capsys, command, said):
    with pytest.raises(SystemExit) as stop:
        cli.main([command, "--help"])
    assert not stop.value.code
    output = capsys.readouterr().out
    assert said in output
    assert "--env ENV" in output


def test_a_command_needs_one_line(capsys, monkeypatch, tmp_path):
    (tmp_path / "a_command.py").write_text("import sys\nif __name__ == '__main__':\n    print('ran', sys.argv[1:])\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(cli.COMMANDS, "mine", cli.Command("a_command", "of a test", ("--first",)))
    before = list(sys.argv)
    cli.main(["mine", "--second", "2"])
    assert capsys.readouterr().out == "ran ['--first', '--second', '2']\n"
    assert sys.argv == before


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_exists(name):
    assert importlib.util.find_spec(cli.COMMANDS[name].module) is not None


def test_the_package_alone_imports_nothing_of_the_zoo():
    code = "import sys, sb3_relax, sb3_relax.relaxa2c; print({'rl_zoo3', 'optuna', 'pandas'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


class FakeHub:
    """The part of HfApi that an upload uses, on disk."""

    uploaded: dict[str, Path] = {}  # noqa: RUF012

    def create_repo(self, repo_id, **_):
        return f"https://example.org/{repo_id}"

    def snapshot_download(self, repo_id, local_dir):
        Path(local_dir).mkdir(parents=True)

    def upload_folder(self, repo_id, folder_path, commit_message):
        FakeHub.uploaded[repo_id] = Path(folder_path).absolute()


def test_push_to_hub_uploads_an_agent_whose_card_names_our_commands(monkeypatch, tmp_path):
    monkeypatch.setattr(huggingface_hub, "HfApi", FakeHub)
    monkeypatch.chdir(tmp_path)
    agent = tmp_path / "logs" / "relaxa2c" / "CartPole-v1_1"
    (agent / "CartPole-v1").mkdir(parents=True)
    RELAXA2C("MlpPolicy", "CartPole-v1", device="cpu").save(agent / "CartPole-v1.zip")
    (agent / "CartPole-v1" / "config.yml").write_text("n_envs: 1\npolicy: MlpPolicy\n")
    (agent / "CartPole-v1" / "args.yml").write_text("env_kwargs: null\n")
    arguments = ["--algo", "relaxa2c", "--env", "CartPole-v1", "-f", "logs", "-orga", "someone", "--no-render"]
    cli.main(["push_to_hub", *arguments])
    folder = FakeHub.uploaded["someone/relaxa2c-CartPole-v1"]
    card = (folder / "README.md").read_text()
    assert "python -m sb3_relax.zoo train --algo relaxa2c --env CartPole-v1" in card
    assert "pip install sb3_relax[zoo]" in card
    assert "rl_zoo3." not in card.replace("rl_zoo3.git", "")
    assert "mean_reward" in card
    assert "RELAXA2C" in card
    RELAXA2C.load(folder / "relaxa2c-CartPole-v1.zip")


def test_the_newest_run_that_has_an_agent(tmp_path, capsys):
    """A search, or training that was refused, leaves a numbered folder without one."""
    from sb3_relax.zoo.arguments import get_model_path

    for run in (1, 2, 10, 11):
        (tmp_path / "relaxa2c" / f"CartPole-v1_{run}").mkdir(parents=True)
    for run in (2, 10):
        (tmp_path / "relaxa2c" / f"CartPole-v1_{run}" / "CartPole-v1.zip").touch()
    where = (str(tmp_path), "relaxa2c", "CartPole-v1", False, None, False)
    assert get_model_path(0, *where)[2].endswith("CartPole-v1_10")
    assert "id=10" in capsys.readouterr().out
    with pytest.raises(AgentNotFound, match=r"No model found .*CartPole-v1_11.*relaxa2c/CartPole-v1_10"):
        get_model_path(11, *where)
