"""What tensorboard shows of every agent, unasked: is the control variate helping?"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback, ConvertCallback
from stable_baselines3.common.logger import Logger, TensorBoardOutputFormat
from stable_baselines3.common.type_aliases import MaybeCallback

#: updates before the last point that the next one looks back on as well
WINDOW = 100
#: from one point to the next the number of updates grows by this factor, and by one at least
GROWTH = 1.02


class Band(NamedTuple):
    """A line of a chart and the band around it, by their tags."""

    value: str
    low: str
    high: str

    @classmethod
    def around(cls, tag: str) -> Band:
        """The band of a ratio, as :func:`with_error` logs it."""
        return cls(tag, f"{tag}_low", f"{tag}_high")


#: category → chart → its lines: tags, or a tag with a band
Layout = Mapping[str, Mapping[str, Sequence[str | Band]]]

#: Tags of the answer. The tabs "Time Series" and "Scalars" show the groups of tags by the alphabet, this one first.
RATIO = "control_variate_helps_below_1/variance_ratio"
#: the constant 1, drawn into every chart of a ratio
NO_EFFECT = f"{RATIO}_no_effect"

#: the categories that stand first
QUESTION = "Is the control variate helping?"
DETAILS = "The control variate and the gradient's variance"

#: What is drawn of every run: SB3's own keys and ours. Tensorboard draws a category's bands after its other charts, so
#: that a band is first only in a category of its own.
LAYOUT: dict[str, dict[str, list[str | Band]]] = {
    QUESTION: {
        "gradient variance with ĉ ÷ without, ± standard error: it helps below 1": [Band.around(RATIO), NO_EFFECT],
    },
    DETAILS: {
        "share of ĉ that is applied": ["train/cv_gain"],
        "gradient variance over a batch's steps": ["train/grad_variance", "train/grad_variance_no_cv"],
    },
    "Returns": {"return": ["rollout/ep_rew_mean", "eval/mean_reward"], "length": ["rollout/ep_len_mean"]},
    "Losses": {
        "policy": ["train/policy_loss"],
        "value": ["train/value_loss"],
        "control variate": ["train/cv_loss"],
        "entropy": ["train/entropy_loss"],
        "explained variance": ["train/explained_variance"],
    },
    "Rates": {
        "learning rates": ["train/learning_rate", "train/critic_learning_rate", "train/cv_learning_rate"],
        "gradient norm": ["train/grad_norm"],
        "temperature": ["train/temperature"],
        "steps per second": ["time/fps"],
    },
}


class VarianceRatioCallback(BaseCallback):
    """Writes the ratio of the policy gradient's variances, and the layout that draws it, to tensorboard.

    ``learn()`` adds it to every training. Without tensorboard it does nothing. Every update has a ratio of variances
    over the steps of its batch, with ĉ ÷ without (``train/grad_variance_ratio``). A point is the mean of the ratios of
    all updates since the point before, and of the 100 before that. Points are written after every update at first, and
    later whenever the number of updates has grown by 2%. The first point is that of the first update whose error is
    known: the first of all where ĉ changes nothing yet (the guard has no evidence, or ĉ is zero), and the second
    otherwise.

    Written, under ``control_variate_helps_below_1/``: ``variance_ratio``, ``variance_ratio_low`` and
    ``variance_ratio_high`` (one standard error below and above it; updates count as independent), and
    ``variance_ratio_no_effect``, the constant 1.
    """

    def __init__(self) -> None:
        super().__init__()
        self.outputs: list[TensorBoardOutputFormat] = []
        self.ratios: list[float] = []
        self.n_updates = 0
        self.next_point = 1
        self.last_update: Any = None

    def _init_callback(self) -> None:
        # before a user's callback, which may have a layout of its own, starts
        self.outputs = tensorboard_outputs(self.logger)
        write_layout(self.outputs, LAYOUT)

    def _on_training_start(self) -> None:
        self.last_update = self.logger.name_to_value.get("train/n_updates")

    def _on_rollout_start(self) -> None:
        self._after_update()

    def _on_training_end(self) -> None:
        self._after_update()

    def _on_step(self) -> bool:
        return True

    def _after_update(self) -> None:
        """Take in an update, where there was one since the last call."""
        log = self.logger.name_to_value
        update, ratio_of_update = log.get("train/n_updates"), log.get("train/grad_variance_ratio")
        if not self.outputs or update == self.last_update or ratio_of_update is None:
            return
        self.last_update = update
        self.n_updates += 1
        self.ratios.append(ratio_of_update)
        if self.n_updates < self.next_point:
            return
        self.next_point = max(self.n_updates + 1, int(GROWTH * self.n_updates))
        ratio, standard_error = mean_with_error(np.array(self.ratios))
        self.ratios = self.ratios[-WINDOW:]
        if math.isfinite(ratio + standard_error):
            write(self.outputs, with_error(RATIO, ratio, standard_error), self.num_timesteps)


def mean_with_error(ratios: np.ndarray) -> tuple[float, float]:
    """The mean of numbers taken as independent, and its standard error.

    Every update counts the same, as in the guard: variances change by orders of magnitude while an agent learns, and
    in a ratio of sums a single update could outweigh a hundred others, and hide its own error.

    :param ratios: ``[n]``; NaN, where nothing varied, is left out
    :return: NaN where there is none; one alone has no error (NaN), except that 1 is exact: ĉ changed nothing
    """
    ratios = ratios[~np.isnan(ratios)]
    if len(ratios) < 2:
        return (1.0, 0.0) if (ratios == 1).any() else (math.nan, math.nan)
    return float(ratios.mean()), float(ratios.std(ddof=1) / math.sqrt(len(ratios)))


def with_error(tag: str, ratio: float, standard_error: float) -> dict[str, float]:
    """A ratio, the band of one standard error around it, and the line at 1, by their tags."""
    band = Band.around(tag)
    return {band.value: ratio, band.low: ratio - standard_error, band.high: ratio + standard_error, NO_EFFECT: 1.0}


def write(outputs: Sequence[Any], values: Mapping[str, Any], step: int) -> None:
    """Write values now, and to these outputs alone, whatever ``log_interval`` is.

    :param outputs: of SB3's logger
    """
    logger = Logger(folder=None, output_formats=list(outputs))
    for tag, value in values.items():
        logger.record(tag, value)
    logger.dump(step)


def tensorboard_outputs(logger: Logger) -> list[TensorBoardOutputFormat]:
    """Those of a logger's outputs that are tensorboard's."""
    return [output for output in logger.output_formats if isinstance(output, TensorBoardOutputFormat)]


def write_layout(outputs: Sequence[TensorBoardOutputFormat], layout: Layout) -> None:
    """Lay out tensorboard's tab "Custom Scalars"; of several layouts of a run, the last one counts."""
    if not outputs:
        return
    from tensorboard.plugins.custom_scalar import layout_pb2
    from torch.utils.tensorboard.summary import custom_scalars

    categories = [
        layout_pb2.Category(title=title, chart=[_chart(name, lines) for name, lines in charts.items()])
        for title, charts in layout.items()
    ]
    # torch's own function draws one band a chart: its frame is used, and its content replaced
    summary = custom_scalars({})
    summary.value[0].tensor.string_val[0] = layout_pb2.Layout(category=categories).SerializeToString()
    for output in outputs:
        file_writer: Any = output.writer.file_writer
        file_writer.add_summary(summary)


def _chart(title: str, lines: Sequence[str | Band]) -> Any:
    from tensorboard.plugins.custom_scalar import layout_pb2

    if any(isinstance(line, Band) for line in lines):
        bands = [line if isinstance(line, Band) else Band(line, line, line) for line in lines]
        series = [layout_pb2.MarginChartContent.Series(value=b.value, lower=b.low, upper=b.high) for b in bands]
        return layout_pb2.Chart(title=title, margin=layout_pb2.MarginChartContent(series=series))
    # these are read as regular expressions
    tags = [f"^{line}$" for line in lines if isinstance(line, str)]
    return layout_pb2.Chart(title=title, multiline=layout_pb2.MultilineChartContent(tag=tags))


def tags_of(layout: Layout) -> Iterator[str]:
    """Every tag that a layout draws."""
    for charts in layout.values():
        for lines in charts.values():
            for line in lines:
                yield from line if isinstance(line, Band) else (line,)


def and_the_answer(callback: MaybeCallback) -> list[BaseCallback]:
    """:class:`VarianceRatioCallback`, and after it what the user gave to ``learn()``."""
    given = [] if callback is None else callback if isinstance(callback, list) else [callback]
    return [VarianceRatioCallback(), *(c if isinstance(c, BaseCallback) else ConvertCallback(c) for c in given)]


def run_name(algorithm: Any) -> str:
    """What a run is called where ``learn()`` is given no ``tb_log_name``: the class, and its ĉ where not the default.

    ``RELAXA2C``, and beside it ``RELAXA2C_cv_state`` (a state baseline ĉ(s)), ``RELAXA2C_cv_none`` (A2C: also with
    ``cv_learning_rate=0``), ``RELAXA2C_cv_exact``, ``RELAXA2C_cv_relaxed``, ``RELAXA2C_cv_MyControlVariate``,
    and ``RELAXA2C_cv_trajectory_and_relax`` for ``"trajectory+relax"``.
    """
    values = algorithm.hyperparameters.of(algorithm)
    default = type(values)()
    variate: Any = values.control_variate
    if variate is None:
        variate = "none" if values.cv_learning_rate == 0 else values.default_control_variate
    word = variate if isinstance(variate, str) else getattr(variate, "__name__", type(variate).__name__)
    if word == default.default_control_variate:
        correction = getattr(values, "correction", None)
        word = "" if correction == getattr(default, "correction", None) else str(correction)
    word = re.sub(r"[^0-9A-Za-z_]", "", word.replace("+", "_and_"))
    return f"{type(algorithm).__name__}_cv_{word}" if word else type(algorithm).__name__
