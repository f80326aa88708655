"""Every reader of files, given files that were damaged in any way: a documented error that names the file, or the same.

``make test`` draws a few dozen mutants a reader, the same ones each time. ``make fuzz`` draws new ones for ten minutes
a reader.
"""

import contextlib
import gzip
import io
import json
import os
import re
import time
import warnings
import zipfile

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from sb3_relax.algorithm.saved_agents import checked_file
from sb3_relax.errors import UsageError
from sb3_relax.files import NotWhole, read_archive, sealed
from sb3_relax.tasks.records import read_record, write_record
from sb3_relax.tasks.vae import checkpoint, mnist, store
from scripts.records import Records
from tests.files.test_archive import zipped

#: of each reader; 0: a few mutants
SECONDS = float(os.environ.get("SB3_RELAX_FUZZ_SECONDS", "0"))
FEW = 60
#: the digest's name in an archive, and in JSON a name or the value of the last field
IN_DIGEST = re.compile(rb'PK\x03\x04.{26}sha256|"sha256"|"[0-9a-f]{64}"}\s*$', re.DOTALL)

BYTES = st.one_of(st.binary(max_size=8), st.sampled_from([b"\xff" * 4, b"\x00" * 8, b"\n", b"PK\x05\x06", b"9" * 20]))
#: where, as a share of the file; how many bytes are taken out; what is put there
EDITS = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 12), BYTES), min_size=1, max_size=4)
FLIPS = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 7)), max_size=3)
CUT = st.one_of(st.just(1.0), st.floats(0, 1))


def mutant(whole, edits, flips, cut):
    content = bytearray(whole)
    for where, length, new in edits:
        start = int(where * len(content))
        content[start : start + length] = new
    for where, bit in flips:
        if content:
            content[min(int(where * len(content)), len(content) - 1)] ^= 1 << bit
    return bytes(content[: int(cut * len(content))])


def for_mutants(whole, check):
    """Check mutants of a file, and among them those in an archive of which a member alone is damaged."""
    members = {}
    if zipfile.is_zipfile(io.BytesIO(whole)):
        with zipfile.ZipFile(io.BytesIO(whole)) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}

    def mutated(edits, flips, cut, inside):
        if inside is None or not members:
            return mutant(whole, edits, flips, cut)
        name = sorted(members)[inside % len(members)]
        return zipped(members | {name: mutant(members[name], edits, flips, cut)})  # with a CRC-32 that is right

    def draw(**how):
        @settings(deadline=None, database=None, suppress_health_check=list(HealthCheck), **how)
        @given(EDITS, FLIPS, CUT, st.one_of(st.none(), st.integers(0, 30)))
        def test(edits, flips, cut, inside):
            check(mutated(edits, flips, cut, inside))

        return test

    if SECONDS == 0:
        draw(max_examples=FEW, derandomize=True)()
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        seed(time.time_ns())(draw(max_examples=500))()


def same(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    return a.keys() == b.keys() and all(map(same, a.values(), b.values())) if isinstance(a, dict) else a == b


def require_error(read, path, expected, errors):
    """The same content, or an error of these kinds that names the file in one line.

    What has lost every trace of its digest is a file of an earlier version, whose numbers nothing can check.
    """
    if not IN_DIGEST.search(path.read_bytes()):
        expected = lambda found: True  # noqa: E731
    try:
        found = read()
    except errors as error:
        assert path.name in str(error), error  # noqa: PT017
        assert "\n" not in str(error)  # noqa: PT017
    else:
        assert expected(found)


def test_agents(tmp_path):
    from sb3_relax import RELAXA2C

    path = tmp_path / "agent.zip"
    RELAXA2C("MlpPolicy", "CartPole-v1", device="cpu").save(path)
    whole = path.read_bytes()
    members = read_archive(whole)

    def check(content):
        path.write_bytes(content)
        read = lambda: read_archive(checked_file(path).getvalue())  # noqa: E731
        require_error(read, path, lambda found: found == members, UsageError)

    for_mutants(whole, check)


def test_checkpoints(tmp_path):
    path = tmp_path / "checkpoint.pt"
    state = {key: {} for key in checkpoint.KEYS} | {"model": {"w": torch.arange(60.0)}, "iteration": 3}
    checkpoint.save(path, state)

    def check(content):
        path.write_bytes(content)
        require_error(lambda: checkpoint.load(path), path, lambda found: same(found, state), ValueError)

    for_mutants(path.read_bytes(), check)


def test_the_cache(tmp_path):
    path = tmp_path / "kept.npz"
    array = np.arange(200, dtype=np.uint8).reshape(10, 20)
    store.write(path, array)

    def check(content):
        path.write_bytes(content)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            found = store.load_or_make(path, lambda: array)
        assert all(path.name in str(warning.message) for warning in said)
        assert np.array_equal(found, array)

    for_mutants(path.read_bytes(), check)


@pytest.mark.parametrize("file", ["runs.jsonl", "curves_E.npz", "unpacked/second.json"])
def test_records(tmp_path, file):
    records = Records(tmp_path)
    for name in ("first", "second"):
        records.write(name, {"env": "E", "name": name, "series": list(range(60)), "rest": [0.5, None, "ĉ"]})
        if name == "first":
            records.pack([name])
    whole, expected = (tmp_path / file).read_bytes(), json.dumps(records.read())

    def check(content):
        (tmp_path / file).write_bytes(content)
        path = tmp_path / file
        require_error(records.read, path, lambda found: json.dumps(found) == expected, UsageError)

    for_mutants(whole, check)


def test_a_record_alone(tmp_path):
    path = tmp_path / "record.json"
    record = {"rate": 0.005, "text": "ĝ", "nested": {"a": [1, 2.5]}}
    write_record(path, record)

    def check(content):
        path.write_bytes(content)
        require_error(lambda: read_record(path), path, lambda found: found == record, UsageError)

    for_mutants(path.read_bytes(), check)


def test_settings_in_yaml(tmp_path):
    """They have no digest: whatever is YAML is read."""
    yaml_files = pytest.importorskip("sb3_relax.zoo.settings")
    path = tmp_path / "mine.yml"
    text = (
        "defaults: &d {policy: MlpPolicy, n_envs: 8, date: 2001-12-14}\n"
        "CartPole-v1:\n  <<: *d\n  learning_rate: lin_1e-3\n  list: [1, 0x1f, 1:30, .inf, ~]\n  text: !!str 'ĉ'\n"
        "  binary: !!binary aGVsbG8=\n  set: !!set {a, b}\n"
    ).encode()

    def check(content):
        path.write_bytes(content)
        require_error(lambda: yaml_files.read_yaml(path), path, lambda found: True, UsageError)

    for_mutants(text, check)


@pytest.mark.parametrize("name", ["images", "images.gz"])
def test_idx_files(tmp_path, name):
    path = tmp_path / name
    images = np.arange(64, dtype=np.uint8).reshape(4, 4, 4)
    content = b"".join(number.to_bytes(4, "big") for number in (2051, 4, 4, 4)) + images.tobytes()
    whole = gzip.compress(content, mtime=0) if name.endswith(".gz") else content

    def check(content):
        path.write_bytes(content)
        require_error(
            lambda: mnist.parse(path, mnist.read_content(path, "the mirror"), "the mirror", 3),
            path,
            lambda found: found.size + 16 <= mnist.MOST_BYTES,
            ValueError,
        )

    for_mutants(whole, check)


def test_journals(tmp_path):
    journal = pytest.importorskip("sb3_relax.zoo.journal")
    path = tmp_path / "study.log"

    def check(content):
        path.write_bytes(content)
        with warnings.catch_warnings(record=True):
            warnings.simplefilter("always")
            journal.drop_torn_line(path)
        assert path.read_bytes() == content[: content.rfind(b"\n") + 1]

    for_mutants(b'{"op_code":0}\n{"op_code":4}\n' * 20, check)


def test_archives():
    members = {"a": b"text" * 20, "b": bytes(100)}

    def check(content):
        with contextlib.suppress(NotWhole):
            assert read_archive(content, needs_digest=True) == members

    for_mutants(sealed(zipped(members)), check)


def test_statistics(tmp_path):
    """Of strangers, who need no digest: an error that names the file, or numbers."""
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.vec_env import VecNormalize

    from sb3_relax.algorithm.vec_normalize import load_vec_normalize

    path = tmp_path / "vecnormalize.pkl"
    env = make_vec_env("Pendulum-v1")
    VecNormalize(env).save(str(path))

    def check(content):
        path.write_bytes(content)
        require_error(lambda: load_vec_normalize(path, env), path, lambda found: True, UsageError)

    for_mutants(path.read_bytes(), check)
