"""Mutation testing: do the tests notice a small mistake? A sample of mutants of the parts that carry the mathematics.

    python -m scripts.attacks.mutants                  # needs: pip install -e .[mutants]
    python -m scripts.attacks.mutants --size 20        # of each part
    python -m scripts.attacks.mutants --again          # only those that no test has noticed, after tests were added

A mutant is the package with one small change, as cosmic-ray makes it (an operator, a number, a comparison, ...).
cosmic-ray runs all mutants, each against all tests, which would take days here. This runs a sample, drawn with a seed,
of each part, and against a mutant those tests alone that run the changed lines, the quickest ones first.

To cosmic-ray's changes comes one more: a call whose result nobody takes is left out. Of its own, those are not drawn
that put an operator of bits into arithmetic (``a >> b`` for ``a - b``), which are an error at once for numbers that are
no whole ones, nor those of annotations, which nothing reads.

A mutant is killed where a test fails, or takes many times as long as it should. The package that is changed
is a copy of the last commit. The record goes to results/mutants of the folder that this is run in, or of ``--output``.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import json
import os
import random
import resource
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import coverage
import pytest
from cosmic_ray.ast import ast_nodes, get_ast_from_path
from cosmic_ray.mutating import mutate_code
from cosmic_ray.operators.operator import Operator
from cosmic_ray.plugins import get_operator, operator_names
from parso.python.tree import Name
from parso.tree import NodeOrLeaf
from tqdm import tqdm

from sb3_relax.processes import end_with, termination_as_interrupt
from scripts.records import ROOT, add_output, provenance, read_record, write_record

#: what every test process would import again; not the package, which is another one in each
PRELOADED = ("torch", "stable_baselines3", "sb3_contrib", "scipy.stats", "hypothesis", "matplotlib.pyplot")


class Part(NamedTuple):
    """Code, and the tests that are there for it.

    :param code: a file or a folder
    :param tests: files and folders
    :param function: the only one whose mutants are drawn
    """

    code: str
    tests: tuple[str, ...]
    function: str | None = None


PARTS = {
    "estimators": Part("sb3_relax/estimators", ("tests/estimators",)),
    "control variates": Part(
        "sb3_relax/control_variates",
        ("tests/control_variates", "tests/algorithm/test_policy_gradient.py", "tests/algorithm/test_update.py"),
    ),
    "train()": Part(
        "sb3_relax/algorithm/a2c.py",
        (
            "tests/test_a2c_equality.py",
            "tests/algorithm/test_update.py",
            "tests/algorithm/test_algorithms.py",
            "tests/algorithm/test_deepcopy.py",
            "tests/algorithm/test_finite.py",
            "tests/algorithm/test_logged.py",
            "tests/algorithm/test_schedules.py",
            "tests/algorithm/test_whole_episodes.py",
            "tests/algorithm/test_tensorboard.py",
            "tests/policy_gradient/test_observation_scale.py",
            "tests/policy_gradient/test_update_rules.py",
            "tests/policy_gradient/test_critic.py",
            "tests/policy_gradient/test_critic_replay.py",
            "tests/policy_gradient/test_rollout.py",
            "tests/control_variates/test_diverging.py",
        ),
        "train",
    ),
}


class RemoveCall(Operator):
    """A call whose result nobody takes is left out."""

    def mutation_positions(self, node: NodeOrLeaf) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
        if node.type == "simple_stmt" and node.children[0].type == "atom_expr":
            yield node.start_pos, node.end_pos

    def mutate(self, node: NodeOrLeaf, index: int) -> NodeOrLeaf:
        call = node.children[0]
        node.children[0] = Name("None", call.start_pos, call.get_first_leaf().prefix)
        return node

    @classmethod
    def examples(cls) -> tuple[()]:
        return ()


BITS = ("BitOr", "BitAnd", "BitXor", "LShift", "RShift", "Invert")


def operators() -> dict[str, Operator]:
    """All that are used, by name."""
    kinds = {name: get_operator(name) for name in operator_names() if not name.endswith(BITS)}
    # those with arguments are for one decorator, one variable, ...
    return {name: kind() for name, kind in kinds.items() if not kind.arguments()} | {"RemoveCall": RemoveCall()}


class Mutant(NamedTuple):
    """A change that cosmic-ray's operator makes at one of the places where it can.

    :param file: that is changed
    :param operator: its name
    :param occurrence: which of the places
    :param line: the first one that is changed
    """

    file: str
    operator: str
    occurrence: int
    line: int


class Outcome(NamedTuple):
    """What the tests made of a mutant.

    :param killed: whether they noticed
    :param how: they did, or that they did not
    :param seconds: of the processor
    """

    killed: bool
    how: str
    seconds: float


class Watched:
    """A plugin for pytest: which lines each test runs, and how long it takes."""

    def __init__(self, measured: coverage.Coverage):
        self.measured = measured
        self.seconds: dict[str, float] = {}

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        self.measured.switch_context(item.nodeid)
        start = time.process_time()
        result = yield
        self.seconds[item.nodeid] = time.process_time() - start
        self.measured.switch_context("")
        return result


def copied_to(folder: Path) -> Path:
    """The last commit's files, without the results."""
    archive = subprocess.check_output(["git", "-C", ROOT, "archive", "HEAD", ".", ":(exclude)scripts/results"])
    with tarfile.open(fileobj=BytesIO(archive)) as files:
        files.extractall(folder, filter="data")
    return folder


def in_a_child(checkout: Path, action: Any, seconds: float) -> tuple[int, float]:
    """The exit status of a process that does something in a checkout, and its seconds of the processor.

    :param action: gives the status
    :param seconds: of the processor, after which it is killed; ten times as many may pass on the clock
    """
    parent = os.getpid()
    child = os.fork()
    if child == 0:
        status = 70
        try:
            os.setsid()
            end_with(parent)
            said = os.open(checkout / "said.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(said, 1)
            os.dup2(said, 2)
            resource.setrlimit(resource.RLIMIT_CPU, (int(seconds) + 1, int(seconds) + 2))
            signal.alarm(10 * int(seconds) + 10)
            os.chdir(checkout)
            for name in [name for name in sys.modules if name.split(".")[0] in ("sb3_relax", "scripts", "tests")]:
                del sys.modules[name]
            sys.path[:] = [str(checkout), *(path for path in sys.path if path not in ("", str(ROOT)))]
            os.environ["PYTHONPATH"] = str(checkout)
            status = int(action())
        finally:
            os._exit(status)
    _, status, used = os.wait4(child, 0)
    return os.waitstatus_to_exitcode(status), used.ru_utime + used.ru_stime


def run_pytest(tests: list[str], *plugins: object) -> int:
    options = ["-x", "-q", "-n", "0", "-p", "no:cacheprovider", "-m", "not slow"]
    return int(pytest.main([*options, *tests], plugins=list(plugins)))


class Tests:
    """Which tests of a part run which lines.

    :param checkout: a copy of the package
    :param part: of it
    """

    def __init__(self, checkout: Path, part: Part):
        self.checkout = checkout
        found = checkout / "tests.json"
        status, self.seconds_of_all = in_a_child(checkout, lambda: self._watch(part, found), 3600)
        if status != 0:
            raise SystemExit(f"without a mutation {part.tests} fail:\n{(checkout / 'said.log').read_text()[-3000:]}")
        self.seconds, self.of_lines = json.loads(found.read_text())

    def _watch(self, part: Part, found: Path) -> int:
        measured = coverage.Coverage(data_file=None, source=[str(self.checkout / part.code)], config_file=False)
        if (self.checkout / part.code).is_file():
            measured = coverage.Coverage(data_file=None, include=[str(self.checkout / part.code)], config_file=False)
        watched = Watched(measured)
        measured.start()
        status = run_pytest(list(part.tests), watched)
        measured.stop()
        data = measured.get_data()
        of_lines = {
            str(Path(file).relative_to(self.checkout)): {
                line: [test for test in tests if test] for line, tests in data.contexts_by_lineno(file).items()
            }
            for file in data.measured_files()
        }
        found.write_text(json.dumps([watched.seconds, of_lines]))
        return status

    def running(self, file: str, lines: range, most_seconds: float) -> list[str]:
        """Those that run a line of these, the quickest ones first; of lines that imports run, those of the file."""
        of_file: dict[str, list[str]] = self.of_lines.get(file, {})
        tests = {test for line in lines for test in of_file.get(str(line), [])}
        if not tests and any(str(line) in of_file for line in lines):
            tests = {test for tests in of_file.values() for test in tests}
        chosen, total = [], 0.0
        for test in sorted(tests, key=lambda test: (self.seconds[test], test)):
            total += self.seconds[test]
            if chosen and total > most_seconds:
                break
            chosen.append(test)
        return chosen


def mutants_of(checkout: Path, part: Part) -> list[Mutant]:
    """All that cosmic-ray makes of a part."""
    where = checkout / part.code
    found = []
    for path in [where] if where.is_file() else sorted(where.rglob("*.py")):
        tree = get_ast_from_path(path)
        lines = lines_of(path.read_text(), part.function)
        for name, operator in operators().items():
            places = (place for node in ast_nodes(tree) for place in operator.mutation_positions(node))
            for occurrence, ((line, _), _) in enumerate(places):
                if line in lines:
                    found.append(Mutant(str(path.relative_to(checkout)), name, occurrence, line))
    return found


def lines_of(source: str, function: str | None) -> range:
    """Of a function, or all."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef) and node.name == function:
            return range(node.lineno, (node.end_lineno or 0) + 1)
    return range(1, source.count("\n") + 2)


def statement_at(source: str, line: int) -> range:
    """The lines of the smallest statement there; of one that holds others, its head."""
    smallest = range(line, line + 1)
    for node in ast.walk(ast.parse(source)):  # those that hold others come before them
        if isinstance(node, ast.stmt):
            end = node.body[0].lineno - 1 if getattr(node, "body", None) else node.end_lineno or node.lineno
            if node.lineno <= line <= max(end, node.lineno):
                smallest = range(node.lineno, max(end, node.lineno) + 1)
    return smallest


def without_annotations(source: str) -> str:
    """What a module does, whatever its annotations say."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.arg):
            node.annotation = None
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            node.returns = None
        elif isinstance(node, ast.AnnAssign):
            node.annotation = ast.Name("annotation")
    return ast.dump(tree)


def mutated(source: str, mutant: Mutant) -> str:
    """The source with the change."""
    return mutate_code(source, operators()[mutant.operator], mutant.occurrence)


def differs(source: str, changed: str) -> bool:
    """Whether a change is one of what the module does."""
    try:
        return without_annotations(changed) != without_annotations(source)
    except SyntaxError:  # cosmic-ray has made what is no Python
        return False


def changed_line(source: str, changed: str) -> tuple[str, str]:
    """What stands in the first line that differs, before and after."""
    pairs = zip(source.splitlines(), changed.splitlines(), strict=False)
    return next(((a.strip(), b.strip()) for a, b in pairs if a != b), ("", ""))


def outcome_of(checkout: Path, tests: list[str], seconds: float) -> Outcome:
    """Of tests on the mutant that lies there.

    :param seconds: of the processor, that they take without a mutation
    """
    if not tests:
        return Outcome(False, "no test runs it", 0.0)
    status, used = in_a_child(checkout, lambda: run_pytest(tests), 30 + 3 * seconds)
    how = {0: "all tests pass", 1: "a test fails", 2: "it cannot be imported", 4: "a test is not there any more"}
    return Outcome(status != 0, how.get(status, f"status {status}" if status > 0 else "it takes too long"), used)


def tried(checkout: Path, mutant: Mutant, tests: Tests, most_seconds: tuple[float, ...]) -> Outcome:
    """Of a mutant: the quickest tests first and, where none of these fails, more of them.

    :param most_seconds: of the tests that are run, first and then
    """
    path = checkout / mutant.file
    source = path.read_text()
    lines = statement_at(source, mutant.line)
    path.write_text(mutated(source, mutant))
    used = 0.0
    try:
        before: list[str] = []
        for most in most_seconds:
            chosen = tests.running(mutant.file, lines, most)
            if before and len(chosen) == len(before):
                break
            outcome = outcome_of(checkout, chosen, sum(tests.seconds[test] for test in chosen))
            used += outcome.seconds
            if outcome.killed:
                break
            before = chosen
    finally:
        path.write_text(source)
    return outcome._replace(seconds=used)


def drawn_from(checkout: Path, part: Part, size: int, seed: int) -> tuple[list[Mutant], int]:
    """So many mutants of a part, each as likely as any other, and how many there are of it in all.

    The number of all is an estimate: those that cannot differ are known only when they are looked at.
    """
    everything = mutants_of(checkout, part)
    order = random.Random(seed).sample(everything, len(everything))
    chosen: list[Mutant] = []
    looked_at = 0
    for mutant in order:
        if len(chosen) == size:
            break
        source = (checkout / mutant.file).read_text()
        looked_at += 1
        if differs(source, mutated(source, mutant)):
            chosen.append(mutant)
    return chosen, round(len(everything) * len(chosen) / looked_at)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--size", type=int, default=80, help="mutants of each part")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument("--again", action="store_true", help="those of the record in --output that were not noticed")
    parser.add_argument(
        "--seconds", type=float, nargs="+", default=[15, 60], help="of the tests that a mutant meets, and then"
    )
    add_output(parser, "mutants/PART.json")
    arguments = parser.parse_args()
    for name in PRELOADED:
        importlib.import_module(name)
    with termination_as_interrupt(), tempfile.TemporaryDirectory() as folder:
        checkout = copied_to(Path(folder))
        for part in arguments.part:
            tests = Tests(checkout, PARTS[part])
            path = arguments.output / "mutants" / f"{part.replace(' ', '_').replace('()', '')}.json"
            rows = []
            if arguments.again:
                earlier = read_record(path)
                of, rows = earlier["mutants_there_are"], [row for row in earlier["mutants"] if row["killed"]]
                sample = [
                    Mutant(*(row[field] for field in Mutant._fields)) for row in earlier["mutants"] if not row["killed"]
                ]
            else:
                sample, of = drawn_from(checkout, PARTS[part], arguments.size, arguments.seed)
            for mutant in tqdm(sample, desc=part):
                source = (checkout / mutant.file).read_text()
                before, after = changed_line(source, mutated(source, mutant))
                outcome = tried(checkout, mutant, tests, tuple(arguments.seconds))
                rows.append({**mutant._asdict(), "before": before, "after": after, **outcome._asdict()})
                if not outcome.killed:
                    tqdm.write(f"{mutant.file}:{mutant.line} {outcome.how}:\n  - {before}\n  + {after}")
            record = {
                "part": part,
                "seed": arguments.seed,
                "mutants_there_are": of,
                "seconds_of_tests": round(sum(tests.seconds.values()), 1),
                "most_seconds": arguments.seconds,
                "mutants": rows,
                **provenance(),
            }
            write_record(path, record)
            print(f"{part}: {sum(row['killed'] for row in rows)} of {len(rows)} killed")


if __name__ == "__main__":
    main()
