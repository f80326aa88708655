"""Table 1, against cases worked by hand."""

import json

from scripts.records import Records
from scripts.tables import figure3, vae


def test_table_one_by_hand(tmp_path):
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
        Records(tmp_path).write(f"{estimator}_{rate}_{seed}", record)

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
    text, diverged = vae.table(tmp_path).split("\n\nDiverged")
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
    assert vae.table(tmp_path / "nowhere") == "No run is finished."

    ((column, of),) = vae.finished(tmp_path).items()
    figure = figure3.draw(column, of)
    train, validation = figure.axes
    lines = {line.get_label(): line.get_xydata().tolist() for line in train.lines}
    assert lines == {
        "REBAR": [[0, -200], [10, -111], [20, -101]],
        "RELAX": [[0, -200], [10, -109], [20, -100], [30, -90]],
    }
    assert validation.lines[0].get_ydata().tolist() == [-200, -119, -125.5]
    assert train.get_title(loc="left") == "mnist, linear, one layer"
