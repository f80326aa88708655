"""Table 1, on a small budget."""

import re
import shutil
import subprocess
import sys

import pytest

from sb3_relax.tasks.vae import checkpoint
from scripts.records import Records
from scripts.run import vae
from scripts.tables import vae as tables
from tests.processes import PROCESSES
from tests.scripts.command import ROOT, called, script


def sweep(folder, *arguments, check=True, run=called):
    common = ("--output", folder, "--jobs", 1, "--dataset", "digits", "--every", 10)
    return run("run.vae", *common, *arguments, check=check)


def test_a_sweep_chooses_rates_continues_and_makes_a_table(tmp_path):
    arguments = ("--model", "linear1", "linear2", "--estimator", "rebar", "vimco", "--tune-iterations", "10", "20")
    rates = ("--rates", "0.005", "0.001", "0.00005", "--seeds", "2")
    done = sweep(tmp_path, *arguments, *rates, "--iterations", "40", "--model", "linear1")
    assert "4 of 4 runs done" in done.stdout
    store = Records(tmp_path / "vae")
    records = {name: store.get(name) for name in store.names()}
    assert not store.unpacked()
    assert len(records) == 10  # two estimators: three rates of a seed for choosing, and two seeds at the chosen one
    chosen = vae.choices(store)
    assert {entry["rate"] for entry in chosen.values()} == {0.005}
    elbos = chosen["digits linear1 rebar"]["train_elbos"]
    assert {stage: set(of_stage) for stage, of_stage in elbos.items()} == {
        "10": {"0.005", "0.001", "5e-05"},
        "20": {"0.005", "0.001"},
    }
    assert records["digits_linear1_rebar_lr5e-05_phi1_seed1000"]["iterations"] == 10
    assert records["digits_linear1_rebar_lr0.005_phi1_seed1000"]["iterations"] == 20
    record = records["digits_linear1_rebar_lr0.005_phi1_seed0"]
    points = [dict(zip(record["curve_keys"], point, strict=True)) for point in record["curve"]]
    assert [point["iteration"] for point in points] == [0, 10, 20, 30, 40]
    assert record["best_train_elbo"] == pytest.approx(max(p["train_elbo"] for p in points), abs=1e-3)
    assert record["iwae_100"]["validation"] > record["best_validation_elbo"]

    # more iterations: from the checkpoints, without another choice of rates
    before = (tmp_path / "vae" / "rates.json").stat().st_mtime_ns
    again = sweep(tmp_path, *arguments, *rates, "--iterations", "60", "--model", "linear1")
    assert "4 of 4 runs done" in again.stdout
    assert not store.unpacked()
    name = "digits_linear1_rebar_lr0.005_phi1_seed0"
    longer = store.get(name)
    assert (longer["iterations"], len(longer["curve"])) == (60, 7)
    assert longer["curve"][:5] == record["curve"]
    assert (tmp_path / "vae" / "rates.json").stat().st_mtime_ns == before
    assert checkpoint.load(tmp_path / "vae" / "checkpoints" / f"{name}.pt")["iteration"] == 60
    # nothing left to do: nothing is written, even where the checkpoints stayed on another machine
    shutil.rmtree(tmp_path / "vae" / "checkpoints")
    lines = tmp_path / "vae" / "runs.jsonl"
    written = lines.stat().st_mtime_ns
    both = sweep(
        tmp_path, *arguments, *rates, "--iterations", "60", "--model", "linear1", "--estimator", "rebar", run=script
    )
    assert "2 of 2 runs done" in both.stdout
    assert lines.stat().st_mtime_ns == written

    text = tables.table(tmp_path / "vae")
    assert "| estimator | digits, linear, one layer (60) |" in text
    assert re.search(r"\| VIMCO, K = 2 `vimco` \| -\d+\.\d\d ± \d+\.\d\d \(2\) \|", text)
    assert text.count("| REBAR `rebar` |") == 6


@pytest.mark.parametrize(
    ("curves", "asked", "won"),
    [
        # better at first, worse in the end: what a short run alone would choose
        (
            {0.005: [-90], 0.001: [-10, -50], 0.0005: [-20, -30], 0.0001: [-80, -40]},
            [(0.005, 10), (0.001, 10), (0.0005, 10), (0.001, 20), (0.0005, 20), (0.0001, 20)],
            0.0005,
        ),
        # too close to tell: on to the third stage
        (
            {0.005: [-90], 0.001: [-10, -30, -29], 0.0005: [-20, -30.9, -25], 0.0001: [-80, -60, -50]},
            [
                (0.005, 10),
                (0.001, 10),
                (0.0005, 10),
                (0.001, 20),
                (0.0005, 20),
                (0.001, 30),
                (0.0005, 30),
                (0.0001, 30),
            ],
            0.0005,
        ),
        # the lowest wins: lower ones are tried until one is worse
        (
            {0.005: [-90], 0.001: [-20, -50], 0.0005: [-10, -30], 0.0001: [-80, -20], 0.00005: [-90, -40]},
            [(0.005, 10), (0.001, 10), (0.0005, 10), (0.0005, 20), (0.001, 20), (0.0001, 20), (0.00005, 20)],
            0.0001,
        ),
        # what diverges loses
        (
            {0.005: [-1, None], 0.001: [-2, -9], 0.0005: [None]},
            [(0.005, 10), (0.001, 10), (0.0005, 10), (0.005, 20), (0.001, 20)],
            0.001,
        ),
        (
            {0.005: [None], 0.001: [None], 0.0005: [None]},
            [(0.005, 10), (0.001, 10), (0.0005, 10)],
            None,
        ),
    ],
)
def test_a_rate_is_chosen_in_stages(curves, asked, won):
    measured = []

    def measure(rate, iterations):
        measured.append((rate, iterations))
        return curves[rate][(10, 20, 30).index(iterations)]

    rate, seen = vae.choose(measure, [0.005, 0.001, 0.0005], [10, 20, 30])
    assert rate == won
    assert measured == asked
    assert {(rate, stage) for stage, elbos in seen.items() for rate in elbos} == set(asked)


def test_vimco_is_left_out_of_two_layers_and_divergence_is_recorded(tmp_path):
    arguments = ("--model", "linear2", "--estimator", "vimco", "concrete", "--seeds", "1", "--tune-iterations", "20")
    done = sweep(tmp_path, *arguments, "--iterations", "20", "--rates", "0.001", "1e38", check=False)
    assert "left out: digits, linear2: vimco estimates a bound of several samples" in done.stdout
    assert "1 of 1 runs done" in done.stdout
    record = Records(tmp_path / "vae").get("digits_linear2_concrete_lr1e+38_phi1_seed1000")
    assert "must be finite" in record["diverged"]
    chosen = vae.choices(Records(tmp_path / "vae"))
    assert chosen["digits linear2 concrete"]["rate"] == 0.001
    assert chosen["digits linear2 concrete"]["train_elbos"]["20"]["1e+38"] is None


def choose_some(folder, first):
    for cell in range(first, first + 10):
        vae.with_choice(Records(folder), f"cell {cell}", {"rate": cell})


def test_no_choice_of_a_rate_is_lost_where_sweeps_write_at_once(tmp_path):
    sweeps = [PROCESSES.Process(target=choose_some, args=(tmp_path, 10 * number)) for number in range(4)]
    for one in sweeps:
        one.start()
    for one in sweeps:
        one.join(60)
    assert vae.choices(Records(tmp_path)) == {f"cell {cell}": {"rate": cell} for cell in range(40)}


@pytest.mark.slow
def test_sweeps_in_one_folder_share_its_runs(tmp_path):
    """Each run is one sweep's, whichever comes first; all end well, and nothing is lost."""
    command = [sys.executable, "-m", "scripts.run.vae", "--output", tmp_path, "--jobs", "2", "--dataset", "digits"]
    command += ["--every", "10", "--model", "linear1", "--tune-iterations", "10", "20", "--rates", "0.005", "0.001"]
    command += ["--seeds", "2", "--iterations", "60", "--estimator", "rebar"]
    more = (["relax"], ["concrete"], ["relax", "concrete"])
    sweeps = [
        subprocess.Popen([*map(str, command), *names], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        for names in more
    ]
    said = [sweep.communicate(timeout=900)[0].decode() for sweep in sweeps]
    assert [sweep.returncode for sweep in sweeps] == [0, 0, 0], "\n".join(said)
    records = Records(tmp_path / "vae")
    assert {name.split()[-1] for name in vae.choices(records)} == {"rebar", "relax", "concrete"}
    assert len(records.names()) == len(records.read()) == 3 * 4
    assert not records.unpacked()
