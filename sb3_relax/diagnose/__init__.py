"""Where the variance of an agent's policy gradient comes from, and whether a control variate can lower it."""

from sb3_relax.diagnose.measure import diagnose
from sb3_relax.diagnose.report import Diagnosis, Number, Row

__all__ = ["Diagnosis", "Number", "Row", "diagnose"]
