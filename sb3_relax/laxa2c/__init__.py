"""LAXA2C and the policies it takes, which are A2C's."""

from stable_baselines3.a2c.policies import CnnPolicy, MlpPolicy, MultiInputPolicy

from sb3_relax.laxa2c.laxa2c import LAXA2C

__all__ = ["LAXA2C", "CnnPolicy", "MlpPolicy", "MultiInputPolicy"]
