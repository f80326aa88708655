"""What is timed with a control variate and without it is the same but for the control variate."""

from stable_baselines3.common.env_util import make_vec_env

from sb3_relax import RELAXA2C
from sb3_relax.algorithm.copies import frozen_copy
from sb3_relax.diagnose import diagnose, measure
from sb3_relax.diagnose.cost import a2c_like, measure_cost
from sb3_relax.policy_gradient.observation_scale import scale_of
from tests.diagnose.test_diagnose import SMALL
from tests.helpers import ACTION_SPACES, TinyEnv


def test_the_critics_further_steps_are_not_timed(monkeypatch):
    env = TinyEnv(ACTION_SPACES["discrete"])
    steps = []

    def spy(model, env):
        steps.append(model.critic.n_steps)
        return measure_cost(model, env, repeats=1)

    monkeypatch.setattr(measure, "measure_cost", spy)
    diagnose(RELAXA2C("MlpPolicy", env, seed=0, device="cpu", n_critic_steps=5), env, **SMALL)
    assert steps == [1]


def test_observations_are_normalised_on_both_sides():
    env = make_vec_env("CartPole-v1", n_envs=1)
    for normalize in (True, False):
        model = RELAXA2C("MlpPolicy", env, device="cpu", normalize_observations=normalize)
        copy = frozen_copy(model, 0)
        assert (scale_of(a2c_like(copy, env).policy) is not None) == normalize
        assert measure_cost(copy, env, repeats=1).update_without > 0
