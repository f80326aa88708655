"""What the control variate costs in time."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from stable_baselines3 import A2C
from stable_baselines3.common.vec_env import VecEnv

from sb3_relax.algorithm.a2c import ControlVariateA2C
from sb3_relax.policy_gradient.action_spaces import act_in, as_sb3_counts
from sb3_relax.policy_gradient.observation_scale import normalize_observations_in, scale_of


@dataclass(frozen=True)
class Cost:
    """Seconds on this machine, the shortest of several: what else the machine does can only add to them.

    :param rollout: of collecting a rollout
    :param update: of an update of policy, V and ĉ
    :param update_without: of SB3's A2C on the same rollout
    """

    rollout: float
    update: float
    update_without: float

    @property
    def ratio(self) -> float:
        """Time of a rollout and its update, with ĉ over without."""
        return (self.rollout + self.update) / (self.rollout + self.update_without)


def measure_cost(model: ControlVariateA2C, env: VecEnv, repeats: int = 100) -> Cost:
    """Times of a rollout and of updates on it, with ĉ and without in turns.

    :param model: a frozen copy, whose weights are moved by this
    :param env: as many environments as the copy's ``n_envs``
    """
    state = np.random.get_state()  # noqa: NPY002  (SB3 shuffles a rollout with NumPy's own generator)
    a2c = a2c_like(model, env)
    model.set_env(env)
    times: dict[str, list[float]] = {"rollout": [], "update": [], "update_without": []}
    for each in (model, a2c):
        each.rollout_buffer.n_envs = env.num_envs
        _, callback = each._setup_learn(total_timesteps=0, callback=None)
        for _ in range(10):
            start = time.perf_counter()
            each.collect_rollouts(env, callback, each.rollout_buffer, each.n_steps)
            times["rollout"].append(time.perf_counter() - start)
        each.train()  # the first pays for what is made only once
    for _ in range(repeats):
        for name, each in (("update", model), ("update_without", a2c)):
            start = time.perf_counter()
            each.train()
            times[name].append(time.perf_counter() - start)
    np.random.set_state(state)  # noqa: NPY002
    return Cost(**{name: min(values) for name, values in times.items()})


def a2c_like(model: ControlVariateA2C, env: VecEnv) -> A2C:
    """SB3's A2C with a fresh policy of the model's kind, which counts actions and normalises observations as it does.

    :param model: a frozen copy
    :param env: as many environments as the copy's ``n_envs``
    """
    arguments: dict[str, Any] = {name: getattr(model, name) for name in ("n_steps", "policy_kwargs", "device")}
    a2c = A2C(model.policy_class, None, **arguments, _init_setup_model=False)  # type: ignore[arg-type]
    a2c.observation_space, a2c.n_envs = model.observation_space, env.num_envs
    a2c.action_space = as_sb3_counts(model.action_space)
    a2c._setup_model()
    act_in(a2c.policy, model.action_space)
    if scale_of(model.policy) is not None:
        normalize_observations_in(a2c.policy)
    a2c.action_space = model.action_space
    a2c.set_env(env)
    return a2c
