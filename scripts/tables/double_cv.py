"""Table of what Double CV's α at the start does for the first steps."""

from __future__ import annotations

import json

from scripts.records import RESULTS

#: of one estimate of Double CV with K = 2; REINFORCE's has one
CALLS = 2


def double_cv_table() -> str:
    """Variance × calls of f over REINFORCE's at the same θ, at every moment of training."""
    record = json.loads((RESULTS / "double_cv" / "record.json").read_text())
    moments = record["settings"]["moments"]
    rows = [
        "| f | α starts | " + " | ".join(f"step {moment}" for moment in moments) + " |",
        "|---|---|" + "---|" * len(moments),
    ]
    for row in record["rows"]:
        cells = " | ".join(f"{CALLS * ratio:.2g}" for ratio in row["ratio"])
        start = "from least squares" if row["start"] == "warm" else f"at {row['start']}"
        rows.append(f"| {row['problem']} | {start} | {cells} |")
    return "\n".join(rows)
