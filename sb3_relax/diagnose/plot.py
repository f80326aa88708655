"""The diagnosis as a picture."""

from __future__ import annotations

from pathlib import Path

from sb3_relax.diagnose.report import Diagnosis

#: Part → colour, from the bottom up.
PARTS = {"state": "C7", "future": "C0", "action": "C3", "noise": "C1"}
LABELS = {
    "state": "state Σ_s",
    "future": "future Σ_τ",
    "action": "action Σ_a: what a control variate can act on",
    "noise": "relaxation noise",
}


def plot(diagnosis: Diagnosis, path: str | Path) -> None:
    """One panel per λ: the parts of one step's variance, and the variance over rollouts, over those with V(s).

    Without a baseline the variance is often far larger: that bar is left out, its ratio is in the table.

    :param path: of the picture; its ending is the format
    :raises ModuleNotFoundError: without matplotlib
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    lambdas = list(dict.fromkeys(row.gae_lambda for row in diagnosis.rows))
    figure = Figure(figsize=(3.2 * len(lambdas) + 1, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(lambdas), sharey=True, squeeze=False)[0]
    for panel, gae_lambda in zip(panels, lambdas, strict=True):
        rows = [row for row in diagnosis.rows if row.gae_lambda == gae_lambda and row.name != "none"]
        unit = diagnosis.at("V(s)", gae_lambda).total
        for x, row in enumerate(rows):
            bottom = 0.0
            for part, colour in PARTS.items():
                number = getattr(row, part)
                if number is None or unit is None:
                    continue
                height = max(number.value / unit.value, 0.0)  # unbiased estimates of small parts may be negative
                panel.bar(x, height, bottom=bottom, width=0.6, color=colour, label=LABELS[part])
                bottom += height
            if row.rollouts_ratio is not None:
                ratio = row.rollouts_ratio
                errors = [[ratio.value - ratio.low], [ratio.high - ratio.value]]
                panel.errorbar(x, ratio.value, errors, fmt="ko", capsize=4, label="over rollouts, joint interval")
        panel.axhline(1, color="k", linewidth=0.8)
        panel.set(title=f"λ = {gae_lambda:g}", xticks=range(len(rows)))
        panel.set_xticklabels([row.name for row in rows], rotation=30)
    panels[0].set_ylabel("variance of the policy gradient ÷ that with V(s)")
    panels[0].set_ylim(bottom=0)
    labels = {label: handle for p in panels for handle, label in zip(*p.get_legend_handles_labels(), strict=True)}
    figure.legend(labels.values(), labels.keys(), loc="outside lower center", ncols=3, frameon=False)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
