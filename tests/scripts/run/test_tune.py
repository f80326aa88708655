"""Searches of hyper-parameters, on small budgets."""

import json
import re

import numpy as np
import optuna
import pytest
import yaml

from scripts.records import Records
from scripts.run.tune import asked_of, opened, tuned_protocol
from tests.scripts.command import called, script

SEARCH = """
CartPole-v1:
  seeds: [1000, 1001]
  n_trials: {n_trials}
  n_timesteps: 200
  threshold: 475
  report: {{seeds: [{first}, 1], n_timesteps: 400}}
  all: {{policy: MlpPolicy, n_envs: 2}}
  methods:
    a2c:
      algorithm: relaxa2c
      cv_learning_rate: 0
      space: &space {{n_steps: [8, 16], learning_rate: {{low: 0.001, high: 0.01, log: true}}}}
    relaxa2c: {{algorithm: relaxa2c, space: *space}}
    diverges: {{algorithm: relaxa2c, space: {{learning_rate: [3.0e+38]}}}}
"""


def searched(tmp_path, n_trials, *arguments, first=0, n_timesteps=200, run=called):
    protocol = SEARCH.format(n_trials=n_trials, first=first).replace("n_timesteps: 200", f"n_timesteps: {n_timesteps}")
    (tmp_path / "search.yml").write_text(protocol)
    common = ("--protocol", tmp_path / "search.yml", "--output", tmp_path, "--jobs", 1)
    return run("run.tune", *common, *arguments, check=False)


def record_of_search(tmp_path, name):
    return Records(tmp_path / "search").get(f"CartPole-v1_{name}")


@pytest.mark.parametrize("shared", [False, True])
def test_every_method_is_searched_on_the_same_budget_and_a_search_goes_on(tmp_path, shared):
    storage = ("--storage", f"sqlite:///{tmp_path / 'studies.db'}") if shared else ()
    done = searched(tmp_path, 2, *storage)
    assert "1 of 3 studies failed" in done.stderr  # one whose every trial diverges has no best
    first = record_of_search(tmp_path, "relaxa2c")
    (
        tmp_path / "search" / "unpacked" / "CartPole-v1_relaxa2c.json"
    ).unlink()  # as if it had been killed before its record
    again = searched(tmp_path, 4, *storage)
    assert "1 of 3 studies failed" in again.stderr
    assert "none of 4 trials came to its end" in again.stdout
    a2c, relax = (record_of_search(tmp_path, name) for name in ("a2c", "relaxa2c"))
    assert len(a2c["trials"]) == len(relax["trials"]) == 4
    assert relax["trials"][:2] == first["trials"]  # not run again
    assert len({json.dumps(trial["params"]) for trial in relax["trials"]}) == 4  # nor drawn again
    values = {trial["number"]: np.mean(trial["values"]) for trial in relax["trials"] if trial["state"] == "complete"}
    best = relax["best"]
    assert best["trial"] == max(values, key=values.get)
    tuned = yaml.safe_load((tmp_path / "search" / "tuned.yml").read_text())["CartPole-v1"]
    assert tuned["seeds"] == [0, 1]
    assert tuned["algorithms"]["relaxa2c"] == {
        "policy": "MlpPolicy",
        "n_envs": 2,
        "algorithm": "relaxa2c",
        **best["params"],
        "n_timesteps": 400,
    }
    called("run.rl", "--protocol", tmp_path / "search" / "tuned.yml", "--output", tmp_path, "--jobs", 1)
    reported = Records(tmp_path / "tuned").get("CartPole-v1_a2c_0001")
    assert reported["hyperparams"]["cv_learning_rate"] == 0
    assert reported["hyperparams"]["learning_rate"] == a2c["best"]["params"]["learning_rate"]

    # of another protocol: neither the records nor, without them, the studies
    other = searched(tmp_path, 4, *storage, n_timesteps=300)
    assert other.returncode == 2
    assert "the record CartPole-v1_a2c is of another protocol" in other.stderr
    for path in (tmp_path / "search" / "unpacked").iterdir():
        path.unlink()
    other = searched(tmp_path, 4, *storage, n_timesteps=300)
    assert "the study CartPole-v1_a2c is of another protocol" in other.stdout


POINTS = """
CartPole-v1:
  seeds: [1000, 1001]
  points:
    - {gamma: 0.99, cv_learning_rate: 0.002}
    - {gamma: 0.9, cv_learning_rate: 0.002}
    - {gamma: 0.9, cv_learning_rate: 0}
  n_timesteps: 200
  threshold: 475
  report: {seeds: [0], n_timesteps: 400}
  all: {algorithm: relaxa2c, policy: MlpPolicy, n_envs: 2}
  methods:
    relax: {space: [gamma, cv_learning_rate]}
    none: {control_variate: none, space: [gamma]}
"""


def test_every_method_tries_all_points_whole_as_far_as_it_takes_them_and_goes_on(tmp_path):
    protocol = tmp_path / "search.yml"
    arguments = ("run.tune", "--protocol", protocol, "--output", tmp_path, "--jobs", 1)
    protocol.write_text(POINTS)
    called(*arguments)
    relax, none = (record_of_search(tmp_path, name) for name in ("relax", "none"))
    assert [trial["params"] for trial in relax["trials"]] == yaml.safe_load(POINTS)["CartPole-v1"]["points"]
    assert [trial["params"] for trial in none["trials"]] == [{"gamma": 0.99}, {"gamma": 0.9}]
    assert {len(trial["values"]) for trial in relax["trials"] + none["trials"]} == {2}  # no seed is left out
    # killed after its first point: that one is not run again, and the others are
    folder = tmp_path / "search"
    for path in folder.iterdir():
        if path.is_file():
            path.unlink()
    journal = folder / "journals" / "CartPole-v1_relax.log"
    lines = journal.read_text().splitlines(keepends=True)
    first_end = next(i for i, line in enumerate(lines) if '"state": 1' in line or '"state":1' in line)
    journal.write_text("".join(lines[: first_end + 1]))
    called(*arguments)
    again = record_of_search(tmp_path, "relax")
    assert [{**trial, "number": 0} for trial in again["trials"]] == [
        {**trial, "number": 0} for trial in relax["trials"]
    ]
    # other points are another search, and so is one without any, or of other episodes
    other = POINTS.replace("gamma: 0.99", "gamma: 0.98")
    drawn = re.sub(
        "points:", "n_trials: 3\n  without:", re.sub(r"space: \[.*\]", "space: {gamma: [0.9, 0.99]}", POINTS)
    )
    for text in (other, drawn, POINTS.replace("threshold:", "mean_of: 2\n  threshold:")):
        protocol.write_text(text)
        assert "is of another protocol" in called(*arguments, check=False).stderr


def test_a_point_without_what_a_method_takes_of_it_is_refused(tmp_path):
    (tmp_path / "search.yml").write_text(POINTS.replace("gamma: 0.99", "gama: 0.99"))
    done = called("run.tune", "--protocol", tmp_path / "search.yml", "--output", tmp_path, check=False)
    assert done.returncode == 2
    assert "CartPole-v1: relax takes gamma of the points, and not all of them have it" in done.stderr


def test_points_are_not_pruned(tmp_path):
    """What a median leaves out depends on the points before, so on the method."""
    task = yaml.safe_load(POINTS)["CartPole-v1"]
    study = opened("points", asked_of(task, task["methods"]["relax"]), None, tmp_path)
    assert isinstance(study.pruner, optuna.pruners.NopPruner)


def test_what_was_found_has_the_order_of_the_protocol_and_nothing_else():
    protocol = yaml.safe_load(POINTS)
    best = {"best": {"params": {"gamma": 0.9}}}
    records = [{"env": "CartPole-v1", "algorithm": name, **best} for name in ("none", "earlier", "relax")]
    found = tuned_protocol(protocol, records)
    assert list(found["CartPole-v1"]["algorithms"]) == ["relax", "none"]
    assert found["CartPole-v1"]["algorithms"]["none"]["gamma"] == 0.9
    assert list(found["CartPole-v1"]) == ["seeds", "threshold", "algorithms"]
    protocol["CartPole-v1"]["mean_of"] = 64
    assert tuned_protocol(protocol, records)["CartPole-v1"]["mean_of"] == 64
    assert tuned_protocol(protocol, []) == {}


def test_a_seed_for_reporting_is_not_tuned_on(tmp_path):
    done = searched(tmp_path, 1, first=1001, run=script)
    assert done.returncode == 2
    assert "CartPole-v1: seeds [1001] are both for tuning and for reporting" in done.stderr
