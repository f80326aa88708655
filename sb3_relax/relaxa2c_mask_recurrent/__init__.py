"""MaskableRecurrentRELAXA2C and the policies it takes: sb3-contrib's LSTM policies, acting under masks."""

from sb3_relax.relaxa2c_mask_recurrent.policies import MaskableRecurrentActorCriticPolicy
from sb3_relax.relaxa2c_mask_recurrent.relaxa2c_mask_recurrent import MaskableRecurrentRELAXA2C

MlpLstmPolicy = MaskableRecurrentRELAXA2C.policy_aliases["MlpLstmPolicy"]
CnnLstmPolicy = MaskableRecurrentRELAXA2C.policy_aliases["CnnLstmPolicy"]
MultiInputLstmPolicy = MaskableRecurrentRELAXA2C.policy_aliases["MultiInputLstmPolicy"]

__all__ = [
    "CnnLstmPolicy",
    "MaskableRecurrentActorCriticPolicy",
    "MaskableRecurrentRELAXA2C",
    "MlpLstmPolicy",
    "MultiInputLstmPolicy",
]
