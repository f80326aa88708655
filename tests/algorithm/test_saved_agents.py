"""An agent of another class is refused by what its file holds."""

import io
import zipfile

import pytest
import torch as th
from stable_baselines3 import A2C, DQN, PPO, SAC
from stable_baselines3.common import save_util

from sb3_relax import LAXA2C, RELAXA2C
from sb3_relax.algorithm import saved_agents
from sb3_relax.errors import UsageError
from tests.helpers import ACTION_SPACES, TinyEnv

#: class and environment of a file → what it is said to hold
PLAIN = {
    "LAXA2C": (LAXA2C, "Pendulum-v1", "sb3_relax.LAXA2C"),
    "A2C": (A2C, "CartPole-v1", "stable_baselines3.A2C"),
    "PPO": (PPO, "CartPole-v1", "stable_baselines3.PPO"),
    "DQN": (DQN, "CartPole-v1", "another class (stable_baselines3.dqn.policies.DQNPolicy, Discrete(2))"),
    "SAC": (SAC, "Pendulum-v1", "another class (stable_baselines3.sac.policies.SACPolicy, Box"),
}


def refusal(cls, path):
    with pytest.raises(UsageError) as refused:
        cls.load(path, device="cpu")
    return str(refused.value)


@pytest.mark.parametrize("name", PLAIN)
def test_files_of_other_classes(name, tmp_path):
    kind, env, says = PLAIN[name]
    kind("MlpPolicy", env, device="cpu").save(tmp_path / "agent.zip")
    message = refusal(RELAXA2C, tmp_path / "agent.zip")
    assert f"agent.zip holds an agent of {says}" in message
    assert "which RELAXA2C cannot load" in message
    assert f"use {says}.load()" in message or "load() of the class that it was saved from" in message


def test_files_of_contribs_classes_and_of_ours_with_their_policies(tmp_path):
    contrib = pytest.importorskip("sb3_contrib")
    envs = pytest.importorskip("sb3_contrib.common.envs")
    from sb3_relax import MaskableRecurrentRELAXA2C, MaskableRELAXA2C, RecurrentLAXA2C, RecurrentRELAXA2C

    masked = envs.InvalidActionEnvDiscrete(dim=4, n_invalid_actions=2)
    agents = {
        "sb3_relax.RELAXA2C": RELAXA2C("MlpPolicy", "CartPole-v1", device="cpu"),
        "sb3_relax.MaskableRELAXA2C": MaskableRELAXA2C("MlpPolicy", masked, device="cpu"),
        "sb3_relax.RecurrentRELAXA2C": RecurrentRELAXA2C("MlpLstmPolicy", "CartPole-v1", device="cpu"),
        "sb3_relax.RecurrentLAXA2C": RecurrentLAXA2C("MlpLstmPolicy", "Pendulum-v1", device="cpu"),
        "sb3_relax.MaskableRecurrentRELAXA2C": MaskableRecurrentRELAXA2C("MlpLstmPolicy", masked, device="cpu"),
        "sb3_contrib.MaskablePPO": contrib.MaskablePPO("MlpPolicy", masked, device="cpu"),
        "sb3_contrib.RecurrentPPO": contrib.RecurrentPPO("MlpLstmPolicy", "CartPole-v1", device="cpu"),
        "sb3_contrib.TRPO": contrib.TRPO("MlpPolicy", "CartPole-v1", device="cpu"),
    }
    for name, agent in agents.items():
        agent.save(tmp_path / "agent.zip")
        kinds = (RELAXA2C, LAXA2C, MaskableRELAXA2C, RecurrentRELAXA2C, RecurrentLAXA2C, MaskableRecurrentRELAXA2C)
        for cls in kinds:
            if type(agent) is cls:
                cls.load(tmp_path / "agent.zip", device="cpu")
            else:
                assert f"agent.zip holds an agent of {name} (" in refusal(cls, tmp_path / "agent.zip")


def test_a_file_whose_control_variate_would_fit_is_refused_by_its_actions(tmp_path):
    """Two bits and two Box dimensions have a ĉ of one shape, without temperature where the correction is exact."""
    env = TinyEnv(ACTION_SPACES["multibinary"])
    RELAXA2C("MlpPolicy", env, correction="exact", device="cpu").save(tmp_path / "agent.zip")
    assert "holds an agent of sb3_relax.RELAXA2C" in refusal(LAXA2C, tmp_path / "agent.zip")


def test_the_weights_of_a2c_can_be_had_as_the_error_says(tmp_path):
    a2c = A2C("MlpPolicy", "CartPole-v1", device="cpu")
    a2c.save(tmp_path / "agent.zip")
    advice = "model.policy.load_state_dict(stable_baselines3.A2C.load(path).policy.state_dict())"
    assert advice in refusal(RELAXA2C, tmp_path / "agent.zip")
    model = RELAXA2C("MlpPolicy", "CartPole-v1", device="cpu")
    model.policy.load_state_dict(A2C.load(tmp_path / "agent.zip").policy.state_dict())
    assert all(map(th.equal, model.policy.parameters(), a2c.policy.parameters()))


def test_a_file_object():
    file = io.BytesIO()
    PPO("MlpPolicy", "CartPole-v1", device="cpu").save(file)
    assert refusal(RELAXA2C, file).startswith("the file holds an agent of stable_baselines3.PPO")


def test_a_damaged_file_is_named(tmp_path):
    file = tmp_path / "agent.zip"
    RELAXA2C("MlpPolicy", "CartPole-v1", device="cpu").save(file)
    whole = file.read_bytes()
    middle = len(whole) // 2
    damaged = whole[:middle] + bytes(64) + whole[middle + 64 :]
    for content in (b"no zip", b"", whole[:middle], damaged):
        file.write_bytes(content)
        assert f"{file} cannot be read as an agent's file (" in refusal(RELAXA2C, file)
        assert saved_agents.saver_of(file) is None


def test_other_errors_stay_what_they_are(tmp_path):
    with pytest.raises(FileNotFoundError):
        RELAXA2C.load(tmp_path / "none.zip")
    RELAXA2C("MlpPolicy", "CartPole-v1", device="cpu").save(tmp_path / "agent.zip")
    with pytest.raises(ValueError, match="spaces do not match") as error:
        RELAXA2C.load(tmp_path / "agent.zip", env=TinyEnv(ACTION_SPACES["discrete"]))
    assert not isinstance(error.value, UsageError)


def test_a_file_that_loads_is_read_once(tmp_path, monkeypatch):
    RELAXA2C("MlpPolicy", "CartPole-v1", device="cpu").save(tmp_path / "agent.zip")
    read = []

    def counting(*args, **kwargs):
        read.append(args)
        return save_util.load_from_zip_file(*args, **kwargs)

    monkeypatch.setattr("stable_baselines3.common.base_class.load_from_zip_file", counting)
    monkeypatch.setattr(saved_agents, "load_from_zip_file", counting)
    RELAXA2C.load(tmp_path / "agent.zip")
    assert len(read) == 1


def with_members(path, change):
    """The file as a whole zip of changed members."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    change(members)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def other_weights(members):
    state = th.load(io.BytesIO(members["policy.pth"]), weights_only=True)
    next(iter(state.values())).view(-1)[0] += 1
    file = io.BytesIO()
    th.save(state, file)
    members["policy.pth"] = file.getvalue()


def one_bit_of_the_weights(members):
    """Which torch loads in silence, whether or not the digest is there."""
    members.pop("sha256", None)
    content = bytearray(members["policy.pth"])
    with zipfile.ZipFile(io.BytesIO(content)) as inner:
        largest = max(inner.infolist(), key=lambda entry: entry.file_size)
        content[content.index(inner.read(largest)) + 1] ^= 64
    members["policy.pth"] = bytes(content)


def other_settings(members):
    members["data"] = members["data"].replace(b'"gamma": 0.99', b'"gamma": 0.98')


def a_bomb(members):
    members.pop("sha256", None)
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as inner:
        inner.writestr("archive/data/0", bytes(2**27))
    members["policy.pth"] = file.getvalue()


def no_archive_of_torch(members):
    members.pop("sha256", None)
    members["policy.pth"] = b"\x80\x02}q\x00."


@pytest.mark.parametrize("change", [other_weights, one_bit_of_the_weights, other_settings, a_bomb, no_archive_of_torch])
def test_a_file_changed_where_a_zip_does_not_tell_is_refused(tmp_path, change):
    file = tmp_path / "agent.zip"
    model = RELAXA2C("MlpPolicy", "CartPole-v1", device="cpu")
    model.save(file)
    with_members(file, change)
    for read in (lambda: RELAXA2C.load(file, device="cpu"), lambda: model.set_parameters(file, device="cpu")):
        with pytest.raises(UsageError, match=r"agent\.zip cannot be read as an agent's file \("):
            read()
    assert saved_agents.saver_of(file) is None


def test_other_readers_pass_the_digest_by(tmp_path):
    """Stable-Baselines3's own reads the file as it was."""
    RELAXA2C("MlpPolicy", "CartPole-v1", device="cpu").save(tmp_path / "agent.zip")
    data, parameters, _ = save_util.load_from_zip_file(tmp_path / "agent.zip", device="cpu")
    assert data["gamma"] == 0.99
    assert "policy" in parameters
    with zipfile.ZipFile(tmp_path / "agent.zip") as archive:
        assert "sha256" in archive.namelist()


def test_a_file_object_is_read_from_its_beginning():
    file = io.BytesIO()
    RELAXA2C("MlpPolicy", "CartPole-v1", device="cpu").save(file)
    for _ in range(2):
        RELAXA2C.load(file, device="cpu")
    file.seek(0)
    file.write(b"damage")
    assert refusal(RELAXA2C, file).startswith("the file cannot be read as an agent's file (")
