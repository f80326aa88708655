# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Your own control variate
#
# A control variate takes the place of A2C's Â ∂θ log π(a|s), and nothing else of the algorithm changes. This one is
# linear in features of state and action, ĉ(a, s) = w · (x(s) ⊗ a), and is fitted by least squares. The sum over the
# actions gives its mean, so that the correction is exact.

# %%
import torch as th

from sb3_relax import RELAXA2C
from sb3_relax.control_variates import ControlVariate
from sb3_relax.control_variates.proofs import actions_of, measure_bias
from sb3_relax.estimators import ExactCorrection, GumbelOneHot, Reinforce


class LinearControlVariate(ControlVariate):
    """ĉ(a, s) = w · (x(s) ⊗ a), fitted to Â by ridge regression on all batches so far, older ones fading.

    Takes Discrete actions. Unbiased for any w, since E[ĉ(a, s)] is summed over the actions and added again. Of the
    policy's view it needs the sizes of x and a; of the hyper-parameters nothing. ``ridge`` is added to the diagonal of
    the normal equations, ``decay`` is the weight of the past in them.
    """

    latents = (GumbelOneHot,)
    draws_noise = False

    def __init__(self, view, hyperparameters, ridge=1.0, decay=0.99):
        super().__init__()
        size = (view.features_dim + 1) * view.action_dim
        self.ridge, self.decay = ridge, decay
        # buffers: they are saved with the agent
        self.register_buffer("gram", th.zeros(size, size))
        self.register_buffer("moment", th.zeros(size))
        self.register_buffer("weights", th.zeros(size))

    def products(self, output, actions):
        """x(s) ⊗ a for actions ``[..., N, D, K]`` → ``[..., N, (F + 1) · A]``."""
        x = th.cat([output.features, th.ones_like(output.features[:, :1])], dim=1)
        return (x.unsqueeze(-1) * actions.flatten(-2).unsqueeze(-2)).flatten(-2)

    def gradient(self, output, signal, generator):
        exact = ExactCorrection(lambda actions: self.products(output, actions) @ self.weights)
        return exact.finish(output.latent, output.sample, signal)

    def fit(self, output, signal, estimate, generator):
        # after the batch was used: w may know this batch when the next one comes, and not before
        rows = self.products(output, output.sample)
        self.gram.mul_(self.decay).add_(rows.T @ rows)
        self.moment.mul_(self.decay).add_(rows.T @ signal)
        eye = th.eye(len(self.gram), dtype=self.gram.dtype, device=self.gram.device)
        self.weights.copy_(th.linalg.solve(self.gram + self.ridge * eye, self.moment))
        return {"linear_norm": self.weights.norm().item()}


# %% [markdown]
# Its class is all that the algorithm needs. The guard is around it as around every other: only the share of ĉ that
# lowered the variance of earlier batches is applied. It goes up and down as the agent learns. Where ĉ would have raised
# the variance it is 0, as at the end of this run. What `fit` returns is logged, here as `train/linear_norm`.

# %%
model = RELAXA2C("MlpPolicy", "CartPole-v1", control_variate=LinearControlVariate, n_critic_steps=10, seed=0)
model.learn(20_000)
print(f"share of ĉ that is applied at the end: {model.control_variate.share:.2f}")

# %% [markdown]
# ## The proof
#
# Training shows nothing of a bias. `measure_bias` visits every action with its probability, and compares the mean of
# the gradient with the score function's, in float64.


# %%
def prove(control_variate):
    """The bias at one state, with weights and advantages that are anything."""
    agent = RELAXA2C("MlpPolicy", "CartPole-v1", control_variate=control_variate, cv_guard=False, seed=0)
    agent.control_variate.double().weights.normal_()
    output = agent.view.evaluate(th.randn(1, 4), th.zeros(1, 1))
    signal = th.randn(len(actions_of(output)[0]), dtype=th.float64)
    return measure_bias(agent.control_variate, output, signal, agent.noise_generator)


print(f"bias: {prove(LinearControlVariate).difference.abs().max():.1e}")

# %% [markdown]
# A mistake that training would not show: ĉ is subtracted, and its mean is not added again.


# %%
class Uncorrected(LinearControlVariate):
    """[Â - ĉ(a, s)] ∂θ log π(a|s) alone: biased, since ĉ depends on the action."""

    def gradient(self, output, signal, generator):
        c = self.products(output, output.sample) @ self.weights
        return Reinforce().finish(output.latent, output.sample, signal - c)


print(f"bias of the mistake: {prove(Uncorrected).difference.abs().max():.1e}")
