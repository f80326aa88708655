"""Invalid action masking: exact under masks, masked actions out of play, sb3-contrib's tools at work."""

import copy
import re
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from sb3_contrib import MaskablePPO
from sb3_contrib.common.envs import (
    InvalidActionEnvDiscrete,
    InvalidActionEnvMultiBinary,
    InvalidActionEnvMultiDiscrete,
)
from sb3_contrib.common.maskable.callbacks import MaskableEvalCallback
from sb3_contrib.common.maskable.evaluation import evaluate_policy
from sb3_contrib.common.maskable.policies import MaskableActorCriticPolicy
from sb3_contrib.common.wrappers import ActionMasker
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy as evaluate_by_sb3
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnvWrapper, VecMonitor, VecNormalize

from sb3_relax import RELAXA2C, MaskableRELAXA2C
from sb3_relax.evaluation import MaskedEvalCallback, UnderMasks
from tests.algorithm.test_policy_gradient import (
    at_weights,
    enumerate_actions,
    estimated,
    expected_at_weights,
    plain_gradient,
)
from tests.helpers import ACTION_SPACES, TinyEnv, float64_model, randomise

SPACES = ["discrete", "multidiscrete", "multibinary"]

#: action space, mask of one state, and which entries of θ, [D, K] or [D], have noise that matters
MASKED = {
    "discrete": (spaces.Discrete(4), [1, 0, 1, 0], [[1, 0, 1, 0]]),
    # of sizes 2 and 3, padded to [3, 3]; the first variable may take one value alone
    "multidiscrete": (spaces.MultiDiscrete([2, 3]), [0, 1, 1, 0, 1], [[0, 0, 0], [1, 0, 1]]),
    # two values a bit; the first bit is free, the second must be set
    "multibinary": (spaces.MultiBinary(2), [1, 1, 0, 1], [1, 0]),
}


class Masked(TinyEnv):
    """TinyEnv that forbids something else at every step, and refuses to be given what it forbade."""

    def __init__(self, action_space, **kwargs):
        super().__init__(action_space, **kwargs)
        self.sizes = sizes_of(action_space)

    def action_masks(self):
        # one value of each variable after the other is forbidden, and then none
        return np.concatenate([np.arange(size) != (self.t + i) % (size + 1) for i, size in enumerate(self.sizes)])

    def step(self, action):
        start = np.cumsum([0, *self.sizes[:-1]])
        assert self.action_masks()[start + np.asarray(action, int).reshape(-1)].all(), "a masked action was taken"
        return super().step(action)


def masked(space, n_envs=2, **kwargs):
    return make_vec_env(lambda: Masked(ACTION_SPACES[space], **kwargs), n_envs, seed=0)


def model_and_mask(space, correction):
    action_space, mask, live = MASKED[space]
    model = float64_model(MaskableRELAXA2C, TinyEnv(action_space), correction=correction, init_temperature=0.8)
    return model, th.tensor([mask], dtype=th.bool), th.tensor(live, dtype=th.bool)


def distribution_under(model, mask):
    """One state, every action, its probability under the mask, and advantages."""
    obs, actions = th.randn(1, 3), enumerate_actions(model.action_space)
    with th.no_grad():
        wide = obs.expand(len(actions), 3)
        _, log_prob, _ = model.policy.evaluate_actions(wide, actions.squeeze(1), mask.expand(len(actions), -1))
    probability = log_prob.exp()
    assert probability.sum().item() == pytest.approx(1)
    assert 2 <= (probability > 0).sum() < len(actions)
    allowed = probability > 0
    return obs, actions[allowed], probability[allowed], th.randn(int(allowed.sum()), dtype=th.float64) * 3


@pytest.mark.parametrize("correction", ["coupled", "relaxed", "exact"])
@pytest.mark.parametrize("space", SPACES)
def test_expectation_is_that_of_the_masked_score_function(space, correction):
    model, mask, live = model_and_mask(space, correction)
    obs, actions, probability, advantages = distribution_under(model, mask)
    wide = obs.expand(len(actions), 3)
    masks = mask.expand(len(actions), -1)
    exact = plain_gradient(model, wide, actions, probability * advantages, action_masks=masks)

    def expected(widen):
        return expected_at_weights(model, obs, actions, probability, advantages, 60, live, widen)

    ours = expected(lambda n: {"action_masks": mask.expand(n, -1)})
    assert exact.abs().max() > 0.01
    assert (ours - exact).abs().max() < 1e-9
    if correction == "exact":
        # the likeliest mistake: masks at play, none in the update
        assert (expected(lambda n: {}) - exact).abs().max() > 1e-3


@pytest.mark.parametrize("correction", ["coupled", "relaxed", "exact"])
@pytest.mark.parametrize("space", SPACES)
def test_what_is_masked_has_exactly_no_gradient(space, correction):
    model, mask, _ = model_and_mask(space, correction)
    obs, actions, _, advantages = distribution_under(model, mask)
    obs, masks = obs.expand(len(actions), 3), mask.expand(len(actions), -1)
    estimate = estimated(model, model.view.evaluate(obs, actions, action_masks=masks), advantages)
    assert (estimate.score_term - estimate.grad).abs().max() > 1e-3  # ĉ is at work
    bias = model.policy_gradient(obs, actions, advantages, action_masks=masks)["action_net.bias"]
    assert (bias[~mask[0]] == 0).all()
    free = th.tensor([group.sum() > 1 for group in mask[0].split(list(sizes_of(model.action_space))) for _ in group])
    assert (bias[mask[0] & free] != 0).all()
    assert (bias[~free] == 0).all()  # a variable of one value has nothing to learn
    assert (model.policy_gradient(obs, actions, advantages)["action_net.bias"] != 0).all()  # teeth


def sizes_of(space):
    """How many values each variable has."""
    if isinstance(space, spaces.Discrete):
        return [int(space.n)]
    return list(space.nvec) if isinstance(space, spaces.MultiDiscrete) else [2] * space.n


def test_log_probability_and_entropy_are_the_masked_distribution_s():
    model, mask, _ = model_and_mask("discrete", "coupled")
    obs = th.randn(6, 3)
    actions = th.tensor([0, 2, 0, 2, 0, 2])
    step = model.view.evaluate(obs, actions, action_masks=mask.expand(6, -1))
    logits = model.policy.get_distribution(obs).distribution.logits[:, mask[0]].log_softmax(1)
    assert th.allclose(step.log_prob, logits[th.arange(6), actions // 2])
    assert th.allclose(step.entropy, -(logits.exp() * logits).sum(1))


@pytest.mark.parametrize("correction", ["coupled", "relaxed", "exact"])
def test_a_state_with_one_action_moves_nothing(correction):
    model = float64_model(MaskableRELAXA2C, TinyEnv(spaces.Discrete(4)), correction=correction)
    randomise(model, 10.0)
    step = model.view.evaluate(th.randn(5, 3), th.ones(5), action_masks=th.tensor([[0, 1, 0, 0]]).expand(5, -1))
    estimate = estimated(model, step, th.randn(5, dtype=th.float64))
    assert (estimate.grad == 0).all()
    assert (step.entropy == 0).all()
    assert (step.log_prob == 0).all()
    assert at_weights(model, estimate, th.ones(5, dtype=th.float64)).abs().max() == 0


@pytest.mark.parametrize("space", SPACES)
def test_without_control_variate_it_is_maskable_ppo_s_first_step(space):
    """One epoch over the whole batch from ratio 1 is A2C's step: sb3-contrib's own code, 10 updates of it."""
    rms = dict(optimizer_class=th.optim.RMSprop, optimizer_kwargs=dict(alpha=0.99, eps=1e-5, weight_decay=0))
    common = dict(n_steps=8, learning_rate=7e-4, gae_lambda=0.9, ent_coef=0.02, seed=3, device="cpu")
    ppo = dict(batch_size=16, n_epochs=1, normalize_advantage=False, clip_range=1e9, policy_kwargs=rms)
    runs = []
    for algorithm, more in ((MaskablePPO, ppo), (MaskableRELAXA2C, dict(cv_learning_rate=0.0))):
        model = algorithm("MlpPolicy", masked(space), **common, **more)
        runs.append((model.learn(10 * 16), [p.detach().clone() for p in model.policy.parameters()]))
    (reference, theirs), (_, ours) = runs
    for (name, _), a, b in zip(reference.policy.named_parameters(), theirs, ours, strict=True):
        assert th.allclose(a, b, atol=2e-6, rtol=2e-5), name
    changed = MaskableRELAXA2C("MlpPolicy", masked(space), **common, cv_learning_rate=0.01, cv_guard=False)
    pairs = zip(theirs, changed.learn(10 * 16).policy.parameters(), strict=True)
    assert any(not th.allclose(a, b, atol=2e-6, rtol=2e-5) for a, b in pairs)  # teeth


@pytest.mark.parametrize("n_episodes", [None, 3])
@pytest.mark.parametrize("space", SPACES)
def test_masked_actions_are_never_taken_and_the_model_saves_and_goes_on(space, n_episodes, tmp_path):
    """The environment refuses what it masked. Masks come from itself or, with whole episodes, from an ActionMasker."""
    env = (
        masked(space)
        if n_episodes is None
        else ActionMasker(Masked(ACTION_SPACES[space]), lambda env: env.action_masks())
    )
    model = MaskableRELAXA2C("MlpPolicy", env, seed=0, device="cpu", n_episodes=n_episodes, n_critic_steps=2).learn(100)
    stored = model.rollout_buffer.action_masks.reshape(-1, model.rollout_buffer.mask_dims)
    assert (stored == 0).any()
    assert (stored.sum(0) > 0).all()
    assert all(p.isfinite().all() for p in model.policy.parameters())
    model.save(tmp_path / "agent")
    loaded = MaskableRELAXA2C.load(tmp_path / "agent", env=masked(space), device="cpu")
    obs, masks = np.zeros((1, 3), np.float32), np.array(ONE_ACTION_LEFT[space])
    for deterministic in (True, False):
        action, _ = loaded.predict(obs, deterministic=deterministic, action_masks=masks)
        assert masks[np.cumsum([0, *sizes_of(model.action_space)[:-1]]) + np.asarray(action[0], int).reshape(-1)].all()
    pairs = zip(model.policy.parameters(), loaded.policy.parameters(), strict=True)
    assert all(th.equal(a, b) for a, b in pairs)
    assert loaded.policy_class is MaskableActorCriticPolicy
    assert loaded.learn(40, reset_num_timesteps=False).num_timesteps >= 140


ONE_ACTION_LEFT = {"discrete": [0, 0, 1], "multidiscrete": [0, 1, 0, 1, 0], "multibinary": [0, 1, 1, 0]}


def test_without_masks_it_is_relaxa2c():
    def learn(algorithm, **kwargs):
        env = make_vec_env(lambda: TinyEnv(ACTION_SPACES["discrete"]), 2, seed=0)
        return algorithm("MlpPolicy", env, seed=0, device="cpu").learn(200, **kwargs).policy.parameters()

    with pytest.raises(ValueError, match=r"no method action_masks\(\): wrap it in .*ActionMasker"):
        learn(MaskableRELAXA2C)
    pairs = zip(learn(MaskableRELAXA2C, use_masking=False), learn(RELAXA2C), strict=True)
    assert all(th.allclose(a, b, atol=1e-6) for a, b in pairs)


LEARNABLE = {
    "discrete": lambda: InvalidActionEnvDiscrete(dim=12, ep_length=50, n_invalid_actions=9),
    "multidiscrete": lambda: InvalidActionEnvMultiDiscrete(dims=[2, 4, 3], ep_length=50, n_invalid_actions=4),
    "multibinary": lambda: InvalidActionEnvMultiBinary(dims=4, ep_length=50, n_invalid_actions=3),
}


@pytest.mark.parametrize("space", SPACES)
def test_learns_and_is_evaluated_by_sb3_contrib(space, tmp_path):
    np.random.seed(0)  # noqa: NPY002  the environments draw their masks from it
    env, eval_env = LEARNABLE[space](), LEARNABLE[space]()
    env.action_space.seed(0)
    eval_env.action_space.seed(1)
    arguments = dict(gamma=0.4, n_steps=32, learning_rate=1e-2, use_rms_prop=False, seed=0, device="cpu")
    model = MaskableRELAXA2C("MlpPolicy", env, **arguments)
    before, _ = evaluate_policy(model, eval_env, 5, warn=False)
    callback = MaskableEvalCallback(
        eval_env, n_eval_episodes=3, eval_freq=800, best_model_save_path=str(tmp_path), verbose=0, warn=False
    )
    model.learn(1700, callback=callback)
    after, _ = evaluate_policy(model, eval_env, 5, warn=False)
    assert before < 37
    assert after > 45
    best = MaskableRELAXA2C.load(tmp_path / "best_model", device="cpu")
    assert evaluate_policy(best, eval_env, 5, warn=False)[0] > 40


def test_errors_name_the_class_to_use():
    env = ActionMasker(TinyEnv(spaces.Discrete(3)), lambda _env: np.zeros(3, bool))
    with pytest.raises(ValueError, match=r"use sb3_relax\.MaskableRELAXA2C"):
        RELAXA2C(MaskableActorCriticPolicy, env)
    with pytest.raises(ValueError, match=r"no policy 'MaskableMlpPolicy'; it has MlpPolicy.*MaskableRELAXA2C"):
        RELAXA2C("MaskableMlpPolicy", env)
    with pytest.raises(ValueError, match="derive from sb3-contrib's MaskableActorCriticPolicy"):
        MaskableRELAXA2C(RELAXA2C.policy_aliases["MlpPolicy"], env)
    with pytest.raises(
        ValueError, match=r"rollout_buffer_class must keep masks.*MaskableRolloutBuffer or .*RolloutBuffer"
    ):
        MaskableRELAXA2C("MlpPolicy", env, rollout_buffer_class=RolloutBuffer)


RIGHT_SIZE = {
    "discrete": r"3 entries.*Discrete\(3\) \(one for each action\)",
    "multidiscrete": r"5 entries.*MultiDiscrete\(\[2 3\]\) \(one for each value of each variable: 2 \+ 3\)",
    "multibinary": r"4 entries.*MultiBinary\(2\) \(two for each bit: whether it may be 0, and whether it may be 1\)",
}


@pytest.mark.parametrize("space", SPACES)
def test_a_mask_of_the_wrong_size_says_which_is_right(space):
    right = rf"action_masks must have {RIGHT_SIZE[space]}; got "
    size = sum(sizes_of(ACTION_SPACES[space]))
    offered = [np.ones(size), np.ones(size)]  # by each environment
    env = DummyVecEnv([lambda i=i: ActionMasker(TinyEnv(ACTION_SPACES[space]), lambda _: offered[i]) for i in range(2)])
    for n_episodes in (None, 2):
        model = MaskableRELAXA2C("MlpPolicy", env, device="cpu", n_episodes=n_episodes)
        model.learn(20)
        for offered[1], got in (
            (np.ones(size - 1), f"[shape ({size},), shape ({size - 1},)]"),
            ([[1], [1, 1]], f"[shape ({size},), [shape (1,), shape (2,)]]"),  # of each variable alone
        ):
            with pytest.raises(ValueError, match=right + re.escape(got)):
                model.learn(20)
        offered[:] = np.ones((2, size + 1))
        with pytest.raises(ValueError, match=right + rf"shape \(2, {size + 1}\)"):
            model.learn(20)
        offered[:] = np.ones((2, size))
    one, several = np.zeros(3, np.float32), np.zeros((6, 3), np.float32)
    for obs, masks in (
        (one, np.ones(size + 1)),
        (one, [1] * (size - 1)),
        (one, [[1], [1, 1]]),
        (one, np.ones((2, size))),
        (several, np.ones(size)),
        (several, np.ones((6, size + 1))),
        (several, np.ones((size, 6))),  # a size that fits, the wrong way round
    ):
        with pytest.raises(
            ValueError, match=right.replace("entries", "entries.*" if obs is one else "entries in each of 6")
        ):
            model.predict(obs, action_masks=masks)
    model.predict(one, action_masks=[1] * size)
    model.predict(several, action_masks=th.ones(6, size))
    actions = th.as_tensor(np.stack([ACTION_SPACES[space].sample() for _ in several]))
    with pytest.raises(ValueError, match=right):
        model.policy_gradient(several, actions, th.ones(6), action_masks=th.ones(6, size + 1))
    model.policy_gradient(several, actions, th.ones(6), action_masks=th.ones(6, size))


@pytest.mark.parametrize(
    ("space", "which"), [("discrete", ""), ("multidiscrete", " of variable 1"), ("multibinary", " of variable 1")]
)
def test_a_mask_that_allows_nothing_is_refused_before_anything_is_done(space, which):
    sizes = sizes_of(ACTION_SPACES[space])
    nothing = np.ones((2, sum(sizes)))
    nothing[1, -sizes[-1] :] = 0  # of the last variable, in the second environment
    offered = np.ones_like(nothing)
    env = DummyVecEnv([lambda i=i: ActionMasker(TinyEnv(ACTION_SPACES[space]), lambda _: offered[i]) for i in range(2)])
    model = MaskableRELAXA2C("MlpPolicy", env, device="cpu").learn(20)
    taken = model.num_timesteps
    whole = re.escape(str(ACTION_SPACES[space]))
    refused = rf"action_masks must allow something.*mask 1 of 2 allows no value{which} of {whole}"
    with pytest.raises(ValueError, match=refused):
        model.predict(np.zeros((2, 3), np.float32), action_masks=nothing)
    offered[:] = nothing
    with pytest.raises(ValueError, match=refused):
        model.learn(20)
    assert model.num_timesteps == 0 < taken


class MasksOfAll(VecEnvWrapper):
    """Says for all environments at once which actions are allowed, and refuses to be given others."""

    def action_masks(self):
        rows = [[(self.steps + i + j) % 3 != 0 for j in range(3)] for i in range(self.num_envs)]
        return np.array(rows)

    def reset(self):
        self.steps = 0
        return self.venv.reset()

    def step_async(self, actions):
        assert self.action_masks()[np.arange(self.num_envs), actions].all(), "a masked action was taken"
        self.venv.step_async(actions)

    def step_wait(self):
        self.steps += 1
        return self.venv.step_wait()


@pytest.mark.filterwarnings("ignore:Training and eval env are not of the same type")
@pytest.mark.parametrize("n_episodes", [None, 2])
def test_masks_that_a_wrapper_of_a_vecenv_offers_are_found(n_episodes):
    def learn(wrap, inner=TinyEnv):
        env = wrap(DummyVecEnv([lambda: inner(ACTION_SPACES["discrete"])] * 2))
        model = MaskableRELAXA2C("MlpPolicy", env, seed=0, device="cpu", n_episodes=n_episodes).learn(100)
        stored = model.rollout_buffer.action_masks
        assert 0 < stored.mean() < 1
        return model

    model = learn(MasksOfAll)
    learn(lambda env: VecNormalize(VecMonitor(MasksOfAll(env))))
    learn(lambda env: VecMonitor(MasksOfAll(MasksOfAll(env))))
    # the outermost says it, and what is inside forbids others
    with pytest.raises(AssertionError, match="a masked action was taken"):
        learn(MasksOfAll, inner=type("Refusing", (Masked,), {"action_masks": lambda self: np.eye(3)[0] == 1}))
    eval_env = VecMonitor(MasksOfAll(DummyVecEnv([lambda: TinyEnv(ACTION_SPACES["discrete"])] * 2)))
    assert len(evaluate_by_sb3(UnderMasks(model, eval_env), eval_env, 6, return_episode_rewards=True)[0]) == 6
    callback = MaskedEvalCallback(eval_env, eval_freq=10, verbose=0)
    model.learn(40, callback=callback)
    assert np.isfinite(callback.last_mean_reward)


def test_evaluation_without_masks_warns_and_names_what_gives_them(recwarn):
    def agent():
        return MaskableRELAXA2C("MlpPolicy", masked("discrete"), device="cpu")

    warnings.simplefilter("always")

    def warned():
        messages = {str(one.message) for one in recwarn.list if "MaskableEvalCallback" in str(one.message)}
        recwarn.clear()
        return messages

    eval_env, masked_env = make_vec_env(lambda: TinyEnv(ACTION_SPACES["discrete"]), 2), masked("discrete")
    expected = {
        "predict() was given no action_masks, so this MaskableRELAXA2C may take what the environment forbids. SB3's "
        "EvalCallback and evaluate_policy give none: use sb3-contrib's MaskableEvalCallback "
        "(sb3_contrib.common.maskable.callbacks) and evaluate_policy (sb3_contrib.common.maskable.evaluation) or, "
        "where a VecEnv or its wrapper has the masks, MaskedEvalCallback and UnderMasks of sb3_relax.evaluation"
    }
    agent().learn(20, callback=EvalCallback(eval_env, eval_freq=5, verbose=0))
    assert warned() == expected
    evaluate_by_sb3(agent(), eval_env, 1)
    assert warned() == expected
    agent().predict(eval_env.reset())
    assert warned() == expected
    # and not where there is nothing to warn of
    for callback in (MaskableEvalCallback, MaskedEvalCallback):
        agent().learn(20, callback=callback(masked_env, eval_freq=5, verbose=0))
    evaluate_policy(agent(), masked_env, 1)
    evaluate_by_sb3(UnderMasks(agent(), masked_env), masked_env, 1)
    unmasked = MaskableRELAXA2C("MlpPolicy", eval_env, device="cpu")
    unmasked.learn(20, use_masking=False, callback=EvalCallback(eval_env, eval_freq=5, verbose=0))
    RELAXA2C("MlpPolicy", eval_env, device="cpu").learn(20, callback=EvalCallback(eval_env, eval_freq=5, verbose=0))
    assert warned() == set()
    with pytest.raises(ValueError, match=r"no method action_masks\(\)"):
        UnderMasks(unmasked, eval_env)


def test_an_agent_that_asks_for_masks_is_copied_with_its_environment():
    env = masked("discrete")
    agent = UnderMasks(MaskableRELAXA2C("MlpPolicy", env, device="cpu"), env)
    again = copy.deepcopy(agent)
    assert again.model is not agent.model
    assert again.num_timesteps == 0  # the model's own
    assert again.predict(again.env.reset())[0].shape == (again.env.num_envs,)


def test_a_callback_may_ask_the_policy_and_sees_the_masks():
    """What it asks in between is about other states: the masks of the rollout stay those of its steps."""
    seen = []

    class Asking(BaseCallback):
        def _ask(self):
            self.model.policy(th.zeros(5, 3))

        def _on_rollout_start(self):
            self._ask()

        def _on_step(self):
            seen.append(self.locals["action_masks"])
            self._ask()
            return True

        def _on_rollout_end(self):
            self._ask()
            assert np.array_equal(self.model.rollout_buffer.action_masks, seen)
            seen.clear()

    model = MaskableRELAXA2C("MlpPolicy", masked("discrete"), device="cpu").learn(40, callback=Asking())
    assert model._n_updates == 4
    assert not model.policy._forward_pre_hooks


WITHOUT_CONTRIB = """
import sys
from sb3_relax import LAXA2C, RELAXA2C
from sb3_relax import *
assert "sb3_contrib" not in sys.modules
sys.modules["sb3_contrib"] = None
from sb3_relax import MaskableRELAXA2C
"""


def test_sb3_contrib_is_optional_and_the_error_names_the_extra():
    done = subprocess.run([sys.executable, "-c", WITHOUT_CONTRIB], capture_output=True, text=True)
    assert "ModuleNotFoundError" in done.stderr
    assert "pip install 'sb3_relax[contrib]' (in a clone: pip install '.[contrib]')" in done.stderr.splitlines()[-1]
