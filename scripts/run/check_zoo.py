"""Every entry of zoo_hyperparams/ runs: 50,000 steps each through the command line, one record per entry.

    python -m scripts.run.check_zoo                     # what has no record yet
    python -m scripts.run.check_zoo --file a2c --jobs 1

Records go to results/zoo_check in the folder that this is run in. A run that fails leaves no record, is reported at the
end and does not take the others with it.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time

from stable_baselines3.common.monitor import load_results

from sb3_relax.zoo.hyperparams import read_entries
from scripts.records import ROOT, Records, add_output, file_name, provenance
from scripts.run.sweep import in_parallel

FILES = ("relaxa2c", "laxa2c", "a2c", "relaxa2c_lstm", "laxa2c_lstm")


def algorithm_of(file: str, env_id: str) -> str:
    """Who runs an entry: the file's algorithm; the matched baseline, where one of a2c.yml has arguments of ours."""
    if file != "a2c" or "cv_learning_rate" not in read_entries(ROOT / "zoo_hyperparams" / "a2c.yml")[env_id]:
        return file
    return "a2c_matched"


def entries_of(file: str) -> list[str]:
    """The environments of a file."""
    return [env_id for env_id in read_entries(ROOT / "zoo_hyperparams" / f"{file}.yml") if env_id != "default"]


def record_name(file: str, env_id: str) -> str:
    return file_name(f"{file}_{env_id}")


def check(file: str, env_id: str, steps: int, records: Records) -> None:
    """One run and its record."""
    algorithm = algorithm_of(file, env_id)
    with tempfile.TemporaryDirectory() as folder:
        command = ["train", "--algo", algorithm, "--env", env_id, "-n", str(steps), "--seed", "0", "--num-threads", "1"]
        command += ["--eval-freq", "-1", "--log-interval", "-2", "--verbose", "0", "--device", "cpu", "-f", folder]
        command += ["--conf-file", str(ROOT / "zoo_hyperparams" / f"{file}.yml")]
        start = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", "sb3_relax.zoo", *command],
            capture_output=True,
            text=True,
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        seconds = time.perf_counter() - start
        if done.returncode != 0:
            raise RuntimeError(f"{done.stdout}{done.stderr}")
        try:
            returns = load_results(f"{folder}/{algorithm}/{env_id}_1").r.tolist()
        except IndexError:
            returns = []  # no episode ended
    records.write(
        record_name(file, env_id),
        {
            "file": f"zoo_hyperparams/{file}.yml",
            "env": env_id,
            "algorithm": algorithm,
            "steps": steps,
            "seconds": round(seconds, 1),
            "episodes": len(returns),
            "last_return": round(returns[-1], 2) if returns else None,
            **provenance(),
        },
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--file", action="append", choices=FILES, help="only this file (may be repeated)")
    parser.add_argument("--steps", type=int, default=50_000)
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, one core each")
    add_output(parser, "zoo_check/runs.jsonl")
    arguments = parser.parse_args()
    records = Records(arguments.output / "zoo_check")
    cells = [[record_name(file, env_id) for env_id in entries_of(file)] for file in FILES]

    def pack() -> None:
        records.pack_complete(cells)

    pack()  # what a killed one left
    done = records.names()
    jobs = {
        f"{file}.yml {env_id}": (file, env_id, arguments.steps, records)
        for file in arguments.file or FILES
        for env_id in entries_of(file)
        if record_name(file, env_id) not in done
    }
    failures = in_parallel(check, jobs, arguments.jobs, "entries", after_each=pack)
    if failures:
        raise SystemExit(f"{len(failures)} of {len(jobs)} entries failed")


if __name__ == "__main__":
    main()
