"""One sentence that says no more than the intervals do."""

from __future__ import annotations

from collections.abc import Sequence

from sb3_relax.diagnose.cost import Cost
from sb3_relax.diagnose.report import Number, Row
from sb3_relax.diagnose.variates import STATE

BASELINES = ("none", "V(s)", "best b(s)", STATE)
#: the algorithms' own control variates, whose time is measured
OWN = ("LAX", "RELAX", "exact")


def verdict(algorithm: str, rows: Sequence[Row], cost: Cost) -> str:
    """Whether LAX or RELAX can help, at which λ, and what it would cost.

    A gain (or a loss) is claimed only where the whole interval of the ratio of rollout variances to V(s)'s lies below
    (above) 1, these being what training sees and resting on the most data. What of it a state baseline ĉ(s), fitted in
    the same way, does as well is said as a share of the gain. That reading the action adds to it is claimed only where
    the whole interval of the ratio to the variance with ĉ(s) lies below 1. How it compares with the best
    baseline b(s, steps left) is known for one step's gradient only, and said so: more (or less) only where the interval
    of their difference excludes 0. Where one step's ratio and the rollouts' have intervals apart, the parts have missed
    something, and the sentence says so.

    All of this is said of LAX, RELAX and the exact correction, whose time is measured. Of further control variates it
    is said what they do to the variance, and that their time is not known.

    :param rows: all estimators at all λ
    """
    of_all = [(row, row.rollouts_ratio) for row in rows if row.rollouts_ratio is not None]
    measured = [(row, ratio) for row, ratio in of_all if row.name in OWN]
    further = _further([(row, ratio) for row, ratio in of_all if row.name not in (*OWN, *BASELINES)])
    gains = [(row, ratio) for row, ratio in measured if ratio.high < 1]
    losses = [row for row, ratio in measured if ratio.low > 1]
    if not gains:
        return (
            f"No gain{f' with {_own(measured)}' if further else ''} is shown: {_room(rows, measured)}{_losses(losses)}"
            f"{_apart(measured)}; {_cost(algorithm, cost)}.{further}"
        )
    best, ratio = min(gains, key=lambda pair: pair[1].value)
    where = {row.gae_lambda for row, _ in gains}
    others = {row.gae_lambda for row, _ in measured} - where
    nothing = f"; at λ = {_list(others)} no gain is shown" if others else ""
    mostly = f", mostly as a state baseline {STATE} would" if (_share_of_gain(best) or 0) > 0.5 else ""
    return (
        f"{algorithm} can lower the variance of the policy gradient at λ = {_list(where)}{mostly}: most with "
        f"{best.name} at λ = {best.gae_lambda:g}, to {ratio.bracketed} of that with V(s) over rollouts"
        f"{_beside_best(best)}{_beside_state(best, gains)}{nothing}{_losses(losses)}{_apart(measured)}; "
        f"{_cost(algorithm, cost)}{_pays(ratio, cost)}.{further}"
    )


def _own(measured: Sequence[tuple[Row, Number]]) -> str:
    """The algorithm's own control variates, as a headline that is theirs alone names them."""
    return " or ".join(dict.fromkeys(row.name for row, _ in measured))


def _further(measured: Sequence[tuple[Row, Number]]) -> str:
    """What is known of further control variates: what they do to the variance, and not what they cost."""
    if not measured:
        return ""
    said = []
    for name in dict.fromkeys(row.name for row, _ in measured):
        own = [(row, ratio) for row, ratio in measured if row.name == name]
        best, ratio = min(own, key=lambda pair: (pair[1].high >= 1, pair[1].value))
        if ratio.high < 1:
            beside = "" if best.beside_state is None else f" and {best.beside_state.bracketed} of that with {STATE}"
            said.append(f"with {name} it is {ratio.bracketed} of that with V(s){beside} at λ = {best.gae_lambda:g}")
        elif any(ratio.low > 1 for _, ratio in own):
            said.append(f"with {name} it is higher at λ = {_list({row.gae_lambda for row, r in own if r.low > 1})}")
        else:
            said.append(f"with {name} no gain is shown")
    return f" The variance over rollouts with further control variates, whose time was not measured: {'; '.join(said)}."


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
    if share >= 0.995:  # "at most 100%" would say nothing
        return (
            f"{text}, though the choice of action, all that one of the step's own action can act on, may make up "
            f"nearly all of one step's variance with V(s) (at λ = {gae_lambda:g})"
        )
    return (
        f"{text}, and the choice of action, all that one of the step's own action can act on, makes up at most "
        f"{share:.0%} of one step's variance with V(s) (at λ = {gae_lambda:g})"
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


def _beside_state(best: Row, gains: Sequence[tuple[Row, Number]]) -> str:
    """What of the best one's gain is the actions', and where else they are shown to add to it."""
    ratio = best.beside_state
    if ratio is None:
        return ""
    text = f"; a state baseline {STATE} fitted in the same way does {_in_words(_share_of_gain(best))}"
    if ratio.high < 1:
        return f"{text}: reading the action lowers the variance to {ratio.bracketed} of that with {STATE}"
    if ratio.low > 1:
        text += f": reading the action makes the variance {ratio.bracketed} times that with {STATE}"
    else:
        text += (
            f": that reading the action adds to it is not shown ({ratio.bracketed} of the variance with {STATE}), and "
            "a V that is fitted better (n_critic_steps) may do the same"
        )
    elsewhere = {row.gae_lambda for row, _ in gains if row.beside_state is not None and row.beside_state.high < 1}
    return f"{text}; at λ = {_list(elsewhere)} it is shown to" if elsewhere else text


def _share_of_gain(best: Row) -> float | None:
    """What the state baseline takes off the variance with V(s), as a share of what the best one does."""
    if best.rollouts_ratio is None or best.beside_state is None:
        return None
    # by the ratio of the two that is told beside it, so that one does not contradict the other
    state = best.rollouts_ratio.value / best.beside_state.value
    return (1 - state) / (1 - best.rollouts_ratio.value)


def _in_words(share: float | None) -> str:
    if share is None:
        return "a part of this"
    if share < 0.005:
        return "nothing of this"
    return "all of this" if share >= 0.995 else f"{share:.0%} of this"


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
