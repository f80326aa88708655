"""RELAXA2C and the policies it takes, which are A2C's."""

from stable_baselines3.a2c.policies import CnnPolicy, MlpPolicy, MultiInputPolicy

from sb3_relax.relaxa2c.relaxa2c import RELAXA2C

__all__ = ["RELAXA2C", "CnnPolicy", "MlpPolicy", "MultiInputPolicy"]
