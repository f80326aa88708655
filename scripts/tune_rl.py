"""Hyper-parameters by Optuna, every method of an environment on the same number of trials, steps and tuning seeds.

    python scripts/tune_rl.py                               # all of scripts/protocols/tuning.yml
    python scripts/tune_rl.py --env CartPole-v1 --jobs 2    # one environment
    python scripts/run_rl.py --protocol scripts/protocols/tuned.yml    # then: what was found, on fresh seeds

A trial's value is the mean return during training, averaged over the tuning seeds (rl_zoo3 chooses by the last
evaluation, which is at its best for many settings); networks are those of the protocol. Trials are pruned after a seed
that is worse than the median there. A study is a record in scripts/results/tuning and, while it runs, a journal in
scripts/runs/tuning: a killed search goes on. ``--storage`` names a database instead, which several machines share.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import yaml
from optuna.trial import TrialState
from records import RESULTS, ROOT, provenance, read_records, write_record
from rl_statistics import mean_return_during_training
from run_rl import trained
from sweep import BACKENDS, in_parallel

from sb3_relax.zoo.storage import open_storage

#: a trial in one of these has had its part of the budget
ENDED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
HEADER = """\
# Written by scripts/tune_rl.py from scripts/results/tuning: the best trial of every study of {protocol},
# for seeds that the search did not see.
"""


def suggested(trial: optuna.Trial, space: dict[str, Any]) -> dict[str, Any]:
    """A protocol's space: a list is a choice, a mapping the arguments of Optuna's ``suggest_float``."""
    return {
        name: trial.suggest_categorical(name, values)
        if isinstance(values, list)
        else trial.suggest_float(name, **values)
        for name, values in space.items()
    }


def entry_of(task: dict[str, Any], method: dict[str, Any], parameters: dict[str, Any]) -> dict[str, Any]:
    """What scripts/run_rl.py runs: the environment's values, the method's, and what was searched."""
    fixed = {key: value for key, value in method.items() if key != "space"}
    return {**task["all"], **fixed, **parameters}


def opened(name: str, storage: str | None, folder: Path) -> optuna.Study:
    """The study of that name, as far as it has come."""
    place = open_storage(storage or str(folder / f"{name}.log"))
    study = optuna.create_study(study_name=name, storage=place, direction="maximize", load_if_exists=True)
    # seeded by how far it is: going on does not draw the first trials again
    study.sampler = optuna.samplers.TPESampler(seed=len(study.trials))
    study.pruner = optuna.pruners.MedianPruner(n_startup_trials=5)
    return study


def search(env_id: str, name: str, task: dict[str, Any], storage: str | None, journals: Path, path: Path) -> None:
    """One study and its record."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    method = task["methods"][name]
    study = opened(path.stem, storage, journals)

    def value(trial: optuna.Trial) -> float:
        entry = entry_of(task, method, suggested(trial, method["space"])) | {"n_timesteps": task["n_timesteps"]}
        values: list[float] = []
        for step, seed in enumerate(task["seeds"]):
            model, _, recorder, _ = trained(env_id, entry, seed, task["threshold"])
            if not recorder.returns:
                raise ValueError(f"no episode of {env_id} ended in {task['n_timesteps']} steps; give a trial more")
            during = {
                "timesteps": model.num_timesteps,
                "episode_steps": recorder.steps,
                "episode_returns": recorder.returns,
            }
            values.append(mean_return_during_training(during))
            trial.set_user_attr("values", values)
            trial.report(float(np.mean(values)), step)
            if trial.should_prune() and step + 1 < len(task["seeds"]):
                raise optuna.TrialPruned
        return float(np.mean(values))

    while sum(trial.state in ENDED for trial in study.trials) < task["n_trials"]:
        # a diverged run (NaN: torch.distributions' ValueError) is a failed trial, and counts
        study.optimize(value, n_trials=1, catch=(ValueError,))
    trials = [trial for trial in study.trials if trial.state in ENDED][: task["n_trials"]]
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    if not complete:
        raise RuntimeError(f"none of {len(trials)} trials came to its end; look at the first run's error above")
    best = max(complete, key=lambda trial: trial.value or 0.0)
    write_record(
        path,
        {
            "env": env_id,
            "algorithm": name,
            "seeds": task["seeds"],
            "n_timesteps": task["n_timesteps"],
            "space": method["space"],
            "best": {"trial": best.number, "value": best.value, "params": best.params},
            "trials": [
                {
                    "number": trial.number,
                    "state": trial.state.name.lower(),
                    "values": [round(v, 3) for v in trial.user_attrs.get("values", [])],
                    "params": trial.params,
                }
                for trial in trials
            ],
            "seconds": round(sum(t.duration.total_seconds() for t in trials if t.duration is not None), 1),
            **provenance(),
        },
    )


def tuned_protocol(protocol: dict[str, Any], records: list[dict[str, Any]]) -> dict[str, Any]:
    """The best of every study, on the budget and the seeds for reporting."""
    tuned: dict[str, Any] = {}
    for record in records:
        task = protocol[record["env"]]
        report = tuned.setdefault(
            record["env"], {"seeds": task["report"]["seeds"], "threshold": task["threshold"], "algorithms": {}}
        )
        entry = entry_of(task, task["methods"][record["algorithm"]], record["best"]["params"])
        report["algorithms"][record["algorithm"]] = entry | {"n_timesteps": task["report"]["n_timesteps"]}
    return tuned


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--protocol", type=Path, default=ROOT / "scripts" / "protocols" / "tuning.yml")
    parser.add_argument("--env", action="append", help="only this environment (may be repeated)")
    parser.add_argument("--jobs", type=int, default=2, help="studies at a time, one core each")
    parser.add_argument("--backend", choices=BACKENDS, default="loky", help="of joblib: ray and dask for clusters")
    parser.add_argument(
        "--storage", help="URL of a database, as sqlite:///studies.db: machines that share one search together"
    )
    parser.add_argument("--results", type=Path, default=RESULTS / "tuning")
    parser.add_argument("--journals", type=Path, default=ROOT / "scripts" / "runs" / "tuning")
    parser.add_argument(
        "--tuned", type=Path, default=ROOT / "scripts" / "protocols" / "tuned.yml", help="what is written"
    )
    arguments = parser.parse_args()
    protocol = yaml.safe_load(arguments.protocol.read_text())
    unknown = set(arguments.env or []) - set(protocol)
    if unknown:
        parser.error(f"{', '.join(sorted(unknown))} not in {arguments.protocol.name}; it has {', '.join(protocol)}")
    jobs = {}
    for env_id, task in protocol.items():
        if arguments.env and env_id not in arguments.env:
            continue
        shared = set(task["seeds"]) & set(task["report"]["seeds"])
        if shared:
            parser.error(f"{env_id}: seeds {sorted(shared)} are both for tuning and for reporting")
        for name in task["methods"]:
            path = arguments.results / f"{env_id}_{name}.json"
            if not path.exists():
                jobs[path.stem] = (env_id, name, task, arguments.storage, arguments.journals, path)
    failures = in_parallel(search, jobs, arguments.jobs, "studies", arguments.backend)
    tuned = tuned_protocol(protocol, list(read_records(arguments.results)))
    header = HEADER.format(protocol=arguments.protocol.name)
    arguments.tuned.write_text(header + yaml.safe_dump(tuned, sort_keys=False, width=120))
    if failures:
        raise SystemExit(f"{len(failures)} of {len(jobs)} studies failed")


if __name__ == "__main__":
    main()
