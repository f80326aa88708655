"""What a training run went through: its episodes, and the variance of its gradients."""

from __future__ import annotations

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback


class Recorder(BaseCallback):
    """Every episode's return and step, the first step at which the mean of 100 reached the threshold, the variances.

    :param until_solved: stop there
    """

    def __init__(self, threshold: float, until_solved: bool = False):
        super().__init__()
        self.threshold = threshold
        self.until_solved = until_solved
        self.returns: list[float] = []
        self.steps: list[int] = []
        self.solved_at: int | None = None
        self.variances: list[tuple[int, float, float]] = []

    def _on_step(self) -> bool:
        for info in self.locals["infos"]:
            if "episode" in info:
                self.returns.append(round(float(info["episode"]["r"]), 2))
                self.steps.append(self.num_timesteps)
                mean = np.mean(self.returns[-100:])
                if self.solved_at is None and len(self.returns) >= 100 and mean >= self.threshold:
                    self.solved_at = self.num_timesteps
        return not (self.until_solved and self.solved_at is not None)

    def _on_rollout_start(self) -> None:
        log = self.logger.name_to_value
        if "train/grad_variance" in log:
            with_cv, without = log["train/grad_variance"], log["train/grad_variance_no_cv"]
            self.variances.append((self.num_timesteps, with_cv, without))
