"""RecurrentLAXA2C and the policies it takes, which are RecurrentPPO's."""

from sb3_relax.algorithm.contrib import RecurrentPPO
from sb3_relax.laxa2c_recurrent.laxa2c_recurrent import RecurrentLAXA2C

MlpLstmPolicy = RecurrentPPO.policy_aliases["MlpLstmPolicy"]
CnnLstmPolicy = RecurrentPPO.policy_aliases["CnnLstmPolicy"]
MultiInputLstmPolicy = RecurrentPPO.policy_aliases["MultiInputLstmPolicy"]

__all__ = ["CnnLstmPolicy", "MlpLstmPolicy", "MultiInputLstmPolicy", "RecurrentLAXA2C"]
