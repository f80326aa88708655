"""RecurrentRELAXA2C and the policies it takes, which are RecurrentPPO's."""

from sb3_relax.algorithm.contrib import RecurrentPPO
from sb3_relax.relaxa2c_recurrent.relaxa2c_recurrent import RecurrentRELAXA2C

MlpLstmPolicy = RecurrentPPO.policy_aliases["MlpLstmPolicy"]
CnnLstmPolicy = RecurrentPPO.policy_aliases["CnnLstmPolicy"]
MultiInputLstmPolicy = RecurrentPPO.policy_aliases["MultiInputLstmPolicy"]

__all__ = ["CnnLstmPolicy", "MlpLstmPolicy", "MultiInputLstmPolicy", "RecurrentRELAXA2C"]
