"""The toy of the paper: min over θ of E[(b - t)²], b ~ Bernoulli(σ(θ)). Figures 1 and 2.

    python -m sb3_relax.tasks.toy [--target 0.499] [--seeds 10] [--steps 2000] [--output toy]

Every estimator gets one sample of b per step (as many calls of f as it declares), the same Adam for θ and the same for
φ. Shown against steps: the loss at the current θ, exactly, over the optimum, and the log-variance of the gradient over
many samples at that θ. Writes record.json, figure1.png and figure2.png.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sb3_relax.estimators import REBAR, RELAX, LogisticBernoulli, gradient_variance, make
from sb3_relax.estimators.methods.rebar import RelaxedObjective
from sb3_relax.estimators.surrogate import value_and_slope
from sb3_relax.tasks.arguments import HelpFormatter, folder
from sb3_relax.tasks.intervals import half_width, plus_minus
from sb3_relax.tasks.records import provenance, write_record

#: name in the figure → (name in ESTIMATORS, its settings); all as their papers have them, which subtract no mean of f
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "REINFORCE": ("reinforce", {}),
    "NVIL": ("nvil", {}),
    "MuProp": ("muprop", {}),
    "REBAR": ("rebar", {"center": False}),
    "RELAX": ("relax", {"center": False}),
    "DLAX": ("dlax", {"center": False}),
    "Concrete": ("concrete", {}),
    "straight-through": ("straight_through", {}),
    "Gumbel-Rao": ("gumbel_rao", {}),
    "RLOO, K = 2": ("rloo", {}),
    "DisARM": ("disarm", {}),
    "Double CV, K = 2": ("double_cv", {"scale": -1.0}),
}
#: Figure 2 shows the control variates of these
SURROGATES = ("REINFORCE", "REBAR", "RELAX")
GRID = torch.linspace(-6, 6, 121)


def objective(target: float) -> Callable[[Tensor], Tensor]:
    """f(b) = (b - t)², also between 0 and 1."""
    return lambda b: (b - target).square().sum(-1)


def excess_loss(theta: float, target: float) -> float:
    """E[f(b)] at θ over its least value, which is at p = 0 for t < ½ and at p = 1 for t > ½; exactly."""
    at_one, at_zero = (1 - target) ** 2, target**2
    worse = max(at_one, at_zero) - min(at_one, at_zero)
    away = theta if at_one > at_zero else -theta
    return worse / (1 + math.exp(-away))


def run(case: str, seed: int, target: float, steps: int, rate: float, cv_rate: float, probes: int) -> dict[str, Any]:
    """One estimator, one seed: the loss and the gradient's variance at ``probes`` moments, and c_φ at the end."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    f = objective(target)
    theta = torch.zeros(1, requires_grad=True)
    name, settings = CASES[case]
    estimator = make(name, LogisticBernoulli(theta), **settings)
    optimizer = torch.optim.Adam(
        [{"params": [theta], "lr": rate}, {"params": [*estimator.parameters()], "lr": cv_rate}],
        fused=True,  # without it, Adam takes a third of a step's time
    )
    moments = sorted({round(i * steps / (probes - 1)) for i in range(probes)})
    losses, variances = [], []
    for step in range(steps + 1):
        if step in moments:
            losses.append(excess_loss(theta.item(), target))
            # its own stream, so that looking does not change what is seen
            generator = torch.Generator().manual_seed(step)
            variances.append(gradient_variance(estimator, LogisticBernoulli(theta), f, 1000, generator).variance)
        optimizer.zero_grad()
        estimator(LogisticBernoulli(theta), f).backward()
        optimizer.step()
    return {
        "case": case,
        "seed": seed,
        "theta": theta.item(),
        "steps": moments,
        "excess_loss": [significant(x) for x in losses],
        "variance": [significant(x) for x in variances],
        "surrogate": surrogate_curve(case, estimator, f),
    }


def surrogate_curve(case: str, estimator: torch.nn.Module, f: Callable[[Tensor], Tensor]) -> dict[str, Any] | None:
    """c_φ(z) and its derivative on ``GRID``: zero for REINFORCE, η f(σ_τ(z)) for REBAR, the network for RELAX."""
    z = GRID.unsqueeze(-1)
    if case == "REINFORCE":
        c, slope = torch.zeros(len(z)), torch.zeros_like(z)
    elif isinstance(estimator, REBAR):
        latent = LogisticBernoulli(torch.zeros(len(z), 1))
        relaxed = RelaxedObjective(f, latent, estimator.temperature_between_corners, estimator.scale)
        c, slope = relaxed.value_and_slope(z)
    elif isinstance(estimator, RELAX):
        c, slope = value_and_slope(estimator.surrogate, z)
    else:
        return None
    return {"c": [significant(x) for x in c.tolist()], "slope": [significant(x) for x in slope.flatten().tolist()]}


def significant(value: float) -> float:
    """Four digits, for the record."""
    return float(f"{value:.4g}")


def summarise(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Per estimator: final excess loss and log-variance (over the last tenth), mean and half of the 95% t-interval.

    Over seeds; of one seed there is no interval (``None``).
    """
    rows = []
    for case in dict.fromkeys(r["case"] for r in runs):
        of_case = [r for r in runs if r["case"] == case]
        last = max(len(of_case[0]["steps"]) // 10, 1)
        row: dict[str, Any] = {"case": case, "seeds": len(of_case)}
        for key, values in (
            ("excess_loss", [np.mean(r["excess_loss"][-last:]) for r in of_case]),
            ("log_variance", [np.mean(np.log(np.maximum(r["variance"][-last:], 1e-30))) for r in of_case]),
        ):
            row[key], row[f"{key}_interval"] = float(np.mean(values)), half_width(values)
        rows.append(row)
    return rows


def draw(runs: list[dict[str, Any]], target: float, output: Path) -> None:
    """Figure 1 (loss and log-variance against steps) and Figure 2 (the control variates beside f)."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from scipy import stats

    cases = list(dict.fromkeys(r["case"] for r in runs))
    figure, axes = plt.subplots(1, 2, figsize=(13, 4.5), layout="constrained")
    for index, case in enumerate(cases):
        of_case = [r for r in runs if r["case"] == case]
        style = {"color": f"C{index % 10}", "linestyle": "-" if index < 10 else "--", "label": case}
        for axis, values in (
            (axes[0], np.array([r["excess_loss"] for r in of_case])),
            (axes[1], np.log(np.maximum([r["variance"] for r in of_case], 1e-30))),
        ):
            mean = values.mean(0)
            axis.plot(of_case[0]["steps"], mean, **style)
            if len(values) > 1:
                half = stats.sem(values, axis=0) * stats.t.ppf(0.975, len(values) - 1)
                axis.fill_between(of_case[0]["steps"], mean - half, mean + half, alpha=0.15, color=style["color"])
    axes[0].set(xlabel="step", ylabel="E[f(b)] above its optimum", title=f"loss, t = {target:g}", ylim=(0, None))
    axes[1].set(xlabel="step", ylabel="log variance of the gradient", title="variance at the current θ")
    axes[1].set_ylim(bottom=-25)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center", fontsize=8)
    figure.savefig(output / "figure1.png", dpi=120)

    figure, axes = plt.subplots(1, 2, figsize=(12, 4.5), layout="constrained")
    z = GRID.numpy()
    axes[0].plot(z, (1 / (1 + np.exp(-z)) - target) ** 2, "k:", label="f(σ(z))")
    axes[0].plot(z, ((z > 0) - target) ** 2, "k-", label="f(H(z))")
    for index, case in enumerate(c for c in SURROGATES if c in cases):
        for axis, key in zip(axes, ("c", "slope"), strict=True):
            curves = np.array([r["surrogate"][key] for r in runs if r["case"] == case])
            axis.plot(z, curves.mean(0), color=f"C{index}", label=case)
            axis.fill_between(z, curves.min(0), curves.max(0), color=f"C{index}", alpha=0.15)
    axes[0].set(xlabel="z", title="control variates c(z); band: all seeds")
    axes[1].set(xlabel="z", title="their derivatives")
    axes[1].axhline(0, color="gray", linewidth=0.5)
    axes[0].legend(fontsize=8)
    figure.savefig(output / "figure2.png", dpi=120)


def case_of(name: str) -> str:
    """The case that a name in ESTIMATORS stands for; other names as they are."""
    return next((case for case, (registered, _) in CASES.items() if registered == name), name)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(
        prog="python -m sb3_relax.tasks.toy", description=__doc__, formatter_class=HelpFormatter
    )
    names = "; ".join(f'"{case}" or {name}' for case, (name, _) in CASES.items())
    top.add_argument("--target", type=float, default=0.499, help="t")
    top.add_argument(
        "--estimators",
        nargs="+",
        type=case_of,
        choices=list(CASES),
        metavar="NAME",
        help=f"by the figure's name or the registry's: {names} (default: all)",
    )
    top.add_argument("--seeds", type=int, default=10, help="runs of every estimator")
    top.add_argument("--steps", type=int, default=2000, help="of one run")
    top.add_argument("--learning-rate", type=float, default=1e-2, help="of θ (Adam)")
    top.add_argument("--cv-learning-rate", type=float, default=1e-3, help="of φ (Adam)")
    top.add_argument("--probes", type=int, default=61, help="moments at which loss and variance are measured")
    top.add_argument("--jobs", type=int, default=2, help="runs at a time")
    top.add_argument("--output", type=folder, default="toy", help="folder for record.json and the figures")
    return top


def main(arguments: list[str] | None = None) -> None:
    """Parse and run; an interrupt without a traceback."""
    top = parser()
    options = top.parse_args(arguments)
    options.estimators = list(dict.fromkeys(options.estimators or CASES))
    for name, least in (("seeds", 1), ("steps", 1), ("probes", 2), ("jobs", 1)):
        if getattr(options, name) < least:
            top.error(f"--{name} must be at least {least}; got {getattr(options, name)}")
    if not math.isfinite(options.target):
        top.error(f"--target must be finite; got {options.target}")
    if not 0 < options.learning_rate < math.inf:
        top.error(f"--learning-rate must be positive; got {options.learning_rate}")
    if not 0 <= options.cv_learning_rate < math.inf:
        top.error(f"--cv-learning-rate must not be negative; got {options.cv_learning_rate}")
    try:
        compare(options)
    except KeyboardInterrupt:
        top.exit(130, f"{top.prog}: interrupted\n")


def compare(options: argparse.Namespace) -> None:
    """Run all, write the record and the figures, print the table."""
    from joblib import Parallel, delayed
    from tqdm import tqdm

    todo = [(case, seed) for case in options.estimators for seed in range(options.seeds)]
    parallel = Parallel(n_jobs=options.jobs, return_as="generator")
    jobs = parallel(
        delayed(run)(
            case,
            seed,
            options.target,
            options.steps,
            options.learning_rate,
            options.cv_learning_rate,
            min(options.probes, options.steps + 1),
        )
        for case, seed in todo
    )
    runs = list(tqdm(jobs, total=len(todo), desc="toy", unit="run"))
    summary = summarise(runs)
    settings = {key: str(value) if isinstance(value, Path) else value for key, value in vars(options).items()}
    write_record(
        options.output / "record.json", {"summary": summary, "runs": runs, "settings": settings, **provenance()}
    )
    draw(runs, options.target, options.output)
    print(f"{'':18} {'excess loss':>24} {'log variance':>18}")
    for row in summary:
        print(
            f"{row['case']:18} {plus_minus(row['excess_loss'], row['excess_loss_interval'], '.3g'):>24} "
            f"{plus_minus(row['log_variance'], row['log_variance_interval'], '.2f'):>18}"
        )
    print(f"{options.output / 'figure1.png'}, figure2.png, record.json")


if __name__ == "__main__":
    main()
