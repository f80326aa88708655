"""zoo_hyperparams/: keys against constructors, the matched baseline, tags, and how rates are read."""

import re
from pathlib import Path

import gymnasium as gym
import pytest
import rl_zoo3.import_envs  # noqa: F401  (registers the environments without velocities)
from stable_baselines3 import A2C
from stable_baselines3.common.utils import LinearSchedule

from sb3_relax import (
    LAXA2C,
    RELAXA2C,
    HybridRELAXA2C,
    MaskableRecurrentRELAXA2C,
    MaskableRELAXA2C,
    RecurrentLAXA2C,
    RecurrentRELAXA2C,
)
from sb3_relax.errors import UnknownName, UsageError
from sb3_relax.zoo import cli, registry
from sb3_relax.zoo.hyperparams import (
    check_keys,
    check_sizes,
    entry_arguments,
    hyperparams_file,
    read_entries,
    require_own_name,
    to_rate,
)
from sb3_relax.zoo.matched import MatchedA2C

ROOT = Path(__file__).resolve().parents[2]
OF_OTHER_POLICIES = {
    "laxa2c_lstm": RecurrentLAXA2C,
    "relaxa2c_lstm": RecurrentRELAXA2C,
    "relaxa2c_mask": MaskableRELAXA2C,
    "relaxa2c_mask_lstm": MaskableRecurrentRELAXA2C,
    "relaxa2c_hybrid": HybridRELAXA2C,
}
ALGORITHMS = {"laxa2c": LAXA2C, "relaxa2c": RELAXA2C, "a2c": A2C, **OF_OTHER_POLICIES}
ENTRIES = [(name, env_id) for name in ALGORITHMS for env_id in read_entries(hyperparams_file(name))]
MATCHED = [env_id for name, env_id in ENTRIES if name == "a2c"]


def entry(name, env_id):
    return read_entries(hyperparams_file(name))[env_id]


def ours(env_id):
    """The entry of whichever of our two algorithms takes the environment's actions."""
    return entry("laxa2c" if ("laxa2c", env_id) in ENTRIES else "relaxa2c", env_id)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_the_files_are_found_from_the_package(name):
    assert hyperparams_file(name).resolve() == ROOT / "zoo_hyperparams" / f"{name}.yml"
    assert hyperparams_file("sac") is None
    assert hyperparams_file("a2c_matched") == hyperparams_file("a2c")


@pytest.mark.parametrize(("name", "env_id"), ENTRIES)
def test_every_key_is_an_argument_and_every_environment_exists(name, env_id):
    keys = set(entry(name, env_id))
    assert {"policy", "n_timesteps"} <= keys
    # a2c_matched runs all of the baseline's, and SB3's A2C those without arguments of ours
    check_keys(name, env_id, keys, ALGORITHMS | ({"a2c": MatchedA2C} if "cv_learning_rate" in keys else {}))
    if name == "a2c":
        check_keys("a2c_matched", env_id, keys, {"a2c_matched": MatchedA2C})
    assert env_id == "default" or env_id in gym.registry


def test_every_algorithm_is_named_in_the_commands_help_and_on_its_page(capsys):
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    told, page = capsys.readouterr().out, (ROOT / "docs" / "zoo.md").read_text()
    for name in registry.ALGORITHMS:
        assert f"`{name}`" in page
        assert all(f"_{kind}" in told for kind in name.split("_")[1:])


def test_a_mistyped_key_is_refused_with_the_nearest():
    with pytest.raises(UnknownName, match=r"unknown hyper-parameter of laxa2c 'n_critc_steps', did you mean 'n_critic"):
        check_keys("laxa2c", "Pendulum-v1", {"n_critc_steps"}, ALGORITHMS)
    with pytest.raises(UnknownName, match="'correction'"):
        check_keys("laxa2c", "Pendulum-v1", {"correction"}, ALGORITHMS)  # RELAXA2C's alone
    with pytest.raises(UnknownName, match="sb3-relax train --algo a2c_matched --env CartPole-v1"):
        check_keys("a2c", "CartPole-v1", {"n_critic_steps"}, ALGORITHMS | {"relaxa2c": RELAXA2C})


def test_entry_arguments_are_those_that_python_accepts():
    for arguments in map(entry_arguments, (LAXA2C, RELAXA2C)):
        assert {"n_steps", "cv_learning_rate", "max_episode_steps", "policy"} <= arguments
        assert not {"env", "seed", "kwargs", "control_variate_kwargs", "self"} & arguments
    assert entry_arguments(RELAXA2C) - entry_arguments(LAXA2C) == {
        "correction",
        "n_relaxed",
        "init_temperature",
    }
    assert "n_critic_steps" not in entry_arguments(A2C)


@pytest.mark.parametrize("env_id", MATCHED)
def test_the_baseline_differs_by_the_control_variate_alone(env_id):
    baseline = dict(entry("a2c", env_id))
    if {"n_critic_steps", "preset"} & baseline.keys():
        assert baseline.pop("cv_learning_rate") == 0
    assert baseline == ours(env_id)


def test_the_baseline_has_every_environment():
    assert set(MATCHED) == {env_id for name, env_id in ENTRIES if name not in OF_OTHER_POLICIES}


def test_a_run_without_control_variate_goes_by_its_own_name():
    """Saved as relaxa2c, plots and enjoy would take it for one."""
    for without in ({"cv_learning_rate": 0.0}, {"cv_learning_rate": "0e0"}, {"control_variate": "none"}):
        with pytest.raises(UsageError, match="use --algo a2c_matched"):
            require_own_name("relaxa2c", without)
        require_own_name("a2c_matched", without)
    require_own_name("laxa2c", {"cv_learning_rate": "lin_1e-3", "cv_action_dependent": False})


@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_value_is_tagged(name):
    tag = re.compile(r"# (paper|tuned|untuned|preset|zoo|default|no control variate)\b")
    for line in hyperparams_file(name).read_text().splitlines():
        if line.startswith("  ") and "<<:" not in line:
            assert tag.search(line), line


def test_rates():
    schedule = to_rate("cv_learning_rate", "lin_3e-3")
    assert isinstance(schedule, LinearSchedule)  # SB3's: a saved agent loads without rl_zoo3
    assert [schedule(progress) for progress in (1.0, 0.5, 0.0)] == pytest.approx([3e-3, 1.5e-3, 0.0])
    assert schedule(-0.02) == 0  # the last rollout may end after n_timesteps
    assert to_rate("learning_rate", 1e-3) == 1e-3
    assert to_rate("learning_rate", "3e-3") == 3e-3  # text to YAML, which wants a dot in it; and no schedule
    with pytest.raises(UsageError, match="cv_learning_rate must be a number, or lin_ and a number"):
        to_rate("cv_learning_rate", "exp_3e-3")


@pytest.mark.parametrize(
    ("text", "message"), [("a: [1", "cannot be read from"), ("- 1", "must map environments"), ("a: 1", "must map env")]
)
def test_a_file_of_another_format(tmp_path, text, message):
    (tmp_path / "mine.yml").write_text(text)
    with pytest.raises(UsageError, match=message):
        read_entries(tmp_path / "mine.yml")


def test_sizes_that_rl_zoo3_computes_with():
    check_sizes({"n_timesteps": 1e5})
    for sizes in ({}, {"n_timesteps": "1e5"}, {"n_timesteps": 0}, {"n_timesteps": 10, "n_envs": 0}):
        with pytest.raises(UsageError, match=r"must be a (finite|whole) number >= 1"):
            check_sizes(sizes)


LAUGHS = "a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12)
)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"CartPole-v1: {policy: \xff\xfe}", "can't decode byte 0xff"),
        (b"CartPole-v1: {date: 2001-99-99}", "month must be in 1..12"),
        (b"CartPole-v1: {n: !!int ''}", ""),
        (b"CartPole-v1: {n: " + b"9" * 5000 + b"}", "digits"),
        (b"[" * 20_000, "recursion"),
        (b"a: &a [*a]", "a value holds itself, by an alias"),
        (LAUGHS.encode(), "its aliases stand for more than 1,000,000 values"),
        (b"a: 1\n" + b"#" * 2**20, "it has 1,048,581 bytes, and settings have at most 1,048,576"),
        (b"CartPole-v1: !!python/object/apply:os.system [true]", "could not determine a constructor"),
    ],
)
def test_what_is_no_yaml_of_settings_is_refused_in_one_line(tmp_path, content, reason):
    path = tmp_path / "mine.yml"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=f"^hyper-parameters cannot be read from .*mine.yml: .*{reason}") as refused:
        read_entries(path)
    assert "\n" not in str(refused.value)
