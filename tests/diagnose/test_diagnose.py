"""The diagnosis from end to end, small."""

import json
import math

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from scipy import stats
from stable_baselines3 import A2C, DQN, PPO
from stable_baselines3.common.env_util import make_vec_env

from sb3_relax import LAXA2C, RELAXA2C
from sb3_relax.control_variates import ModelBased, QProp
from sb3_relax.diagnose import Diagnosis, diagnose, measure
from sb3_relax.diagnose.cost import Cost
from sb3_relax.diagnose.report import Number, Row
from sb3_relax.diagnose.rollout_gradients import rollouts
from sb3_relax.diagnose.verdict import verdict
from sb3_relax.errors import UsageError
from tests.diagnose.problems import linear_bandit, table_bandit
from tests.diagnose.test_restore import Hidden
from tests.helpers import ACTION_SPACES, TinyEnv

LITTLE = dict(n_states=12, n_actions=2, n_futures=2, n_episodes=6, n_rollouts=8, n_fit_steps=64, n_fit_updates=5)
SMALL = dict(lambdas=(1.0, 0.0), **LITTLE)


@pytest.mark.parametrize("space", list(ACTION_SPACES))
def test_every_action_space(space, tmp_path):
    kind = LAXA2C if space == "box" else RELAXA2C
    env = TinyEnv(ACTION_SPACES[space])
    model = kind("MlpPolicy", env, seed=0, device="cpu")
    result = diagnose(model, env, **SMALL)
    names = ["none", "V(s)", "best b(s)"] + ["ĉ(s)"] + (["LAX"] if space == "box" else ["RELAX", "exact"])
    assert [(row.name, row.gae_lambda) for row in result.rows] == [(n, each) for each in (1.0, 0.0) for n in names]
    result.save(tmp_path / "diagnosis.json")
    saved = json.loads((tmp_path / "diagnosis.json").read_text())
    assert saved["sentence"] == result.sentence
    assert len(saved["rows"]) == len(result.rows)
    assert saved["rows"][1]["total"]["value"] == result.at("V(s)", 1.0).total.value
    assert result.table().row_count == len(result.rows)
    with pytest.raises(KeyError, match="there are"):
        result.at("V", 1.0)


@pytest.mark.parametrize(
    ("space", "names"), [("box", ["model", "qprop", "stein"]), ("multibinary", ["model", "factorised"])]
)
def test_further_control_variates_are_rows(space, names):
    """Each learns from the fitting rollouts, but for their last fifth, and changes no other row."""
    kind = LAXA2C if space == "box" else RELAXA2C
    env = TinyEnv(ACTION_SPACES[space])
    model = kind("MlpPolicy", env, seed=0, n_steps=8, device="cpu")
    own = diagnose(model, env, lambdas=(0.0,), **LITTLE)
    result = diagnose(model, env, lambdas=(0.0,), control_variates=names, **LITTLE)
    assert [row.name for row in result.rows] == [*(row.name for row in own.rows), *names]
    for row in own.rows:
        if row.rollouts is not None:
            assert result.at(row.name, 0.0).rollouts.value == pytest.approx(row.rollouts.value, rel=1e-5)
    assert all(result.at(name, 0.0).rollouts_ratio.value > 0 for name in names)
    assert result.settings["control_variates"] == names


@pytest.mark.parametrize("n_steps", [64, 70])
def test_a_rollout_longer_than_what_was_asked_for_is_seen(n_steps, monkeypatch):
    """And as long again and more is held out: no λ is measured with a model that has seen nothing."""
    seen = []

    def fit_all(models, output, *rest):
        seen.extend((model.control_variate.variate, len(output.values)) for model in models)
        return fitting(models, output, *rest)

    fitting = measure.fit_all
    monkeypatch.setattr(measure, "fit_all", fit_all)
    env = TinyEnv(spaces.Discrete(3))
    model = RELAXA2C("MlpPolicy", env, seed=0, n_steps=n_steps, device="cpu")
    diagnose(model, env, lambdas=(0.0, 1.0), control_variates=["model", "qprop"], **LITTLE)
    assert {size for _, size in seen} == {2 * n_steps}
    models = [variate for variate, _ in seen if isinstance(variate, (ModelBased, QProp))]
    assert len(models) == 4
    for variate in models:
        recent = variate.model.recent if isinstance(variate, ModelBased) else variate.recent
        assert len(recent) >= n_steps // 2


def test_rollouts_are_as_long_as_the_diagnosis_makes_them():
    """And not as in training, where a learned model may have learned nothing of them."""
    env = TinyEnv(spaces.Discrete(3))
    short, long = (RELAXA2C("MlpPolicy", env, n_steps=n_steps, device="cpu") for n_steps in (1, 8))
    result = diagnose(short, env, n_steps=8, lambdas=(0.0,), control_variates=["model"], **LITTLE)
    assert result.at("model", 0.0).rollouts is not None
    with pytest.raises(UsageError, match="use n_steps=2 or more"):
        diagnose(long, env, n_steps=1, lambdas=(0.0,), control_variates=["model"], **LITTLE)


def test_what_a_learned_model_takes_off():
    """Where rewards are the action's alone, nearly all that a step's own action adds."""
    env = TinyEnv(ACTION_SPACES["multibinary"])
    model = RELAXA2C("MlpPolicy", env, seed=0, n_steps=32, device="cpu")
    sizes = {**LITTLE, "lambdas": (0.0,), "n_fit_steps": 640, "n_fit_updates": 80, "n_rollouts": 20}
    result = diagnose(model, env, control_variates=["model", "factorised"], **sizes)
    assert result.at("model", 0.0).share > 0.8
    assert result.at("model", 0.0).rollouts_ratio.value < 0.7
    assert result.at("factorised", 0.0).rollouts_ratio.value < 0.7


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("model+state", "at a time"),
        ("trajectory+model+state", "at a time"),
        ("trajectory+none", "need no 'none'"),
        ("trajectory+modle", "unknown control_variate 'modle', did you mean 'model'"),
        ("model+trajectory", "may stand first alone"),
        ("modle", "did you mean 'model'"),
        ("none", "every diagnosis has a row of it"),
        ("lax", "takes Box actions"),
    ],
)
def test_further_ones_that_cannot_be_measured(name, message):
    with pytest.raises(ValueError, match=message):
        diagnose(RELAXA2C("MlpPolicy", TinyEnv(spaces.Discrete(3)), device="cpu"), TinyEnv(spaces.Discrete(3)),
                 control_variates=[name], **SMALL)  # fmt: skip


def test_a_name_alone_is_no_list():
    with pytest.raises(ValueError, match=r"must be a list of names, such as \['trajectory'\]"):
        diagnose(RELAXA2C("MlpPolicy", TinyEnv(spaces.Discrete(3)), device="cpu"), TinyEnv(spaces.Discrete(3)),
                 control_variates="trajectory", **SMALL)  # fmt: skip


def test_later_actions_are_measured_under_gsde():
    """Each step has a noise matrix of its own here, whatever the agent was trained with."""
    env = TinyEnv(ACTION_SPACES["box"])
    model = LAXA2C("MlpPolicy", env, n_steps=8, seed=0, device="cpu", use_sde=True)
    result = diagnose(model, env, lambdas=(1.0,), control_variates=["trajectory"], **LITTLE)
    assert np.isfinite(result.at("trajectory", 1.0).rollouts_ratio.value)


@pytest.mark.parametrize("n_envs", [1, 2])
def test_every_lambda_has_advantages_of_its_own(n_envs):
    """Of one environment as well, whose arrays the buffer writes into again."""
    env = make_vec_env(lambda: TinyEnv(spaces.Discrete(3)), n_envs, seed=0)
    model = RELAXA2C("MlpPolicy", env, n_steps=8, seed=0, device="cpu")
    (steps,) = rollouts(model, env, 1, [1.0, 0.5, 0.0])
    assert steps.advantages.shape == (3, 8 * n_envs)
    assert not th.allclose(steps.advantages[0], steps.advantages[1])
    assert not th.allclose(steps.advantages[1], steps.advantages[2])


def test_repeatable_and_nothing_is_touched():
    env = TinyEnv(ACTION_SPACES["box"])
    model = LAXA2C("MlpPolicy", env, seed=0, device="cpu", use_sde=True)
    model.learn(50)
    weights = {name: value.clone() for name, value in model.policy.state_dict().items()}
    noise, streams = model.noise_generator.get_state(), (th.get_rng_state(), np.random.get_state()[1].copy())  # noqa: NPY002
    steps = env.total
    first, second = (diagnose(model, env, **SMALL, seed=3) for _ in range(2))
    assert all(th.equal(value, model.policy.state_dict()[name]) for name, value in weights.items())
    assert th.equal(noise, model.noise_generator.get_state())
    assert th.equal(streams[0], th.get_rng_state())
    assert (streams[1] == np.random.get_state()[1]).all()  # noqa: NPY002
    assert env.total == steps
    assert first.rows == second.rows
    assert diagnose(model, env, **SMALL, seed=4).rows != first.rows


@pytest.mark.parametrize("kind", [A2C, PPO])
def test_agents_of_sb3(kind):
    model = kind("MlpPolicy", "CartPole-v1", n_steps=8, seed=0, device="cpu")
    result = diagnose(model, "CartPole-v1", **SMALL)
    assert (result.algorithm, result.restore, result.settings["n_steps"]) == ("RELAXA2C", "copy", 8)


def test_without_restoring_only_rollouts_are_reported():
    result = diagnose(RELAXA2C("MlpPolicy", Hidden(), device="cpu"), Hidden, **SMALL)
    assert result.restore is None
    assert all(row.total is None and row.rollouts is not None for row in result.rows)
    assert "best b(s)" not in {row.name for row in result.rows}


@pytest.mark.parametrize("restored", [True, False])
def test_intervals_are_joint_over_all_that_the_sentence_reads(restored):
    make = (lambda: TinyEnv(spaces.Discrete(3))) if restored else Hidden
    model = RELAXA2C("MlpPolicy", make(), device="cpu", seed=0)
    result = diagnose(model, make, **SMALL)
    variates, read = ("RELAX", "exact"), 0
    for row in result.rows:
        if row.name == "V(s)":
            read += row.action_share is not None
        elif row.name in variates:
            read += sum(each is not None for each in (row.ratio, row.beside_best, row.rollouts_ratio, row.beside_state))
    assert read == (18 if restored else 8)
    ratio = result.at("exact", 0.0).rollouts_ratio
    half = stats.t.ppf(1 - 0.05 / read / 2, 7) * ratio.standard_error
    assert ratio.high - ratio.value == pytest.approx(half)


def test_whole_episodes():
    env = TinyEnv(spaces.Discrete(3))
    result = diagnose(RELAXA2C("MlpPolicy", env, n_episodes=1, device="cpu"), env, **SMALL)
    assert result.at("V(s)", 1.0).total.value > 0


def test_errors():
    model = RELAXA2C("MlpPolicy", TinyEnv(spaces.Discrete(3)), device="cpu")
    with pytest.raises(ValueError, match="n_actions must be a whole number >= 2"):
        diagnose(model, TinyEnv(spaces.Discrete(3)), n_actions=1)
    with pytest.raises(ValueError, match="lambdas must be"):
        diagnose(model, TinyEnv(spaces.Discrete(3)), lambdas=(2.0,))
    with pytest.raises(ValueError, match=r"[Aa]ction spaces? do not match"):
        diagnose(model, TinyEnv(spaces.Discrete(4)), **SMALL)
    with pytest.raises(TypeError, match="on-policy"):
        diagnose(DQN("MlpPolicy", "CartPole-v1", device="cpu"), "CartPole-v1")


def test_rollouts_of_steps_of_an_agent_of_whole_episodes_are_divided_by_their_steps(monkeypatch):
    env = TinyEnv(spaces.Discrete(3))
    model = RELAXA2C("MlpPolicy", env, n_episodes=2, seed=0, device="cpu").learn(28)
    assert model.expected_steps.average == 14
    divisors, right = [], measure.gradient_grams

    def noting(base, *arguments):
        divisors.append(base.expected_steps.divisor(5))
        return right(base, *arguments)

    monkeypatch.setattr(measure, "gradient_grams", noting)
    for n_steps in (5, None):
        diagnose(model, TinyEnv(spaces.Discrete(3)), n_steps=n_steps, **SMALL)
    assert divisors == [5, 14]


MEASURE = dict(n_episodes=400, n_states=400, n_actions=4, n_rollouts=200, n_fit_steps=3_000, n_fit_updates=300)


def test_a_bandit_that_lax_can_help():
    """Reward linear in the action, no noise: ĉ explains nearly all of it, and no state baseline can."""
    model = LAXA2C("MlpPolicy", linear_bandit(), n_steps=16, seed=0, device="cpu")
    result = diagnose(model, linear_bandit(), lambdas=(1.0,), **MEASURE)
    row = result.at("LAX", 1.0)
    assert row.rollouts_ratio.high < 0.5
    assert row.beside_best.high < 0
    assert row.beside_state.high < 0.5
    assert result.at("ĉ(s)", 1.0).rollouts_ratio.high > 0.9
    assert result.sentence.startswith("LAXA2C can lower the variance of the policy gradient at λ = 1")
    assert "by more than any state baseline could" in result.sentence


def test_two_arms_where_the_best_state_baseline_is_all_there_is():
    model = RELAXA2C("MlpPolicy", table_bandit(2, offset=3.0), n_steps=16, seed=0, device="cpu")
    result = diagnose(model, table_bandit(2, offset=3.0), lambdas=(1.0,), **MEASURE)
    assert result.at("best b(s)", 1.0).ratio.high < 0.5
    for name in ("RELAX", "exact"):
        assert result.at(name, 1.0).beside_best.high > 0
        assert result.at(name, 1.0).beside_state.low < 1 < result.at(name, 1.0).beside_state.high
    # the same gain, by a baseline that never sees the action
    assert result.at("ĉ(s)", 1.0).rollouts_ratio.high < 0.5
    assert "by more than" not in result.sentence
    assert "mostly as a state baseline ĉ(s) would" in result.sentence
    assert "that reading the action adds to it is not shown" in result.sentence


def test_pure_noise_cannot_be_helped():
    """Rewards that know nothing of the action, at V's own level."""
    env = table_bandit(3, noise=1.0)
    env.reward = lambda s, a: 0.0
    model = RELAXA2C("MlpPolicy", env, n_steps=16, seed=0, device="cpu")
    with th.no_grad():
        model.policy.value_net.weight.zero_()
    result = diagnose(model, env, lambdas=(1.0,), **MEASURE)
    assert result.sentence.startswith("No gain is shown")
    assert result.at("V(s)", 1.0).action_share.high < 0.3


# -- the sentence -----------------------------------------------------------------------------------------------------

COST = Cost(rollout=1.0, update=0.4, update_without=0.2)


def ratio(low, high):
    return Number((low + high) / 2, 0.01, low, high)


def rows_of(*ours, share=0.3):
    return [Row("V(s)", 1.0, action_share=ratio(0.1, share)), *ours]


@pytest.mark.parametrize(
    ("ours", "says", "never"),
    [
        ([Row("LAX", 0.5, rollouts_ratio=ratio(0.9, 1.1))], ["No gain is shown", "at most 30%"], ["can lower"]),
        ([Row("LAX", 0.5, rollouts_ratio=ratio(0.9, 1.0))], ["No gain is shown"], ["can lower", "higher"]),
        ([Row("LAX", 0.5, rollouts_ratio=ratio(1.1, 1.3))], ["No gain is shown", "higher with LAX at λ = 0.5"], []),
        (
            [Row("LAX", 0.0, rollouts_ratio=ratio(0.5, 0.6)), Row("LAX", 1.0, rollouts_ratio=ratio(0.9, 1.1))],
            ["at λ = 0:", "to 0.55 [0.50, 0.60]", "at λ = 1 no gain", "less than what larger batches"],
            ["baseline"],
        ),
        (
            [Row("ĉ(s)", 0.5, rollouts_ratio=ratio(0.5, 0.6)), Row("LAX", 0.5, rollouts_ratio=ratio(0.9, 1.1))],
            ["No gain is shown", "lowest end of an interval: 0.90"],
            ["can lower"],
        ),
        (
            [Row("LAX", 0.0, rollouts_ratio=ratio(0.5, 0.6), beside_state=ratio(0.6, 0.7))],
            ["reading the action lowers the variance to 0.65 [0.60, 0.70] of that with ĉ(s)"],
            ["not shown", "mostly"],
        ),
        (
            [Row("LAX", 0.0, rollouts_ratio=ratio(0.5, 0.6), beside_state=ratio(0.9, 1.1))],
            ["that reading the action adds to it is not shown (1.00 [0.90, 1.10] of the variance with ĉ(s))"],
            ["lowers the variance to"],
        ),
        (
            [Row("LAX", 0.0, rollouts_ratio=ratio(0.5, 0.6), beside_state=ratio(1.1, 1.3))],
            ["reading the action makes the variance 1.20 [1.10, 1.30] times that with ĉ(s)"],
            ["lowers the variance to"],
        ),
        (
            [
                Row("ĉ(s)", 0.0, rollouts_ratio=ratio(0.513, 0.613)),
                Row("LAX", 0.0, rollouts_ratio=ratio(0.5, 0.6), beside_state=ratio(0.876, 1.076)),
            ],
            [
                "λ = 0, mostly as a state baseline ĉ(s) would:",
                "; a state baseline ĉ(s) fitted in the same way does 97%",
            ],
            ["it is shown to"],
        ),
        (
            [
                Row("ĉ(s)", 0.0, rollouts_ratio=ratio(0.44, 0.54)),
                Row("LAX", 0.0, rollouts_ratio=ratio(0.5, 0.6), beside_state=ratio(1.1, 1.3)),
            ],
            ["does all of this"],
            [],
        ),
        (  # the share follows from the ratio beside it, which is taken of the same rollouts
            [
                Row("ĉ(s)", 0.0, rollouts_ratio=ratio(0.44, 0.54)),
                Row("LAX", 0.0, rollouts_ratio=ratio(0.5, 0.6), beside_state=ratio(0.84, 0.96)),
            ],
            ["does 86% of this: reading the action lowers the variance to 0.90"],
            ["all of this"],
        ),
        (
            [
                Row("ĉ(s)", 0.0, rollouts_ratio=ratio(0.97, 1.05)),
                Row("LAX", 0.0, rollouts_ratio=ratio(0.5, 0.6), beside_state=ratio(0.5, 0.6)),
            ],
            ["does nothing of this", "lowers the variance to 0.55"],
            ["mostly"],
        ),
        (
            [
                Row("LAX", 0.0, rollouts_ratio=ratio(0.5, 0.6), beside_state=ratio(0.9, 1.1)),
                Row("LAX", 0.5, rollouts_ratio=ratio(0.7, 0.8), beside_state=ratio(0.8, 0.9)),
            ],
            ["is not shown (1.00 [0.90, 1.10] of the variance with ĉ(s))", "; at λ = 0.5 it is shown to"],
            [],
        ),
        ([Row("LAX", 0.0, rollouts_ratio=ratio(0.8, 0.9))], ["can lower"], ["larger batches"]),
        ([Row("LAX", 0.0, rollouts_ratio=ratio(0.95, 0.99))], ["can lower", "more than what larger batches"], []),
        (
            [Row("LAX", 0.0, rollouts_ratio=ratio(0.5, 0.6), beside_best=ratio(-0.2, -0.1))],
            ["(for one step's gradient, by more than any state baseline could)"],
            [],
        ),
        (
            [Row("LAX", 0.0, rollouts_ratio=ratio(0.5, 0.6), beside_best=ratio(0.1, 0.2))],
            ["(one step's gradient the best state baseline alone would lower further)"],
            [],
        ),
        (
            [Row("LAX", 0.0, rollouts_ratio=ratio(0.5, 0.6), beside_best=ratio(-0.1, 0.2))],
            ["for one step's gradient, by no more, as far as is shown"],
            ["further", "by more than any", "miss"],
        ),
        (
            [Row("LAX", 0.0, ratio=ratio(0.1, 0.2), rollouts_ratio=ratio(0.5, 0.6), beside_best=ratio(-0.2, -0.1))],
            ["can lower", "the parts at λ = 0 miss what the rollouts see"],
            ["baseline"],
        ),
    ],
)
def test_the_sentence_says_what_intervals_say(ours, says, never):
    sentence = verdict("LAXA2C", rows_of(*ours), COST)
    assert "1.17 times as long as with A2C (the update 2.00 times)" in sentence
    for part in says:
        assert part in sentence
    for part in never:
        assert part not in sentence


def test_the_cost_is_paired_with_the_gain_of_those_that_were_timed():
    """A further control variate's gain is told apart, and that its time is not known."""
    model = [Row("model", 0.0, rollouts_ratio=ratio(0.2, 0.3)), Row("model", 0.5, rollouts_ratio=ratio(0.9, 1.1))]
    told = "whose time was not measured: with model it is 0.25 [0.20, 0.30] of that with V(s) at λ = 0"
    sentence = verdict("LAXA2C", rows_of(Row("LAX", 0.0, rollouts_ratio=ratio(0.95, 0.99)), *model), COST)
    assert "most with LAX at λ = 0, to 0.97 [0.95, 0.99]" in sentence
    assert "more than what larger batches" in sentence
    assert told in sentence
    higher = Row("qprop", 0.5, rollouts_ratio=ratio(1.2, 1.3)), Row("stein", 0.5, rollouts_ratio=ratio(0.9, 1.3))
    sentence = verdict("LAXA2C", rows_of(Row("LAX", 0.0, rollouts_ratio=ratio(0.9, 1.1)), *model, *higher), COST)
    assert sentence.startswith("No gain with LAX is shown: every ratio")
    assert "lowest end of an interval: 0.90" in sentence
    assert f"{told}; with qprop it is higher at λ = 0.5; with stein no gain is shown." in sentence
    assert "larger batches" not in sentence
    beside = Row("model", 0.0, rollouts_ratio=ratio(0.2, 0.3), beside_state=ratio(0.8, 2.4))
    sentence = verdict("LAXA2C", rows_of(Row("LAX", 0.0, rollouts_ratio=ratio(0.9, 1.1)), beside), COST)
    assert "it is 0.25 [0.20, 0.30] of that with V(s) and 1.60 [0.80, 2.40] of that with ĉ(s) at λ = 0" in sentence


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (1234.5, 20.0, "1,230 ± 20"),
        (123456, 4321, "123,000 ± 4,000"),
        (999_999, 1e5, "1,000,000 ± 100,000"),
        (-1234, 15, "-1,230 ± 20"),
        (2.346e7, 1e6, "2.35e+07 ± 1e+06"),
        (0.00123, 0.0001, "0.00123 ± 0.0001"),
        (12.345, 0.5, "12.3 ± 0.5"),
        (1.5e-6, 2e-7, "1.5e-06 ± 2e-07"),
    ],
)
def test_numbers_are_written_out_where_that_is_short(value, error, text):
    assert str(Number(value, error, value, value)) == text


def test_a_result_is_a_value():
    assert isinstance(Diagnosis("LAXA2C", None, [], COST, "", {}).to_dict()["cost"]["ratio"], float)


@pytest.mark.parametrize(
    ("share", "says"),
    [(0.3, "makes up at most 30% of"), (0.994, "at most 99%"), (1.0, "nearly all"), (1.7, "nearly all")],
)
def test_a_bound_that_bounds_nothing_is_none(share, says):
    sentence = verdict("LAXA2C", rows_of(Row("LAX", 0.5, rollouts_ratio=ratio(0.9, 1.1)), share=share), COST)
    assert says in sentence
    assert "100%" not in sentence


def test_a_number_without_an_error_has_none():
    assert str(Number(0.5, math.nan, math.nan, math.nan)) == "0.5"
