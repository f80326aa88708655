"""MaskableRELAXA2C and the policies it takes, which are MaskablePPO's."""

from sb3_relax.algorithm.contrib import MaskablePPO
from sb3_relax.algorithm.masked_distribution import batched
from sb3_relax.relaxa2c_mask.relaxa2c_mask import MaskableRELAXA2C

MlpPolicy = MaskablePPO.policy_aliases["MlpPolicy"]
CnnPolicy = MaskablePPO.policy_aliases["CnnPolicy"]
MultiInputPolicy = MaskablePPO.policy_aliases["MultiInputPolicy"]

__all__ = ["CnnPolicy", "MaskableRELAXA2C", "MlpPolicy", "MultiInputPolicy", "batched"]
