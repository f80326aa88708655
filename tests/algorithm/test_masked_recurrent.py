"""Masks and memory together: exact given a past, nothing of padding or masks leaks, either class alone as a case."""

import itertools
from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from gymnasium.wrappers import TimeLimit
from sb3_contrib.common.maskable.callbacks import MaskableEvalCallback
from sb3_contrib.common.maskable.evaluation import evaluate_policy as evaluate_by_sb3_contrib
from sb3_contrib.common.recurrent.buffers import RecurrentRolloutBuffer
from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy
from sb3_contrib.common.recurrent.type_aliases import RNNStates
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor

from sb3_relax import RELAXA2C, MaskableRecurrentRELAXA2C, MaskableRELAXA2C, RecurrentRELAXA2C
from sb3_relax.algorithm.recurrent import RecurrentRollout
from sb3_relax.evaluation import MaskedEvalCallback, UnderMasks
from sb3_relax.relaxa2c_mask_recurrent import MaskableRecurrentActorCriticPolicy
from tests.algorithm.test_masked import MASKED, ONE_ACTION_LEFT, SPACES, Masked, masked, sizes_of
from tests.algorithm.test_policy_gradient import (
    at_weights,
    derivative,
    enumerate_actions,
    estimated,
    expected_at_weights,
    plain_gradient,
)
from tests.algorithm.test_recurrent import SMALL, in_float64, rollout
from tests.helpers import ACTION_SPACES, TinyEnv, in_full, randomise

NAMES = ("observations", "actions", "advantages", "lstm_states", "episode_starts", "mask", "action_masks")


def small(env, policy="MlpLstmPolicy", policy_kwargs=None, **kwargs):
    """A small model, whose environment's episodes of 7 steps do not fit into rollouts of 10; ĉ's weights matter."""
    kwargs = {**dict(n_steps=10, seed=0, device="cpu"), **kwargs}
    model = MaskableRecurrentRELAXA2C(policy, env, policy_kwargs={**SMALL, **(policy_kwargs or {})}, **kwargs)
    randomise(model)
    return model


def given_the_past(space, correction):
    """A model, what its policy needs for n copies of one state, its mask and which noise matters."""
    action_space, mask, live = MASKED[space]
    model, past = in_float64(MaskableRecurrentRELAXA2C, action_space, correction=correction, init_temperature=0.8)
    mask = th.tensor([mask], dtype=th.bool)
    return model, lambda n: {**past(n), "action_masks": mask.expand(n, -1)}, mask, th.tensor(live, dtype=th.bool)


def allowed_actions(model, context):
    """One state, its allowed actions with their probabilities, and advantages."""
    obs, actions = th.randn(1, 3), enumerate_actions(model.action_space)
    n = len(actions)
    with th.no_grad():
        _, log_prob, _ = model.policy.evaluate_actions(obs.expand(n, 3), actions.squeeze(1), **context(n))
    probability = log_prob.exp()
    assert probability.sum().item() == pytest.approx(1)
    assert 2 <= (probability > 0).sum() < n
    allowed = probability > 0
    return obs, actions[allowed], probability[allowed], th.randn(int(allowed.sum()), dtype=th.float64) * 3


@pytest.mark.parametrize("correction", ["coupled", "relaxed", "exact"])
@pytest.mark.parametrize("space", SPACES)
def test_expectation_given_the_past_is_that_of_the_masked_score_function(space, correction):
    model, context, _, live = given_the_past(space, correction)
    obs, actions, probability, advantages = allowed_actions(model, context)
    n = len(actions)
    exact = plain_gradient(model, obs.expand(n, 3), actions, probability * advantages, **context(n))

    def expected(**changed):
        def widen(n):
            return {**context(n), "mask": th.ones(n, dtype=th.bool), **{name: of(n) for name, of in changed.items()}}

        return expected_at_weights(model, obs, actions, probability, advantages, 60, live, widen)

    assert exact.abs().max() > 0.01
    assert (expected() - exact).abs().max() < 1e-9
    if correction == "exact":  # teeth: the likeliest mistakes, no masks or no past in the update
        nothing = RNNStates(*((th.zeros(1, 1, 4, dtype=th.float64),) * 2,) * 2)
        assert (expected(action_masks=lambda n: None) - exact).abs().max() > 1e-3
        assert (expected(lstm_states=lambda n: nothing) - exact).abs().max() > 1e-4


@pytest.mark.parametrize("correction", ["coupled", "relaxed", "exact"])
@pytest.mark.parametrize("space", SPACES)
def test_what_is_masked_has_exactly_no_gradient(space, correction):
    model, context, mask, _ = given_the_past(space, correction)
    obs, actions, _, advantages = allowed_actions(model, context)
    n = len(actions)
    gradient = model.policy_gradient(obs.expand(n, 3), actions, advantages, **context(n))
    bias = gradient["action_net.bias"]
    assert (bias[~mask[0]] == 0).all()
    assert (bias != 0).any()
    assert gradient["lstm_actor.weight_hh_l0"].abs().max() > 1e-6  # by what it remembers
    unmasked = {**context(n), "action_masks": None}
    assert (model.policy_gradient(obs.expand(n, 3), actions, advantages, **unmasked)["action_net.bias"] != 0).all()


def test_through_time_it_is_the_gradient_of_the_expected_return():
    """Every allowed sequence of three actions, what is allowed changing from step to step, by autograd on the sum."""
    model, past = in_float64(MaskableRecurrentRELAXA2C, spaces.Discrete(3), correction="exact", cv_guard=False)
    masks = th.tensor([[1, 0, 1], [1, 1, 1], [0, 1, 1]], dtype=th.bool)
    choices = [mask.nonzero().flatten().tolist() for mask in masks]
    actions = th.tensor(list(itertools.product(*choices)))
    n = len(actions)
    assert n == 12
    obs = th.randn(3, 3).expand(n, 3, 3).reshape(n * 3, 3)
    rewards = (actions.double().cumsum(1) - 2).square()  # [n, 3], each depending on the actions so far
    states = {**past(n), "episode_starts": th.zeros(n * 3), "action_masks": masks.repeat(n, 1)}
    _, log_prob, _ = model.policy.evaluate_actions(obs, actions.flatten(), **states)
    probability = log_prob.reshape(n, 3).sum(1).exp()
    assert probability.sum().item() == pytest.approx(1)
    truth = derivative((probability * rewards.sum(1)).sum(), model)
    to_go = rewards.flip(1).cumsum(1).flip(1)
    weight = probability.detach().repeat_interleave(3)

    def ours(**changed):
        context = {**states, "mask": th.ones(n * 3, dtype=th.bool), **changed}
        return at_weights(
            model, estimated(model, model.view.evaluate(obs, actions, **context), to_go.flatten()), weight
        )

    assert truth.abs().max() > 0.01
    assert (ours() - truth).abs().max() < 1e-9
    # teeth: the masks of the next step
    with pytest.raises(AssertionError):
        assert (ours(action_masks=masks.roll(1, 0).repeat(n, 1)) - truth).abs().max() < 1e-9


@pytest.mark.parametrize("space", SPACES)
def test_padding_enters_nothing(space, monkeypatch):
    """Rubbish in the padded steps, their masks included, changes neither the weights nor what is logged."""
    runs = []
    for rubbish in (False, True):
        how = dict(normalize_advantage=True, n_critic_steps=2, n_cv_steps=2, cv_guard=False, ent_coef=0.01)
        model = small(masked(space), **how)
        batch, _ = rollout(model)
        pad = ~batch.context["mask"]
        assert 3 < pad.sum() < len(pad) - 10
        if rubbish:
            observations, actions = batch.observations.clone(), batch.actions.clone()
            masks = batch.context["action_masks"].clone()
            observations[pad] = 1e3 * th.randn_like(observations[pad])
            actions[pad] = 1
            masks[pad] = th.arange(masks.shape[1]).remainder(2).to(masks)
            context = {**batch.context, "action_masks": masks}
            batch = replace(batch, observations=observations, actions=actions, context=context)
        model.noise_generator.manual_seed(1)
        with monkeypatch.context() as patched:
            patched.setattr(RecurrentRollout, "batches", lambda self, dtype, batch=batch: iter([batch]))
            model.train()
        runs.append(([*model.policy.parameters(), *model.control_variate.parameters()], model))
    for a, b in zip(runs[0][0], runs[1][0], strict=True):
        assert th.equal(a, b)
    logs = [{k: v for k, v in m.logger.name_to_value.items() if k.startswith("train/")} for _, m in runs]
    assert logs[0] == logs[1]
    # teeth: the masks of real steps do matter
    real = batch.context["mask"]
    model = runs[0][1]
    before = model.view.evaluate(batch.observations, batch.actions, **batch.context)
    changed = th.where(real[:, None], th.ones_like(masks), masks)
    after = model.view.evaluate(batch.observations, batch.actions, **{**batch.context, "action_masks": changed})
    assert not th.allclose(before.latent.theta, after.latent.theta)


@pytest.mark.parametrize("space", SPACES)
def test_a_padded_batch_has_the_gradient_of_its_sequences_one_by_one(space):
    model = small(masked(space), correction="exact", cv_guard=False)
    _, data = rollout(model)
    n = data.lstm_states.pi[0].shape[1]
    length = len(data.mask) // n
    given = {name: getattr(data, name) for name in NAMES}
    whole = model.policy_gradient(**given)
    ragged = [*data.action_masks.tolist()[:-1], [1]]
    with pytest.raises(ValueError, match=r"action_masks must have .* in each of .* masks with"):
        model.policy_gradient(**{**given, "action_masks": ragged})
    of_lists = model.policy_gradient(**{**given, "action_masks": data.action_masks.tolist()})
    assert all(th.equal(of_lists[name], gradient) for name, gradient in whole.items())
    total = {name: 0.0 for name in whole}
    for i in range(n):
        steps = slice(i * length, i * length + int(data.mask[i * length : (i + 1) * length].sum()))
        states = RNNStates(*(tuple(s[:, i : i + 1].contiguous() for s in of_one) for of_one in data.lstm_states))
        arrays = {name: getattr(data, name)[steps] for name in NAMES if name not in ("lstm_states", "mask")}
        for name, gradient in model.policy_gradient(**arrays, lstm_states=states).items():
            total[name] = total[name] + gradient * len(data.mask[steps])
    assert n >= 4
    for name, gradient in whole.items():
        assert th.allclose(total[name] / 20, gradient, atol=1e-6), name


@pytest.mark.parametrize(
    "how", [dict(), dict(n_episodes=3), dict(correction="relaxed"), dict(correction="exact")], ids=str
)
@pytest.mark.parametrize("space", ["discrete", "multidiscrete"])
def test_where_everything_is_allowed_it_is_the_recurrent_class(space, how):
    """But for what the maskable distributions round. Not with MultiBinary: a bit has two logits in place of one."""

    class Free(TinyEnv):
        def action_masks(self):
            return np.ones(sum(sizes_of(self.action_space)), dtype=bool)

    def learn(algorithm, env=Free, **kwargs):
        np.random.seed(2)  # noqa: NPY002  where the buffer starts its sequences
        vec_env = make_vec_env(lambda: env(ACTION_SPACES[space]), 2, seed=0)
        arguments = dict(n_steps=10, seed=0, device="cpu", ent_coef=0.01, policy_kwargs=dict(SMALL))
        model = algorithm("MlpLstmPolicy", vec_env, **arguments, **how)
        randomise(model)
        return model.learn(100, **kwargs)

    reference = learn(RecurrentRELAXA2C)
    for model in (learn(MaskableRecurrentRELAXA2C), learn(MaskableRecurrentRELAXA2C, TinyEnv, use_masking=False)):
        for ours, theirs in ((model.policy, reference.policy), (model.control_variate, reference.control_variate)):
            for (name, a), b in zip(ours.named_parameters(), theirs.parameters(), strict=True):
                assert th.allclose(a, b, atol=2e-6, rtol=2e-5), name
    pairs = zip(
        learn(MaskableRecurrentRELAXA2C, Masked).policy.parameters(), reference.policy.parameters(), strict=True
    )
    assert any(not th.allclose(a, b, atol=2e-6, rtol=2e-5) for a, b in pairs)  # teeth


class NothingRemembered(th.nn.LSTM):
    """An LSTM that gives what it gets."""

    def forward(self, features, states):
        return features, states


@pytest.mark.parametrize("n_episodes", [None, 3])
@pytest.mark.parametrize("space", SPACES)
def test_where_the_lstm_is_trivial_it_is_the_maskable_class(space, n_episodes):
    common = dict(n_steps=10, seed=0, device="cpu", correction="exact", ent_coef=0.01, n_episodes=n_episodes)
    net_arch = SMALL["net_arch"]
    reference = MaskableRELAXA2C("MlpPolicy", masked(space), policy_kwargs=dict(net_arch=net_arch), **common)
    randomise(reference)
    policy_kwargs = dict(net_arch=net_arch, lstm_hidden_size=3)
    model = MaskableRecurrentRELAXA2C("MlpLstmPolicy", masked(space), policy_kwargs=policy_kwargs, **common)
    model.policy.lstm_actor, model.policy.lstm_critic = NothingRemembered(3, 3), NothingRemembered(3, 3)
    model.view.follow(model.policy)
    model.policy.load_state_dict(reference.policy.state_dict(), strict=False)
    model.control_variate.load_state_dict(reference.control_variate.state_dict())
    learned = []
    for algorithm in (reference, model):
        algorithm.set_random_seed(4)
        learned.append(dict(algorithm.learn(200).policy.named_parameters()))
    for name, parameter in learned[0].items():
        assert th.allclose(learned[1][name], parameter, atol=2e-6, rtol=2e-5), name
    for a, b in zip(in_full(model).parameters(), in_full(reference).parameters(), strict=True):
        assert th.allclose(a, b, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("how", [dict(), dict(n_episodes=3), dict(cv_objective="weights", n_cv_steps=2)], ids=str)
@pytest.mark.parametrize("space", SPACES)
def test_masked_actions_are_never_taken_and_the_model_saves_and_goes_on(space, how, tmp_path):
    """The environment refuses what it masked; time limits cut some of its episodes."""
    env = make_vec_env(lambda: TimeLimit(Masked(ACTION_SPACES[space], length=50), 6), 2, seed=0)
    model = small(env, n_critic_steps=2, **how)
    before = [p.detach().clone() for p in (*model.policy.parameters(), *model.control_variate.parameters())]
    model.learn(100)
    after = [*model.policy.parameters(), *model.control_variate.parameters()]
    assert all(p.isfinite().all() for p in after)
    assert not any(th.equal(a, b) for a, b in zip(before, after, strict=True) if b.numel() > 4)
    stored = model.rollout_buffer.action_masks
    assert 0 < stored.mean() < 1
    model.save(tmp_path / "agent")
    loaded = MaskableRecurrentRELAXA2C.load(tmp_path / "agent", env=masked(space), device="cpu")
    again = [*loaded.policy.parameters(), *loaded.control_variate.parameters()]
    assert all(th.equal(a, b) for a, b in zip(after, again, strict=True))
    assert loaded.policy_class is MaskableRecurrentActorCriticPolicy
    obs, masks = np.zeros((2, 3), np.float32), np.array([ONE_ACTION_LEFT[space]] * 2)
    start = np.cumsum([0, *sizes_of(model.action_space)[:-1]])
    for deterministic in (True, False):
        action, state = loaded.predict(obs, deterministic=deterministic, action_masks=masks)
        assert state[0].shape == (1, 2, 4)
        assert masks[0][start + np.asarray(action[0], int).reshape(-1)].all()
    assert loaded.learn(40, reset_num_timesteps=False).num_timesteps >= 140


def test_dict_observations_and_images():
    parts = spaces.Dict({"a": spaces.Box(-1.0, 1.0, (3,), np.float32), "b": spaces.Discrete(4)})
    images = spaces.Box(0, 255, (36, 36, 1), np.uint8)
    for policy, seen in (("MultiInputLstmPolicy", parts), ("CnnLstmPolicy", images)):
        env = make_vec_env(lambda seen=seen: Masked(spaces.Discrete(3), observation_space=seen), 2, seed=0)
        model = small(env, policy).learn(40)
        assert model._n_updates == 2
        data = next(model.rollout_buffer.get())
        gradient = model.policy_gradient(**{name: getattr(data, name) for name in NAMES})
        assert gradient["lstm_actor.weight_ih_l0"].abs().max() > 0
        assert model.predict(env.reset(), action_masks=np.ones((2, 3)))[1][0].shape == (1, 2, 4)


class MaskedRecall(gym.Env):
    """The first observation says which of two actions is right two steps later, when only these two are allowed.

    Before that only the two others are, and nothing of what to remember is seen again.
    """

    observation_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
    action_space = spaces.Discrete(4)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t, self.goal = 0, int(self.np_random.integers(2))
        return np.array([2 * self.goal - 1, 0], np.float32), {}

    def action_masks(self):
        return np.arange(4) < 2 if self.t == 2 else np.arange(4) >= 2

    def step(self, action):
        assert self.action_masks()[action], "a masked action was taken"
        self.t += 1
        reward = float(action == self.goal) if self.t == 3 else 0.0
        return np.array([0, self.t / 3], np.float32), reward, self.t == 3, False, {}


@pytest.mark.parametrize("how", [dict(n_steps=6), dict(n_episodes=16)], ids=str)
def test_what_was_seen_two_steps_ago_is_remembered_under_masks(how):
    def learn(algorithm, policy, **policy_kwargs):
        env = make_vec_env(MaskedRecall, 8, seed=0)
        arguments = dict(learning_rate=1e-2, use_rms_prop=False, gae_lambda=0.9, seed=0, device="cpu", **how)
        model = algorithm(policy, env, policy_kwargs=policy_kwargs, **arguments).learn(3500)
        eval_env = make_vec_env(MaskedRecall, 8, seed=1)
        return evaluate_policy(UnderMasks(model, eval_env), eval_env, 100)[0]

    assert learn(MaskableRecurrentRELAXA2C, "MlpLstmPolicy", lstm_hidden_size=16) > 0.95
    assert learn(MaskableRELAXA2C, "MlpPolicy") < 0.7  # teeth: without a memory
    with pytest.raises(AssertionError, match="a masked action was taken"):
        learn(RecurrentRELAXA2C, "MlpLstmPolicy")  # and without masks


def test_evaluation_keeps_the_memory_and_says_where_it_is_lost(tmp_path):
    env = make_vec_env(MaskedRecall, 8, seed=0)
    arguments = dict(n_steps=6, learning_rate=1e-2, use_rms_prop=False, gae_lambda=0.9, seed=0, device="cpu")
    model = MaskableRecurrentRELAXA2C("MlpLstmPolicy", env, policy_kwargs=dict(lstm_hidden_size=16), **arguments)
    eval_env = make_vec_env(MaskedRecall, 4, seed=1)
    callback = MaskedEvalCallback(eval_env, n_eval_episodes=20, eval_freq=250, best_model_save_path=tmp_path, verbose=0)
    model.learn(3500, callback=callback)
    assert callback.model is model
    assert callback.best_mean_reward > 0.95
    best = MaskableRecurrentRELAXA2C.load(tmp_path / "best_model", device="cpu")
    assert evaluate_policy(UnderMasks(best, eval_env), eval_env, 50)[0] > 0.95
    with pytest.warns(UserWarning, match=r"no state in the middle of an episode.*use MaskedEvalCallback or UnderMasks"):
        forgetful = evaluate_by_sb3_contrib(best, Monitor(MaskedRecall()), 50)[0]
    assert forgetful < 0.8
    with pytest.warns(UserWarning, match="no state in the middle of an episode"):
        model.learn(240, callback=MaskableEvalCallback(eval_env, eval_freq=10, verbose=0))


def test_errors_name_the_class_to_use():
    env = Masked(spaces.Discrete(3))
    for algorithm in (RELAXA2C, MaskableRELAXA2C, RecurrentRELAXA2C):
        with pytest.raises(
            ValueError, match=r"sb3_relax\.MaskableRecurrentRELAXA2C|derive from sb3-contrib's Maskable"
        ):
            algorithm(MaskableRecurrentActorCriticPolicy, env)
    for algorithm, name in (
        (RELAXA2C, "MaskableMlpLstmPolicy"),
        (MaskableRELAXA2C, "MlpLstmPolicy"),
        (RecurrentRELAXA2C, "MaskableMlpLstmPolicy"),
    ):
        with pytest.raises(ValueError, match=r"use sb3_relax\.MaskableRecurrentRELAXA2C$"):
            algorithm(name, env)
    with pytest.raises(ValueError, match=r"no policy 'MlpPolicy'; it has MlpLstmPolicy, [^.]*$"):
        MaskableRecurrentRELAXA2C("MlpPolicy", env)
    with pytest.raises(
        ValueError, match=r"derive from sb3_relax\.relaxa2c_mask_recurrent's MaskableRecurrentActorCriticPolicy"
    ):
        MaskableRecurrentRELAXA2C(RecurrentActorCriticPolicy, env)
    with pytest.raises(ValueError, match="takes Discrete, MultiDiscrete, MultiBinary action spaces"):
        MaskableRecurrentRELAXA2C("MlpLstmPolicy", "Pendulum-v1")
    with pytest.raises(ValueError, match=r"no method action_masks\(\)"):
        small(TinyEnv(spaces.Discrete(3))).learn(20)
    with pytest.raises(ValueError, match=r"rollout_buffer_class must keep masks.*MaskableRecurrentRolloutBuffer or"):
        small(env, rollout_buffer_class=RecurrentRolloutBuffer)
    model = small(env)
    with pytest.raises(
        ValueError, match=r"action_masks must have 3 entries with Discrete\(3\) \(one for each action\)"
    ):
        model.predict(np.zeros(3, np.float32), action_masks=[1, 0])
