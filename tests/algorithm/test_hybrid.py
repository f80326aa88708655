"""Actions of several parts: the mathematics, by enumeration and quadrature, and what SB3's users do with an agent."""

import copy
import warnings

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from gymnasium.wrappers import TimeLimit
from stable_baselines3 import A2C
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecNormalize

import sb3_relax
from sb3_relax import LAXA2C, RELAXA2C, HybridRELAXA2C
from sb3_relax.callbacks import GradientVarianceCallback
from sb3_relax.control_variates import RELAXControlVariate
from sb3_relax.control_variates.proofs import actions_of, measure_bias
from sb3_relax.diagnose import diagnose
from sb3_relax.errors import UsageError
from sb3_relax.estimators import ConditionedJoint, Estimate, check_unbiased
from sb3_relax.estimators.estimate import expand_to
from sb3_relax.estimators.surrogate import value_and_slope
from sb3_relax.export import Controller, to_onnx, to_torchscript
from sb3_relax.policy_gradient import FlatActions
from sb3_relax.relaxa2c_hybrid import HybridActorCriticPolicy
from tests.control_variates.test_proofs import ONE_SAMPLE, OWN, SMALL, anything
from tests.helpers import TinyEnv, float64_model, in_full

NUMBER = spaces.Box(-1.0, 1.0, (1,), np.float32)
SPACES = {
    "number and class": spaces.Dict(at=NUMBER, what=spaces.Discrete(2)),
    "number, class and bit": spaces.Tuple([spaces.Discrete(2), NUMBER, spaces.MultiBinary(1)]),
    "nested": spaces.Dict(
        hand=spaces.Tuple([NUMBER, spaces.MultiDiscrete([2, 3], start=[1, -1])]), on=spaces.Discrete(3, start=4)
    ),
    "discrete alone": spaces.Tuple([spaces.Discrete(3), spaces.MultiBinary(2)]),
    "continuous alone": spaces.Dict(a=NUMBER, b=spaces.Box(-2.0, 2.0, (2, 1), np.float32)),
}
#: small enough for every action to be visited
PROVEN = ["number and class", "number, class and bit", "discrete alone"]


class HybridEnv(TinyEnv):
    """Takes nothing but actions of its space, and pays for the sum of all their numbers."""

    def step(self, action):
        assert self.action_space.contains(action), action
        self.t += 1
        reward = float(FlatActions(self.action_space).flatten(action).sum())
        return self._observe(), reward, self.t >= self.length, False, {}


class Flattened(gym.Wrapper):
    """The same environment for an algorithm of SB3's: flat actions."""

    def __init__(self, env):
        super().__init__(env)
        self.action_space = FlatActions(env.action_space)

    def step(self, action):
        return self.env.step(self.action_space.unflatten(action))


def agent(space="nested", control_variate=None, policy="MlpPolicy", **kwargs):
    return HybridRELAXA2C(policy, HybridEnv(SPACES[space]), control_variate=control_variate, **{**SMALL, **kwargs})


# -- the mathematics ---------------------------------------------------------------------------------------------------


def output_of(model, n=1):
    """A pass of a policy that has been moved from where it starts."""
    th.manual_seed(0)
    with th.no_grad():
        for parameter in model.policy.parameters():
            parameter.add_(0.3 * th.randn_like(parameter))
    actions = np.stack([model.action_space.sample() for _ in range(n)])
    return model.view.evaluate(th.rand(n, 3) - 0.5, th.as_tensor(actions))


def bias_of(model, n_draws=600):
    variate = anything(copy.deepcopy(model.control_variate).double())
    output = output_of(model)
    b, probability = actions_of(output, nodes=60)
    assert probability.sum().item() == pytest.approx(1, abs=1e-9)
    signal = b.sin().sum(-1) + 0.5 * b[:, 0] * b[:, -1] + 0.3 * b.prod(-1)
    return measure_bias(variate, output, signal, model.noise_generator, n_draws, nodes=60)


@pytest.mark.parametrize("name", ["none", "state", "relax", "own mean"])
@pytest.mark.parametrize("space", PROVEN)
def test_every_control_variate_is_unbiased(name, space):
    model = agent(space, OWN.get(name, name), cv_guard=False)
    bias = bias_of(model)
    assert bias.unbiased, bias
    if not model.control_variate.draws_noise:
        assert bias.difference.abs().max() < 1e-9 * bias.size


@pytest.mark.parametrize("space", PROVEN[:2])
@pytest.mark.parametrize(
    "name", [name for name, kind in ONE_SAMPLE.items() if issubclass(ConditionedJoint, kind.latents)]
)
def test_the_cores_estimators_are_unbiased(name, space):
    assert bias_of(agent(space, ONE_SAMPLE[name], cv_guard=False)).unbiased


@pytest.mark.parametrize("correction", ["coupled", "relaxed"])
@pytest.mark.parametrize("space", PROVEN[:2])
def test_the_agents_own_c_to_nine_digits(space, correction):
    """With its relaxation's noise integrated, too: ĉ is the agent's network, its temperature and its state included."""
    model = agent(space, correction=correction, cv_guard=False)
    variate = in_full(model)
    anything(variate.double())
    output = output_of(model)
    latent = output.latent.select(0)
    latent = latent.at(latent.theta.detach().double())
    estimator = variate.estimator(variate.network.at_states(latent, output.features.double()))

    def f(b):
        return 0.4 * b.sum(-1).square() - b[..., 0] * b[..., -1]

    with th.no_grad():
        variate.network.log_temperature.fill_(0.0)
    nodes = 28 if latent.noise_shape.numel() > 2 else 40  # whose error is below 1e-12
    check = check_unbiased(estimator, latent, f, nodes, tolerance=1e-9)
    assert check.unbiased, check
    assert check.exact.abs().min() > 1e-3


class WithoutPath(RELAXControlVariate):
    """RELAX on the discrete parts, and a ĉ that sees the continuous ones, whose correction is forgotten."""

    def gradient(self, output, signal, generator):
        latent, c = output.latent, self.network.at_states(output.latent, output.features)
        z = latent.conditional(output.sample, th.rand(latent.noise_shape, generator=generator).double())
        value, slope = value_and_slope(c, z)
        coupling = latent.unpack(latent.coupling(output.sample, z))
        coupling["at"] = th.zeros_like(coupling["at"])
        score = latent.score(output.sample)
        grad = expand_to(signal - value, latent) * score + latent.path_gradient(z, slope * latent.pack(coupling))
        return Estimate(latent, signal, grad, score=score)


def test_a_forgotten_path_is_noticed():
    assert not bias_of(agent("number and class", WithoutPath, cv_guard=False)).unbiased


@pytest.mark.parametrize("space", SPACES)
def test_the_score_is_that_of_sb3s_log_prob(space):
    """One-hots, bits and numbers of the latent are the buffer's actions: at the policy's weights."""
    model = float64_model(HybridRELAXA2C, HybridEnv(SPACES[space]))
    output = output_of(model, 20)
    assert th.allclose(output.latent.log_prob(output.sample), output.log_prob)
    weights = [p for p in model.policy.parameters() if p.requires_grad]
    options = dict(allow_unused=True, materialize_grads=True, retain_graph=True)
    ours = th.autograd.grad(output.latent.theta, weights, output.latent.score(output.sample), **options)
    theirs = th.autograd.grad(output.log_prob.sum(), weights, **options)
    assert all(map(th.allclose, ours, theirs))
    assert model.view.latent.theta.shape == output.latent.theta.shape[1:]
    assert model.view.action_dim == output.sample.shape[1]


def test_the_distribution_is_the_parts():
    """Frequencies, entropy and mode are those of each part."""
    model = agent("nested")
    with th.no_grad():
        model.policy.action_net.weight.mul_(200)
    distribution = model.policy.get_distribution(th.rand(1, 3).expand(20_000, 3))
    assert th.allclose(distribution.entropy(), sum(part.entropy() for part in distribution.parts.values()))
    sample, mode = distribution.sample(), distribution.mode()
    assert sample.shape == mode.shape == (20_000, 4)
    number, (a, b), on = (distribution.parts[name].distribution for name in ("hand/0", "hand/1", "on"))
    assert abs(sample[:, 0].mean() - number.mean[0, 0]) < 0.05
    for column, part in ((1, a), (2, b), (3, on)):
        frequencies = th.bincount(sample[:, column].long(), minlength=part.probs.shape[-1]) / len(sample)
        assert th.allclose(frequencies, part.probs[0], atol=0.02)
        assert th.equal(mode[:, column], part.probs.argmax(-1).float())


@pytest.mark.parametrize("space", SPACES)
def test_with_no_c_it_is_a2c(space):
    """SB3's own A2C over flat actions, up to rounding; with "none" it is that to the bit of ĝ."""
    runs = []
    for algorithm, wrapper, policy, ours in (
        (A2C, Flattened, HybridActorCriticPolicy, {}),
        (HybridRELAXA2C, lambda env: env, "MlpPolicy", dict(cv_learning_rate=0.0)),
        (HybridRELAXA2C, lambda env: env, "MlpPolicy", dict(control_variate="none")),
    ):
        env = make_vec_env(lambda wrapper=wrapper: TimeLimit(wrapper(HybridEnv(SPACES[space])), 5), 3, seed=0)
        model = algorithm(policy, env, seed=1, device="cpu", ent_coef=0.01, **ours)
        runs.append(model.learn(10 * 5 * 3))
    reference, *others = runs
    for model in others:
        assert model._n_updates == reference._n_updates == 10
        for (name, a), b in zip(reference.policy.named_parameters(), model.policy.parameters(), strict=True):
            assert th.allclose(a, b, atol=2e-6, rtol=2e-5), name


# -- as SB3's users meet it --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("space", SPACES)
def test_actions_are_those_of_the_environment(space):
    """In training, predict, evaluate_policy and with VecEnvs: HybridEnv takes no others."""
    model = agent(space).learn(60)
    assert model.action_space == SPACES[space]
    assert model.get_env().action_space == SPACES[space]
    for deterministic in (True, False):
        action, state = model.predict(np.zeros(3, np.float32), deterministic=deterministic)
        assert SPACES[space].contains(action)
        assert state is None
        actions, _ = model.predict(np.zeros((4, 3), np.float32), deterministic=deterministic)
        assert len(actions) == 4
        assert all(map(SPACES[space].contains, actions))
    # SB3's own loop
    env = model.get_env()
    observations = env.reset()
    for _ in range(10):
        observations, rewards, _, _ = env.step(model.predict(observations)[0])
    assert rewards.shape == (1,)
    for evaluated in (model, model.policy):
        for where in (Monitor(HybridEnv(SPACES[space])), make_vec_env(lambda: HybridEnv(SPACES[space]), 2), env):
            assert np.isfinite(evaluate_policy(evaluated, where, n_eval_episodes=3)[0])
    assert np.isfinite([value for key, value in model.logger.name_to_value.items() if key != "time/fps"]).all()


@pytest.mark.parametrize("kind", [DummyVecEnv, SubprocVecEnv])
def test_vec_envs_handed_in(kind):
    env = make_vec_env(lambda: HybridEnv(SPACES["nested"]), 2, seed=0, vec_env_cls=kind)
    model = HybridRELAXA2C("MlpPolicy", env, **SMALL).learn(60)
    assert model.get_env() is env
    assert np.isfinite(evaluate_policy(model, env, n_eval_episodes=2)[0])
    env.close()


def test_normalised_environments_are_evaluated_in_training():
    """SB3's EvalCallback walks both environments' wrappers side by side, and warns where they differ."""

    def made():
        return VecNormalize(make_vec_env(lambda: HybridEnv(SPACES["nested"]), 2, seed=0))

    model = HybridRELAXA2C("MlpPolicy", made(), **SMALL)
    callback = EvalCallback(made(), eval_freq=10, n_eval_episodes=2, verbose=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.learn(60, callback=callback)
    assert callback.last_mean_reward > -np.inf
    assert np.allclose(callback.eval_env.obs_rms.mean, model.get_vec_normalize_env().obs_rms.mean, atol=0.5)


def test_saved_loaded_and_going_on(tmp_path):
    model = agent("nested").learn(60)
    model.save(tmp_path / "agent")
    observation = np.full((2, 3), 0.3, np.float32)
    loaded = HybridRELAXA2C.load(tmp_path / "agent", device="cpu")
    assert loaded.action_space == SPACES["nested"]
    assert str(loaded.predict(observation, deterministic=True)) == str(model.predict(observation, deterministic=True))
    for part, state in model.get_parameters().items():
        if "optim" not in part:
            assert all(isinstance(value, th.Tensor) for value in state.values()), part
    for each in (model, loaded):
        each.set_env(HybridEnv(SPACES["nested"]))
        each.set_random_seed(5)
        each.learn(40, reset_num_timesteps=False)
    assert all(map(th.equal, model.policy.parameters(), loaded.policy.parameters()))
    assert all(map(th.equal, model.control_variate.parameters(), loaded.control_variate.parameters()))
    with_env = HybridRELAXA2C.load(tmp_path / "agent", env=make_vec_env(lambda: HybridEnv(SPACES["nested"]), 1))
    assert with_env.learn(20).num_timesteps == 20
    for refused in (SPACES["number and class"], spaces.Box(-1.0, 1.0, (4,), np.float32)):
        with pytest.raises(ValueError, match="Action spaces do not match"):
            HybridRELAXA2C.load(tmp_path / "agent", env=HybridEnv(refused))
        with pytest.raises(ValueError, match="Action spaces do not match"):
            model.set_env(HybridEnv(refused))


def test_files_of_other_classes_name_them(tmp_path):
    agent("nested").save(tmp_path / "hybrid")
    LAXA2C("MlpPolicy", TinyEnv(NUMBER), **SMALL).save(tmp_path / "lax")
    for cls in (LAXA2C, RELAXA2C, sb3_relax.RecurrentLAXA2C):
        with pytest.raises(UsageError, match=r"use sb3_relax.HybridRELAXA2C.load\(\)"):
            cls.load(tmp_path / "hybrid")
    with pytest.raises(UsageError, match=r"use sb3_relax.LAXA2C.load\(\)"):
        HybridRELAXA2C.load(tmp_path / "lax")


def test_whole_episodes():
    env = make_vec_env(lambda: HybridEnv(SPACES["nested"]), 2, seed=0)
    model = HybridRELAXA2C("MlpPolicy", env, n_episodes=4, **SMALL).learn(100)
    assert model.rollout_buffer.actions.shape == (28, 1, 4)


def test_the_public_gradient():
    model = agent("nested", n_steps=20).learn(40)
    data = next(model.rollout_buffer.get())
    gradient = model.policy_gradient(data.observations, data.actions, data.advantages)
    assert gradient["action_net.weight"].abs().max() > 0
    assert gradient["log_std"].shape == (1,)


def test_images_and_dicts():
    image = spaces.Box(0, 255, (3, 36, 36), np.uint8)
    for policy, observation in (("CnnPolicy", image), ("MultiInputPolicy", spaces.Dict(a=image, b=spaces.Discrete(3)))):
        env = HybridEnv(SPACES["nested"], observation_space=observation)
        model = HybridRELAXA2C(policy, env, seed=0, device="cpu").learn(20)
        assert SPACES["nested"].contains(model.predict(observation.sample())[0])


class Own(HybridActorCriticPolicy):
    """A policy of a user's."""


def test_a_policy_of_ones_own(tmp_path):
    model = agent("nested", policy=Own).learn(20)
    model.policy.save(tmp_path / "policy")
    policy = Own.load(tmp_path / "policy", device="cpu")
    assert SPACES["nested"].contains(policy.predict(np.zeros(3, np.float32))[0])


def test_exported_actions_are_flat(tmp_path):
    model = agent("nested").learn(40)
    observations = np.random.default_rng(0).uniform(-1, 1, (6, 3)).astype(np.float32)
    expected = model.predict(observations, deterministic=True)[0]
    for exported in (Controller(model), th.jit.load(to_torchscript(model, tmp_path / "agent.pt"))):
        with th.no_grad():
            flat = exported(th.as_tensor(observations)).numpy()
        assert str(model.action_space.unflatten(flat)) == str(expected)
    runtime = pytest.importorskip("onnxruntime")
    session = runtime.InferenceSession(str(to_onnx(model, tmp_path / "agent.onnx")), providers=["CPUExecutionProvider"])
    (flat,) = session.run(None, {"observation": observations})
    assert np.allclose(flat, [model.action_space.flatten(action) for action in expected], atol=1e-6)


# -- what it refuses ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: agent("nested", use_sde=True), "has no gSDE, whose noise is for Box actions alone: leave out use_sde"),
        (lambda: agent("nested", correction="exact"), "use correction='coupled'"),
        (lambda: agent("nested", "exact"), "control_variate 'exact' takes .*MultiBinary actions; those .* are .*Dict"),
        (lambda: agent("nested", "lax"), "control_variate 'lax' takes Box actions"),
        (lambda: agent("nested", policy=ActorCriticPolicy), "derive from sb3_relax.relaxa2c_hybrid's Hybrid"),
        (lambda: agent("nested", policy="MlpLstmPolicy"), "has no policy 'MlpLstmPolicy'"),
        (
            lambda: HybridRELAXA2C("MlpPolicy", Flattened(HybridEnv(SPACES["nested"]))).learn(10),
            "without the wrapper that flattens its actions",
        ),
        (
            lambda: HybridRELAXA2C("MlpPolicy", TinyEnv(NUMBER)),
            r"takes Dict, Tuple, .*; got Box.*: use sb3_relax.LAXA2C instead",
        ),
        (
            lambda: HybridRELAXA2C("MlpPolicy", TinyEnv(spaces.Discrete(3))),
            r"got Discrete\(3\): use sb3_relax.RELAXA2C instead",
        ),
        (
            lambda: HybridRELAXA2C("MlpPolicy", TinyEnv(spaces.Tuple([spaces.Text(3), NUMBER]))),
            "part '0' of an action must be a Box",
        ),
        (
            lambda: RELAXA2C("MlpPolicy", HybridEnv(SPACES["nested"])),
            r"RELAXA2C takes Discrete, .*: use sb3_relax.HybridRELAXA2C instead$",
        ),
        (
            lambda: LAXA2C("MlpPolicy", HybridEnv(SPACES["nested"])),
            r"LAXA2C takes Box .*: use sb3_relax.HybridRELAXA2C instead$",
        ),
        (
            lambda: sb3_relax.MaskableRELAXA2C("MlpPolicy", HybridEnv(SPACES["nested"])),
            "use sb3_relax.HybridRELAXA2C instead, which has neither masks nor a memory",
        ),
        (
            lambda: sb3_relax.RecurrentLAXA2C("MlpLstmPolicy", HybridEnv(SPACES["nested"])),
            "use sb3_relax.HybridRELAXA2C instead, which has neither masks nor a memory",
        ),
        (
            lambda: LAXA2C(HybridActorCriticPolicy, TinyEnv(NUMBER)),
            "LAXA2C does not take .*HybridActorCriticPolicy.*: use sb3_relax.HybridRELAXA2C",
        ),
    ],
)
def test_refused(make, message):
    with pytest.raises(UsageError, match=message):
        make()


def test_the_diagnosis_is_refused():
    with pytest.raises(TypeError, match="gives actions of several parts, which diagnose"):
        diagnose(agent("nested"), HybridEnv(SPACES["nested"]))


def test_the_variance_is_measured_while_it_trains():
    """On copies of the agent, which act in an environment as the agent does."""
    env = HybridEnv(SPACES["nested"])
    model = agent("nested", n_steps=10)
    model.learn(60, callback=GradientVarianceCallback(env, every=2, n_rollouts=4))
    assert model.logger.name_to_value["gradient/ratio"] >= 0


# -- learning ----------------------------------------------------------------------------------------------------------


class Sorting(gym.Env):
    """Things at a place, of a kind: worth 1 in the bin of their kind, less what the grip misses them by."""

    def __init__(self):
        self.observation_space = spaces.Box(-1.0, 1.0, (4,), np.float32)
        self.action_space = spaces.Dict(grip=spaces.Box(-1.0, 1.0, (1,), np.float32), bin=spaces.Discrete(3))

    def _next(self):
        self.place, self.kind = self.np_random.uniform(-1, 1), self.np_random.integers(3)
        return np.append(np.eye(3)[self.kind], self.place).astype(np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.left = 20
        return self._next(), {}

    def step(self, action):
        reward = (action["bin"] == self.kind) * (1 - abs(action["grip"][0] - self.place))
        self.left -= 1
        return self._next(), float(reward), False, self.left == 0, {}


@pytest.mark.parametrize("control_variate", ["relax", "state", "none"])
def test_it_learns(control_variate):
    """Of 20; at random it is 3."""
    env = make_vec_env(Sorting, 8, seed=0)
    settings = dict(n_steps=8, gamma=0.0, learning_rate=3e-3, n_critic_steps=5, seed=0, device="cpu")
    model = HybridRELAXA2C("MlpPolicy", env, control_variate=control_variate, **settings)
    ratios = []
    model.learn(
        5_000,
        callback=lambda now, _: ratios.append(model.logger.name_to_value.get("train/grad_variance_ratio", 1)) or True,
    )
    assert evaluate_policy(model, make_vec_env(Sorting, 8, seed=9), 16)[0] > 12
    if control_variate == "relax":
        assert np.median(ratios[len(ratios) // 2 :]) < 0.9
