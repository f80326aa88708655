"""HybridRELAXA2C and its policies."""

from sb3_relax.relaxa2c_hybrid.policies import HybridActorCriticPolicy
from sb3_relax.relaxa2c_hybrid.relaxa2c_hybrid import HybridRELAXA2C

MlpPolicy = HybridRELAXA2C.policy_aliases["MlpPolicy"]
CnnPolicy = HybridRELAXA2C.policy_aliases["CnnPolicy"]
MultiInputPolicy = HybridRELAXA2C.policy_aliases["MultiInputPolicy"]

__all__ = ["CnnPolicy", "HybridActorCriticPolicy", "HybridRELAXA2C", "MlpPolicy", "MultiInputPolicy"]
