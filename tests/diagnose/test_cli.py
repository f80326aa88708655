"""The command."""

import json
import shlex

import pytest
from stable_baselines3 import A2C
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

from sb3_relax import LAXA2C
from sb3_relax.diagnose.cli import main

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
    assert {row["name"] for row in saved["rows"]} == {"none", "V(s)", "best b(s)", "RELAX", "exact"}
    assert "RELAX" in out
    assert "as long as with A2C" in " ".join(out.split())
    assert "continued by copy" in err
    assert (tmp_path / "d.png").stat().st_size > 10_000


def test_a_given_agent_with_its_normalisation(tmp_path):
    env = VecNormalize(make_vec_env("Pendulum-v1", n_envs=2, seed=0))
    model = LAXA2C("MlpPolicy", env, n_steps=8, seed=0, device="cpu").learn(64)
    model.save(tmp_path / "agent.zip")
    env.save(str(tmp_path / "vecnormalize.pkl"))
    given = ["--agent", str(tmp_path / "agent.zip"), "--vecnormalize", str(tmp_path / "vecnormalize.pkl")]
    assert main(["--env", "Pendulum-v1", *given, *LITTLE, "--json", str(tmp_path / "d.json")]) == 0
    assert json.loads((tmp_path / "d.json").read_text())["settings"]["n_steps"] == 8


def test_a_missing_extra_is_asked_for_at_once(monkeypatch, capsys):
    monkeypatch.setattr("sb3_relax.common.extras.find_spec", lambda module: None)
    with pytest.raises(SystemExit):
        main(["--env", "CartPole-v1", "--plot", "d.png"])
    assert "rich, scipy, matplotlib not installed: pip install 'sb3_relax[diagnose]'" in capsys.readouterr().err


def test_errors(tmp_path, capsys):
    A2C("MlpPolicy", "CartPole-v1", device="cpu").save(tmp_path / "a2c.zip")
    for arguments, says in (
        (["--env", "CartPol-v1"], "CartPole"),
        (["--env", "CartPole-v1", "--agent", str(tmp_path / "a2c.zip")], "name its algorithm with --algo"),
        (["--env", "CartPole-v1", "--agent", str(tmp_path / "none.zip")], "none.zip"),
        (["--env", "CartPole-v1", "--algo", "laxa2c"], "use sb3_relax.RELAXA2C"),
        (["--env", "CartPole-v1", "--train-steps", "8", "--lambdas", "3"], "lambdas must be"),
    ):
        with pytest.raises(SystemExit):
            main(arguments)
        assert says in capsys.readouterr().err
