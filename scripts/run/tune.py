"""Hyper-parameters by Optuna, every method of an environment on the same number of trials, steps and tuning seeds.

    python -m scripts.run.tune                               # all of scripts/protocols/tuning.yml
    python -m scripts.run.tune --env CartPole-v1 --jobs 2    # one environment
    python -m scripts.run.rl --protocol results/tuning/tuned.yml    # then: what was found, on fresh seeds

A trial's value is the mean return during training, averaged over the tuning seeds (rl_zoo3 chooses by the last
evaluation, which is at its best for many settings); networks are those of the protocol. Trials are pruned after a seed
that is worse than the median there. Where an environment has ``points``, these are the trials of all its methods, in
the place of ``n_trials``, and none is pruned; a method's ``space`` then names the arguments that it takes of them. A
study is a record in results/tuning of the folder that this is run in and, while it runs, a journal there: a killed
search goes on. ``--storage`` names a database instead, which several machines share. What was found is written to
results/tuning/tuned.yml, a protocol for scripts/run/rl.py.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import yaml
from optuna.trial import TrialState

from sb3_relax.compare.statistics import mean_return_during_training
from sb3_relax.files import write_whole
from sb3_relax.zoo.settings import read_yaml
from sb3_relax.zoo.storage import open_storage
from scripts.records import ROOT, Records, add_output, file_name, provenance
from scripts.run.rl import trained
from scripts.run.sweep import BACKENDS, asked_for, in_parallel, run_command

#: a trial in one of these has had its part of the budget; one that was interrupted has not
ENDED = (TrialState.COMPLETE, TrialState.PRUNED)
#: what earlier records and journals do not have, and what it was for them
NOT_IN_EARLIER: dict[str, Any] = {"points": [], "mean_of": 1}
HEADER = """\
# Written by scripts/run/tune.py: the best trial of every study of {protocol},
# for seeds that the search did not see.
"""


def points_of(task: dict[str, Any], method: dict[str, Any]) -> list[dict[str, Any]]:
    """The settings that a task names one by one, as far as a method searches them; none where Optuna draws them."""
    points = [{key: point[key] for key in method["space"]} for point in task.get("points", [])]
    return [point for place, point in enumerate(points) if point not in points[:place]]


def space_of(task: dict[str, Any], method: dict[str, Any]) -> Any:
    """A method's space. Where the task has points it names arguments alone, and the values are those of the points."""
    points = points_of(task, method)
    if not points:
        return method["space"]
    return {key: [*dict.fromkeys(point[key] for point in points)] for key in method["space"]}


def suggested(trial: optuna.Trial, space: dict[str, Any]) -> dict[str, Any]:
    """A protocol's space: a list is a choice, a mapping the arguments of Optuna's ``suggest_float``."""
    return {
        name: trial.suggest_categorical(name, values)
        if isinstance(values, list)
        else trial.suggest_float(name, **values)
        for name, values in space.items()
    }


def entry_of(task: dict[str, Any], method: dict[str, Any], parameters: dict[str, Any]) -> dict[str, Any]:
    """What scripts/run/rl.py runs: the environment's values, the method's, and what was searched."""
    fixed = {key: value for key, value in method.items() if key != "space"}
    return {**task["all"], **fixed, **parameters}


def asked_of(task: dict[str, Any], method: dict[str, Any]) -> dict[str, Any]:
    """All that decides what a trial is: a study, or a record, of anything else is another."""
    return {
        "seeds": task["seeds"],
        "n_timesteps": task["n_timesteps"],
        "fixed": entry_of(task, method, {}),
        "space": space_of(task, method),
        "points": points_of(task, method),
        "mean_of": task.get("mean_of", 1),
    }


def opened(name: str, asked: dict[str, Any], storage: str | None, folder: Path) -> optuna.Study:
    """The study of that name, as far as it has come.

    :raises ValueError: where it was asked something else
    """
    place = open_storage(storage or str(folder / f"{name}.log"))
    study = optuna.create_study(study_name=name, storage=place, direction="maximize", load_if_exists=True)
    if {**NOT_IN_EARLIER, **study.user_attrs.get("asked", asked)} != asked:
        raise ValueError(f"the study {name} is of another protocol; delete it, or give another --storage or --output")
    study.set_user_attr("asked", asked)
    # alone: seeded by how far it is, so that going on does not draw the first trials again. Workers that share a study
    # must not draw alike, nor where another is trying already
    seed, shared = (len(study.trials), False) if storage is None else (None, True)
    study.sampler = optuna.samplers.TPESampler(seed=seed, constant_liar=shared)
    # points are tried whole: which of them a median leaves out depends on the others, and so on the method
    study.pruner = optuna.pruners.NopPruner() if asked["points"] else optuna.pruners.MedianPruner(n_startup_trials=5)
    return study


def study_name(env_id: str, name: str) -> str:
    """Of a study, its journal and its record."""
    return file_name(f"{env_id}_{name}")


def ended(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    """Trials that have had their part of the budget. Those that ended first are first, also when others add more."""
    trials = [trial for trial in study.trials if trial.state in ENDED]
    return sorted(trials, key=lambda trial: (trial.datetime_complete, trial.number))


def first_of(point: dict[str, Any], study: optuna.Study) -> optuna.trial.FrozenTrial | None:
    """A point's trial, as soon as one has ended."""
    return next((trial for trial in ended(study) if trial.params == point), None)


def search(env_id: str, name: str, task: dict[str, Any], storage: str | None, records: Records) -> None:
    """One study and its record."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    method = task["methods"][name]
    asked = asked_of(task, method)
    study = opened(study_name(env_id, name), asked, storage, records.folder / "journals")

    def value(trial: optuna.Trial) -> float:
        entry = entry_of(task, method, suggested(trial, asked["space"])) | {"n_timesteps": task["n_timesteps"]}
        values: list[float] = []
        for step, seed in enumerate(task["seeds"]):
            try:
                _, _, recorder, _ = trained(env_id, entry, seed, task)
            except ValueError as error:
                # a run that diverges ends so: torch.distributions, or our own check, meets a NaN
                trial.set_user_attr("diverged", str(error))
                raise optuna.TrialPruned from error
            if not recorder.returns:
                raise RuntimeError(f"no episode of {env_id} ended in {task['n_timesteps']} steps; give a trial more")
            during = {
                "timesteps": task["n_timesteps"],  # the last update may go beyond
                "episode_steps": recorder.steps,
                "episode_returns": recorder.returns,
            }
            values.append(mean_return_during_training(during))
            trial.set_user_attr("values", values)
            trial.report(float(np.mean(values)), step)
            if trial.should_prune() and step + 1 < len(task["seeds"]):
                raise optuna.TrialPruned
        return float(np.mean(values))

    if asked["points"]:
        while left := [point for point in asked["points"] if first_of(point, study) is None]:
            study.enqueue_trial(left[0])
            study.optimize(value, n_trials=1)
        trials = [trial for point in asked["points"] if (trial := first_of(point, study)) is not None]
    else:
        while len(ended(study)) < task["n_trials"]:
            study.optimize(value, n_trials=1)
        trials = ended(study)[: task["n_trials"]]
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    if not complete:
        raise RuntimeError(f"none of {len(trials)} trials came to its end; the last: {trials[-1].user_attrs}")
    best = max(complete, key=lambda trial: trial.values[0])
    records.write(
        study_name(env_id, name),
        {
            "env": env_id,
            "algorithm": name,
            **asked,
            "best": {"trial": best.number, "value": best.value, "params": best.params},
            "trials": [
                {
                    "number": trial.number,
                    "state": "diverged" if "diverged" in trial.user_attrs else trial.state.name.lower(),
                    "values": [round(v, 3) for v in trial.user_attrs.get("values", [])],
                    "params": trial.params,
                }
                for trial in trials
            ],
            "seconds": round(sum(t.duration.total_seconds() for t in trials if t.duration is not None), 1),
            **provenance(),
        },
    )


def is_done(record: dict[str, Any] | None, task: dict[str, Any], method: dict[str, Any]) -> bool:
    """Whether there is a record of as many trials as are asked for.

    :raises ValueError: where it is of something else
    """
    if record is None:
        return False
    asked = asked_of(task, method)
    if {key: {**NOT_IN_EARLIER, **record}.get(key) for key in asked} != asked:
        name = study_name(record["env"], record["algorithm"])
        raise ValueError(f"the record {name} is of another protocol; delete it, or give another --output")
    return len(record["trials"]) >= (len(asked["points"]) or task["n_trials"])


def tuned_protocol(protocol: dict[str, Any], records: list[dict[str, Any]]) -> dict[str, Any]:
    """The best of every study, on the budget and the seeds for reporting, in the protocol's order."""
    found = {(record["env"], record["algorithm"]): record for record in records}
    tuned: dict[str, Any] = {}
    for env_id, task in protocol.items():
        report = task["report"]
        entries = {
            name: entry_of(task, method, found[env_id, name]["best"]["params"]) | {"n_timesteps": report["n_timesteps"]}
            for name, method in task["methods"].items()
            if (env_id, name) in found
        }
        if entries:
            tuned[env_id] = {"seeds": report["seeds"], "threshold": task["threshold"]}
            if "mean_of" in task:
                tuned[env_id]["mean_of"] = task["mean_of"]
            tuned[env_id]["algorithms"] = entries
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
    add_output(parser, "<protocol>/runs.jsonl, the journals and the protocol that is written")
    parser.add_argument("--tuned", type=Path, help="the protocol that is written; default: <protocol>/tuned.yml there")
    arguments = parser.parse_args()
    protocol = read_yaml(arguments.protocol)
    records = Records(arguments.output / arguments.protocol.stem)
    cells = [[study_name(env_id, name) for name in task["methods"]] for env_id, task in protocol.items()]

    def pack() -> None:
        records.pack_complete(cells)

    pack()  # what a killed one left
    jobs = {}
    for env_id, task in asked_for(parser, arguments, protocol).items():
        shared = set(task["seeds"]) & set(task["report"]["seeds"])
        if shared:
            parser.error(f"{env_id}: seeds {sorted(shared)} are both for tuning and for reporting")
        for name, method in task["methods"].items():
            unknown = sorted({key for point in task.get("points", []) for key in method["space"] if key not in point})
            if unknown:
                parser.error(f"{env_id}: {name} takes {', '.join(unknown)} of the points, and not all of them have it")
            try:
                done = is_done(records.get(study_name(env_id, name)), task, method)
            except ValueError as error:
                parser.error(str(error))
            if not done:
                jobs[study_name(env_id, name)] = (env_id, name, task, arguments.storage, records)
    failures = in_parallel(search, jobs, arguments.jobs, "studies", arguments.backend, after_each=pack)
    tuned = tuned_protocol(protocol, records.read())
    header = HEADER.format(protocol=arguments.protocol.name)
    path = arguments.tuned or records.folder / "tuned.yml"
    write_whole(path, (header + yaml.safe_dump(tuned, sort_keys=False, width=120)).encode())
    if failures:
        raise SystemExit(f"{len(failures)} of {len(jobs)} studies failed")


if __name__ == "__main__":
    run_command(main)
