"""run_vae, bench_vae and Table 1, on small budgets."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sb3_relax.tasks.vae import checkpoint

ROOT = Path(__file__).resolve().parents[3]


def sweep(folder, *arguments, check=True):
    command = [sys.executable, str(ROOT / "scripts" / "run_vae.py"), "--results", str(folder / "results")]
    command += ["--runs", str(folder / "runs"), "--jobs", "1", "--dataset", "digits", "--every", "10"]
    done = subprocess.run([*command, *map(str, arguments)], capture_output=True, text=True, cwd=ROOT)
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.fixture
def tables(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    import tables_vae

    return tables_vae


def test_a_sweep_chooses_rates_continues_and_makes_a_table(tmp_path, tables):
    arguments = ("--model", "linear1", "linear2", "--estimator", "rebar", "vimco", "--tune-iterations", "10", "20")
    rates = ("--rates", "0.005", "0.001", "0.00005", "--seeds", "2")
    done = sweep(tmp_path, *arguments, *rates, "--iterations", "40", "--model", "linear1")
    assert "4 of 4 runs done" in done.stdout
    records = {path.stem: json.loads(path.read_text()) for path in (tmp_path / "results" / "runs").iterdir()}
    assert len(records) == 10  # two estimators: three rates of a seed for choosing, and two seeds at the chosen one
    chosen = json.loads((tmp_path / "results" / "rates.json").read_text())
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
    before = (tmp_path / "results" / "rates.json").stat().st_mtime_ns
    again = sweep(tmp_path, *arguments, *rates, "--iterations", "60", "--model", "linear1")
    assert "4 of 4 runs done" in again.stdout
    path = tmp_path / "results" / "runs" / "digits_linear1_rebar_lr0.005_phi1_seed0.json"
    longer = json.loads(path.read_text())
    assert (longer["iterations"], len(longer["curve"])) == (60, 7)
    assert longer["curve"][:5] == record["curve"]
    assert (tmp_path / "results" / "rates.json").stat().st_mtime_ns == before
    assert checkpoint.load(tmp_path / "runs" / f"{path.stem}.pt")["iteration"] == 60
    # nothing left to do: nothing is written, even where the checkpoints stayed on another machine
    shutil.rmtree(tmp_path / "runs")
    written = path.stat().st_mtime_ns
    both = sweep(tmp_path, *arguments, *rates, "--iterations", "60", "--model", "linear1", "--estimator", "rebar")
    assert "2 of 2 runs done" in both.stdout
    assert path.stat().st_mtime_ns == written

    text = tables.table(tmp_path / "results")
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
def test_a_rate_is_chosen_in_stages(tables, curves, asked, won):
    import run_vae

    measured = []

    def measure(rate, iterations):
        measured.append((rate, iterations))
        return curves[rate][(10, 20, 30).index(iterations)]

    rate, seen = run_vae.choose(measure, [0.005, 0.001, 0.0005], [10, 20, 30])
    assert rate == won
    assert measured == asked
    assert {(rate, stage) for stage, elbos in seen.items() for rate in elbos} == set(asked)


def test_vimco_is_left_out_of_two_layers_and_divergence_is_recorded(tmp_path):
    arguments = ("--model", "linear2", "--estimator", "vimco", "concrete", "--seeds", "1", "--tune-iterations", "20")
    done = sweep(tmp_path, *arguments, "--iterations", "20", "--rates", "0.001", "1e38", check=False)
    assert "left out: digits, linear2: vimco estimates a bound of several samples" in done.stdout
    assert "1 of 1 runs done" in done.stdout
    record = json.loads(
        (tmp_path / "results" / "runs" / "digits_linear2_concrete_lr1e+38_phi1_seed1000.json").read_text()
    )
    assert "must be finite" in record["diverged"]
    chosen = json.loads((tmp_path / "results" / "rates.json").read_text())
    assert chosen["digits linear2 concrete"]["rate"] == 0.001
    assert chosen["digits linear2 concrete"]["train_elbos"]["20"]["1e+38"] is None


def test_table_one_by_hand(tmp_path, tables):
    """Equal iterations, seeds, intervals, the paper's values, runs that never get there."""

    def write(estimator, seed, points, rate=0.001, whole=True, **more):
        record = {
            "dataset": "mnist",
            "model": "linear1",
            "estimator": estimator,
            "seed": seed,
            "learning_rate": rate,
            "phi_rate": 1.0,
            "iterations": points[-1][0],
            "curve_keys": ["iteration", "train_elbo", "validation_elbo"],
            "curve": points,
            **more,
        }
        if whole:
            record["iwae_100"] = {"validation": -90.0 - seed}
        folder = tmp_path / "runs"
        folder.mkdir(exist_ok=True)
        (folder / f"{estimator}_{rate}_{seed}.json").write_text(json.dumps(record))

    write("rebar", 0, [[0, -200, -200], [10, -110, -120], [20, -100, -125]])
    write("rebar", 1, [[0, -200, -200], [10, -112, -118], [20, -102, -126]])
    write("relax", 0, [[0, -200, -200], [10, -109, -119], [20, -99, -117], [30, -90, -110]])
    write("relax", 1, [[0, -200, -200], [10, -109, -119], [20, -101, -117], [30, -90, -110]])
    write("relax", 1000, [[0, -200, -200], [20, -1, -1]])  # the seed that rates were chosen on
    write("rloo", 0, [[0, -200, -200], [20, -130, -130]])
    write("rloo", 0, [[0, -200, -200], [20, -1, -1]], rate=0.1)  # not the rate chosen
    write("rloo", 1, [[0, -200, -200], [10, -1, -1]], whole=False, diverged="after iteration 12: NaN")
    write("disarm", 0, [[0, -200, -200], [5, -1, -1]], whole=False)
    rates = {f"mnist linear1 {name}": {"rate": 0.001, "seed": 1000} for name in ("rebar", "relax", "rloo", "disarm")}
    (tmp_path / "rates.json").write_text(json.dumps(rates))
    text, diverged = tables.table(tmp_path).split("\n\nDiverged")
    train, relax_less, rebar_less, validation, final, speed = text.split("\n\n**")
    assert "| MNIST" not in train
    assert "| estimator | mnist, linear, one layer (20) |" in train
    assert "| REBAR `rebar` | -101.00 ± 12.71 (2) [-111.6] |" in train
    assert "| RELAX `relax` | -100.00 ± 12.71 (2) [-111.2] |" in train
    assert "| RLOO, K = 2 `rloo` | -130.00 (1) |" in train
    assert "DisARM" not in train
    assert "| REBAR `rebar` | 1.00 ± 0.00 (2) |" in relax_less
    assert "| RELAX `relax` | — |" in relax_less
    assert "| RELAX `relax` | -1.00 ± 0.00 (2) |" in rebar_less
    assert "| REBAR `rebar` | — |" in rebar_less
    assert "| RELAX `relax` | -117.00 ± 0.00 (2) [-113.62] |" in validation
    assert "| REBAR `rebar` | -90.50 ± 6.35 (2) |" in final
    assert "| RELAX `relax` | — |" in final  # whose runs went on
    assert "| REBAR `rebar` | 10 (2) [857 epochs] |" in speed
    assert "| RELAX `relax` | 15 (2) [531 epochs] |" in speed
    assert "| RLOO, K = 2 `rloo` | > 20 (1) |" in speed
    assert "mnist linear1 RLOO, K = 2, seed 1." in diverged
    assert tables.table(tmp_path / "nowhere") == "No run is finished."

    import figure3

    figure = figure3.draw(tables.finished(tmp_path))
    train, validation = figure.axes
    lines = {line.get_label(): line.get_xydata().tolist() for line in train.lines}
    assert lines == {
        "REBAR": [[0, -200], [10, -111], [20, -101]],
        "RELAX": [[0, -200], [10, -109], [20, -100], [30, -90]],
    }
    assert validation.lines[0].get_ydata().tolist() == [-200, -119, -125.5]
    assert train.get_title() == "mnist, linear, one layer"


@pytest.mark.slow
def test_bench(tmp_path, tables):
    path = tmp_path / "bench.json"
    command = [sys.executable, str(ROOT / "scripts" / "bench_vae.py"), "--rounds", "3", "--steps", "20"]
    command += ["--compiled", "rebar", "relax", "--record", str(path)]
    subprocess.run(command, check=True, cwd=ROOT)
    rows = json.loads(path.read_text())["rows"]
    assert {row["model"] for row in rows} == {"linear1", "linear2", "nonlinear"}
    assert all(row["iterations_per_second"] > 1 for row in rows)
    assert all(row["ratio"] < 1.5 * row["target"] for row in rows if row["target"] and row["compiled"])
    assert all(row["over_plain"] < 1 for row in rows if row["case"] == "relax" and row["compiled"])
    assert "asked ≤ 2.5" in tables.bench_table(tmp_path)
