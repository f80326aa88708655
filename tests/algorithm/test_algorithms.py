"""What an SB3 user expects of a drop-in: policies, spaces, wrappers, saving, determinism, logging."""

import io
import signal
import subprocess
import sys
import time
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.callbacks import CallbackList, CheckpointCallback, EvalCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.logger import configure
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import SubprocVecEnv, VecNormalize
from torch import nn

from sb3_relax import LAXA2C, RELAXA2C
from sb3_relax.control_variates import ControlVariate, Guarded
from sb3_relax.estimators.moments import change_moments
from tests.helpers import ACTION_SPACES, TinyEnv, in_full, randomise

ALGORITHM = {name: LAXA2C if name == "box" else RELAXA2C for name in ACTION_SPACES}


def tiny(name, n_envs=2, **kwargs):
    return make_vec_env(lambda: TinyEnv(ACTION_SPACES[name], **kwargs), n_envs, seed=0)


def weights(model):
    return [p.detach().clone() for p in (*model.policy.parameters(), *model.control_variate.parameters())]


def same(a, b):
    return all(th.equal(x, y) for x, y in zip(a, b, strict=True))


def statistics(model):
    """What is learned without a gradient: of ĉ, its guard and, where it is of any use, the number of steps."""
    steps = {} if model.n_episodes is None else {"steps": model.expected_steps.average}
    return {**dict(model.control_variate.named_buffers()), **steps}


VARIANTS = {
    "default": {},
    "adam, GAE, entropy, normalised": dict(
        use_rms_prop=False, gae_lambda=0.95, ent_coef=0.01, normalize_advantage=True, max_grad_norm=0.1
    ),
    "weights objective": dict(cv_objective="weights", n_cv_steps=3),
    "many steps": dict(n_cv_steps=3, n_critic_steps=4, cv_learning_rate=LinearSchedule(1e-2, 0.0, 1.0)),
    "in full": dict(cv_guard=False),
    "episodes": dict(n_episodes=4, bootstrap_truncated=False),
}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("space", list(ACTION_SPACES))
def test_learns_saves_and_goes_on(space, variant, tmp_path):
    """Every variant on every action space: finite weights that moved; load restores all, and training goes on."""
    algorithm = ALGORITHM[space]
    model = algorithm("MlpPolicy", tiny(space), seed=0, device="cpu", **VARIANTS[variant])
    before = weights(model)
    model.learn(100)
    assert all(p.isfinite().all() for p in weights(model))
    assert not any(th.equal(a, b) for a, b in zip(before, weights(model), strict=True) if b.numel() > 4)
    model.save(tmp_path / "agent")
    loaded = algorithm.load(tmp_path / "agent", env=tiny(space), device="cpu")
    assert same(weights(model), weights(loaded))
    for optimizer in ("policy.optimizer", "cv_optimizer"):
        theirs, ours = model.get_parameters()[optimizer]["state"], loaded.get_parameters()[optimizer]["state"]
        assert ours.keys() == theirs.keys()
        assert len(ours) > 0
        for key, state in ours.items():
            assert all(th.equal(th.as_tensor(v), th.as_tensor(theirs[key][name])) for name, v in state.items())
    ours, theirs = statistics(loaded), statistics(model)
    assert ours.keys() == theirs.keys()
    assert all(th.equal(value, theirs[name]) for name, value in ours.items())
    assert in_full(loaded).network.seen_batches > 0
    loaded.learn(40, reset_num_timesteps=False)
    assert loaded.num_timesteps >= 140
    assert not same(weights(model), weights(loaded))


@pytest.mark.parametrize("correction", ["relaxed", "coupled", "exact"])
@pytest.mark.parametrize("space", ["discrete", "multidiscrete", "multibinary"])
def test_corrections_and_draws(space, correction):
    model = RELAXA2C("MlpPolicy", tiny(space), seed=0, device="cpu", correction=correction, n_relaxed=3).learn(100)
    assert all(p.isfinite().all() for p in weights(model))
    assert (in_full(model).network.log_temperature is None) == (correction == "exact")


def test_same_seed_same_weights_bit_for_bit():
    runs = [RELAXA2C("MlpPolicy", tiny("discrete"), seed=7, device="cpu", n_cv_steps=2).learn(200) for _ in range(2)]
    assert same(weights(runs[0]), weights(runs[1]))
    other = RELAXA2C("MlpPolicy", tiny("discrete"), seed=8, device="cpu", n_cv_steps=2).learn(200)
    assert not same(weights(runs[0]), weights(other))


STOPPED = {
    "box": (LAXA2C, "box", {}),
    "discrete": (RELAXA2C, "discrete", {}),
    "the paper's": (
        RELAXA2C,
        "multidiscrete",
        dict(correction="relaxed", cv_objective="weights", n_cv_steps=2, cv_guard=False),
    ),
    "episodes": (RELAXA2C, "multibinary", dict(n_episodes=2)),
}


@pytest.mark.parametrize("case", STOPPED)
def test_learning_goes_on_after_load_as_if_never_stopped(case, tmp_path):
    """With every generator set alike, 100 + 100 steps through a file are 200 steps."""

    def seed_all(model):
        model.set_random_seed(5)
        model.env.reset()
        model._last_obs = None

    algorithm, space, kwargs = STOPPED[case]
    model = algorithm("MlpPolicy", tiny(space), seed=0, device="cpu", **kwargs).learn(100)
    model.save(tmp_path / "half.zip")
    loaded = algorithm.load(tmp_path / "half.zip", env=tiny(space), device="cpu")
    for agent in (model, loaded):
        seed_all(agent)
        agent.learn(100)
    assert same(weights(model), weights(loaded))


def test_set_parameters_and_file_objects():
    model = RELAXA2C("MlpPolicy", tiny("discrete"), seed=0, device="cpu").learn(50)
    other = RELAXA2C("MlpPolicy", tiny("discrete"), seed=1, device="cpu")
    assert not same(weights(model), weights(other))
    other.set_parameters(model.get_parameters())
    assert same(weights(model), weights(other))
    buffer = io.BytesIO()
    model.save(buffer)
    buffer.seek(0)
    assert same(weights(model), weights(RELAXA2C.load(buffer, device="cpu")))
    parameters = model.get_parameters()
    parameters.pop("control_variate")
    with pytest.raises(ValueError, match="Names of parameters do not match"):
        other.set_parameters(parameters)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("space", list(ACTION_SPACES))
def test_state_dicts_hold_tensors_alone(space, variant):
    """So that torch loads them with ``weights_only``, and a device takes them all."""
    model = ALGORITHM[space]("MlpPolicy", tiny(space), seed=0, device="cpu", **VARIANTS[variant]).learn(20)
    parameters = model.get_parameters()
    assert {"policy", "control_variate"} <= parameters.keys()
    for name, state in parameters.items():
        if "optim" not in name:
            assert len(state) > 0, name
            assert all(isinstance(value, th.Tensor) for value in state.values()), name


def test_load_without_environment_predicts(tmp_path):
    model = RELAXA2C("MlpPolicy", tiny("discrete"), seed=0, device="cpu", n_episodes=2).learn(50)
    model.save(tmp_path / "agent.zip")
    loaded = RELAXA2C.load(tmp_path / "agent.zip", device="cpu")
    obs = np.zeros(3, np.float32)
    assert loaded.predict(obs, deterministic=True)[0] == model.predict(obs, deterministic=True)[0]


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    model = RELAXA2C("MlpPolicy", tiny("discrete"), seed=0, device="cpu")
    model.save(tmp_path / "agent.zip")
    whole = (tmp_path / "agent.zip").read_bytes()
    monkeypatch.setattr(th, "save", lambda *_: (_ for _ in ()).throw(OSError("No space left on device")))
    with pytest.raises(OSError, match="No space"):
        model.save(tmp_path / "agent.zip")
    assert (tmp_path / "agent.zip").read_bytes() == whole
    assert [path.name for path in tmp_path.iterdir()] == ["agent.zip"]


KILLED = """
import sys, torch
sys.path.insert(0, {root!r})
from sb3_relax import RELAXA2C
from tests.helpers import ACTION_SPACES, TinyEnv
model = RELAXA2C("MlpPolicy", TinyEnv(ACTION_SPACES["discrete"]), seed=0, device="cpu")
print("ready", flush=True)
while True:
    model.save({path!r})
"""


def test_kill_while_saving_leaves_a_whole_file(tmp_path):
    root, path = str(Path(__file__).resolve().parents[2]), str(tmp_path / "agent.zip")
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED.format(root=root, path=path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline().strip() == "ready"
    deadline = time.monotonic() + 30
    while not Path(path).exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.2)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert RELAXA2C.load(path, device="cpu").policy is not None


class MyPolicy(ActorCriticPolicy):
    """A user's policy, written for A2C: its own extractor sizes, a deeper value head."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, net_arch=dict(pi=[8], vf=[8, 8]), activation_fn=nn.ReLU, **kwargs)


class Image(TinyEnv):
    def __init__(self):
        super().__init__(spaces.Discrete(3), observation_space=spaces.Box(0, 255, (36, 36, 1), np.uint8))


class Dictionary(TinyEnv):
    def __init__(self):
        space = spaces.Dict({"a": spaces.Box(-1.0, 1.0, (3,), np.float32), "b": spaces.Discrete(4)})
        super().__init__(ACTION_SPACES["box"], observation_space=space)


@pytest.mark.parametrize("n_episodes", [None, 2])
@pytest.mark.parametrize(
    ("policy", "env", "algorithm"),
    [
        ("CnnPolicy", Image, RELAXA2C),
        ("MultiInputPolicy", Dictionary, LAXA2C),
        (MyPolicy, lambda: TinyEnv(ACTION_SPACES["discrete"]), RELAXA2C),
    ],
    ids=["cnn", "multi-input", "custom"],
)
def test_policies(policy, env, algorithm, n_episodes):
    model = algorithm(policy, make_vec_env(env, 2, seed=0), seed=0, device="cpu", n_episodes=n_episodes)
    before = weights(model)
    model.learn(40)
    assert not same(before, weights(model))
    if policy is MyPolicy:
        # cv defaults to vf; its last layer is ĉ's own tanh layer
        assert in_full(model).network.state_encoder[0].out_features == 8
        assert isinstance(in_full(model).network.state_encoder[1], nn.ReLU)


def test_cv_arch_sizes_the_control_variate_and_leaves_the_policy_alone():
    arch = dict(pi=[16], vf=[17], cv=[18, 19])
    model = RELAXA2C("MlpPolicy", tiny("discrete"), device="cpu", policy_kwargs=dict(net_arch=arch))
    assert model.policy.mlp_extractor.value_net[0].out_features == 17
    assert in_full(model).network.state_encoder[0].out_features == 18
    assert in_full(model).network.output_layer.in_features == 19
    with pytest.raises(ValueError, match=r"net_arch\['cv'\] must be a non-empty list"):
        RELAXA2C("MlpPolicy", tiny("discrete"), device="cpu", policy_kwargs=dict(net_arch=dict(pi=[4], vf=[4], cv=[])))


def test_unshared_features_extractors():
    model = RELAXA2C(
        "CnnPolicy",
        make_vec_env(Image, 2, seed=0),
        seed=0,
        device="cpu",
        policy_kwargs=dict(share_features_extractor=False),
        n_critic_steps=3,
    ).learn(20)
    assert len(model.view.actor_weights) > 2
    assert len(model.view.critic_weights) > 2


@pytest.mark.parametrize("use_rms_prop", [True, False])
def test_critic_steps_do_not_disturb_the_policy(use_rms_prop):
    """One update with 1 and with 10 critic steps: the policy's weights and moments are the same, V's are not."""
    models = []
    for n_critic_steps in (1, 10):
        model = RELAXA2C(
            "MlpPolicy",
            tiny("discrete"),
            seed=0,
            device="cpu",
            n_critic_steps=n_critic_steps,
            use_rms_prop=use_rms_prop,
        ).learn(10)
        models.append(model)
    assert models[0]._n_updates == 1
    actor = {id(p) for p in models[1].view.actor_weights}
    moved = 0
    for (name, a), b in zip(models[0].policy.named_parameters(), models[1].policy.parameters(), strict=True):
        if id(b) in actor:
            assert th.equal(a, b), name
            states = [m.policy.optimizer.state[p] for m, p in zip(models, (a, b), strict=True)]
            for key, value in states[0].items():
                assert th.equal(th.as_tensor(value), th.as_tensor(states[1][key])), (name, key)
        else:
            moved += not th.equal(a, b)
    assert moved >= 4
    assert any("value" in name for name, _ in models[0].policy.named_parameters())


def test_phi_is_stepped_after_it_was_used():
    """The first update uses ĉ as it was (zero, so A2C's gradient); φ has moved afterwards."""
    model = RELAXA2C("MlpPolicy", tiny("discrete"), seed=0, device="cpu", cv_guard=False)
    used = []
    original = model.update_rule.step

    def spy(output, estimate, *rest):
        used.append((estimate.grad.clone(), estimate.score_term.clone()))
        return original(output, estimate, *rest)

    model.update_rule.step = spy
    model.learn(10)
    grad, plain = used[0]
    assert th.equal(grad, plain)
    assert in_full(model).network.output_layer.weight.abs().max() > 0


def test_returns_and_advantages_do_not_know_the_control_variate():
    """ĉ never enters V's or GAE's targets: two models that differ in ĉ alone collect the same rollout and targets."""
    buffers = []
    for scale in (0.0, 100.0):
        model = RELAXA2C("MlpPolicy", tiny("discrete"), seed=0, device="cpu", n_steps=16)
        randomise(model, scale)
        model._setup_learn(32)
        callback = CallbackList([])
        callback.init_callback(model)
        th.manual_seed(0)
        model.collect_rollouts(model.env, callback, model.rollout_buffer, 16)
        buffers.append(model.rollout_buffer)
    assert np.array_equal(buffers[0].returns, buffers[1].returns)
    assert np.array_equal(buffers[0].advantages, buffers[1].advantages)


def test_normalised_advantages_are_what_the_whole_estimator_sees():
    model = RELAXA2C("MlpPolicy", tiny("discrete"), seed=0, device="cpu", n_steps=32, normalize_advantage=True)
    seen = []
    original = in_full(model).gradient
    in_full(model).gradient = lambda output, signal, *rest: seen.append(signal) or original(output, signal, *rest)
    model.learn(64)
    assert seen[0].mean().abs() < 1e-5
    assert seen[0].std().item() == pytest.approx(1, abs=1e-4)


def test_gsde_squashed_and_scaled_actions():
    space = spaces.Box(np.array([-2.0, 0.0], np.float32), np.array([3.0, 10.0], np.float32))
    model = LAXA2C(
        "MlpPolicy",
        make_vec_env(lambda: TinyEnv(space), 2, seed=0),
        seed=0,
        device="cpu",
        use_sde=True,
        sde_sample_freq=4,
        ent_coef=0.01,
        policy_kwargs=dict(squash_output=True),
    ).learn(200)
    action, _ = model.predict(np.zeros(3, np.float32))
    assert space.contains(action)
    assert all(p.isfinite().all() for p in weights(model))


@pytest.mark.parametrize("shape", [(1,), (2, 3)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_box_shapes_and_dtypes(shape, dtype):
    space = spaces.Box(-1.0, 1.0, shape, dtype)
    for n_episodes in (None, 2):
        model = LAXA2C(
            "MlpPolicy", make_vec_env(lambda: TinyEnv(space), 2, seed=0), device="cpu", n_episodes=n_episodes
        )
        model.learn(60)
        assert model.predict(np.zeros(3, np.float32))[0].shape == shape


def test_float64_policy_trains():
    from tests.helpers import float64_model

    for space in ACTION_SPACES.values():
        model = float64_model(LAXA2C if isinstance(space, spaces.Box) else RELAXA2C, TinyEnv(space))
        model.learn(40)
        assert next(model.policy.parameters()).dtype == th.float64
        assert in_full(model).network.output_layer.weight.dtype == th.float64


def test_vec_normalize_subprocesses_callbacks_and_progress_bar(tmp_path):
    pytest.importorskip("tqdm")
    env = VecNormalize(make_vec_env("Pendulum-v1", 2, seed=0, vec_env_cls=SubprocVecEnv))
    eval_env = VecNormalize(make_vec_env("Pendulum-v1", 1, seed=1), training=False, norm_reward=False)
    evaluation = EvalCallback(eval_env, n_eval_episodes=1, eval_freq=200, verbose=0, log_path=str(tmp_path))
    checkpoint = CheckpointCallback(100, str(tmp_path))
    model = LAXA2C("MlpPolicy", env, seed=0, device="cpu")
    model.learn(600, callback=[evaluation, checkpoint], progress_bar=True)
    env.close()
    assert len(list(tmp_path.glob("*.zip"))) == 3
    assert (tmp_path / "evaluations.npz").exists()


KEYS = {
    "train/learning_rate",
    "train/explained_variance",
    "train/entropy_loss",
    "train/policy_loss",
    "train/value_loss",
    "train/n_updates",
    "train/grad_norm",
    "train/grad_variance",
    "train/grad_variance_no_cv",
    "train/grad_variance_ratio",
    "train/cv_loss",
    "train/cv_learning_rate",
    "train/cv_gain",
}


def test_tensorboard_keys(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    model = RELAXA2C("MlpPolicy", tiny("discrete"), seed=0, device="cpu", tensorboard_log=str(tmp_path))
    model.learn(100, log_interval=2)
    assert (tmp_path / "RELAXA2C_1").is_dir()
    events = EventAccumulator(str(tmp_path / "RELAXA2C_1")).Reload()
    tags = set(events.Tags()["scalars"])
    assert tags >= (KEYS - {"train/n_updates"}) | {"train/temperature", "rollout/ep_rew_mean", "time/fps"}
    box = LAXA2C("MlpPolicy", tiny("box"), seed=0, device="cpu").learn(20)
    assert set(box.logger.name_to_value) >= KEYS | {"train/std"}
    assert "train/temperature" not in box.logger.name_to_value


@pytest.mark.parametrize("cv_guard", [False, True])
def test_logged_variance_is_per_sample_at_the_distribution(cv_guard):
    """Of the gradient as it is applied: with the guard, of a share of ĉ."""
    model = RELAXA2C("MlpPolicy", tiny("discrete"), seed=0, device="cpu", n_steps=32, cv_guard=cv_guard)
    randomise(model)
    if cv_guard:
        model.control_variate.cross.fill_(-0.4)
        model.control_variate.square.fill_(1.0)
    model.set_logger(configure(None, []))
    caught = []
    original = model.update_rule.step
    model.update_rule.step = lambda output, estimate, *rest: (
        caught.append(estimate) or original(output, estimate, *rest)
    )
    model.learn(64)
    estimate = caught[-1]
    grad = estimate.grad
    log = model.logger.name_to_value
    assert log["train/grad_variance"] == pytest.approx(np.var(grad.flatten(1).numpy(), axis=0, ddof=1).sum(), rel=1e-4)
    plain = (estimate.value[:, None, None] * estimate.score).flatten(1).numpy()
    assert log["train/grad_variance_no_cv"] == pytest.approx(np.var(plain, axis=0, ddof=1).sum(), rel=1e-4)
    assert log["train/grad_variance"] != pytest.approx(log["train/grad_variance_no_cv"], rel=1e-2)
    assert log.get("train/cv_gain") == (pytest.approx(0.4) if cv_guard else None)
    ratio = log["train/grad_variance"] / log["train/grad_variance_no_cv"]
    assert log["train/grad_variance_ratio"] == pytest.approx(ratio)


def test_the_guard_applies_what_earlier_batches_speak_for():
    model = RELAXA2C("MlpPolicy", tiny("discrete"), seed=0, device="cpu", n_steps=32)
    randomise(model, 3.0)
    guard = model.control_variate
    assert guard.share == 0  # no evidence yet
    gains, applied = [], []
    original = model.update_rule.step

    def spy(output, estimate, *rest):
        gains.append(guard.share)
        full = estimate.full
        mixed = full.score_term + gains[-1] * (full.grad - full.score_term)
        applied.append(th.allclose(estimate.grad, mixed, atol=1e-5))
        return original(output, estimate, *rest)

    model.update_rule.step = spy
    model.learn(32 * 2 * 30)
    assert gains[0] == 0
    assert max(gains) > 0
    assert all(applied)
    # a ĉ of pure noise is switched off
    guard.cross.zero_()
    guard.square.zero_()
    for _ in range(50):
        plain = th.randn(64, 1, 1) * th.randn(64, 1, 3)
        guard.take_in(change_moments(plain, plain + 3 * th.randn(64, 1, 3), event_ndim=2))
    assert guard.share < 0.05


def test_policy_without_shared_interface_is_refused():
    class Hidden(ActorCriticPolicy):
        """Evaluates another distribution than its action_dist."""

        def evaluate_actions(self, obs, actions):
            values, log_prob, entropy = super().evaluate_actions(obs, actions)
            return values, 0.5 * log_prob, entropy

    with pytest.raises(TypeError, match="does not evaluate its own action_dist"):
        RELAXA2C(Hidden, tiny("discrete"), device="cpu").learn(20)


def test_learns_a_bandit():
    """The end of the pipe: a reward that grows with the bits is learned in a few hundred steps."""
    for space in ("multibinary", "discrete"):
        model = RELAXA2C("MlpPolicy", tiny(space, 8, length=1), seed=0, device="cpu", learning_rate=3e-3, n_steps=16)
        model.learn(8_000)
        mean, _ = evaluate_policy(model, tiny(space, 1, length=1), n_eval_episodes=20)
        best = 2 - 0.3
        assert mean > best - 0.2


def test_gymnasium_id_string():
    assert isinstance(RELAXA2C("MlpPolicy", "CartPole-v1", device="cpu").learn(20).get_env().envs[0], gym.Env)


class Nothing(ControlVariate):
    """Never asked for a gradient."""

    def gradient(self, output, signal, generator):
        raise NotImplementedError


def test_a_vanishing_batch_does_not_silence_the_guard():
    guard = Guarded(Nothing())
    plain = th.randn(64, 1, 3)
    for size in (1.0, 1.0, 1.0, 1e-6, 1.0):
        # ĉ removes half of g, except that in the batch of tiny advantages it is of its usual size
        change = -0.5 * plain if size == 1 else 0.5 * plain
        moments = change_moments(size * plain, size * plain + change, event_ndim=2)
        guard.take_in(moments)
    assert guard.share > 0.5


def test_relaxation_noise_is_not_the_noise_of_the_actions():
    """One seed for both streams would make them the same uniforms."""
    model = RELAXA2C("MlpPolicy", tiny("multibinary"), seed=0, device="cpu")
    for seed in (None, 0, 1):
        if seed is not None:
            model.set_random_seed(seed)
        assert not th.equal(th.rand(8), th.rand(8, generator=model.noise_generator))
    # and two seeds are two streams, one seed one
    states = []
    for seed in (1, 1, 2):
        model.set_random_seed(seed)
        states.append(th.rand(8, generator=model.noise_generator))
    assert th.equal(states[0], states[1])
    assert not th.equal(states[0], states[2])


@pytest.mark.parametrize(("algorithm", "kind"), [(RELAXA2C, "discrete"), (LAXA2C, "box")])
def test_control_variate_does_not_start_at_the_noise_of_the_actions(algorithm, kind):
    """The stream is as ĉ found it, for the actions to come: a layer made from it would be ĉ's first."""
    model = algorithm("MlpPolicy", tiny(kind), seed=0, device="cpu")
    first = in_full(model).network.state_encoder[0]
    assert not th.isclose(th.nn.Linear(first.in_features, first.out_features).weight, first.weight, atol=1e-6).any()
    # nor do two agents of one seed differ, or two seeds agree
    same, other = (algorithm("MlpPolicy", tiny(kind), seed=seed, device="cpu") for seed in (0, 1))
    assert th.equal(first.weight, in_full(same).network.state_encoder[0].weight)
    assert not th.isclose(first.weight, in_full(other).network.state_encoder[0].weight, atol=1e-6).any()


def test_relaxation_noise_goes_on_after_load(tmp_path):
    model = RELAXA2C("MlpPolicy", tiny("discrete"), seed=0, device="cpu").learn(20)
    model.save(tmp_path / "agent")
    loaded = RELAXA2C.load(tmp_path / "agent", device="cpu")
    fresh = RELAXA2C("MlpPolicy", tiny("discrete"), seed=0, device="cpu")
    upcoming = [th.rand(8, generator=m.noise_generator) for m in (model, loaded, fresh)]
    assert th.equal(upcoming[0], upcoming[1])
    assert not th.equal(upcoming[0], upcoming[2])


@pytest.mark.parametrize("n_episodes", [None, 2])
def test_whole_episodes_are_divided_by_what_earlier_ones_lead_to_expect(n_episodes):
    """Their own number of steps depends on the actions: below it, terms of mean zero would have a mean."""
    model = RELAXA2C("MlpPolicy", tiny("discrete", 1), seed=0, device="cpu", n_episodes=n_episodes, n_steps=14)
    model.learn(14)  # two episodes of 7
    assert model.expected_steps.average == (0 if n_episodes is None else 14)
    model.expected_steps.average.fill_(10.0)
    applied = []
    original = model.update_rule.step

    def spy(output, estimate, loss, divisor, max_grad_norm):
        bias = model.policy.action_net.bias
        (expected,) = th.autograd.grad(estimate.latent.theta, bias, -estimate.grad, retain_graph=True)
        norm = original(output, estimate, 0 * loss, divisor, 1e9)
        applied.append((bias.grad.clone(), expected))
        return norm

    model.update_rule.step = spy
    model.learn(14)
    ours, total = applied[0]
    assert th.allclose(ours, total / (14 if n_episodes is None else 10), atol=1e-6)
    assert ours.abs().max() > 0


@pytest.mark.parametrize("rate", ["learning_rate", "cv_learning_rate"])
def test_a_schedule_has_no_rate_past_the_end(rate):
    """The last rollout ends after total_timesteps: 20 steps of 18 here."""
    asked = []

    def schedule(progress):
        asked.append(progress)
        return progress * 1e-3

    model = RELAXA2C("MlpPolicy", tiny("discrete", 1), seed=0, device="cpu", **{rate: schedule})
    model.learn(18)
    assert model.num_timesteps == 20
    assert min(asked) == 0


def test_another_policy_or_optimizer_put_into_an_agent_is_trained():
    model = RELAXA2C("MlpPolicy", tiny("discrete", 1), seed=0, device="cpu", n_critic_steps=2).learn(20)
    model.policy.optimizer = th.optim.Adam(model.policy.parameters(), lr=1e-2)
    model.learn(20)
    assert len(model.policy.optimizer.state) > 0
    other = RELAXA2C("MlpPolicy", tiny("discrete", 1), seed=1, device="cpu").policy
    before = [p.clone() for p in other.parameters()]
    model.policy = other
    model.learn(20)
    assert not any(map(th.equal, before, other.parameters()))
