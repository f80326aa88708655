"""RELAXA2C: A2C for discrete actions with the RELAX estimator."""

from __future__ import annotations

from gymnasium import spaces

from sb3_relax.algorithm.a2c import ControlVariateA2C
from sb3_relax.policy_gradient.hyperparameters import DiscreteHyperparameters


class RELAXA2C(ControlVariateA2C):
    """Advantage actor-critic for discrete actions, with the RELAX estimator in the place of the score (Eq 8, 10).

    For Discrete, MultiDiscrete and MultiBinary actions. Per step, with advantage Â (GAE or returns, minus V(s)), z the
    relaxed action and z̃ the same given the action that was executed::

        ĝ = [Â - ĉ(z̃, s)] ∂θ log π(a|s) + ∂θ ĉ(z, s) - ∂θ ĉ(z̃, s)

    Unbiased given the advantage estimator, for any ĉ: bootstrapping, GAE with λ < 1 and clipping are as biased as in
    A2C.
    Paper: Grathwohl et al., *Backpropagation through the Void*, ICLR 2018, https://arxiv.org/abs/1711.00123.

    When to use it: small λ or many action dimensions. With two actions nothing action-dependent can beat the best
    state-dependent baseline, and with λ near 1 expect A2C.

    For action masks: :class:`~sb3_relax.MaskableRELAXA2C`; for policies with a memory:
    :class:`~sb3_relax.RecurrentRELAXA2C`; for both: :class:`~sb3_relax.MaskableRecurrentRELAXA2C`.

    Arguments: A2C's, in its order; then, by keyword, those of
    :class:`~sb3_relax.policy_gradient.DiscreteHyperparameters` and its base.

    :raises ValueError: for another action space, or a hyper-parameter out of range

    Example::

        from sb3_relax import RELAXA2C

        model = RELAXA2C("MlpPolicy", "CartPole-v1", n_critic_steps=10)
        model.learn(100_000)
    """

    action_spaces = (spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)
    hyperparameters = DiscreteHyperparameters
