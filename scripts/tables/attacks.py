"""Tables of the attacks: kills, and mutants with those that no test has noticed."""

from __future__ import annotations

from typing import Any

from scipy.stats import binomtest

from scripts.records import RESULTS, read_record


def records_of(folder: str) -> list[dict[str, Any]]:
    return [read_record(path) for path in sorted((RESULTS / folder).glob("*.json"))]


def kills_table() -> str:
    """Of each subject, the kills, and what was left by them."""
    rows = ["| what was killed | kills | half-written files left by them | done all the same |", "|---|---|---|---|"]
    for record in records_of("kills"):
        kills = f"{record['kills']}"
        if record["kills_of_workers"]:
            kills += f", {record['kills_of_workers']} of which of a worker first"
        rows.append(
            f"| {record['subject']} | {kills} | {record['files_half_written']} | {record['items']:,} {record['item']} |"
        )
    return "\n".join(rows)


def mutants_table() -> str:
    """Of each part, the share of mutants that the tests notice, with Wilson's interval."""
    rows = ["| part | mutants there are | drawn | noticed | share [95% interval] |", "|---|---|---|---|---|"]
    total = [0, 0]
    for record in records_of("mutants"):
        killed, count = sum(row["killed"] for row in record["mutants"]), len(record["mutants"])
        total = [total[0] + killed, total[1] + count]
        rows.append(
            f"| {record['part']} | {record['mutants_there_are']:,} | {count} | {killed} | {share(killed, count)} |"
        )
    rows.append(f"| all that were drawn | | {total[1]} | {total[0]} | {share(*total)} |")
    return "\n".join(rows)


def share(killed: int, count: int) -> str:
    interval = binomtest(killed, count).proportion_ci(method="wilson")
    return f"{killed / count:.0%} [{interval.low:.0%}, {interval.high:.0%}]"


def survivors_table() -> str:
    """The mutants that no test has noticed."""
    rows = ["| file and line | before | after |", "|---|---|---|"]
    for record in records_of("mutants"):
        for row in record["mutants"]:
            if not row["killed"]:
                before, after = (row[key].replace("|", "\\|") for key in ("before", "after"))
                rows.append(f"| {row['file'].removeprefix('sb3_relax/')}:{row['line']} | `{before}` | `{after}` |")
    return "\n".join(rows)


def memory_sentence() -> str:
    """What a long training takes at first and at last."""
    record = read_record(RESULTS / "memory.json")
    first, last = record["mib"][0], record["mib"][-1]
    return (
        f"{record['timesteps']:,} steps of {record['env']} in {record['n_envs']} environments, {record['updates']:,} "
        f"updates: {first[1]:.1f} MiB after {first[0]:,} steps and {last[1]:.1f} MiB at the end. From a fifth of the "
        f"way on it changed by {record['growth_mib_per_million_steps']:+.2f} MiB a million steps."
    )
