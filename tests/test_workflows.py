"""The workflows of .github: they can be read, what they call exists, and a tag that is not the version stops a release.

Whether a workflow means what it says is actionlint's to judge (CONTRIBUTING.md).
"""

import configparser
import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import sb3_relax
from tests.test_licences import installed

ROOT = Path(__file__).resolve().parent.parent
WORKFLOWS = {path.stem: yaml.safe_load(path.read_text()) for path in (ROOT / ".github" / "workflows").glob("*.yml")}


def commands(workflow):
    return [step["run"] for job in workflow["jobs"].values() for step in job.get("steps", []) if "run" in step]


def targets():
    """Of the Makefile, those that are commands."""
    return set(re.search(r"^\.PHONY: (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[1].split())


def test_there_are_two():
    assert set(WORKFLOWS) == {"tests", "release"}


@pytest.mark.parametrize("name", WORKFLOWS)
def test_what_a_workflow_calls_exists(name):
    for command in commands(WORKFLOWS[name]):
        for target in re.findall(r"\bmake (\S+)", command):
            assert target in targets(), command
        for path in re.findall(r"\bcat ([^\s)]+)", command):
            assert (ROOT / path).exists(), command
    for job in WORKFLOWS[name]["jobs"].values():
        if "uses" in job:
            assert (ROOT / job["uses"]).exists()
        for needed in [job["needs"]] if "needs" in job else []:
            assert needed in WORKFLOWS[name]["jobs"]


def test_every_python_is_linted_and_tested():
    job = WORKFLOWS["tests"]["jobs"]["tests"]
    assert job["strategy"]["matrix"]["python"] == ["3.10", "3.11", "3.12", "3.13"]
    assert [step["run"] for step in job["steps"] if "run" in step] == ["make hashed", "make lint", "make test"]
    # YAML reads the key "on" as true
    assert set(WORKFLOWS["tests"][True]) == {"push", "pull_request", "workflow_call"}


def test_the_oldest_versions_are_those_that_setup_cfg_states_and_are_tested():
    needs = configparser.ConfigParser()
    needs.read(ROOT / "setup.cfg")
    required = [Requirement(line) for line in needs["options"]["install_requires"].split()]
    stated = {own.name: next(part.version for part in own.specifier if part.operator == ">=") for own in required}
    lines = (ROOT / "constraints-oldest.txt").read_text().splitlines()
    pinned = dict(line.split("==") for line in lines if not line.startswith("#"))
    assert pinned.keys() == stated.keys()
    for name, version in pinned.items():
        assert Version(version) == Version(stated[name]), name
    job = WORKFLOWS["tests"]["jobs"]["oldest-versions"]
    assert needs["options"]["python_requires"] == ">=" + job["steps"][1]["with"]["python-version"]
    assert job["steps"][-1]["run"] == "make test-oldest"
    makefile = (ROOT / "Makefile").read_text().replace("\\\n", " ")
    for path in re.search(r"^OLDEST_TESTS := (.+)$", makefile, re.MULTILINE)[1].split():
        assert (ROOT / path).exists(), path


def pins(path):
    """Package → versions that a file pins, whatever for."""
    found = {}
    for name, version in re.findall(r"^([A-Za-z0-9._-]+)==([^\s;]+)", (ROOT / path).read_text(), re.MULTILINE):
        found.setdefault(canonicalize_name(name), set()).add(version)
    return found


def test_every_file_that_is_installed_by_hash_has_one_and_is_of_the_versions_in_use():
    """And nothing names an index: pip's own settings do."""
    text = (ROOT / "requirements-hashed.txt").read_text()
    assert not re.search(r"://|--(extra-)?index|--find-links", text)
    hashed, constrained = pins("requirements-hashed.txt"), pins("constraints.txt")
    assert {name: hashed[name] for name in hashed.keys() & constrained if not constrained[name] <= hashed[name]} == {}
    assert installed("sb3_relax", "all").keys() - hashed.keys() == {"sb3-relax"}
    for block in re.split(r"\n(?=[^\s#])", text)[1:]:
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", block), block[:80]
    assert "--no-deps --require-hashes -r requirements-hashed.txt" in (ROOT / "Makefile").read_text()


def test_the_newest_versions_are_tested():
    assert WORKFLOWS["tests"]["jobs"]["newest-versions"]["steps"][-1]["run"] == "make test CONSTRAINTS=/dev/null"
    assert "-c constraints.txt" not in (ROOT / "Makefile").read_text()


def test_a_release_is_of_a_tag_and_tested_first():
    release = WORKFLOWS["release"]
    assert release[True] == {"push": {"tags": ["v*"]}}
    jobs = release["jobs"]
    assert [jobs[name].get("needs") for name in ("version", "tests", "build", "publish")] == [
        None,
        "version",
        "tests",
        "build",
    ]
    assert jobs["tests"]["uses"] == "./.github/workflows/tests.yml"
    # a token of PyPI's trusted publishing, for the job that publishes and no other
    assert {name for name, job in jobs.items() if "permissions" in job} == {"publish"}
    assert jobs["publish"]["permissions"] == {"id-token": "write"}


@pytest.mark.parametrize(
    ("tag", "stops"), [("v{}", False), ("{}", True), ("v{}.1", True), ("v9.9.9", True), ("v", True)]
)
def test_a_tag_must_be_the_version(tag, stops):
    (command,) = commands({"jobs": {"version": WORKFLOWS["release"]["jobs"]["version"]}})
    environment = {**os.environ, "GITHUB_REF_NAME": tag.format(sb3_relax.__version__)}
    done = subprocess.run(["bash", "-e", "-c", command], cwd=ROOT, env=environment, check=False)
    assert (done.returncode != 0) == stops
