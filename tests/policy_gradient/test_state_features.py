"""What ĉ reads of the state: any extractor and any layers that A2C takes, and kernels that can be differentiated."""

import pytest
import torch as th
from gymnasium import spaces
from sb3_contrib.common.maskable.policies import MaskableActorCriticPolicy
from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy
from stable_baselines3 import A2C
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import nn

from sb3_relax import LAXA2C, RELAXA2C, MaskableRELAXA2C, RecurrentLAXA2C, RecurrentRELAXA2C
from sb3_relax.errors import UsageError
from sb3_relax.policy_gradient import PolicyView
from tests.helpers import ACTION_SPACES, TinyEnv, in_full

KINDS = ("flat", "sequence", "tuple", "dict")


class Shaped(BaseFeaturesExtractor):
    """Features of any kind, as an extractor of a user's gives them to layers of the user's own."""

    def __init__(self, observation_space, kind="sequence"):
        super().__init__(observation_space, features_dim=4)
        self.kind = kind
        self.encode = nn.Linear(1, 4)

    def forward(self, observations):
        tokens = self.encode(observations.unsqueeze(-1))  # [N, 3, 4]
        first, rest = tokens[:, 0], tokens[:, 1:]
        return {"flat": first, "sequence": tokens, "tuple": (first, rest), "dict": {"first": first, "rest": rest}}[
            self.kind
        ]


class Pooling(nn.Module):
    """Only what SB3's guide asks of an ``mlp_extractor``: two sizes, forward(), forward_actor(), forward_critic()."""

    latent_dim_pi, latent_dim_vf = 5, 6

    def __init__(self, size):
        super().__init__()
        self.actor = nn.Sequential(nn.Linear(size, 5), nn.Tanh())
        self.critic = nn.Sequential(nn.Linear(size, 6), nn.Tanh())

    @staticmethod
    def pooled(features):
        if isinstance(features, (tuple, dict)):
            first, rest = features.values() if isinstance(features, dict) else features
            features = th.cat([first.unsqueeze(1), rest], dim=1)
        return features.mean(1) if features.dim() == 3 else features

    def forward(self, features):
        return self.forward_actor(features), self.forward_critic(features)

    def forward_actor(self, features):
        return self.actor(self.pooled(features))

    def forward_critic(self, features):
        return self.critic(self.pooled(features))


class OwnLayers(ActorCriticPolicy):
    def _build_mlp_extractor(self):
        self.mlp_extractor = Pooling(self.features_dim)


class MaskableOwnLayers(MaskableActorCriticPolicy):
    def _build_mlp_extractor(self):
        self.mlp_extractor = Pooling(self.features_dim)


class RecurrentOwnLayers(RecurrentActorCriticPolicy):
    def _build_mlp_extractor(self):
        self.mlp_extractor = Pooling(self.lstm_output_dim)


class Masked(TinyEnv):
    def action_masks(self):
        return [True] * 3


def moved(model):
    before = [p.detach().clone() for p in (*model.policy.parameters(), *model.control_variate.parameters())]
    model.learn(30)
    after = [*model.policy.parameters(), *model.control_variate.parameters()]
    assert all(p.isfinite().all() for p in after)
    return not any(th.equal(a, b) for a, b in zip(before, after, strict=True) if b.numel() > 4)


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("algorithm", [RELAXA2C, LAXA2C, MaskableRELAXA2C])
def test_features_of_any_shape_train(algorithm, kind, shared, tmp_path):
    space = ACTION_SPACES["box" if algorithm is LAXA2C else "discrete"]
    policy = MaskableOwnLayers if algorithm is MaskableRELAXA2C else OwnLayers
    kwargs = dict(features_extractor_class=Shaped, features_extractor_kwargs=dict(kind=kind))
    kwargs = dict(seed=0, device="cpu", policy_kwargs=dict(share_features_extractor=shared, **kwargs))
    if algorithm is not MaskableRELAXA2C:
        A2C(policy, TinyEnv(space), **kwargs).learn(10)  # it is a policy that SB3 trains
    model = algorithm(policy, Masked(space), n_critic_steps=2, **kwargs)
    assert moved(model)
    model.save(tmp_path / "agent")
    loaded = algorithm.load(tmp_path / "agent", env=Masked(space), device="cpu")
    loaded.learn(20, reset_num_timesteps=False)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_read(kind):
    """Features where they are flat, as before; what the critic makes of them where they are not; never a gradient."""
    kwargs = dict(features_extractor_class=Shaped, features_extractor_kwargs=dict(kind=kind))
    policy = RELAXA2C(OwnLayers, TinyEnv(ACTION_SPACES["discrete"]), device="cpu", policy_kwargs=kwargs).policy
    view, observations = PolicyView(policy), th.randn(7, 3)
    output = view.evaluate(observations, th.zeros(7))
    features = policy.features_extractor(observations)
    expected = features if kind == "flat" else policy.mlp_extractor.forward_critic(features)
    assert th.allclose(output.features, expected)
    assert output.features.shape == (7, view.features_dim) == (7, 4 if kind == "flat" else 6)
    assert not output.features.requires_grad


def test_looking_at_the_features_changes_nothing():
    """No random number is drawn, no statistic moved, and the policy is left in its mode."""

    class Noisy(Shaped):
        def __init__(self, observation_space):
            super().__init__(observation_space)
            self.norm, self.drop = nn.BatchNorm1d(3), nn.Dropout()

        def forward(self, observations):
            return super().forward(self.drop(self.norm(observations)) + th.randn(()))

    env = TinyEnv(ACTION_SPACES["discrete"])
    policy = RELAXA2C(OwnLayers, env, device="cpu", policy_kwargs=dict(features_extractor_class=Noisy)).policy
    for training in (True, False):
        policy.set_training_mode(training)
        env.observation_space.seed(3)
        before = {name: value.clone() for name, value in policy.state_dict().items()}
        streams = th.get_rng_state(), env.observation_space.np_random.bit_generator.state
        assert PolicyView(policy).features_dim == 6
        assert th.equal(th.get_rng_state(), streams[0])
        assert env.observation_space.np_random.bit_generator.state == streams[1]
        assert all(th.equal(value, before[name]) for name, value in policy.state_dict().items())
        assert policy.training == policy.features_extractor.norm.training == training


def test_an_extractor_that_does_not_take_any_observation():
    """What a space allows may be none that occurs: A2C would train, so the critic's latent is read."""

    class Choosy(Shaped):
        def forward(self, observations):
            assert observations.abs().max() < 1e-3
            return super().forward(observations)

    class Still(TinyEnv):
        def _observe(self):
            return 0 * super()._observe()

    kwargs = dict(device="cpu", policy_kwargs=dict(features_extractor_class=Choosy))
    assert RELAXA2C(OwnLayers, Still(ACTION_SPACES["discrete"]), **kwargs).learn(20).view.features_dim == 6


def test_where_nothing_flat_can_be_read_the_error_says_what_can():
    class Unusual(OwnLayers):
        def _build(self, lr_schedule):
            super()._build(lr_schedule)
            self.values_of = self.value_net
            del self.value_net

        def evaluate_actions(self, obs, actions):
            features = self.extract_features(obs)
            distribution = self._get_action_dist_from_latent(self.mlp_extractor.forward_actor(features))
            values = self.values_of(self.mlp_extractor.forward_critic(features))
            return values, distribution.log_prob(actions), distribution.entropy()

    with pytest.raises(UsageError, match=r"features of Unusual are not \[N, 4\].*value_net.*latent_dim_vf"):
        RELAXA2C(
            Unusual,
            TinyEnv(ACTION_SPACES["discrete"]),
            device="cpu",
            policy_kwargs=dict(features_extractor_class=Shaped),
        )


RECURRENT = {
    "two LSTMs": {},
    "one LSTM for both": dict(shared_lstm=True, enable_critic_lstm=False),
    "no memory for V": dict(enable_critic_lstm=False),
    "extractors apart, two layers": dict(share_features_extractor=False, n_lstm_layers=2),
}


@pytest.mark.parametrize("case", RECURRENT)
@pytest.mark.parametrize("algorithm", [RecurrentRELAXA2C, RecurrentLAXA2C])
def test_recurrent_policies_with_layers_of_their_own(algorithm, case):
    space = ACTION_SPACES["box" if algorithm is RecurrentLAXA2C else "discrete"]
    kwargs = dict(seed=0, device="cpu", n_steps=10, policy_kwargs=dict(lstm_hidden_size=4, **RECURRENT[case]))
    model = algorithm(RecurrentOwnLayers, TinyEnv(space), n_critic_steps=2, **kwargs)
    assert moved(model)
    data = next(model.rollout_buffer.get())
    real = data.mask > 0
    lstm = model.policy.lstm_actor
    # whether the LSTM runs once over all steps, or once for each
    starts = data.episode_starts.clone()
    for first in (0.0, 1.0):
        starts[0] = first
        remembered, _ = model.policy._process_sequence(
            model.policy.pi_features_extractor(data.observations), data.lstm_states.pi, starts, lstm
        )
        context = dict(lstm_states=data.lstm_states, episode_starts=starts)
        output = model.view.evaluate(data.observations, data.actions, mask=real, **context)
        assert th.allclose(output.features, remembered[real], atol=1e-6)
        assert not output.features.requires_grad


class Attention(BaseFeaturesExtractor):
    """Attention over the parts of an observation, by the fused function that torch's own modules call."""

    def __init__(self, observation_space):
        super().__init__(observation_space, features_dim=8)
        self.embed = nn.Linear(1, 8)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)

    def forward(self, observations):
        return self.layer(self.embed(observations.unsqueeze(-1))).mean(1)


@pytest.mark.parametrize(
    ("algorithm", "policy"),
    [(RELAXA2C, "MlpPolicy"), (LAXA2C, "MlpPolicy"), (RecurrentRELAXA2C, "MlpLstmPolicy")],
)
def test_the_paper_s_objective_with_attention(algorithm, policy):
    space = ACTION_SPACES["box" if algorithm is LAXA2C else "discrete"]
    kwargs = dict(seed=0, device="cpu", policy_kwargs=dict(features_extractor_class=Attention))
    model = algorithm(policy, TinyEnv(space), cv_objective="weights", **kwargs)
    model.learn(40)
    assert in_full(model).network.output_layer.weight.abs().max() > 0
    # what else runs keeps its fused kernels
    assert th.backends.cuda.flash_sdp_enabled()


def test_observations_of_every_space_are_looked_at():
    class OfDict(BaseFeaturesExtractor):
        def __init__(self, observation_space):
            super().__init__(observation_space, features_dim=4)
            self.encode = nn.Linear(5, 4)

        def forward(self, observations):
            return self.encode(th.cat([observations["a"], observations["b"].flatten(1)], dim=1)).unsqueeze(1)

    space = spaces.Dict({"a": spaces.Box(-1.0, 1.0, (3,)), "b": spaces.Discrete(2)})
    env = TinyEnv(ACTION_SPACES["discrete"], observation_space=space)
    model = RELAXA2C(OwnLayers, env, device="cpu", policy_kwargs=dict(features_extractor_class=OfDict))
    assert model.learn(20).view.features_dim == 6
