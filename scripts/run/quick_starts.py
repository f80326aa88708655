"""What a reader sees who runs the quick starts: each is run as it stands on its page, several times.

    OMP_NUM_THREADS=1 python -m scripts.run.quick_starts [--pages README.md] [--runs 10] [--output results]

The first Python block of a page is run in a process of its own, in an empty folder, without a seed. Kept are what it
printed, the seconds that passed, and the seconds of a processor that the process used, importing and evaluating
included: the two are the same on a machine that is otherwise idle, if torch is left one thread (OMP_NUM_THREADS=1).
"""

from __future__ import annotations

import argparse
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from scripts.records import ROOT, add_output, provenance, write_record

#: pages whose first block trains to the end
PAGES = ("README.md", "docs/laxa2c.md")


def quick_start(page: str) -> str:
    """The first Python block of a page, by its path in the checkout."""
    found = re.search(r"^```python\n(.*?)^```", (ROOT / page).read_text(), re.DOTALL | re.MULTILINE)
    if found is None:
        raise ValueError(f"{page} has no Python block")
    return found[1]


def run(code: str) -> dict[str, Any]:
    """What it printed, line by line, and how long it took.

    :raises CalledProcessError: where it fails
    """
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-W", "ignore", "-c", code]
        path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        start, used = time.perf_counter(), processor_seconds()
        done = subprocess.run(
            command, cwd=folder, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=True
        )
        return {
            "seconds": round(time.perf_counter() - start, 1),
            "processor_seconds": round(processor_seconds() - used, 1),
            "printed": done.stdout.splitlines(),
        }


def processor_seconds() -> float:
    """Of all processes that this one has started and that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pages", nargs="+", choices=PAGES, default=PAGES)
    parser.add_argument("--runs", type=int, default=10)
    add_output(parser, "quick_starts/")
    arguments = parser.parse_args()
    for page in arguments.pages:
        code = quick_start(page)
        runs = []
        for _ in range(arguments.runs):
            runs.append(run(code))
            print(page, runs[-1], flush=True)
        file = arguments.output / "quick_starts" / f"{Path(page).stem}.json"
        write_record(file, {"page": page, "code": code, "runs": runs, **provenance()})


if __name__ == "__main__":
    main()
