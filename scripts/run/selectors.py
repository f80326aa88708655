"""scikit-learn's selectors of features, and a greedy one, beside the gates: each at the number that the gates chose.

    python -m scripts.run.selectors            # of the runs in scripts/results/gates

For every set of features there are, on test rows, the accuracy of the trees that the gates were trained on, with all
other features at their means, and the mean accuracy of ten ensembles that were fitted anew to these features alone. The
selectors see the rows that the trees were fitted to, and those that the gates learned from. *greedy* adds the feature
that lowers f most on the latter. Where all subsets can be looked at, as wine's 8,192, the best of them is told as well.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.feature_selection import RFE, SelectKBest, f_classif, mutual_info_classif
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from sb3_relax.tasks.gates.black_box import new_trees
from sb3_relax.tasks.gates.problem import FeatureGates, GatesConfig
from scripts.records import RESULTS, add_output, provenance, read_record, write_record

RECORDS = [RESULTS / "gates" / "record.json", RESULTS / "gates" / "wine" / "record.json"]
#: ensembles that are fitted anew
REFITS = 10
#: strengths of the L1 penalty, from the strongest on
PATH = np.logspace(-4, 1, 26)
#: most features of which every subset is looked at
MOST = 13

#: a problem, and how many features → which
Selector = Callable[[FeatureGates, int], list[int]]


def seen(problem: FeatureGates) -> tuple[np.ndarray, np.ndarray, StandardScaler]:
    """The rows that selectors may see, standardised, their labels, and what standardises other rows in the same way."""
    rows = [problem.rows["fit"], problem.rows["gates"]]
    x = np.concatenate([part.x.numpy() for part in rows])
    scaler = StandardScaler().fit(x)
    return scaler.transform(x), np.concatenate([part.label.numpy() for part in rows]), scaler


def largest(scores: np.ndarray, count: int) -> list[int]:
    """The features with the highest scores; one without a score, such as a constant one, is the last to be taken."""
    return sorted(np.argsort(-np.nan_to_num(scores, nan=-np.inf), kind="stable")[:count].tolist())


def by_f_test(problem: FeatureGates, count: int) -> list[int]:
    x, label, _ = seen(problem)
    with np.errstate(invalid="ignore", divide="ignore"):  # constant features
        return largest(SelectKBest(f_classif, k=count).fit(x, label).scores_, count)


def by_information(problem: FeatureGates, count: int) -> list[int]:
    x, label, _ = seen(problem)
    return largest(mutual_info_classif(x, label, random_state=0), count)


def by_l1(problem: FeatureGates, count: int) -> list[int]:
    """The largest weights at the strongest penalty that leaves enough of them."""
    x, label, _ = seen(problem)
    weight = np.zeros(x.shape[1])
    for strength in PATH:
        machine = LinearSVC(penalty="l1", dual=False, C=strength, random_state=0, max_iter=5000).fit(x, label)
        weight = np.abs(machine.coef_).sum(0)
        if (weight > 0).sum() >= count:
            break
    return largest(weight, count)


def by_elimination(problem: FeatureGates, count: int) -> list[int]:
    """Recursive feature elimination with trees as the gates' classifier has them."""
    x, label, _ = seen(problem)
    return np.flatnonzero(RFE(new_trees(), n_features_to_select=count).fit(x, label).support_).tolist()


def by_importance(problem: FeatureGates, count: int) -> list[int]:
    """What the classifier itself finds important."""
    return largest(problem.classifier.trees.feature_importances_, count)


def greedily(problem: FeatureGates, count: int) -> list[int]:
    """The feature that lowers f most, one after the other."""
    chosen: list[int] = []
    while len(chosen) < count:
        left = [feature for feature in range(problem.features) if feature not in chosen]
        chosen.append(min(left, key=lambda feature: cost_of(problem, [*chosen, feature])))
    return sorted(chosen)


SELECTORS: dict[str, Selector] = {
    "F-test": by_f_test,
    "mutual information": by_information,
    "L1": by_l1,
    "recursive elimination": by_elimination,
    "trees' importance": by_importance,
    "greedy, by f": greedily,
}


def gates_of(problem: FeatureGates, features: list[int]) -> torch.Tensor:
    gates = torch.zeros(problem.features)
    gates[features] = 1
    return gates


def cost_of(problem: FeatureGates, features: list[int]) -> float:
    """E[f] over the rows that the gates learn from."""
    rows = problem.rows["gates"]
    return problem.f(rows, gates_of(problem, features).expand(len(rows.x), -1)).double().mean().item()


def measured(problem: FeatureGates, features: list[int]) -> dict[str, Any]:
    """Of one set of features."""
    test = problem.rows["test"]
    p = problem.classifier.probabilities(test, gates_of(problem, features).expand(len(test.x), -1))
    x, label, scaler = seen(problem)
    held_out, right = scaler.transform(test.x.numpy())[:, features], test.label.numpy()
    again = [new_trees(seed).fit(x[:, features], label).score(held_out, right) for seed in range(REFITS)]
    return {
        "features": features,
        "cost": cost_of(problem, features),
        "accuracy": (p.argmax(-1) == test.label).double().mean().item(),
        "refitted": float(np.mean(again)),
    }


def costs_of_all(problem: FeatureGates) -> np.ndarray:
    """f's mean of every subset."""
    subsets = product((0, 1), repeat=problem.features)
    return np.array([cost_of(problem, np.flatnonzero(subset).tolist()) for subset in subsets])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--record", type=Path, nargs="+", default=RECORDS, help="of the gates' runs")
    add_output(parser, "gates/selectors.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    runs = [run for record in arguments.record for run in read_record(record)["runs"]]
    rows: list[dict[str, Any]] = []
    best: list[dict[str, Any]] = []
    for dataset, cost in sorted({(run["dataset"], run["cost"]) for run in runs}):
        problem = FeatureGates(GatesConfig(dataset=dataset, cost=cost))
        own = [run for run in runs if (run["dataset"], run["cost"]) == (dataset, cost)]
        where = {"dataset": dataset, "cost_of_gate": cost}
        for run in own:
            of_run = {"by": run["estimator"], "seed": run["seed"], **measured(problem, run["features"])}
            rows.append({**where, **of_run})
        for count in sorted({len(run["features"]) for run in own}):
            rows += [
                {**where, "by": name, **measured(problem, select(problem, count))} for name, select in SELECTORS.items()
            ]
        if problem.features <= MOST:
            costs = costs_of_all(problem)
            better = [
                {"by": run["estimator"], "seed": run["seed"], "better": int((costs < run["cost_of_mode"] - 1e-7).sum())}
                for run in own
            ]
            best.append({**where, "subsets": len(costs), "cost": costs.min(), "modes": better})
    write_record(arguments.output / "gates" / "selectors.json", {"rows": rows, "best": best, **provenance()})
    print(arguments.output / "gates" / "selectors.json")


if __name__ == "__main__":
    main()
