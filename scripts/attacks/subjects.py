"""What is killed: work that writes files, and can be begun again wherever it was killed."""

from __future__ import annotations

import hashlib
import json
import sys
from abc import ABC, abstractmethod
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch as th
from optuna.trial import TrialState
from stable_baselines3.common.env_util import make_vec_env

from sb3_relax import RELAXA2C
from sb3_relax.files import write_whole
from sb3_relax.tasks.vae import __main__ as vae
from sb3_relax.tasks.vae import checkpoint, store
from sb3_relax.tasks.vae.data import load_dataset
from sb3_relax.tasks.vae.trainer import Config, Trainer
from sb3_relax.zoo import cli as zoo
from sb3_relax.zoo.storage import open_storage
from scripts.records import Records
from scripts.run import rl, tune

#: a run of a sweep
ENTRY = {"algorithm": "relaxa2c", "policy": "MlpPolicy", "n_timesteps": 500, "n_steps": 32}


class Subject(ABC):
    """Work in a folder, which goes on from what is there."""

    #: seconds after which it is killed at the latest
    longest = 2.0
    #: processes that do the work at the same time
    at_once = 1
    #: what :meth:`items` counts
    item = ""

    @abstractmethod
    def work(self, folder: Path) -> None:
        """Do the work up to its end, from wherever it is."""

    @abstractmethod
    def state(self, folder: Path) -> dict[str, Any]:
        """What is there, by name. Whatever cannot be read is an error."""

    @abstractmethod
    def is_complete(self, folder: Path) -> bool:
        """Whether all of the work is done."""

    def require_kept(self, before: dict[str, Any], now: dict[str, Any]) -> None:
        """Nothing that was there is gone, or is another."""
        for name, value in before.items():
            assert name in now, f"{name} is lost"
            assert now[name] == value, f"{name} is no longer what it was: {value} has become {now[name]}"

    def require_whole(self, folder: Path) -> None:
        """What holds of all the work, once it is complete; of some work nothing more."""
        assert self.is_complete(folder)

    def items(self, now: dict[str, Any]) -> int:
        """How much was done."""
        return len(now)


class Forward(Subject):
    """Work of which a number says how far it is, which never goes back."""

    def require_kept(self, before: dict[str, Any], now: dict[str, Any]) -> None:
        assert now["done"] >= before.get("done", 0), f"{before} has become {now}"

    def items(self, now: dict[str, Any]) -> int:
        return now["done"]


class Training(Forward):
    """RELAXA2C, which saves itself after every step of the environment."""

    item = "steps of the environment, each followed by a save"
    steps = 600

    def work(self, folder: Path) -> None:
        path = folder / "agent.zip"
        if path.exists():
            model = RELAXA2C.load(path, env=make_vec_env("CartPole-v1"), device="cpu")
        else:
            model = RELAXA2C("MlpPolicy", "CartPole-v1", seed=0, device="cpu")

        def save(local: dict[str, Any], _: dict[str, Any]) -> bool:
            local["self"].save(path)
            return True

        model.learn(self.steps - model.num_timesteps, callback=save, reset_num_timesteps=False)

    def state(self, folder: Path) -> dict[str, Any]:
        path = folder / "agent.zip"
        if not path.exists():
            return {"done": 0}
        model = RELAXA2C.load(path, device="cpu")
        model.predict(np.zeros(4, np.float32))
        assert all(bool(weight.isfinite().all()) for weight in model.policy.parameters())
        return {"done": model.num_timesteps}

    def is_complete(self, folder: Path) -> bool:
        return self.state(folder)["done"] >= self.steps


class Autoencoder(Forward):
    """The VAE's training, with a checkpoint every ten iterations."""

    item = "iterations"
    iterations = 400
    config = Config(dataset="digits", model="linear1", estimator="relax")

    def __init__(self) -> None:
        # imported and read here, they are there in every process that is forked from this one
        from torch.utils.tensorboard import SummaryWriter  # noqa: F401

        load_dataset(self.config.dataset)

    def work(self, folder: Path) -> None:
        what = ["--dataset", self.config.dataset, "--model", self.config.model, "--estimator", self.config.estimator]
        vae.main(["train", *what, "--output", str(folder), "--iterations", str(self.iterations), "--every", "10"])

    def state(self, folder: Path) -> dict[str, Any]:
        path = folder / vae.CHECKPOINT
        return {"done": checkpoint.load(path)["iteration"] if path.exists() else 0}

    def is_complete(self, folder: Path) -> bool:
        return self.state(folder)["done"] >= self.iterations

    def require_whole(self, folder: Path) -> None:
        """Bit for bit what it is without a kill."""
        vae.prepare_cpu(1)
        trainer = Trainer(self.config, load_dataset(self.config.dataset))
        trainer.train(self.iterations, 10)
        state = checkpoint.load(folder / vae.CHECKPOINT)
        for name, weight in {**trainer.model.state_dict(), **trainer.estimators.state_dict()}.items():
            assert th.equal(weight, {**state["model"], **state["estimators"]}[name]), name


class Cache(Subject):
    """Prepared data, kept for the next time: many files, one after the other."""

    item = "files"
    longest = 1.0
    files = 400

    def work(self, folder: Path) -> None:
        for number in range(self.files):
            kept = store.load_or_make(folder / f"{number}.npz", lambda number=number: self.array(number))
            assert np.array_equal(kept, self.array(number))

    @staticmethod
    def array(number: int) -> np.ndarray:
        return np.random.default_rng(number).integers(0, 256, (200, 28, 28), np.uint8)

    def state(self, folder: Path) -> dict[str, Any]:
        return {path.name: hashlib.sha256(store.read(path)).hexdigest() for path in folder.glob("[!.]*.npz")}

    def is_complete(self, folder: Path) -> bool:
        return len(list(folder.glob("[!.]*.npz"))) == self.files

    def require_whole(self, folder: Path) -> None:
        for number in range(self.files):
            assert np.array_equal(store.read(folder / f"{number}.npz"), self.array(number))


class Sweep(Subject):
    """``scripts.run.rl``, two runs at a time, each in a process of its own."""

    item = "runs"
    longest = 12.0
    jobs = 2
    seeds = 40

    def work(self, folder: Path) -> None:
        protocol = folder / "tiny.yml"
        if not protocol.exists():
            task = {"seeds": list(range(self.seeds)), "threshold": 475, "algorithms": {"short": ENTRY}}
            write_whole(protocol, json.dumps({"CartPole-v1": task}).encode())
        run_script(rl, "--protocol", protocol, "--output", folder, "--jobs", self.jobs)

    def state(self, folder: Path) -> dict[str, Any]:
        records = Records(folder / "tiny")
        return {f"run {record['seed']}": digest(record) for record in records.read()}

    def is_complete(self, folder: Path) -> bool:
        records = Records(folder / "tiny")
        return len(records.names()) == self.seeds and not records.unpacked()

    def require_whole(self, folder: Path) -> None:
        """One record a run, in one place."""
        lines = (folder / "tiny" / "runs.jsonl").read_text().splitlines()
        assert sorted(json.loads(line)["seed"] for line in lines) == list(range(self.seeds))


class SweepsAtOnce(Sweep):
    """Four sweeps in one folder."""

    longest = 4.0
    at_once = 4
    jobs = 1


class Study(Subject):
    """``sb3-relax tune`` with a journal, up to a number of trials."""

    item = "trials"
    trials = 100

    def work(self, folder: Path) -> None:
        which = ["--algo", "relaxa2c", "--env", "CartPole-v1", "-n", "64", "--device", "cpu", "--num-threads", "1"]
        limits = ["--max-total-trials", str(self.trials), "--n-evaluations", "1", "--eval-episodes", "1"]
        how = ["--sampler", "random", "--pruner", "none", "--no-optim-plots", "-f", str(folder / "logs")]
        zoo.main(["tune", *which, *limits, *how, "--storage", str(folder / "study.log"), "--study-name", "study"])

    def state(self, folder: Path) -> dict[str, Any]:
        return ended_trials(folder / "study.log")

    def is_complete(self, folder: Path) -> bool:
        return len(self.state(folder)) >= self.trials

    def require_whole(self, folder: Path) -> None:
        assert len(self.state(folder)) == self.trials


class StudiesAtOnce(Subject):
    """Four of ``scripts.run.tune`` in one folder, with one journal of two studies."""

    item = "trials"
    longest = 4.0
    at_once = 4
    trials = 40
    methods = ("first", "second")

    def work(self, folder: Path) -> None:
        protocol = folder / "tiny.yml"
        if not protocol.exists():
            method = {"algorithm": "relaxa2c", "space": {"learning_rate": {"low": 0.0003, "high": 0.03}}}
            task = {"seeds": [1000], "n_trials": self.trials, "n_timesteps": 200, "threshold": 475}
            task |= {"report": {"seeds": [0], "n_timesteps": 200}, "all": {"policy": "MlpPolicy", "n_steps": 32}}
            task["methods"] = dict.fromkeys(self.methods, method)
            write_whole(protocol, json.dumps({"CartPole-v1": task}).encode())
        run_script(tune, "--protocol", protocol, "--output", folder, "--jobs", 1, "--storage", folder / "study.log")

    def state(self, folder: Path) -> dict[str, Any]:
        records = {f"record {record['algorithm']}": digest(record) for record in Records(folder / "tiny").read()}
        return {**ended_trials(folder / "study.log"), **records}

    def is_complete(self, folder: Path) -> bool:
        records = Records(folder / "tiny")
        return len(records.names()) == len(self.methods) and not records.unpacked()

    def require_whole(self, folder: Path) -> None:
        """As many trials as were asked for in each record, each once, and as they are in the journal."""
        ended = ended_trials(folder / "study.log")
        records = Records(folder / "tiny").read()
        assert [record["algorithm"] for record in records] == list(self.methods)
        for record in records:
            numbers = [trial["number"] for trial in record["trials"]]
            assert len(numbers) == len({*numbers}) == self.trials
            for trial in record["trials"]:
                _, parameters, _ = ended[f"CartPole-v1_{record['algorithm']} trial {trial['number']}"]
                assert parameters == trial["params"]
        # each of the others may have been at one more trial when the last one came to its end
        assert len(ended) <= len(self.methods) * (self.trials + self.at_once - 1)

    def items(self, now: dict[str, Any]) -> int:
        return sum(not name.startswith("record") for name in now)


def run_script(module: ModuleType, *arguments: object) -> None:
    """A script's ``main``, in a process that is there for it alone."""
    sys.argv = [str(module.__file__), *map(str, arguments)]
    module.main()


def digest(record: dict[str, Any]) -> str:
    """Of all of a record: that of the same run, made again, is another, since it took another time."""
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def ended_trials(journal: Path) -> dict[str, Any]:
    """The trials of all studies of a journal that came to their end: state, parameters and value."""
    if not journal.exists() or journal.stat().st_size == 0:
        return {}
    storage = open_storage(str(journal))
    return {
        f"{study.study_name} trial {trial.number}": (trial.state.name, trial.params, trial.values)
        for study in storage.get_all_studies()
        for trial in storage.get_all_trials(study._study_id, deepcopy=False)
        if trial.state in (TrialState.COMPLETE, TrialState.PRUNED)
    }


#: what can be killed, by name
SUBJECTS: dict[str, type[Subject]] = {
    "training": Training,
    "vae": Autoencoder,
    "cache": Cache,
    "sweep": Sweep,
    "tuning": Study,
    "sweeps-at-once": SweepsAtOnce,
    "studies-at-once": StudiesAtOnce,
}
