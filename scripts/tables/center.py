"""Table of what a running mean of f does for a control variate that is learned from its start."""

from __future__ import annotations

import json

from scripts.records import RESULTS


def center_table() -> str:
    """The ratio of variances, with the mean over without it, at every moment of training."""
    record = json.loads((RESULTS / "center" / "record.json").read_text())
    moments = record["settings"]["moments"]
    rows = [
        "| estimator | f of | mean of f | " + " | ".join(f"step {moment}" for moment in moments) + " |",
        "|---|---|---|" + "---|" * len(moments),
    ]
    for row in record["rows"]:
        cells = " | ".join(
            f"{ratio:.2f} ± {2 * ratio * error:.2f}"
            for ratio, error in zip(row["ratio"], row["log_error"], strict=True)
        )
        rows.append(f"| {row['estimator']} | {row['problem']} | {row['mean']:g} | {cells} |")
    return "\n".join(rows)
