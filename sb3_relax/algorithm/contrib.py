"""What is used of sb3-contrib, an optional dependency: imported here alone, so that one place names the extra."""

from __future__ import annotations

from sb3_relax.optional import how_to_install

try:
    from sb3_contrib import MaskablePPO, RecurrentPPO
    from sb3_contrib.common.maskable.buffers import MaskableDictRolloutBuffer, MaskableRolloutBuffer
    from sb3_contrib.common.maskable.callbacks import MaskableEvalCallback
    from sb3_contrib.common.maskable.distributions import (
        MaskableBernoulliDistribution,
        MaskableCategorical,
        MaskableCategoricalDistribution,
        MaskableDistribution,
        MaskableMultiCategoricalDistribution,
        make_masked_proba_distribution,
    )
    from sb3_contrib.common.maskable.policies import MaskableActorCriticPolicy
    from sb3_contrib.common.maskable.utils import get_action_masks, is_masking_supported
    from sb3_contrib.common.recurrent.buffers import (
        RecurrentDictRolloutBuffer,
        RecurrentRolloutBuffer,
        create_sequencers,
    )
    from sb3_contrib.common.recurrent.policies import (
        RecurrentActorCriticCnnPolicy,
        RecurrentActorCriticPolicy,
        RecurrentMultiInputActorCriticPolicy,
    )
    from sb3_contrib.common.recurrent.type_aliases import RNNStates
except ModuleNotFoundError as error:
    if error.name != "sb3_contrib":
        raise
    raise ModuleNotFoundError(
        f"action masks and recurrent policies are sb3-contrib's, which is not installed: {how_to_install('contrib')}",
        name=error.name,
    ) from error

__all__ = [
    "MaskableActorCriticPolicy",
    "MaskableBernoulliDistribution",
    "MaskableCategorical",
    "MaskableCategoricalDistribution",
    "MaskableDictRolloutBuffer",
    "MaskableDistribution",
    "MaskableEvalCallback",
    "MaskableMultiCategoricalDistribution",
    "MaskablePPO",
    "MaskableRolloutBuffer",
    "RNNStates",
    "RecurrentActorCriticCnnPolicy",
    "RecurrentActorCriticPolicy",
    "RecurrentDictRolloutBuffer",
    "RecurrentMultiInputActorCriticPolicy",
    "RecurrentPPO",
    "RecurrentRolloutBuffer",
    "create_sequencers",
    "get_action_masks",
    "is_masking_supported",
    "make_masked_proba_distribution",
]
