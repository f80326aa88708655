"""The variance of the policy gradient, taken apart at frozen policies early, middle and late in training.

    python -m scripts.run.decompose                       # all of scripts/protocols/decomposition.yml
    python -m scripts.run.decompose --env CartPole-v1

Each environment's agent is trained once and kept at three places of its budget; sb3_relax.diagnose measures each, one
record per policy, in results/decomposition of the folder that this is run in. What has a record is not measured again.
The sizes of an environment are arguments of diagnose(): {control_variates: [model, trajectory+model]} adds their rows.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import torch as th
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from sb3_relax.diagnose import diagnose
from sb3_relax.zoo.settings import read_yaml
from scripts.records import ROOT, Records, add_output, file_name, provenance
from scripts.run.rl import built, hyperparams_of, made
from scripts.run.sweep import asked_for, in_parallel, run_command

PROTOCOL = ROOT / "scripts" / "protocols" / "decomposition.yml"
#: shares of an agent's budget after which its policy is kept
STAGES = {"early": 0.05, "middle": 0.3, "late": 1.0}
SEED = 0


class Keeper(BaseCallback):
    """Saves the agent, and its environment's statistics, at each stage."""

    def __init__(self, folder: Path, budget: int):
        super().__init__()
        self.folder = folder
        self.left = {stage: share * budget for stage, share in STAGES.items()}

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        self._keep()

    def _on_training_end(self) -> None:
        self._keep()

    def _keep(self) -> None:
        for stage in [stage for stage, steps in self.left.items() if self.num_timesteps >= steps]:
            del self.left[stage]
            self.model.save(self.folder / stage)
            statistics = self.model.get_vec_normalize_env()
            if statistics is not None:
                statistics.save(str(self.folder / f"{stage}.pkl"))


def frozen_env(env_id: str, hyperparams: dict[str, Any], statistics: Path) -> VecEnv:
    """One environment, as training saw it at that stage."""
    env = made(env_id, hyperparams, n_envs=1, seed=SEED)
    if statistics.exists():
        env = VecNormalize.load(str(statistics), env)
        env.training = False
    return env


def record_name(env_id: str, stage: str) -> str:
    return file_name(f"{env_id}_{stage}")


def decompose(env_id: str, task: dict[str, Any], records: Records, stages: list[str]) -> None:
    """Train an environment's agent, and measure it at each stage."""
    th.set_num_threads(1)
    model, hyperparams = built(env_id, task["agent"], SEED)
    with tempfile.TemporaryDirectory() as kept:
        budget = int(hyperparams["n_timesteps"])
        model.learn(budget, callback=Keeper(Path(kept), budget))
        for stage in stages:
            agent = type(model).load(Path(kept) / stage, device="cpu")
            statistics = Path(kept) / f"{stage}.pkl"
            result = diagnose(
                agent,
                lambda statistics=statistics: frozen_env(env_id, hyperparams, statistics),
                seed=SEED,
                **task.get("sizes", {}),
            )
            about = {"env": env_id, "stage": stage, "timesteps": agent.num_timesteps, "hyperparams": hyperparams}
            records.write(record_name(env_id, stage), {**about, **result.to_dict(), **provenance()})


def stale(record: dict[str, Any] | None, env_id: str, protocol: dict[str, Any]) -> bool:
    """Whether there is no record, or one of other values than the protocol's."""
    return record is None or record["hyperparams"] != hyperparams_of(env_id, protocol[env_id]["agent"])[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--protocol", type=Path, default=PROTOCOL)
    parser.add_argument("--env", action="append", help="only this environment (may be repeated)")
    parser.add_argument("--jobs", type=int, default=2, help="environments at a time, one core each")
    add_output(parser, "<protocol>/runs.jsonl")
    arguments = parser.parse_args()
    protocol = read_yaml(arguments.protocol)
    records = Records(arguments.output / arguments.protocol.stem)
    cells = [[record_name(env_id, stage) for stage in STAGES] for env_id in protocol]

    def pack() -> None:
        records.pack_complete(cells)

    pack()  # what a killed one left
    jobs = {}
    for env_id, task in asked_for(parser, arguments, protocol).items():
        missing = [stage for stage in STAGES if stale(records.get(record_name(env_id, stage)), env_id, protocol)]
        if missing:
            jobs[env_id] = (env_id, task, records, missing)
    if in_parallel(decompose, jobs, arguments.jobs, "environments", after_each=pack):
        raise SystemExit(1)


if __name__ == "__main__":
    run_command(main)
