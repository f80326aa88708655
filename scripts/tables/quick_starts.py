"""What the quick starts print and take, in a sentence under each, from scripts/results/quick_starts."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np

from scripts.records import RESULTS


def sentence(page: str) -> str:
    """Of a page's quick start."""
    record = json.loads((RESULTS / "quick_starts" / f"{Path(page).stem}.json").read_text())
    returns = [float(re.findall(r"-?[\d.]+", run["printed"][-1])[-1]) for run in record["runs"]]
    seconds = [run["processor_seconds"] for run in record["runs"]]
    printed = f"{min(returns):g}"
    if max(returns) > min(returns):
        printed += f" to {max(returns):g} (median {np.median(returns):g})"
    return (
        f"Run {len(returns)} times, it printed a mean return of {printed} and took {min(seconds):.0f} to "
        f"{max(seconds):.0f} seconds of one core."
    )
