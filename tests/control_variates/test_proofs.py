"""What every control variate must pass, those of the registry, the core's estimators, and a user's own."""

import copy
import itertools
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch as th
from gymnasium import spaces

from sb3_relax import LAXA2C, RELAXA2C
from sb3_relax.control_variates import (
    CONTROL_VARIATES,
    ControlVariate,
    FromEstimator,
    Guarded,
    StateBaseline,
    Together,
    Trajectory,
    TrajectoryByModel,
)
from sb3_relax.control_variates.proofs import actions_of, measure_bias
from sb3_relax.control_variates.relax import RELAXControlVariate
from sb3_relax.control_variates.share import LearnedShares
from sb3_relax.errors import UsageError
from sb3_relax.estimators import DLAX, ESTIMATORS, LAX, NVIL, RELAX, Estimate, Reinforce, TwoPhaseEstimator, unstepped
from sb3_relax.estimators.control_variates import MLPSurrogate, ThetaSurrogate
from sb3_relax.estimators.estimate import expand_to
from sb3_relax.policy_gradient import Hyperparameters
from tests.estimators import twins
from tests.helpers import ACTION_SPACES, TinyEnv, in_full, written_in

SMALL = dict(policy_kwargs=dict(net_arch=dict(pi=[5], vf=[5], cv=[4, 3])), device="cpu", seed=0)
#: those whose c is a function of several actions of one state, or of none
CORE = {name: kind for name, kind in ESTIMATORS.items() if issubclass(kind, TwoPhaseEstimator)}
#: one that the agent would be trained with, and one that has nothing to learn
ONE_SAMPLE = {name: kind for name, kind in CORE.items() if kind.samples == 1 and name != "vimco"}


class OwnExample:
    """LinearControlVariate of docs/examples, without the training that the script does after it."""

    def __call__(self, view, hyperparameters):
        source = (Path(__file__).parents[2] / "docs" / "examples" / "own_control_variate.py").read_text()
        names = {}
        exec(compile(source[: source.index("model = RELAXA2C(")], "own_control_variate.py", "exec"), names)
        return names["LinearControlVariate"](view, hyperparameters)


#: what a reader of docs/examples, and of CONTRIBUTING.md, writes
OWN = {"own": OwnExample(), "own mean": written_in("CONTRIBUTING.md", "MeanBaseline")}
#: several of the registry at once, which between them are of every action space
TOGETHER = ("model+state", "trajectory_model+factorised+model")


def agent(space, control_variate, **kwargs):
    algorithm = LAXA2C if isinstance(space, spaces.Box) else RELAXA2C
    return algorithm("MlpPolicy", TinyEnv(space), control_variate=control_variate, **{**SMALL, **kwargs})


def takes(space, control_variate):
    try:
        return agent(space, control_variate) is not None
    except (UsageError, TypeError) as error:
        if "takes" not in str(error):
            raise
        return False


@th.no_grad()
def anything(variate):
    """φ that means something: a bias could hide behind zeros."""
    generator = th.Generator().manual_seed(3)
    for number in (*variate.parameters(), *variate.buffers()):
        if number.is_floating_point():
            number.copy_(0.5 * th.rand(number.shape, generator=generator) - 0.1)
    for part in variate.modules():
        if isinstance(part, LearnedShares):
            part.cross.fill_(-0.4)
            part.square.copy_(th.eye(len(part.cross)))
    if isinstance(variate, Guarded):
        variate.cross.fill_(-0.4)
        variate.square.fill_(1.0)
        assert 0.3 < variate.share < 0.5
    return variate


def bias_of(model, n_draws=400):
    """At one state, with advantages and φ that are anything."""
    th.manual_seed(0)
    variate = anything(copy.deepcopy(model.control_variate).double())
    observations = th.rand(1, 3) - 0.5
    actions = th.as_tensor(model.action_space.sample()).reshape(1, -1).float()
    with th.no_grad():
        for parameter in model.policy.parameters():
            parameter.add_(0.3 * th.randn_like(parameter))
    output = model.view.evaluate(observations, actions)
    b, probability = actions_of(output, nodes=80)
    assert probability.sum().item() == pytest.approx(1, abs=1e-9)
    signal = th.randn(len(b), dtype=th.float64)
    if isinstance(model.action_space, spaces.Box):
        signal = b.sin().sum(-1) + 0.5 * b[:, 0] * b[:, 1]
    return measure_bias(variate, output, signal, model.noise_generator, n_draws, nodes=80)


@pytest.mark.parametrize("space", ACTION_SPACES)
@pytest.mark.parametrize("name", [*CONTROL_VARIATES, *TOGETHER, *OWN])
@pytest.mark.parametrize("guard", [True, False])
def test_every_control_variate_is_unbiased(name, space, guard):
    spec = OWN.get(name, name)
    if not takes(ACTION_SPACES[space], spec):
        pytest.skip(f"{name} does not take {space} actions")
    model = agent(ACTION_SPACES[space], spec, cv_guard=guard)
    bias = bias_of(model)
    assert bias.unbiased, bias
    if not model.control_variate.draws_noise:
        assert bias.difference.abs().max() < 1e-9 * bias.size


def test_every_one_takes_some_actions():
    for name in CONTROL_VARIATES:
        assert any(takes(space, name) for space in ACTION_SPACES.values()), name


class WithNoise(RELAXControlVariate):
    """The twins below do not draw their noise."""

    def gradient(self, output, signal, generator):
        estimator = self.estimator(self.network.at_states(output.latent, output.features))
        shape = estimator.noise_shape(output.latent)
        noise = th.rand(shape, generator=generator, dtype=th.float64)
        return estimator.finish(output.latent, output.sample, signal, noise)


class Flipped(WithNoise):
    """A control variate whose correction has the wrong sign."""

    def estimator(self, c):
        return twins.FlippedCorrection(c)


class Detached(WithNoise):
    """A control variate that detaches z̃ from θ, which is part of the estimator."""

    def estimator(self, c):
        return twins.DetachedTilde(c)


class Uncorrected(StateBaseline):
    """A baseline that has seen the action."""

    def gradient(self, output, signal, generator):
        return super().gradient(
            output, signal - output.sample.flatten(1).sum(1) * output.sample.flatten(1)[:, 0], generator
        )


@pytest.mark.parametrize("broken", [Flipped, Detached, Uncorrected])
def test_broken_ones_are_rejected(broken):
    assert not bias_of(agent(ACTION_SPACES["multibinary"], broken, cv_guard=False), n_draws=2_000).unbiased


class Forgetful(StateBaseline):
    """A baseline whose estimate does not say what Â was: unbiased, and the guard cannot see what it changes."""

    def gradient(self, output, signal, generator):
        return Reinforce().finish(output.latent, output.sample, signal - self.network(output.features).detach())


def score_terms(spec):
    """What an estimate would be without its control variate: as it says, and by the policy's own score."""
    space = next(space for space in ACTION_SPACES.values() if takes(space, spec))
    model = agent(space, spec, cv_guard=False)
    anything(model.control_variate)
    output = model.view.evaluate(th.rand(5, 3), th.as_tensor(np.stack([space.sample() for _ in range(5)])).float())
    signal = th.randn(5)
    estimate = model.control_variate.gradient(output, signal, model.noise_generator)
    return estimate.score_term, expand_to(signal, output.latent) * output.latent.score(output.sample)


@pytest.mark.parametrize("name", [*CONTROL_VARIATES, *TOGETHER, *OWN])
def test_an_estimate_says_what_it_would_be_without(name):
    th.testing.assert_close(*score_terms(OWN.get(name, name)))


def test_one_that_does_not_is_noticed():
    ours, expected = score_terms(Forgetful)
    assert not th.allclose(ours, expected)


def test_one_of_another_policy_is_refused():
    made = in_full(agent(ACTION_SPACES["discrete"], "state"))
    with pytest.raises(UsageError, match="belongs to the policy that it was made for: give the class StateBaseline"):
        agent(ACTION_SPACES["discrete"], made)


@pytest.mark.parametrize(
    "settings",
    [
        dict(control_variate="relax", cv_action_dependent=False),
        dict(control_variate="relax", correction="exact"),
        dict(control_variate="exact", correction="relaxed"),
        dict(control_variate=NVIL, correction="relaxed"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings):
    with pytest.raises(UsageError, match="leave out"):
        agent(ACTION_SPACES["discrete"], **settings)


def test_float32_is_no_proof():
    model = agent(ACTION_SPACES["discrete"], "state")
    output = model.view.evaluate(th.rand(1, 3), th.zeros(1, 1))
    with pytest.raises(ValueError, match="float64"):
        measure_bias(model.control_variate, output, th.ones(3), model.noise_generator)


# -- the core's estimators as control variates -------------------------------------------------------------------------


@pytest.mark.parametrize("space", ACTION_SPACES)
@pytest.mark.parametrize("name", ONE_SAMPLE)
def test_the_cores_estimators_are_unbiased(name, space):
    if not takes(ACTION_SPACES[space], ONE_SAMPLE[name]):
        pytest.skip(f"{name} does not take {space} actions")
    bias = bias_of(agent(ACTION_SPACES[space], ONE_SAMPLE[name], cv_guard=False), n_draws=1_000)
    assert bias.unbiased, bias


@pytest.mark.parametrize("name", ONE_SAMPLE)
def test_the_cores_estimators_train(name, tmp_path):
    """2,000 steps, φ by the estimator's own rule; and what was learned is saved."""
    kind = ONE_SAMPLE[name]
    space = next(s for s in (ACTION_SPACES["discrete"], ACTION_SPACES["box"]) if takes(s, kind))
    model = agent(space, kind, n_steps=50)
    policy = [p.clone() for p in model.policy.parameters()]
    before = {key: value.clone() for key, value in in_full(model).state_dict().items()}
    model.learn(2_000)
    after = in_full(model).state_dict()
    assert not all(map(th.equal, policy, model.policy.parameters()))
    assert all(bool(value.isfinite().all()) for value in after.values())
    if before:
        assert all(not th.equal(before[key], after[key]) for key in before), name
    model.save(tmp_path / "agent")
    loaded = type(model).load(tmp_path / "agent", device="cpu")
    assert all(th.equal(value, after[key]) for key, value in in_full(loaded).state_dict().items())


def test_nvil_learns_by_its_own_rule():
    """Its baseline is fitted by squared error, not by Eq 6."""
    baseline = ThetaBaseline(3)
    model = agent(ACTION_SPACES["discrete"], NVIL(baseline), n_steps=20)
    assert in_full(model).estimator.baseline is not baseline  # copied: two agents never share φ
    output = model.view.evaluate(th.rand(20, 3), th.zeros(20, 1))
    signal = th.randn(20)
    variate = in_full(model)
    estimate = variate.gradient(output, signal, model.noise_generator)
    model.control_variate.set_learning_rate(0.0)
    variate.fit(output, signal, estimate, model.noise_generator)
    fitted = variate.estimator.baseline
    residual = signal - fitted(output.latent.theta.detach()) - variate.estimator.mean
    (expected,) = th.autograd.grad(residual.square().mean(), [fitted.linear.weight])
    th.testing.assert_close(fitted.linear.weight.grad, expected)
    variate.observe(estimate)
    assert variate.estimator.mean != 0


class ThetaBaseline(th.nn.Module):
    """C_ψ of θ, linear."""

    def __init__(self, size):
        super().__init__()
        self.linear = th.nn.Linear(size, 1)

    def forward(self, theta):
        return self.linear(theta.flatten(1)).squeeze(-1)


@pytest.mark.parametrize("name", ["rloo", "vimco"])
def test_those_that_need_several_actions_are_refused(name):
    with pytest.raises(UsageError, match=f"{CORE[name].__name__} needs 2 actions of every state"):
        agent(ACTION_SPACES["discrete"], CORE[name])


def test_one_that_is_made_already():
    c = ThetaSurrogate(3, hidden=[4], event_ndim=2, squash="softmax")
    model = agent(ACTION_SPACES["discrete"], RELAX(c, coupled=False), n_steps=20)
    assert isinstance(in_full(model), FromEstimator)
    model.learn(100)
    assert not th.equal(in_full(model).estimator.surrogate.of_theta.weight, c.of_theta.weight)


@pytest.mark.parametrize("name", ["nvil", "relax"])
def test_one_whose_phi_stays_for_good_is_no_slip(name, monkeypatch, recwarn):
    """The core warns of a φ that no optimizer has; here the control variate steps it, at a rate of 0 if so wished."""
    monkeypatch.setattr(unstepped, "PATIENCE", 2)
    c = ThetaSurrogate(3, hidden=[4], event_ndim=2, squash="softmax")
    estimator = NVIL(ThetaBaseline(3)) if name == "nvil" else RELAX(c)
    agent(ACTION_SPACES["discrete"], estimator, cv_learning_rate=0.0, n_steps=5).learn(60)
    assert not [w for w in recwarn if "learns nothing" in str(w.message)]


@pytest.mark.parametrize(
    ("spec", "error", "message"),
    [
        ("relaxed", UsageError, "unknown control_variate 'relaxed', did you mean 'relax'"),
        ("nvil", UsageError, "'nvil' is an estimator of the core: give its class, control_variate=NVIL"),
        (ESTIMATORS["rebar"], UsageError, "REBAR asks for f at values of its own choice"),
        (ESTIMATORS["disarm"](), UsageError, "DisARM asks for f at values of its own choice"),
        (th.nn.Linear, TypeError, "got the class Linear"),
        (lambda view, hyperparameters: NVIL, TypeError, "it gave the class NVIL, not one made of it"),
        (
            "lax",
            UsageError,
            "control_variate 'lax' takes Box actions; those of this policy are Discrete",
        ),
        (lambda view, hyperparameters: 3, TypeError, "it gave a int"),
        (LAX, TypeError, "LAX takes ReparameterisedLatent; got GumbelOneHot"),
        (LAX(MLPSurrogate(3)), TypeError, "LAX takes ReparameterisedLatent; got GumbelOneHot"),
        (7, TypeError, "got 7"),
    ],
)
def test_errors(spec, error, message):
    with pytest.raises(error, match=message):
        agent(ACTION_SPACES["discrete"], spec)


@pytest.mark.parametrize("name", [*CONTROL_VARIATES, *TOGETHER])
def test_state_is_saved_and_holds_tensors(name, tmp_path):
    space = next(space for space in ACTION_SPACES.values() if takes(space, name))
    model = agent(space, name).learn(60)
    model.save(tmp_path / "agent")
    loaded = type(model).load(tmp_path / "agent", env=TinyEnv(space), device="cpu")
    for part, state in model.get_parameters().items():
        if "optim" not in part:
            assert all(isinstance(value, th.Tensor) for value in state.values()), part
    ours, theirs = model.control_variate.state_dict(), loaded.control_variate.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(th.equal(ours[key], theirs[key]) for key in ours)
    assert isinstance(loaded.control_variate, Guarded)
    # the steps that some are fitted to are not saved
    loaded.control_variate.set_between_updates(copy.deepcopy(model.control_variate.between_updates()))
    # and it goes on alike: noise, φ's optimizer, scales
    for each in (model, loaded):
        each.set_env(TinyEnv(space))
        each.set_random_seed(5)
        each.learn(40, reset_num_timesteps=False)
    assert all(map(th.equal, model.policy.parameters(), loaded.policy.parameters()))
    assert all(map(th.equal, model.control_variate.parameters(), loaded.control_variate.parameters()))


def test_the_order_of_an_update():
    """φ and η may only know earlier batches: they learn when the batch has been used."""
    model = agent(ACTION_SPACES["discrete"], "relax", n_steps=30)
    seen = []

    def spy(name):
        original = getattr(model.control_variate, name)
        setattr(model.control_variate, name, lambda *args: seen.append(name) or original(*args))

    for name in ("prepare", "gradient", "fit", "observe"):
        spy(name)
    model.learn(60)
    assert seen == ["prepare", "gradient", "fit", "observe"] * 2


class Peeking(StateBaseline):
    """A control variate that learns from the batch before it is used on it."""

    def gradient(self, output, signal, generator):
        self.network.observe(signal)
        return super().gradient(output, signal, generator)


class BatchMean(StateBaseline):
    """A baseline that is the mean of the very batch."""

    def gradient(self, output, signal, generator):
        return super().gradient(output, signal - signal.mean(), generator)


def leaks(space, spec):
    """Whether a step's ĝ changes with the advantages of the other steps, or anything is learned before it is used."""
    model = agent(space, spec, n_steps=30).learn(90)
    rollout = model.rollout_class.of(model.rollout_buffer, model.time_limits)
    output = model.view.evaluate(
        th.rand(20, 3), th.as_tensor([space.sample() for _ in range(20)]).reshape(20, -1).float()
    )
    signal = th.randn(20)
    other = signal.clone()
    other[1:] = th.randn(19)
    before = copy.deepcopy(model.control_variate.state_dict())
    model.control_variate.prepare(rollout, model.noise_generator)
    gradients = []
    for advantages in (signal, other):
        model.noise_generator.manual_seed(0)
        gradients.append(model.control_variate.gradient(output, advantages, model.noise_generator).grad[0])
    after = model.control_variate.state_dict()
    return not (th.equal(*gradients) and all(th.equal(value, after[name]) for name, value in before.items()))


@pytest.mark.parametrize("spec", [*CONTROL_VARIATES, *TOGETHER, *ONE_SAMPLE.values(), OwnExample()])
def test_a_steps_gradient_knows_nothing_of_the_batch(spec):
    spaces_taken = [space for space in ACTION_SPACES.values() if takes(space, spec)]
    assert spaces_taken
    assert not leaks(spaces_taken[0], spec)


class FittedFirst(TrajectoryByModel):
    """A learned model that knows the rollout which it corrects."""

    def prepare(self, rollout, generator):
        self.model.prepare(rollout)
        self.model.fit(self.optimizer, 1, generator)
        super().prepare(rollout, generator)


@pytest.mark.parametrize("spec", [Peeking, BatchMean, FittedFirst])
def test_a_leak_is_noticed(spec):
    assert leaks(ACTION_SPACES["discrete"], spec)


def test_further_steps_of_phi_draw_noise_of_their_own():
    model = agent(ACTION_SPACES["discrete"], "relax", n_cv_steps=3)
    variate, states = in_full(model), []
    original = variate.gradient
    variate.gradient = lambda *args: states.append(args[2].get_state()) or original(*args)
    model.learn(5)
    assert len(states) == 3
    assert not any(th.equal(a, b) for a, b in itertools.combinations(states, 2))


@pytest.mark.parametrize("objective", ["distribution", "weights"])
def test_an_estimators_own_rule_holds_whatever_the_objective(objective):
    model = agent(ACTION_SPACES["discrete"], NVIL(ThetaBaseline(3)), cv_objective=objective, n_steps=20)
    before = in_full(model).estimator.baseline.linear.weight.clone()
    model.learn(40)
    assert not th.equal(in_full(model).estimator.baseline.linear.weight, before)


def test_the_guard_passes_everything_on():
    """A method that is added to the contract must not be forgotten there."""
    contract = {name for name, member in vars(ControlVariate).items() if callable(member) and name[0] != "_"}
    assert contract <= vars(Guarded).keys()
    guarded, seen = Guarded(StateBaseline(agent(ACTION_SPACES["discrete"], "state").view, Hyperparameters())), []
    guarded.variate.set_learning_rate = seen.append
    guarded.set_learning_rate(0.25)
    assert seen == [0.25]


class HalvesAdvantages(StateBaseline):
    """Something that is prepared in time order."""

    def prepare(self, rollout, generator):
        self.prepared = rollout
        rollout.advantages = rollout.advantages / 2


@pytest.mark.parametrize("guard", [True, False])
def test_what_is_prepared_is_trained_on(guard):
    model = agent(ACTION_SPACES["discrete"], HalvesAdvantages, n_steps=14, cv_guard=guard)
    seen, original = [], in_full(model).gradient
    in_full(model).gradient = lambda output, signal, generator: (
        seen.append(signal) or original(output, signal, generator)
    )
    model.learn(14)
    rollout = in_full(model).prepared
    assert rollout.shape == (14, 1)
    assert rollout.episode_starts.ravel().tolist() == [1.0, *[0.0] * 6, 1.0, *[0.0] * 6]
    assert sorted(seen[0].tolist()) == pytest.approx(sorted((model.rollout_buffer.advantages / 2).ravel().tolist()))


def test_without_a_score_the_contract_is_named():
    class NoScore(StateBaseline):
        def gradient(self, output, signal, generator):
            estimate = super().gradient(output, signal, generator)
            return Estimate(output.latent, signal, estimate.grad)

    model = agent(ACTION_SPACES["discrete"], NoScore, cv_guard=False)
    before = [p.clone() for p in model.policy.parameters()]
    with pytest.raises(TypeError, match=r"NoScore.gradient\(\) must give an Estimate with score"):
        model.learn(10)
    assert all(map(th.equal, before, model.policy.parameters()))


class NoEstimate(StateBaseline):
    def gradient(self, output, signal, generator):
        return None


class NoLog(StateBaseline):
    def fit(self, output, signal, estimate, generator):
        super().fit(output, signal, estimate, generator)


@pytest.mark.parametrize("cv_guard", [True, False])
@pytest.mark.parametrize("around", ["nothing", "trajectory", "together"])
@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (NoEstimate, r"NoEstimate.gradient\(\) must give an Estimate with score=.*; it gave None"),
        (NoLog, r"NoLog.fit\(\) must give a dict of what to log, by name: {} for nothing; it gave None"),
    ],
)
def test_what_gives_nothing_is_named(kind, said, around, cv_guard):
    def make(view, hyperparameters):
        own = kind(view, hyperparameters)
        if around == "trajectory":
            return Trajectory(view, hyperparameters, own)
        return own if around == "nothing" else Together(view, hyperparameters, [own])

    with pytest.raises(TypeError, match=said):
        agent(ACTION_SPACES["discrete"], make, cv_guard=cv_guard).learn(10)


@pytest.mark.parametrize("space", ["discrete", "multibinary"])
@pytest.mark.parametrize("name", ["none", "state", "relax", "exact", "model", "qprop", "factorised"])
def test_under_masks(name, space):
    """A masked agent passes the same proof, and a batch's masks stay with its steps."""
    pytest.importorskip("sb3_contrib")
    from sb3_relax import MaskableRELAXA2C

    if name == "factorised" and space == "discrete":
        pytest.skip("factorised does not take actions of one variable")
    model = MaskableRELAXA2C("MlpPolicy", TinyEnv(ACTION_SPACES[space]), control_variate=name, **SMALL)
    n = 3 if space == "discrete" else 4
    variate = anything(copy.deepcopy(in_full(model)).double())
    masks = th.ones(2, n, dtype=th.bool)
    masks[0, 0] = masks[1, n - 1] = False
    output = model.view.evaluate(th.rand(2, 3), th.ones(2, 1 if space == "discrete" else 2), action_masks=masks)
    for step in (0, 1):
        one = output.at(th.tensor([step]))
        _, probability = actions_of(one)
        assert (probability > 0).sum() == 2
        assert probability.sum().item() == pytest.approx(1, abs=1e-9)
        signal = th.randn(len(probability), dtype=th.float64)
        assert measure_bias(variate, one, signal, model.noise_generator, 400).unbiased
    swapped = output.at(th.tensor([1, 0]))
    assert th.equal(swapped.latent.theta, output.latent.theta[[1, 0]])
    assert th.equal(swapped.latent.score(swapped.sample), output.latent.score(output.sample)[[1, 0]])
    z = output.latent.conditional(output.sample, th.full_like(output.latent.theta, 0.3))
    slope = output.latent.pull_back(z.detach())
    assert th.equal(swapped.latent.pull_back(z.detach()[[1, 0]]), slope[[1, 0]])


def test_the_example_stays_under_sixty_lines():
    source = (Path(__file__).parents[2] / "docs" / "examples" / "own_control_variate.py").read_text()
    own = source[source.index("class LinearControlVariate") : source.index("# Its class is all")]
    assert 20 < len(own.rstrip("# %\n[]markdown").splitlines()) < 60
    assert "import" not in own
    assert runpy  # the script itself runs in tests/test_examples.py


def test_the_example_trains_cartpole():
    model = RELAXA2C("MlpPolicy", "CartPole-v1", control_variate=OwnExample(), n_critic_steps=5, n_steps=32, seed=0)
    model.learn(6_000)
    assert sum(info["r"] for info in model.ep_info_buffer) / len(model.ep_info_buffer) > 40  # 22 without learning
    assert model.control_variate.variate.weights.abs().max() > 0


assert DLAX in ONE_SAMPLE.values()
assert Reinforce in ONE_SAMPLE.values()
