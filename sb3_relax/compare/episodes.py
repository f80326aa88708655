"""What a training run went through: its episodes, and the variance of its gradients."""

from __future__ import annotations

from stable_baselines3.common.callbacks import BaseCallback


class Episodes(BaseCallback):
    """Every episode's return and the step at which it ended, and every update's variance with ĉ and without.

    Returns are those of SB3's Monitor, to six significant digits. The variances are what the algorithms of this package
    log; ``learn(log_interval=...)`` clears one of them at each of its intervals.
    """

    def __init__(self) -> None:
        super().__init__()
        self.returns: list[float] = []
        self.steps: list[int] = []
        self.variances: list[tuple[int, float, float]] = []

    def _on_step(self) -> bool:
        for info in self.locals["infos"]:
            if "episode" in info:
                self.ended(info["episode"]["r"])
        return True

    def ended(self, episode_return: float) -> None:
        """Keep an episode that has just ended."""
        self.returns.append(float(f"{episode_return:.6g}"))
        self.steps.append(self.num_timesteps)

    def _on_rollout_start(self) -> None:
        log = self.logger.name_to_value
        if "train/grad_variance" in log:
            with_cv, without = log["train/grad_variance"], log["train/grad_variance_no_cv"]
            self.variances.append((self.num_timesteps, with_cv, without))
