"""The tables of README.md and docs/, from the records in scripts/results, and of the arguments from their dataclass.

    python -m scripts.tables            # rewrites what stands between <!-- table:NAME --> and <!-- /table:NAME -->
    python -m scripts.tables --check    # fails where a page is not what the records say

Pages are README.md and every Markdown file below docs/. Every table must be placed on at least one of them.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path

from scripts.records import ROOT
from scripts.tables import (
    ablation,
    attacks,
    bench,
    benchmark,
    center,
    decomposition,
    decomposition_variates,
    diagnose,
    double_cv,
    front,
    gates,
    hyperparameters,
    learning,
    million,
    preset_values,
    quick_starts,
    summary,
    table2,
    tasks,
    toy,
    vae,
    variates,
    which,
)
from scripts.tables.blocks import BlockError, filled, pages, require_agreement

TABLES: dict[str, Callable[[], str]] = {
    "summary": summary.summary_table,
    "quick-start": partial(quick_starts.sentence, "README.md"),
    "quick-start-laxa2c": partial(quick_starts.sentence, "docs/laxa2c.md"),
    "center": center.center_table,
    "double_cv": double_cv.double_cv_table,
    "hyperparameters": hyperparameters.table,
    "preset-fast": partial(hyperparameters.preset_table, "fast"),
    "front": front.front_table,
    "benchmark": benchmark.benchmark_table,
    "benchmark-a2c": benchmark.against_a2c_table,
    "benchmark-ppo": benchmark.against_ppo_table,
    "benchmark-tuned": benchmark.tuned_table,
    "benchmark-searches": partial(learning.tuning_table, "tuning_fast"),
    "ablation": ablation.ablation_table,
    "variates": variates.variates_table,
    "variates-figures": variates.figure_links,
    "variates-points": variates.points_table,
    "variates-searches": variates.searches_table,
    "variates-tuned": partial(variates.variates_table, "tuned_variates"),
    "variates-million": partial(variates.variates_table, "variates_million"),
    "variates-million-differences": partial(variates.differences_table, "variates_million", 0.975),
    "decisions": partial(variates.variates_table, "decisions", form=".4f"),
    "decisions-figures": partial(variates.figure_links, "decisions"),
    "decisions-small": partial(variates.variates_table, "decisions_small", form=".4f"),
    "decisions-points": partial(variates.points_table, "tuning_decisions"),
    "decisions-searches": partial(variates.searches_table, "tuning_decisions", form=".3f"),
    "million": million.million_table,
    "agents": learning.agents_table,
    "learning": learning.learning_table,
    "statistics": learning.statistics_table,
    "tuning": learning.tuning_table,
    "tuned": partial(learning.learning_table, "tuned"),
    "tuned-statistics": partial(learning.statistics_table, "tuned"),
    "table2": table2.table2_table,
    "grid": partial(table2.grid_table, "table2_grid", "table2"),
    "paper-grid": partial(table2.grid_table, "table2_paper_grid", "table2_paper"),
    "apart": table2.apart_table,
    "defaults": learning.defaults_table,
    "gae-lambda": partial(
        preset_values.values_table, {f"λ = {arm}": ("gae_lambda", arm) for arm in ("0.9", "0.95", "0.98")}
    ),
    "n-steps": partial(
        preset_values.values_table,
        {
            "64 steps, V 20": ("gae_lambda", "0.95"),
            "32 steps, V 20": ("n_steps", "32, 20"),
            "32 steps, V 10": ("n_steps", "32, 10"),
        },
    ),
    "batches-replay": partial(
        preset_values.values_table,
        {"64 steps, replay of 8": ("batches", "64, replay 8"), "32 steps, replay of 16": ("batches", "32, replay 16")},
    ),
    "quiet": partial(
        preset_values.values_table,
        {"64 steps, replay of 8": ("quiet", "64, replay 8"), "32 steps, replay of 16": ("quiet", "32, replay 16")},
    ),
    "batches": partial(
        preset_values.before_and_after_table,
        ("batches of 512", "benchmark", "fast"),
        ("batches of 256", "batches_of_256", "fast"),
    ),
    "fixed-kl": preset_values.targets_table,
    "grown-kl": partial(
        preset_values.before_and_after_table,
        ("0.002 nats", "fixed_kl", "fixed"),
        ("0.002 √D nats", "benchmark", "fast"),
    ),
    "bench": bench.bench_table,
    "floor": bench.floor_table,
    "pairs": bench.pairs_table,
    "growth": bench.growth_table,
    "vae-floor": bench.vae_floor_table,
    "estimators": bench.estimators_table,
    "which-positive": which.positive_table,
    "which-paired": which.paired_table,
    "which-peaked": which.peaked_table,
    "which-normals": which.normals_table,
    "which-classes": which.classes_table,
    "which-black-box": which.black_box_table,
    "which-differentiable": which.differentiable_table,
    "peers": bench.peers_table,
    "diagnose": diagnose.table,
    "decomposition": decomposition.table,
    "decomposition-variates": decomposition_variates.table,
    "decomposition-fast": partial(decomposition_variates.over_rollouts, "decomposition_fast"),
    "toy": toy.toy_table,
    "rebar": toy.rebar_table,
    "kills": attacks.kills_table,
    "mutants": attacks.mutants_table,
    "survivors": attacks.survivors_table,
    "memory": attacks.memory_sentence,
    "attention": partial(tasks.task_table, "attention"),
    "attention-paired": partial(tasks.paired_table, "attention"),
    "attention-glimpses": partial(tasks.task_table, "attention", "glimpses"),
    "attention-rates": partial(tasks.rates_table, "attention"),
    "recall": partial(tasks.task_table, "memory"),
    "recall-paired": partial(tasks.paired_table, "memory"),
    "recall-rates": partial(tasks.rates_table, "memory"),
    "gates": partial(tasks.task_table, "gates"),
    "gates-paired": partial(tasks.paired_table, "gates"),
    "gates-rates": partial(tasks.rates_table, "gates"),
    "gates-wine": partial(tasks.task_table, "gates", "wine"),
    "gates-selectors": gates.selectors_table,
    "gates-subsets": gates.subsets_table,
    "renderer": partial(tasks.task_table, "renderer"),
    "renderer-paired": partial(tasks.paired_table, "renderer"),
    "renderer-rates": partial(tasks.rates_table, "renderer"),
    "renderer-entropy": partial(tasks.task_table, "renderer", "entropy"),
    "solids-before": partial(tasks.task_table, "solids", "before"),
    "solids-rates": partial(tasks.rates_table, "solids"),
    "solids": partial(tasks.task_table, "solids"),
    "solids-paired": partial(tasks.paired_table, "solids"),
    "vae": vae.table,
    "vae-bench": vae.bench_table,
}


def stale_pages(root: Path, tables: dict[str, Callable[[], str]]) -> dict[Path, str]:
    """Pages that are not what the tables say, and what they should be.

    :raises BlockError: where a table has no block, or a block has no table
    """
    require_agreement(tables, root)
    bodies = {name: table() for name, table in tables.items()}
    written = {page: filled(page.read_text(), bodies) for page in pages(root)}
    return {page: text for page, text in written.items() if text != page.read_text()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    try:
        stale = stale_pages(ROOT, TABLES)
    except BlockError as error:
        raise SystemExit(str(error)) from error
    if not arguments.check:
        for page, text in stale.items():
            page.write_text(text)
    elif stale:
        names = ", ".join(str(page.relative_to(ROOT)) for page in stale)
        raise SystemExit(f"not what the records say: {names}; run `make tables`")
    else:
        print("every table is what the records say")


if __name__ == "__main__":
    main()
