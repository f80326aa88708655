"""The result of a diagnosis: numbers, their JSON, and a table."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sb3_relax.diagnose.cost import Cost
from sb3_relax.diagnose.jackknife import Jackknifed

if TYPE_CHECKING:
    from rich.table import Table


#: what the table adds where the agent has normalize_advantage=True
NORMALIZED = (
    "Note: the agent trains with normalize_advantage=True, which is ignored here: advantages are as GAE gives them, "
    "not normalised over their batch."
)


@dataclass(frozen=True)
class Number:
    """A measured value with its standard error and an interval."""

    value: float
    standard_error: float
    low: float
    high: float

    @classmethod
    def of(cls, measured: Jackknifed, confidence: float = 0.95) -> Number:
        """From a jackknife, with Student's t interval."""
        return cls(measured.value, measured.standard_error, *measured.interval(confidence))

    def __str__(self) -> str:
        if math.isnan(self.standard_error):
            return _digits(self.value, 3)
        return f"{_digits(self.value, 3)} ± {_digits(self.standard_error, 1)}"

    @property
    def bracketed(self) -> str:
        """Value and interval."""
        return f"{_short(self.value)} [{_short(self.low)}, {_short(self.high)}]"


def _digits(value: float, count: int) -> str:
    """That many significant digits; scientific only from a million on and below 1e-4, where that is shorter."""
    text = f"{value:.{count}g}"
    return f"{float(text):,.0f}" if "e+" in text and abs(value) < 1e6 else text


def _short(ratio: float) -> str:
    return f"{ratio:.2f}" if 0.1 <= abs(ratio) < 1000 else f"{ratio:.2g}"


@dataclass(frozen=True)
class Row:
    """One estimator at one λ. All variances are Σ_i Var(ĝ_i) over the policy's weights.

    The parts are of one step's ĝ (see :class:`~sb3_relax.diagnose.moments.Split`); ``None`` where the environment
    cannot be continued from a state. ``state`` is the same for every unbiased estimator, and measured with the control
    variate, where it is least noisy. So is ``future``, but for control variates of later actions (``"trajectory"``),
    which act on it. Estimates of a part are unbiased, so one that is small may come out negative.

    :param name: ``"none"``, ``"V(s)"``, ``"best b(s)"`` (the variance-optimal state baseline b(s, steps left), which
        also knows how many steps of the rollout are left: more than V(s) or any b(s) of the observation alone does),
        ``"ĉ(s)"`` (a baseline fitted on top of V as ĉ(a, s) is), ``"LAX"``, ``"RELAX"`` or ``"exact"``, or
        the name of a further one
    :param gae_lambda: λ of the advantage
    :param total: future + noise + action + state
    :param ratio: total over that with V(s); joint intervals (see :class:`Diagnosis`), as are those below
    :param beside_best: (total - total with the best b(s)) / total with V(s)
    :param rollouts: variance of a whole rollout's gradient, over repeated rollouts (``None`` for the best b(s), which
        is not known away from the sampled states)
    :param rollouts_ratio: the same over that with V(s)
    :param beside_state: the same over that with ĉ(s): what reading the action does
    :param action_share: action / total, with V(s): the most a control variate of the step's own action could remove
    :param share: η, the share of ĉ that is applied
    :param later_share: that of ã, of a control variate of later actions
    """

    name: str
    gae_lambda: float
    future: Number | None = None
    noise: Number | None = None
    action: Number | None = None
    state: Number | None = None
    total: Number | None = None
    ratio: Number | None = None
    beside_best: Number | None = None
    rollouts: Number | None = None
    rollouts_ratio: Number | None = None
    beside_state: Number | None = None
    action_share: Number | None = None
    share: float | None = None
    later_share: float | None = None


@dataclass(frozen=True)
class Diagnosis:
    """What :func:`~sb3_relax.diagnose.diagnose` found.

    The intervals that the sentence reads hold jointly, at the ``confidence`` among ``settings`` (Bonferroni over all of
    them): at every λ ``action_share``, and for every control variate ``ratio``, ``beside_best``, ``rollouts_ratio`` and
    ``beside_state``. The same ratios of ``"none"``, ``"ĉ(s)"`` and ``"best b(s)"`` are as wide, but not among those
    counted. All other intervals hold one by one.

    :param algorithm: ``"LAXA2C"`` or ``"RELAXA2C"``
    :param restore: how states were reached again: ``"copy"``, ``"replay"`` or ``None``
    :param rows: estimators × λ
    :param cost: time of a rollout and its update
    :param sentence: what follows from the intervals
    :param settings: all sizes and seeds, and the agent's ``normalize_advantage``, which is ignored here
    """

    algorithm: str
    restore: str | None
    rows: list[Row]
    cost: Cost
    sentence: str
    settings: dict[str, Any]

    def at(self, name: str, gae_lambda: float) -> Row:
        """The row of an estimator at a λ.

        :raises KeyError: saying which there are
        """
        for row in self.rows:
            if (row.name, row.gae_lambda) == (name, gae_lambda):
                return row
        raise KeyError(f"no row {name!r} at λ = {gae_lambda}; there are {[(r.name, r.gae_lambda) for r in self.rows]}")

    def to_dict(self) -> dict[str, Any]:
        """Everything, in JSON's own types."""
        return {**asdict(self), "cost": {**asdict(self.cost), "ratio": self.cost.ratio}}

    def save(self, path: str | Path) -> None:
        """Write :meth:`to_dict` as JSON."""
        Path(path).write_text(json.dumps(self.to_dict(), indent=1, ensure_ascii=False) + "\n")

    def table(self) -> Table:
        """For ``rich.print``.

        :raises ModuleNotFoundError: without rich
        """
        from rich.table import Table

        normalized = self.settings.get("normalize_advantage")
        table = Table(
            title="Variance of one step's policy gradient, value ± standard error; best b(s) = b(s, steps left)",
            caption="\n".join([self.sentence.replace("; ", ";\n"), *([NORMALIZED] if normalized else [])]),
            caption_justify="left",
        )
        for heading in (
            "λ",
            "",
            "future Σ_τ",
            "action Σ_a",
            "noise",
            "state Σ_s",
            "total",
            "÷ V(s)",
            "rollouts ÷ V(s)",
        ):
            table.add_column(heading, overflow="fold")
        for row in self.rows:
            parts = (row.future, row.action, row.noise, row.state, row.total)
            ratios = (row.ratio, row.rollouts_ratio)
            table.add_row(
                f"{row.gae_lambda:g}",
                row.name,
                *("—" if part is None else str(part) for part in parts),
                *("—" if ratio is None else ratio.bracketed for ratio in ratios),
                end_section=row is self.rows[-1] or self.rows[self.rows.index(row) + 1].gae_lambda != row.gae_lambda,
            )
        return table
