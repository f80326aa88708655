"""MaskableRELAXA2C: RELAXA2C with invalid action masking."""

from __future__ import annotations

from sb3_relax.algorithm.masked import Masked
from sb3_relax.relaxa2c.relaxa2c import RELAXA2C


class MaskableRELAXA2C(Masked, RELAXA2C):
    """RELAXA2C with invalid action masking (Huang & Ontañón, https://arxiv.org/abs/2006.14171), as MaskablePPO has it.

    For environments with a method ``action_masks()``, their own or that of a wrapper (sb3-contrib's ``ActionMasker``,
    or one around all environments of a VecEnv), and sb3-contrib's maskable policies. A mask is a property of the state:
    it is known before the action, so every estimate stays unbiased under it. What it forbids is never drawn, never
    relaxed into ĉ's input, and has exactly no gradient. Log-probabilities and entropy are the masked distribution's.

    Each bit of a MultiBinary action has two logits in sb3-contrib's policies, since either of its values may be masked.
    It is relaxed by their difference, as a bit without masks is.

    Arguments: those of :class:`~sb3_relax.RELAXA2C`. Needs sb3-contrib: ``pip install sb3_relax[contrib]``.
    For policies with a memory: :class:`~sb3_relax.MaskableRecurrentRELAXA2C`.

    :raises ValueError: for a policy that is not maskable; in ``learn()``, for an environment without masks, or a mask
        of the wrong size or that forbids everything

    Example::

        from sb3_contrib.common.wrappers import ActionMasker
        from sb3_relax import MaskableRELAXA2C

        model = MaskableRELAXA2C("MlpPolicy", ActionMasker(env, lambda env: env.unwrapped.valid_actions()))
        model.learn(100_000)
        model.predict(obs, action_masks=masks)
    """
