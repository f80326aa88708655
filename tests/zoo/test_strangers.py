"""Strangers' agents, settings and plots run nothing without --trust. What one's own train writes needs none."""

import io
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.vec_env import VecNormalize

from sb3_relax import LAXA2C, RELAXA2C
from sb3_relax.errors import NeedsTrust
from sb3_relax.zoo import cli
from sb3_relax.zoo.entries import CLASSES, require_known, value_of
from sb3_relax.zoo.strangers import require_plain_yaml
from tests.payloads import Payload, in_python, in_yaml, went_off, with_payload

PLAIN = "!!python/object/apply:collections.OrderedDict\n- - - normalize\n    - false\n"
ARGS = "!!python/object/apply:collections.OrderedDict\n- - - env_kwargs\n    - null\n"


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def agent():
    file = io.BytesIO()
    RELAXA2C("MlpPolicy", "CartPole-v1", n_steps=8, device="cpu").save(file)
    return file.getvalue()


@pytest.fixture
def folder(tmp_path, agent):
    """Of an agent, as it is downloaded."""
    settings = tmp_path / "logs" / "relaxa2c" / "CartPole-v1_1" / "CartPole-v1"
    settings.mkdir(parents=True)
    (settings / "config.yml").write_text(PLAIN)
    (settings / "args.yml").write_text(ARGS)
    (settings.parent / "CartPole-v1.zip").write_bytes(agent)
    return settings


def enjoy(*more, algo="relaxa2c", command="enjoy"):
    which = ["--algo", algo, "--env", "CartPole-v1", "-f", "logs", "-n", "3", "--no-render", "--exp-id", "1"]
    cli.main([command, *which, *more])


def runs(mark, command, *arguments, **kwargs):
    """Whether a command runs a payload; what it ends with."""
    message = ""
    try:
        command(*arguments, **kwargs)
    except SystemExit as end:
        message = str(end.code)
    except Exception as error:  # of rl_zoo3, after the payload
        message = repr(error)
    return went_off(mark), message


def module_named(file, text, mark):
    """Settings that name a module of the current folder, whose import makes a folder."""
    file.write_text(text)
    Path("payload.py").write_text(in_python(mark))
    sys.modules.pop("payload", None)


PAYLOADS = {
    "agent.zip": lambda folder, mark: with_payload(folder.parent / "CartPole-v1.zip", "ep_info_buffer", mark),
    "args.yml": lambda folder, mark: (folder / "args.yml").write_text(f"env_kwargs: {in_yaml(mark)}"),
    "config.yml": lambda folder, mark: (folder / "config.yml").write_text(f"normalize: {in_yaml(mark)}"),
    "config.yml, a key": lambda folder, mark: (folder / "config.yml").write_text(f"? {in_yaml(mark)}\n: 3"),
    "normalize": lambda folder, mark: (folder / "config.yml").write_text(f'normalize: "{in_python(mark)}"'),
    "normalize in args": lambda folder, mark: (folder / "config.yml").write_text(
        f'normalize: "dict(norm_obs={in_python(mark)})"'
    ),
    **{
        key: lambda folder, mark, key=key: module_named(folder / "config.yml", f"{key}: payload.Wrapper", mark)
        for key in ("env_wrapper", "vec_env_wrapper")
    },
    "vecnormalize.pkl": lambda folder, mark: (
        (folder / "config.yml").write_text("normalize: true"),
        (folder / "vecnormalize.pkl").write_bytes(pickle.dumps(Payload(mark))),
    ),
}


@pytest.mark.parametrize("name", PAYLOADS)
def test_enjoy_runs_nothing_of_strangers(name, folder, tmp_path, capsys):
    mark = tmp_path / "mark"
    PAYLOADS[name](folder, mark)
    assert not runs(mark, enjoy)[0]
    error = capsys.readouterr().err
    assert "error" not in error or "--trust" in error
    assert runs(mark, enjoy, "--trust")[0], f"the payload in {name} is none"


def test_enjoy_needs_no_flag_for_what_train_writes(tmp_path, capsys):
    (tmp_path / "mine.yml").write_text(
        "Pendulum-v1: {n_timesteps: 64, n_envs: 2, n_steps: 8, policy: MlpPolicy, use_rms_prop: true,\n"
        "  normalize: \"dict(norm_obs=True, norm_reward=False)\", learning_rate: lin_1e-3,\n"
        "  policy_kwargs: \"dict(net_arch=[8], activation_fn=nn.ReLU)\",\n"
        "  env_wrapper: [gymnasium.wrappers.RescaleAction: {min_action: -1, max_action: 1}]}\n"
    )  # fmt: skip
    which = ["--algo", "laxa2c", "--env", "Pendulum-v1", "-f", "logs"]
    train = ["train", *which, "--conf-file", "mine.yml", "--device", "cpu", "--eval-freq", "-1"]
    cli.main(train)
    cli.main(["enjoy", *which, "-n", "201", "--no-render"])
    assert "Mean reward" in capsys.readouterr().out
    run = tmp_path / "logs" / "laxa2c" / "Pendulum-v1_1"
    cli.main([*train, "-i", str(run / "Pendulum-v1.zip")])
    # what is saved by it is SB3's own
    assert type(pickle.loads((run.with_name("Pendulum-v1_2") / "Pendulum-v1/vecnormalize.pkl").read_bytes())) is (
        VecNormalize
    )
    assert LAXA2C.load(run.with_name("Pendulum-v1_2") / "Pendulum-v1.zip").num_timesteps == 64


def test_an_agent_of_sb3s_own(folder, tmp_path, capsys):
    own = tmp_path / "logs" / "ppo" / "CartPole-v1_1"
    own.mkdir(parents=True)
    PPO("MlpPolicy", "CartPole-v1", device="cpu").save(own / "CartPole-v1.zip")
    enjoy(algo="ppo")
    mark = tmp_path / "mark"
    with_payload(own / "CartPole-v1.zip", "_last_obs", mark)
    assert not runs(mark, enjoy, algo="ppo")[0]
    assert runs(mark, enjoy, "--trust", algo="ppo")[0]


def test_going_on_to_train_runs_nothing_of_strangers(folder, tmp_path):
    mark, agent = tmp_path / "mark", folder.parent / "CartPole-v1.zip"
    command = ["train", "--algo", "relaxa2c", "--env", "CartPole-v1", "-i", str(agent), "-n", "16", "-f", "out"]
    command += ["--eval-freq", "-1", "--device", "cpu"]
    whole = agent.read_bytes()
    with_payload(agent, "ep_info_buffer", mark)
    assert not runs(mark, cli.main, command)[0]
    assert runs(mark, cli.main, [*command, "--trust"])[0]
    agent.write_bytes(whole)
    (folder / "vecnormalize.pkl").write_bytes(pickle.dumps(Payload(mark)))
    assert not runs(mark, cli.main, command)[0]
    assert runs(mark, cli.main, [*command, "--trust"])[0]
    (folder / "vecnormalize.pkl").unlink()


def test_a_replay_buffer_beside_an_agent_is_not_read(tmp_path, capsys):
    mark, agent = tmp_path / "mark", tmp_path / "logs" / "dqn" / "CartPole-v1_1" / "CartPole-v1.zip"
    agent.parent.mkdir(parents=True)
    model = DQN("MlpPolicy", "CartPole-v1", device="cpu", buffer_size=100)
    model.save(agent, exclude=["replay_buffer_class"])
    (agent.parent / "replay_buffer.pkl").write_bytes(pickle.dumps(Payload(mark)))
    command = ["train", "--algo", "dqn", "--env", "CartPole-v1", "-i", str(agent), "-n", "16", "-f", "out"]
    command += ["--eval-freq", "-1", "--device", "cpu"]
    assert not runs(mark, cli.main, command)[0]
    assert "replay_buffer.pkl is a pickle" in capsys.readouterr().err
    assert runs(mark, cli.main, [*command, "--trust"])[0]


@pytest.mark.parametrize("key", ["policy_kwargs", "normalize", "monitor_kwargs", "env_wrapper", "callback", "policy"])
def test_conf_file_runs_known_names_alone(key, tmp_path, capsys):
    mark = tmp_path / "mark"
    code = in_python(mark)
    said = "payload.Own" if key in CLASSES else f'"{code}"'
    entry = {"n_timesteps": "16", "policy": "MlpPolicy", "n_steps": "8", key: said}
    text = "CartPole-v1: {" + ", ".join(f"{name}: {value}" for name, value in entry.items()) + "}"
    module_named(tmp_path / "mine.yml", text, mark)
    command = ["train", "--algo", "relaxa2c", "--env", "CartPole-v1", "--conf-file", "mine.yml", "--device", "cpu"]
    assert not runs(mark, cli.main, command)[0]
    assert "--trust" in capsys.readouterr().err
    assert runs(mark, cli.main, [*command, "--trust"])[0]


def test_plot_file_runs_nothing(tmp_path, capsys):
    mark = tmp_path / "mark"
    table = {"headers": ["Environments", "relaxa2c"], "value_matrix": [["CartPole-v1", "1 +/- 0"]]}
    numbers = {"timesteps": np.arange(3), "mean": np.ones(3), "std_error": np.zeros(3), "last_evals": np.ones(3)}
    fine = {"CartPole-v1": {"logs-relaxa2c": numbers}, "results_table": table}
    (tmp_path / "fine.pkl").write_bytes(pickle.dumps(fine))
    (tmp_path / "other.pkl").write_bytes(pickle.dumps({**fine, "more": Payload(mark)}))
    # its bytes would be taken for addresses
    (tmp_path / "objects.pkl").write_bytes(pickle.dumps({**fine, "more": np.zeros(2, dtype=[("a", "O")])}))
    (tmp_path / "record.pkl").write_bytes(pickle.dumps({**fine, "more": np.zeros(2, dtype=[("a", "i4"), ("b", "i4")])}))
    plot = ["plot-file", "--no-million", "-i"]
    cli.main([*plot, "fine"])
    for given in (["other"], ["fine", "--merge", "other.pkl"]):
        assert not runs(mark, cli.main, [*plot, *given])[0]
        assert "other.pkl would run" in capsys.readouterr().err
        assert runs(mark, cli.main, [*plot, *given, "--trust"])[0]
    for given in ("objects", "record"):
        assert not runs(mark, cli.main, [*plot, given])[0]
        assert f"{given}.pkl is not what sb3-relax plot-eval -o writes" in capsys.readouterr().err


@pytest.mark.parametrize(
    "text",
    ["f(3)", "dict(**x)", "dict(3)", "{**{}}", "nn.Linear", "nn.Module.x", "[x for x in y]", "lambda: 3", "a.b", "(",
     "dict(a=__import__('os'))", "nn.ReLU()", "x" * 10, "(" * 500 + ")" * 500, "f'{3}'"],
)  # fmt: skip
def test_expressions_that_are_refused(text):
    with pytest.raises(NeedsTrust, match="is Python that would be run"):
        value_of(text)


def test_expressions_that_are_known():
    import torch as th

    text = "dict(net_arch=dict(pi=[8, 8], vf=[]), log_std_init=-2.5, activation_fn=nn.ELU, t=(1, 'a'), u={'b': None})"
    expected = dict(net_arch=dict(pi=[8, 8], vf=[]), log_std_init=-2.5, activation_fn=th.nn.ELU, t=(1, "a"))
    assert value_of(text) == {**expected, "u": {"b": None}}
    assert value_of("\n  dict(optimizer_class=th.optim.Adam)\n") == {"optimizer_class": th.optim.Adam}


def test_wrappers_of_modules_that_the_user_names():
    entry = {"env_wrapper": ["tests.helpers.TinyEnv"]}
    with pytest.raises(NeedsTrust, match=r"which is in none of .*--gym-packages where it is your own"):
        require_known(entry, (), "mine.yml")
    with pytest.raises(NeedsTrust, match="which is no Wrapper"):
        require_known(entry, ("tests.helpers",), "mine.yml")
    for name in ("env_wrapper", "vec_env_wrapper"):
        with pytest.raises(NeedsTrust, match=f"mine.yml: {name} is 3, and must be a name"):
            require_known({name: 3}, (), "mine.yml")


def test_the_entries_that_come_with_the_packages_are_known():
    import yaml

    from sb3_relax.zoo.hyperparams import FOLDER

    for file in FOLDER.glob("*.yml"):
        for entry in yaml.safe_load(file.read_text()).values():
            require_known(entry, (), file)


def test_yaml_that_asks_for_python(tmp_path):
    file = tmp_path / "config.yml"
    for text in ("!!python/tuple [1, 2]", "a: !!python/name:torch.nn.modules.activation.ReLU ''", PLAIN, "", "a: 1"):
        file.write_text(text)
        require_plain_yaml(file)
    for text in ("a: !!python/name:os.system ''", "!!python/module:os ''", "!own 3", "- - !!python/object:a.b {}"):
        file.write_text(text)
        with pytest.raises(NeedsTrust, match=r"config\.yml would run Python"):
            require_plain_yaml(file)
