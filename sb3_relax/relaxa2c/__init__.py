from sb3_relax.relaxa2c.relaxa2c import RELAXA2C

__all__ = ["RELAXA2C"]
