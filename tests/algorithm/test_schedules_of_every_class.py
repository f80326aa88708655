"""Every rate that may be a schedule, in every class: no rate past the end, and none that is negative."""

import inspect

import pytest
from gymnasium import spaces
from stable_baselines3.common.utils import ConstantSchedule, LinearSchedule

from sb3_relax.catalogue import CATALOGUE, load
from sb3_relax.errors import UsageError
from tests.helpers import ACTION_SPACES, TinyEnv


def schedules_of(algorithm):
    """Names of the constructor's arguments that may be schedules: A2C's, and ours."""
    parameters = inspect.signature(algorithm).parameters.values()
    return [parameter.name for parameter in parameters if "Schedule" in str(parameter.annotation)]


SCHEDULES = [(load(name), argument) for name in CATALOGUE for argument in schedules_of(load(name))]
each_rate = pytest.mark.parametrize(("algorithm", "argument"), [s for s in SCHEDULES if "learning_rate" in s[1]])


class Masked(TinyEnv):
    def action_masks(self):
        return [True] * 3


class TinyHybrid(TinyEnv):
    def __init__(self):
        super().__init__(spaces.Dict(how=ACTION_SPACES["box"], what=ACTION_SPACES["discrete"]))

    def step(self, action):
        self.t += 1
        return self._observe(), float(action["what"]), self.t >= self.length, False, {}


def make(algorithm, **kwargs):
    if spaces.Dict in algorithm.action_spaces:
        env = TinyHybrid()
    else:
        env = Masked(ACTION_SPACES["box" if spaces.Box in algorithm.action_spaces else "discrete"])
    policy = next(name for name in ("MlpPolicy", "MlpLstmPolicy") if name in algorithm.policy_aliases)
    return algorithm(policy, env, seed=0, device="cpu", **kwargs)


def test_every_class_has_its_schedules():
    for name in CATALOGUE:
        assert {"learning_rate", *load(name).hyperparameters.schedules()} <= set(schedules_of(load(name)))


class Asked:
    """A schedule, and what it was asked for."""

    def __init__(self):
        self.at = []

    def __call__(self, progress):
        self.at.append(progress)
        return progress * 1e-3


@pytest.mark.parametrize("n_episodes", [None, 3])
@pytest.mark.parametrize("algorithm", map(load, CATALOGUE))
def test_a_schedule_has_no_rate_past_the_end(algorithm, n_episodes):
    """The last rollout ends after total_timesteps, whatever it is made of: every argument that may be a schedule."""
    schedules = {argument: Asked() for argument in schedules_of(algorithm)}
    model = make(algorithm, **schedules, n_episodes=n_episodes).learn(18)
    assert model.num_timesteps > 18
    assert {argument: min(schedule.at) for argument, schedule in schedules.items()} == dict.fromkeys(schedules, 0)
    for schedule in schedules.values():
        schedule.at.clear()
    model.learn(18, reset_num_timesteps=False)  # goes on, again past its end
    assert model.num_timesteps > 36
    for argument, schedule in schedules.items():
        assert min(schedule.at) >= 0, argument


NEGATIVE = {
    "a number": -1e-3,
    "a constant": ConstantSchedule(-1e-3),
    "from the start on": lambda progress: -1e-3 * progress,
    "at the start": LinearSchedule(-1e-3, 1e-3, 1.0),
    "not a number": lambda progress: float("nan"),
}


@pytest.mark.parametrize("what", NEGATIVE)
@each_rate
def test_a_rate_that_is_surely_negative_is_refused_at_construction(algorithm, argument, what):
    with pytest.raises(
        UsageError, match=rf"{argument} must be a finite number >= 0 \(or a schedule of such numbers\); got"
    ):
        make(algorithm, **{argument: NEGATIVE[what]})


@each_rate
def test_one_that_turns_negative_is_refused_before_the_step(algorithm, argument):
    model = make(algorithm, **{argument: LinearSchedule(1e-3, -1e-2, 1.0)})
    before = {name: value.clone() for name, value in model.policy.state_dict().items()}
    with pytest.raises(UsageError, match=f"{argument} must be a finite number >= 0"):
        model.learn(5)
    assert model._n_updates == 0
    assert all(value.equal(before[name]) for name, value in model.policy.state_dict().items())
