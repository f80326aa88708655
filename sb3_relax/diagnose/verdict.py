"""One sentence that says no more than the intervals do."""

from __future__ import annotations

from collections.abc import Sequence

from sb3_relax.diagnose.cost import Cost
from sb3_relax.diagnose.report import Number, Row
from sb3_relax.diagnose.variates import STATE

BASELINES = ("none", "V(s)", "best b(s)", STATE)


def verdict(algorithm: str, rows: Sequence[Row], cost: Cost) -> str:
    """Whether LAX or RELAX can help, at which λ, and what it would cost.

    A gain (or a loss) is claimed only where the whole interval of the ratio of rollout variances to V(s)'s lies below
    (above) 1, these being what training sees and resting on the most data. How much of it is the actions' is said by
    the ratio to the state baseline ĉ(s), fitted in the same way, under the same rule. How it compares with the best
    baseline b(s, steps left) is known for one step's gradient only, and said so: more (or less) only where the interval
    of their difference excludes 0. Where one step's ratio and the rollouts' have intervals apart, the parts have missed
    something, and the sentence says so.

    :param rows: all estimators at all λ
    """
    measured = [
        (row, row.rollouts_ratio) for row in rows if row.name not in BASELINES and row.rollouts_ratio is not None
    ]
    gains = [(row, ratio) for row, ratio in measured if ratio.high < 1]
    losses = [row for row, ratio in measured if ratio.low > 1]
    if not gains:
        return (
            f"No gain is shown: {_room(rows, measured)}{_losses(losses)}{_apart(measured)}; {_cost(algorithm, cost)}."
        )
    best, ratio = min(gains, key=lambda pair: pair[1].value)
    where = {row.gae_lambda for row, _ in gains}
    others = {row.gae_lambda for row, _ in measured} - where
    nothing = f"; at λ = {_list(others)} no gain is shown" if others else ""
    return (
        f"{algorithm} can lower the variance of the policy gradient at λ = {_list(where)}: most with {best.name} at "
        f"λ = {best.gae_lambda:g}, to {ratio.bracketed} of that with V(s) over rollouts"
        f"{_beside_state(best)}{_beside_best(best)}{nothing}{_losses(losses)}{_apart(measured)}; "
        f"{_cost(algorithm, cost)}{_pays(ratio, cost)}."
    )


def _list(values: set[float]) -> str:
    *most, last = [f"{value:g}" for value in sorted(values)]
    return f"{', '.join(most)} and {last}" if most else last


def _room(rows: Sequence[Row], measured: Sequence[tuple[Row, Number]]) -> str:
    """What the data still allow."""
    lowest = min(ratio.low for _, ratio in measured)
    text = f"every ratio to the variance with V(s) may be 1 or more (lowest end of an interval: {lowest:.2f})"
    shares = [(row.action_share.high, row.gae_lambda) for row in rows if row.action_share is not None]
    if not shares:
        return text
    share, gae_lambda = max(shares)
    return (
        f"{text}, and the choice of action, all that a control variate can act on, makes up at most "
        f"{min(share, 1):.0%} of one step's variance with V(s) (at λ = {gae_lambda:g})"
    )


def _losses(losses: Sequence[Row]) -> str:
    if not losses:
        return ""
    return "; it is higher with " + ", ".join(f"{row.name} at λ = {row.gae_lambda:g}" for row in losses)


def _is_apart(row: Row) -> bool:
    """Whether one step's variance and whole rollouts' tell different stories."""
    if row.ratio is None or row.rollouts_ratio is None:
        return False
    return row.ratio.high < row.rollouts_ratio.low or row.rollouts_ratio.high < row.ratio.low


def _apart(measured: Sequence[tuple[Row, Number]]) -> str:
    where = {row.gae_lambda for row, _ in measured if _is_apart(row)}
    if not where:
        return ""
    return (
        f"; the parts at λ = {_list(where)} miss what the rollouts see, rare steps or correlations between steps (more "
        "states may help)"
    )


def _beside_state(row: Row) -> str:
    """What of it is the actions'."""
    if row.beside_state is None:
        return ""
    ratio = row.beside_state
    if ratio.high < 1:
        return f", and to {ratio.bracketed} of that with a state baseline {STATE} fitted in the same way"
    if ratio.low > 1:
        return f", which is {ratio.bracketed} times that with a state baseline {STATE} fitted in the same way"
    return (
        f", which is not told apart from that with a state baseline {STATE} fitted in the same way ({ratio.bracketed})"
    )


def _beside_best(row: Row) -> str:
    if row.beside_best is None or _is_apart(row):
        return ""
    if row.beside_best.high < 0:
        return " (for one step's gradient, by more than any state baseline could)"
    if row.beside_best.low > 0:
        return " (one step's gradient the best state baseline alone would lower further)"
    return " (for one step's gradient, by no more, as far as is shown, than the best state baseline alone could)"


def _cost(algorithm: str, cost: Cost) -> str:
    return (
        f"with {algorithm} a rollout and its update take {cost.ratio:.2f} times as long as with A2C "
        f"(the update {cost.update / cost.update_without:.2f} times)"
    )


def _pays(ratio: Number, cost: Cost) -> str:
    if ratio.high * cost.ratio < 1:
        return ", which is less than what larger batches of the same variance would take"
    if ratio.low * cost.ratio > 1:
        return ", which is more than what larger batches of the same variance would take"
    return ""
