from sb3_relax.laxa2c.laxa2c import LAXA2C

__all__ = ["LAXA2C"]
