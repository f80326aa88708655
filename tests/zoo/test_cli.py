"""The command line's own work: its table, its errors, and the card that push_to_hub writes."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import huggingface_hub
import pytest

from sb3_relax import RELAXA2C
from sb3_relax.common import extras
from sb3_relax.zoo import cli


def error_of(capsys, *argv):
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


def test_a_missing_extra_says_which_to_install(capsys, monkeypatch):
    monkeypatch.setattr(extras, "find_spec", lambda name: None if name in ("rl_zoo3", "pandas") else object())
    message = "rl_zoo3, pandas not installed: pip install 'sb3_relax[zoo]'"
    assert message in error_of(capsys, "train", "--algo", "relaxa2c")


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
