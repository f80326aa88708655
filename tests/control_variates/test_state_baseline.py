"""ĉ without the actions: a learned state baseline, the control for every claim about the action-dependent one."""

import io

import pytest
import torch as th

from sb3_relax import LAXA2C, RELAXA2C
from sb3_relax.errors import UsageError
from tests.algorithm.test_policy_gradient import as_seen, enumerate_actions, plain_gradient
from tests.helpers import ACTION_SPACES, TinyEnv, float64_model, in_full


def state_baseline(space, **kwargs):
    cls = LAXA2C if space == "box" else RELAXA2C
    return float64_model(cls, TinyEnv(ACTION_SPACES[space]), cv_action_dependent=False, cv_guard=False, **kwargs)


@pytest.mark.parametrize("space", ACTION_SPACES)
def test_it_is_a_baseline_under_the_score_and_nothing_else(space):
    """ĝ = (Â - ĉ(s)) ∂ log π for every action and every noise, by autograd on SB3's own log_prob."""
    model = state_baseline(space)
    th.manual_seed(0)
    obs = th.randn(7, *model.observation_space.shape, dtype=th.float64)
    with th.no_grad():
        actions = model.policy(obs)[0]
    advantages = th.randn(7, dtype=th.float64)
    features = model.policy.extract_features(obs)
    c = in_full(model).network(features).detach()
    assert c.std() > 1e-3  # it does depend on the state
    expected = plain_gradient(model, obs, actions, (advantages - c) / 7)
    got = th.cat([g.flatten() for g in model.policy_gradient(obs, actions, advantages).values()])
    th.testing.assert_close(got, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("correction", ["coupled", "relaxed", "exact"])
def test_training_leads_to_the_optimal_baseline(correction):
    """b(s) = E[‖∂ log π‖² Â | s] / E[‖∂ log π‖² | s] at the logits, all actions of one state being the batch."""
    model = float64_model(
        RELAXA2C, TinyEnv(ACTION_SPACES["discrete"]), cv_action_dependent=False, correction=correction
    )
    actions = enumerate_actions(model.action_space)
    n = len(actions)
    obs = th.randn(1, *model.observation_space.shape, dtype=th.float64, generator=th.Generator().manual_seed(1))
    obs = obs.expand(n, *obs.shape[1:])
    output = model.view.evaluate(obs, as_seen(model, actions))
    probabilities = output.log_prob.exp().detach()
    target = th.tensor([2.0, -1.0, 4.0], dtype=th.float64)
    score = th.eye(n, dtype=th.float64) - probabilities
    weight = probabilities * score.square().sum(1)
    optimum = (weight * target).sum() / weight.sum()
    phi = [p for group in model.cv_optimizer.param_groups for p in group["params"]]
    optimizer = th.optim.Adam(phi, lr=0.02)
    for _ in range(400):
        estimate = in_full(model).gradient(output, target, model.noise_generator)
        squares = estimate.grad_with_graph.flatten(1).square().sum(1)
        objective = (probabilities * squares).sum()
        optimizer.zero_grad()
        for parameter, gradient in zip(phi, th.autograd.grad(objective, phi, allow_unused=True), strict=True):
            parameter.grad = gradient
        optimizer.step()
    c = in_full(model).network(output.features)
    assert c[0].item() == pytest.approx(optimum.item(), rel=1e-3)
    assert min(abs(optimum - target.mean()), abs(optimum - (probabilities * target).sum())) > 0.02


def reads_no_action(model):
    """Without a layer for the actions, what is subtracted is the same whichever was taken."""
    observations = th.randn(1, *model.observation_space.shape).expand(8, *model.observation_space.shape)
    with th.no_grad():
        actions = model.policy(observations)[0]
    assert len(actions.unique(dim=0)) > 1
    output = model.view.evaluate(observations, actions)
    subtracted = in_full(model).gradient(output, th.zeros(8), model.noise_generator).grad
    # -ĉ(s) ∂ log π, so along the score with one and the same factor
    c = in_full(model).network(output.features[:1])
    assert c.abs() > 0
    expected = -c * output.latent.score(output.sample)
    return th.allclose(subtracted, expected, atol=1e-7) and not hasattr(in_full(model).network, "action_layer")


@pytest.mark.parametrize("space", ACTION_SPACES)
@pytest.mark.parametrize("cv_objective", ["distribution", "weights"])
def test_it_never_comes_to_read_the_actions(space, cv_objective, tmp_path):
    cls = LAXA2C if space == "box" else RELAXA2C
    model = cls(
        "MlpPolicy", TinyEnv(ACTION_SPACES[space]), seed=0, device="cpu", cv_action_dependent=False,
        cv_objective=cv_objective, cv_learning_rate=0.03, n_cv_steps=2,
    )  # fmt: skip
    model.learn(200)
    assert in_full(model).network.output_layer.weight.abs().max() > 0
    assert reads_no_action(model)
    model.save(tmp_path / "agent")
    again = cls.load(tmp_path / "agent", env=TinyEnv(ACTION_SPACES[space]), device="cpu").learn(100)
    assert again.cv_action_dependent is False
    assert reads_no_action(again)


@pytest.mark.parametrize("only_the_control_variate", [True, False])
def test_weights_that_read_the_actions_are_refused_before_anything_is_changed(only_the_control_variate):
    env = TinyEnv(ACTION_SPACES["discrete"])
    reading = RELAXA2C("MlpPolicy", env, seed=0, device="cpu").learn(50).get_parameters()
    model = RELAXA2C("MlpPolicy", env, seed=1, device="cpu", cv_action_dependent=False).learn(50)
    before = [p.clone() for module in (model.policy, model.control_variate) for p in module.parameters()]
    given = {"control_variate": reading["control_variate"]} if only_the_control_variate else reading
    with pytest.raises(UsageError, match="set cv_action_dependent=True"):
        model.set_parameters(given, exact_match=not only_the_control_variate)
    after = [p for module in (model.policy, model.control_variate) for p in module.parameters()]
    assert all(map(th.equal, before, after))


def test_weights_of_a_state_baseline_are_taken():
    env = TinyEnv(ACTION_SPACES["discrete"])
    one, other = (RELAXA2C("MlpPolicy", env, seed=s, device="cpu", cv_action_dependent=False) for s in range(2))
    other.set_parameters(one.learn(50).get_parameters())
    assert all(map(th.equal, one.control_variate.parameters(), other.control_variate.parameters()))


@pytest.mark.parametrize("saved", [True, False])
def test_an_agent_is_loaded_as_it_was_saved(saved, tmp_path):
    model = RELAXA2C("MlpPolicy", TinyEnv(ACTION_SPACES["discrete"]), device="cpu", cv_action_dependent=saved)
    model.learn(50).save(tmp_path / "agent.zip")
    RELAXA2C.load(tmp_path / "agent.zip", device="cpu", cv_action_dependent=saved)
    message = f"cv_action_dependent={saved}, whose ĉ cannot be loaded as one with cv_action_dependent={not saved}"
    for file in (tmp_path / "agent.zip", io.BytesIO((tmp_path / "agent.zip").read_bytes())):
        with pytest.raises(UsageError, match=message):
            RELAXA2C.load(file, device="cpu", cv_action_dependent=not saved)
