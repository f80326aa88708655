"""Records are packed, and nothing is lost or doubled on the way."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from sb3_relax.errors import UsageError
from scripts.curves import keys_of, read_arrays, references
from scripts.records import RESULTS, Records
from tests.scripts.command import ROOT

ENVIRONMENTS = ("CartPole-v1", "Pendulum-v1")


def record_of(env, seed, scale=1.0):
    steps = [10 * (i + 1) for i in range(80 + seed)]
    series = {"episode_steps": steps, "variances": [[step, scale / step, 1.0] for step in steps]}
    return {"env": env, "algorithm": "a2c", "seed": seed, "solved_at": None, "evaluation": [1.0, 2.5], **series}


def cell(env, seeds=(0, 1)):
    return [f"{env}_a2c_{seed:04d}" for seed in seeds]


def written(folder, seeds=(0, 1)):
    """A sweep's records, none packed, and what they are."""
    records = Records(folder)
    expected = {}
    for env in ENVIRONMENTS:
        for name, seed in zip(cell(env, seeds), seeds, strict=True):
            expected[name] = record_of(env, seed)
            records.write(name, expected[name])
    return records, expected


def texts(records):
    """In JSON, which tells 1 from 1.0 and keeps the order of keys."""
    return [json.dumps(record) for record in records]


def in_order(expected):
    return texts(expected[name] for name in sorted(expected))


def test_a_reader_sees_no_difference(tmp_path):
    records, expected = written(tmp_path)
    assert texts(records.read()) == in_order(expected)
    records.pack(cell("CartPole-v1"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["curves_CartPole-v1.npz", "runs.jsonl", "unpacked"]
    assert records.unpacked().keys() == set(cell("Pendulum-v1"))
    assert texts(records.read()) == in_order(expected)
    records.pack(cell("Pendulum-v1"))
    assert not records.unpacked()
    assert texts(records.read()) == in_order(expected)
    assert records.names() == set(expected)
    for name, record in expected.items():
        assert json.dumps(records.get(name)) == json.dumps(record)
    assert records.get("CartPole-v1_a2c_0009") is None
    lines = (tmp_path / "runs.jsonl").read_text().splitlines()
    assert [json.loads(line)["run"] for line in lines] == sorted(expected)
    assert all(len(line) < 500 for line in lines)


def test_a_folder_that_is_not_there_has_no_records(tmp_path):
    records = Records(tmp_path / "nowhere")
    assert records.read() == []
    assert records.names() == set()
    assert list(tmp_path.iterdir()) == []


def test_a_cell_is_packed_when_all_its_runs_are_there(tmp_path):
    records, _ = written(tmp_path)
    cells = [cell("CartPole-v1", (0, 1, 2)), cell("Pendulum-v1")]
    records.pack_complete(cells)
    assert records.unpacked().keys() == set(cell("CartPole-v1"))
    records.write("CartPole-v1_a2c_0002", record_of("CartPole-v1", 2))
    records.pack_complete(cells)
    assert not records.unpacked()
    # more seeds, later
    records.write("CartPole-v1_a2c_0003", record_of("CartPole-v1", 3))
    records.pack_complete([cell("CartPole-v1", (0, 1, 2, 3))])
    assert not records.unpacked()
    assert len(records.read()) == 6


def test_the_order_of_packing_does_not_show(tmp_path):
    first, _ = written(tmp_path / "first")
    second, _ = written(tmp_path / "second")
    first.pack([*cell("CartPole-v1"), *cell("Pendulum-v1")])
    for name in ("Pendulum-v1_a2c_0001", "CartPole-v1_a2c_0001", "CartPole-v1_a2c_0000", "Pendulum-v1_a2c_0000"):
        second.pack([name])
    for name in ("runs.jsonl", *(f"curves_{env}.npz" for env in ENVIRONMENTS)):
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()


def test_a_new_record_replaces_the_packed_one(tmp_path):
    records, expected = written(tmp_path)
    records.pack(expected)
    name = "CartPole-v1_a2c_0000"
    for new in (record_of("CartPole-v1", 0, scale=7.0), {"env": "CartPole-v1", "short": True}):
        expected[name] = new
        records.write(name, new)
        assert texts(records.read()) == in_order(expected)
        assert json.dumps(records.get(name)) == json.dumps(new)
        records.pack([name])
        assert texts(records.read()) == in_order(expected)
    require_exact_files(tmp_path)  # the series of what was replaced are gone


@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
def test_killed_anywhere_packing_loses_and_doubles_nothing(tmp_path, before):
    """The process gets SIGKILL before, or after, each of its changes to the disk."""
    step = 0
    while True:
        folder = tmp_path / str(step)
        records, expected = written(folder)
        records.pack(cell("CartPole-v1", [0]))  # so that files are replaced as well
        replaced = "CartPole-v1_a2c_0000"
        expected[replaced] = record_of("CartPole-v1", 0, scale=3.0)
        records.write(replaced, expected[replaced])
        killed = dies_at(step, before, lambda: records.pack(expected))  # noqa: B023
        assert texts(records.read()) == in_order(expected)
        assert records.names() == set(expected)
        again = Records(folder)
        again.pack(expected)
        assert not again.unpacked()
        assert texts(again.read()) == in_order(expected)
        require_exact_files(folder)
        if not killed:
            break
        step += 1
    assert step == 2 + 1 + 4  # two files of series, the lines, four unpacked records


def dies_at(step, before, action):
    """Whether a child process that does ``action`` is killed: at its change of that number, if it makes so many."""
    child = os.fork()
    if child == 0:
        left = [step]

        def deadly(change):
            def changed(*arguments, **keywords):
                last = left[0] == 0
                left[0] -= 1
                if last and before:
                    os.kill(os.getpid(), signal.SIGKILL)
                change(*arguments, **keywords)
                if last:
                    os.kill(os.getpid(), signal.SIGKILL)

            return changed

        os.replace = deadly(os.replace)
        Path.unlink = deadly(Path.unlink)
        try:
            action()
        except BaseException:
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


def test_an_error_while_packing_loses_nothing(tmp_path, monkeypatch):
    records, expected = written(tmp_path)

    def full(file):
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space"):
        records.pack(expected)
    monkeypatch.undo()
    assert texts(records.read()) == in_order(expected)
    assert [path.name for path in tmp_path.iterdir()] == ["unpacked"]
    records.pack(expected)
    assert texts(records.read()) == in_order(expected)


PACKER = """
import sys
from pathlib import Path
from scripts.records import Records
records = Records(Path(sys.argv[1]))
for name in sys.argv[2:]:
    records.pack([name])
"""


def test_two_that_pack_at_once_lose_nothing(tmp_path):
    records, expected = written(tmp_path, seeds=range(10))
    names = sorted(expected)
    packers = [
        subprocess.Popen([sys.executable, "-c", PACKER, str(tmp_path), *half], cwd=ROOT)
        for half in (names[::2], names[1::2])
    ]
    assert [packer.wait(timeout=120) for packer in packers] == [0, 0]
    assert not records.unpacked()
    assert texts(records.read()) == in_order(expected)
    require_exact_files(tmp_path)


@pytest.mark.parametrize("packed", [False, True], ids=["unpacked", "packed"])
def test_one_flipped_bit_never_gives_another_record(tmp_path, packed):
    records, expected = Records(tmp_path), {"CartPole-v1_a2c_0000": record_of("CartPole-v1", 0)}
    records.write(*next(iter(expected.items())))
    if packed:
        records.pack(expected)
    files = [path for path in tmp_path.rglob("[!.]*") if path.is_file()]
    assert len(files) == (2 if packed else 1)
    for path in files:
        whole = path.read_bytes()
        refused = []
        for position in range(0, 8 * len(whole), 149):
            damaged = bytearray(whole)
            damaged[position // 8] ^= 1 << position % 8
            path.write_bytes(damaged)
            try:
                assert texts(records.read()) == in_order(expected)
            except UsageError as error:
                assert path.name in str(error)  # noqa: PT017
                refused.append(error)
        assert len(refused) > 0.5 * 8 * len(whole) / 149
        path.write_bytes(whole)


def test_records_of_earlier_versions_have_no_digest(tmp_path):
    records, expected = written(tmp_path)
    for name, record in expected.items():
        (tmp_path / "unpacked" / f"{name}.json").write_text(json.dumps(record))
    assert texts(records.read()) == in_order(expected)


def require_exact_files(folder):
    """Files of series hold what the lines refer to, and nothing else."""
    lines = [json.loads(line) for line in (folder / "runs.jsonl").read_text().splitlines()]
    runs = [line["run"] for line in lines]
    assert runs == sorted({*runs})
    referred = {path.name: set() for path in folder.glob("curves_*.npz")}
    for line in lines:
        for field, reference in references(line).items():
            referred[reference["npz"]] |= {*keys_of(line["run"], field, reference)}
    for file, keys in referred.items():
        assert {*read_arrays(folder / file)} == keys


@pytest.mark.parametrize("folder", sorted(path.parent.name for path in RESULTS.glob("*/runs.jsonl")))
def test_the_records_of_the_repository_are_whole(folder):
    require_exact_files(RESULTS / folder)
    records = Records(RESULTS / folder).read()
    assert all(record["commit"] and record["argv"] for record in records)
