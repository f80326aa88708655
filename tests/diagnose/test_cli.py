"""The command."""

import functools
import inspect
import json
import pickle
import shlex

import pytest
from stable_baselines3 import A2C, DQN
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

from sb3_relax import LAXA2C, RELAXA2C
from sb3_relax.diagnose import diagnose
from sb3_relax.diagnose.cli import ALGORITHMS, _environment, main, parser
from sb3_relax.errors import UsageError
from tests.payloads import Payload, went_off, with_payload

LITTLE = shlex.split(
    "--n-envs 2 --lambdas 1 0 --n-states 12 --n-actions 2 --n-futures 2 --n-episodes 6 --n-rollouts 8 "
    "--n-fit-steps 64 --n-fit-updates 5"
)


def test_an_agent_trained_briefly(tmp_path, capsys):
    pytest.importorskip("rich")
    pytest.importorskip("matplotlib")
    files = ["--json", str(tmp_path / "d.json"), "--plot", str(tmp_path / "d.png")]
    assert main(["--env", "CartPole-v1", "--train-steps", "128", *LITTLE, *files]) == 0
    out, err = capsys.readouterr()
    saved = json.loads((tmp_path / "d.json").read_text())
    assert (saved["settings"]["n_steps"], saved["settings"]["lambdas"]) == (32, [1.0, 0.0])
    assert {row["name"] for row in saved["rows"]} == {"none", "V(s)", "best b(s)", "ĉ(s)", "RELAX", "exact"}
    assert "RELAX" in out
    assert "as long as with A2C" in " ".join(out.split())
    assert "continued by copy" in err
    assert (tmp_path / "d.png").stat().st_size > 10_000


def test_environments_that_need_not_draw():
    arguments = parser().parse_args(["--env", "CartPole-v1"])
    assert _environment(arguments, n_envs=2).get_attr("render_mode") == [None, None]


def test_a_given_agent_with_its_normalisation(tmp_path):
    env = VecNormalize(make_vec_env("Pendulum-v1", n_envs=2, seed=0))
    model = LAXA2C("MlpPolicy", env, n_steps=8, seed=0, device="cpu").learn(64)
    model.save(tmp_path / "agent.zip")
    env.save(str(tmp_path / "vecnormalize.pkl"))
    given = ["--agent", str(tmp_path / "agent.zip"), "--vecnormalize", str(tmp_path / "vecnormalize.pkl")]
    assert main(["--env", "Pendulum-v1", *given, *LITTLE, "--json", str(tmp_path / "d.json")]) == 0
    assert json.loads((tmp_path / "d.json").read_text())["settings"]["n_steps"] == 8


@pytest.mark.parametrize("agent", ["Pendulum-v1.zip", "best_model.zip"])
def test_normalisation_that_rl_zoo_laid_beside_the_agent(agent, tmp_path, capsys, monkeypatch):
    env = VecNormalize(make_vec_env("Pendulum-v1", n_envs=2, seed=0))
    LAXA2C("MlpPolicy", env, n_steps=8, device="cpu").save(tmp_path / agent)
    used = []
    read = "sb3_relax.diagnose.cli.load_vec_normalize"
    monkeypatch.setattr(read, lambda file, env: used.append(file) or VecNormalize(env))

    @functools.wraps(diagnose)
    def environments(model, make_env, **_):
        normalised = [isinstance(env, VecNormalize) for env in (model.get_env(), make_env())]
        assert normalised == [bool(used)] * 2
        raise UsageError("enough")

    monkeypatch.setattr("sb3_relax.diagnose.cli.diagnose", environments)

    def run(*more):
        with pytest.raises(SystemExit):
            main(["--env", "Pendulum-v1", "--agent", str(tmp_path / agent), *more])

    run()
    assert not used
    assert "vecnormalize" not in capsys.readouterr().err

    beside, given = tmp_path / "Pendulum-v1" / "vecnormalize.pkl", tmp_path / "another.pkl"
    beside.parent.mkdir()
    for file in (beside, given):
        env.save(str(file))
    run()
    assert set(used) == {str(beside)}
    assert f"… using {beside}\n" in capsys.readouterr().err

    used.clear()
    run("--vecnormalize", str(given))
    assert set(used) == {str(given)}
    assert str(beside) not in capsys.readouterr().err


def test_a_missing_extra_is_asked_for_at_once(monkeypatch, capsys):
    monkeypatch.setattr("sb3_relax.optional.find_spec", lambda module: None)
    with pytest.raises(SystemExit):
        main(["--env", "CartPole-v1", "--plot", "d.png"])
    assert "rich, scipy, matplotlib not installed: pip install 'sb3_relax[diagnose]'" in capsys.readouterr().err


@pytest.mark.parametrize("algo", ALGORITHMS)
def test_the_class_of_an_agent_is_its_files(algo, tmp_path, monkeypatch):
    env = "Pendulum-v1" if algo == "laxa2c" else "CartPole-v1"
    ALGORITHMS[algo]("MlpPolicy", env, device="cpu").save(tmp_path / "agent.zip")
    measured = []

    @functools.wraps(diagnose)
    def stop(model, *_, **__):
        measured.append(type(model))
        raise UsageError("enough")

    monkeypatch.setattr("sb3_relax.diagnose.cli.diagnose", stop)
    with pytest.raises(SystemExit):
        main(["--env", env, "--agent", str(tmp_path / "agent.zip")])
    assert measured == [ALGORITHMS[algo]]


def test_errors(tmp_path, capsys):
    A2C("MlpPolicy", "CartPole-v1", device="cpu").save(tmp_path / "a2c.zip")
    DQN("MlpPolicy", "CartPole-v1", device="cpu").save(tmp_path / "dqn.zip")
    LAXA2C("MlpPolicy", "Pendulum-v1", device="cpu").save(tmp_path / "laxa2c.zip")
    for arguments, says in (
        (["--env", "CartPol-v1"], "CartPole"),
        (
            ["--env", "CartPole-v1", "--agent", str(tmp_path / "a2c.zip"), "--algo", "relaxa2c"],
            "use --algo a2c, or leave it",
        ),
        (
            ["--env", "CartPole-v1", "--agent", str(tmp_path / "dqn.zip")],
            "error: name the agent's algorithm with --algo, one of laxa2c, relaxa2c, a2c, ppo (no other",
        ),
        (["--env", "CartPole-v1", "--agent", str(tmp_path / "none.zip")], "none.zip"),
        (["--env", "CartPole-v1", "--algo", "laxa2c"], "use sb3_relax.RELAXA2C instead (--algo relaxa2c)\n"),
        (
            ["--env", "CartPole-v1", "--agent", str(tmp_path / "laxa2c.zip"), "--algo", "relaxa2c"],
            "error: use --algo laxa2c, or leave it out: ",
        ),
        (
            ["--env", "CartPole-v1", "--agent", str(tmp_path / "laxa2c.zip")],
            "laxa2c.zip: the observation_space of the agent is not that of the environment",
        ),
    ):
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        (line,) = [line for line in capsys.readouterr().err.splitlines(keepends=True) if "…" not in line]
        assert stop.value.code == 2
        assert "error: " in line
        assert says in line


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--lambdas", "3"], "lambdas must be a finite number between 0 and 1; got 3.0"),
        (["--n-rollouts", "3"], "n_rollouts must be a whole number >= 4; got 3"),
        (["--n-envs", "0"], "n_envs must be a whole number >= 1; got 0"),
        (["--n-steps", "0"], "n_steps must be a whole number >= 1; got 0"),
        (["--train-steps", "0"], "train_steps must be a whole number >= 1; got 0"),
        (["--plot", "d.txt"], "the ending of --plot must be one of '.png', '.svg', '.pdf'; got '.txt'"),
        (["--vecnormalize", "none.pkl"], "there is no file none.pkl"),
        (["--device", "foo"], "--device foo cannot be used: Expected one of cpu, cuda"),
        (["--device", "meta"], "--device meta cannot be used: "),
        (["--control-variates", "factorised"], "control_variate 'factorised' takes"),
        (["--gym-packages", "none_such"], "--gym-packages: there is no package 'none_such'"),
    ],
)
def test_what_is_wrong_is_said_before_an_agent_is_trained(arguments, says, capsys):
    with pytest.raises(SystemExit):
        main(["--env", "CartPole-v1", *arguments])
    error = capsys.readouterr().err
    assert says in error
    assert "training" not in error


def test_normalisation_that_cannot_be_used(tmp_path, capsys):
    file = tmp_path / "vecnormalize.pkl"

    def refused(*trust):
        with pytest.raises(SystemExit) as stop:
            main(["--env", "CartPole-v1", "--vecnormalize", str(file), *trust])
        (line,) = capsys.readouterr().err.splitlines()
        assert stop.value.code == 2
        whose = "CartPole-v1" if trust else "the environment"
        assert f"error: --vecnormalize: {file} holds no VecNormalize that fits {whose} (" in line
        return line

    for content, trusted, safe in (
        (b"", "EOFError", "NotWhole"),
        (b"no pickle", "UnpicklingError", "NotWhole"),
        (pickle.dumps({"a": "dict"}), "set_venv", "state"),
        (pickle.dumps(VecNormalize(make_vec_env("Pendulum-v1"))), "AssertionError", "its statistics have shape (3,)"),
    ):
        file.write_bytes(content)
        assert trusted in refused("--trust")
        assert safe in refused()


@pytest.mark.parametrize("algo", ["relaxa2c", "ppo"])
def test_files_of_strangers_run_nothing(algo, tmp_path, capsys, monkeypatch):
    """Unless they are trusted: neither the agent, nor what lies beside it unnamed, nor what is named."""
    mark, agent = tmp_path / "mark", tmp_path / "agent.zip"
    ALGORITHMS[algo]("MlpPolicy", "CartPole-v1", device="cpu").save(agent)
    whole = agent.read_bytes()
    beside = tmp_path / "agent" / "vecnormalize.pkl"
    beside.parent.mkdir()
    command = ["--env", "CartPole-v1", "--agent", str(agent)]
    with_payload(agent, "ep_info_buffer", mark)

    def marked(*arguments):
        with pytest.raises((SystemExit, RuntimeError)):
            main(arguments)
        return went_off(mark)

    def stop(*_, **__):
        raise RuntimeError("enough")

    monkeypatch.setattr("sb3_relax.diagnose.cli.diagnose", functools.wraps(diagnose)(stop))
    assert not marked(*command)
    assert marked(*command, "--trust")
    agent.write_bytes(whole)
    beside.write_bytes(pickle.dumps(Payload(mark)))
    for named in ([], ["--vecnormalize", str(beside)]):
        assert not marked(*command, *named)
        assert "only its own code can read" in capsys.readouterr().err
        assert marked(*command, *named, "--trust")


@pytest.mark.parametrize("error", [ValueError, TypeError, FileNotFoundError])
def test_a_bug_keeps_its_traceback(error, monkeypatch):
    def broken(*_args, **_kwargs):
        raise error("a bug")

    monkeypatch.setattr("sb3_relax.diagnose.cli._agent", broken)
    with pytest.raises(error, match="a bug"):
        main(["--env", "CartPole-v1"])


def test_the_help_has_the_defaults_of_the_function():
    options = {action.dest: action for action in parser()._actions if action.dest not in ("help", "env")}
    assert all("without," in each.help or "(default: " in each.help for each in options.values())
    for name, parameter in inspect.signature(diagnose).parameters.items():
        if name in options and name != "n_steps":
            assert options[name].default == parameter.default
    text = " ".join(parser().format_help().split())
    assert "actions of each state (default: 8)" in text
    assert "of GAE (default: 1 0.95 0.5 0)" in text


def test_ignored_normalisation_is_said(tmp_path, capsys):
    for normalize in (True, False):
        env = make_vec_env("CartPole-v1", n_envs=2)
        RELAXA2C("MlpPolicy", env, normalize_advantage=normalize, device="cpu").save(tmp_path / "agent.zip")
        main(["--env", "CartPole-v1", "--agent", str(tmp_path / "agent.zip"), *LITTLE])
        said = "normalize_advantage=True, which is ignored here" in " ".join(capsys.readouterr().out.split())
        assert said == normalize
