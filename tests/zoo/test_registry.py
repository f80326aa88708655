"""LAXA2C and RELAXA2C in rl_zoo3: what Optuna may draw builds a model, and the manager reads what it should."""

import argparse

import optuna
import pytest
from stable_baselines3.common.callbacks import CheckpointCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import VecNormalize

from sb3_relax.callbacks import ExactCheckpointCallback
from sb3_relax.errors import UnknownName
from sb3_relax.policy_gradient.hyperparameters import DiscreteHyperparameters
from sb3_relax.zoo import registry
from sb3_relax.zoo.samplers import convert_params, suggest_own

ENVIRONMENTS = {
    "laxa2c": "Pendulum-v1",
    "relaxa2c": "CartPole-v1",
    "laxa2c_lstm": "Pendulum-v1",
    "relaxa2c_lstm": "CartPole-v1",
    "relaxa2c_mask": "CartPole-v1",
    "relaxa2c_mask_lstm": "CartPole-v1",
    "a2c_matched": "Pendulum-v1",
}


@pytest.fixture(autouse=True)
def _registered():
    registry.register()


def manager(tmp_path, algo, env_id, **kwargs):
    arguments = argparse.Namespace()
    return registry.ExperimentManager(arguments, algo, env_id, str(tmp_path), verbose=0, **kwargs)


@pytest.mark.parametrize("algo", ENVIRONMENTS)
def test_what_optuna_draws_builds_a_model(algo):
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(10):
        trial = study.ask()
        arguments = registry.SAMPLERS[algo](trial, 1, 2, {})
        policy_kwargs = arguments.pop("policy_kwargs")
        policy_kwargs["net_arch"] = [8]  # the drawn sizes are rl_zoo3's
        if algo.endswith("_lstm"):
            policy_kwargs["lstm_hidden_size"] = 8
        model = registry.ALGORITHMS[algo](
            "MlpLstmPolicy" if algo.endswith("_lstm") else "MlpPolicy",
            ENVIRONMENTS[algo],
            policy_kwargs=policy_kwargs,
            device="cpu",
            **arguments,
        )
        assert model.n_steps == trial.user_attrs["n_steps"] <= 512
        assert 0.9 <= model.gamma < 1


def test_what_has_no_effect_is_not_drawn():
    first = {name: space[0] for name, space in DiscreteHyperparameters.search_spaces().items()}
    first |= {name: value[0] for name, value in first.items() if isinstance(value, tuple)}
    with_steps = {"update_rule": "kfac", "target_kl": 0.01}
    for drawn in ({"update_rule": "optimizer"}, with_steps):
        fixed = optuna.trial.FixedTrial({**first, "target_kl": 0.01, **drawn})
        assert suggest_own(fixed, DiscreteHyperparameters).get("target_kl") == drawn.get("target_kl")


@pytest.mark.parametrize("algo", ENVIRONMENTS)
def test_a_stored_trial_gives_the_same_arguments(algo):
    trial = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1)).ask()
    assert registry.SAMPLERS[algo](trial, 1, 2, {}) == convert_params(trial.params)


def test_our_files_are_the_default(tmp_path):
    assert manager(tmp_path, "relaxa2c", "CartPole-v1").config.endswith("zoo_hyperparams/relaxa2c.yml")
    assert manager(tmp_path, "a2c", "Acrobot-v1").config.endswith("zoo_hyperparams/a2c.yml")
    # rl_zoo3's own, where ours has no entry or there is none of ours
    assert "rl_zoo3" in manager(tmp_path, "a2c", "FrozenLake-v1").config
    assert "rl_zoo3" in manager(tmp_path, "ppo", "CartPole-v1").config
    assert manager(tmp_path, "relaxa2c", "CartPole-v1", config="mine.yml").config == "mine.yml"


def test_an_entry_that_does_not_exist_names_the_nearest(tmp_path):
    config = tmp_path / "mine.yml"
    config.write_text("CartPole-v1: {policy: MlpPolicy, n_timesteps: 10}\n")
    with pytest.raises(UnknownName, match=r"entry of .*mine.yml 'CartPole-v0', did you mean 'CartPole-v1'"):
        manager(tmp_path, "relaxa2c", "CartPole-v0", config=str(config)).read_hyperparameters()


def test_a_key_that_does_not_exist_is_refused(tmp_path):
    with pytest.raises(UnknownName, match="did you mean 'gamma'"):
        manager(tmp_path, "relaxa2c", "CartPole-v1", hyperparams={"gama": 0.9}).read_hyperparameters()


def test_both_rates_may_fall(tmp_path):
    mine = manager(tmp_path, "laxa2c", "Pendulum-v1", hyperparams={"cv_learning_rate": "lin_1e-2"}, eval_freq=-1)
    model, saved = mine.setup_experiment()
    assert saved["cv_learning_rate"] == "lin_1e-2"
    assert isinstance(model.cv_learning_rate, LinearSchedule)
    assert isinstance(model.learning_rate, LinearSchedule)
    assert model.cv_lr_schedule(0.5) == pytest.approx(5e-3)
    model.env.close()


@pytest.mark.parametrize("number", [0, 1])
def test_a_trials_hyper_parameters_are_taken(tmp_path, number):
    """Trial 0, too; what the user names himself goes before them."""
    place = f"{tmp_path}/study.log"
    study = optuna.create_study(study_name="s", storage=registry.open_storage(place))
    for _ in range(2):
        trial = study.ask()
        registry.SAMPLERS["relaxa2c"](trial, 1, 1, {})
        study.tell(trial, 0.0)
    asked = manager(
        tmp_path, "relaxa2c", "CartPole-v1", storage=place, study_name="s", trial_id=number, hyperparams={"gamma": 0.5}
    )
    read, saved = asked.read_hyperparameters()
    trial = study.trials[number]
    assert read["n_steps"] == saved["n_steps"] == trial.user_attrs["n_steps"]
    assert read["learning_rate"] == trial.params["learning_rate"]
    assert read["gamma"] == 0.5


@pytest.mark.parametrize(
    ("algo", "vec_env_type", "kind"),
    [
        ("relaxa2c", "dummy", ExactCheckpointCallback),
        ("relaxa2c", "subproc", CheckpointCallback),
        ("a2c", "dummy", CheckpointCallback),
    ],
)
def test_checkpoints_are_exact_where_they_can_be(algo, vec_env_type, kind, tmp_path):
    found = manager(tmp_path, algo, "CartPole-v1", vec_env_type=vec_env_type, save_freq=100, eval_freq=-1)
    found.n_envs = 4
    found.create_callbacks()
    assert [(type(callback), callback.save_freq) for callback in found.callbacks] == [(kind, 25)]


def test_without_save_freq_there_are_no_checkpoints(tmp_path):
    found = manager(tmp_path, "relaxa2c", "CartPole-v1", eval_freq=-1)
    found.create_callbacks()
    assert found.callbacks == []


def test_statistics_are_written_whole(tmp_path, monkeypatch):
    written = []
    monkeypatch.setattr("sb3_relax.algorithm.vec_normalize.write_whole", lambda path, content: written.append(path))
    VecNormalize(make_vec_env("CartPole-v1", 1)).save(str(tmp_path / "vecnormalize.pkl"))
    assert written == [tmp_path / "vecnormalize.pkl"]
