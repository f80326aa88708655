"""LAXA2C: A2C for continuous actions with the LAX estimator."""

from __future__ import annotations

from gymnasium import spaces

from sb3_relax.algorithm.a2c import ControlVariateA2C


class LAXA2C(ControlVariateA2C):
    """Advantage actor-critic for Box actions, with the LAX estimator in the place of the score function (Eq 5, 9).

    Per step, with advantage Â (GAE or returns, minus V(s)) and a = μ + σε the action that was executed (before tanh
    where it is squashed)::

        ĝ = [Â - ĉ(a, s)] ∂θ log π(a|s) + ∂θ ĉ(a(ε, s, θ), s)

    Unbiased given the advantage estimator, for any ĉ: bootstrapping, GAE with λ < 1 and clipping are as biased as in
    A2C. Paper: Grathwohl et al., *Backpropagation through the Void*, ICLR 2018, https://arxiv.org/abs/1711.00123.

    With gSDE, π is the marginal of each step, as in SB3's own log_prob. Where one noise matrix serves several steps
    (SB3's default ``sde_sample_freq=-1``: a whole rollout), a state depends on the noise of the action that is to come,
    and every baseline, V as in A2C and ĉ on top, adds a bias. With ``sde_sample_freq=1``, a matrix for every step, this
    bias is gone.

    When to use it: small λ or many action dimensions, where the choice of action is a large share of the gradient's
    variance. With λ near 1 expect A2C.

    For policies with a memory: :class:`~sb3_relax.RecurrentLAXA2C`.

    Arguments: A2C's, in its order; then, by keyword, those of :class:`~sb3_relax.policy_gradient.Hyperparameters`.

    :raises ValueError: for an action space that is not a Box, or a hyper-parameter out of range

    Example::

        from sb3_relax import LAXA2C

        model = LAXA2C("MlpPolicy", "Pendulum-v1", use_sde=True, gae_lambda=0.9)
        model.learn(100_000)
    """

    action_spaces = (spaces.Box,)
