"""The toy: its exact loss, its runs, its command line."""

import json
import math

import numpy as np
import pytest
import torch

from sb3_relax.estimators import ESTIMATORS, LogisticBernoulli, exact_gradient
from sb3_relax.tasks import toy


@pytest.mark.parametrize("target", [0.499, 0.2, 0.7, -1.0, 2.0])
@pytest.mark.parametrize("theta", [-3.0, 0.0, 1.5])
def test_excess_loss_is_the_expectation_over_the_optimum(theta, target):
    p = 1 / (1 + math.exp(-theta))
    expectation = p * (1 - target) ** 2 + (1 - p) * target**2
    best = min(target**2, (1 - target) ** 2)
    assert toy.excess_loss(theta, target) == pytest.approx(expectation - best, abs=1e-12)


def test_objective_is_the_one_whose_gradient_is_taken(float64):
    latent = LogisticBernoulli(torch.tensor([0.4]))
    p = latent.theta.sigmoid()
    expected = p * (1 - p) * ((1 - 0.3) ** 2 - 0.3**2)
    assert torch.allclose(exact_gradient(latent, toy.objective(0.3)).score, expected)


def test_a_run_repeats_itself_and_learns():
    settings = dict(target=0.45, steps=600, rate=0.05, cv_rate=0.01, probes=4)
    first, second = (toy.run("RLOO, K = 2", 3, **settings) for _ in range(2))
    assert first == second
    assert first["steps"] == [0, 200, 400, 600]
    assert first["excess_loss"][0] == pytest.approx(toy.excess_loss(0.0, 0.45))
    assert first["excess_loss"][-1] < 0.2 * first["excess_loss"][0]
    assert first["theta"] < -1


def test_probing_does_not_change_the_run():
    settings = dict(target=0.45, steps=50, rate=0.05, cv_rate=0.01)
    assert toy.run("RELAX", 0, **settings, probes=2)["theta"] == toy.run("RELAX", 0, **settings, probes=40)["theta"]


def test_every_case_is_an_estimator_and_runs():
    assert {name for name, _ in toy.CASES.values()} <= set(ESTIMATORS)
    for case in toy.CASES:
        result = toy.run(case, 0, target=0.499, steps=3, rate=0.01, cv_rate=0.01, probes=2)
        assert np.isfinite(result["variance"]).all()
        assert (result["surrogate"] is not None) == (case in toy.SURROGATES)


def test_surrogate_curves():
    z = toy.GRID.numpy()
    rebar = toy.run("REBAR", 0, target=0.3, steps=0, rate=0.0, cv_rate=0.0, probes=2)["surrogate"]
    relaxed = 1 / (1 + np.exp(-z / 0.5))
    assert np.allclose(rebar["c"], (relaxed - 0.3) ** 2, atol=1e-4)
    assert np.allclose(rebar["slope"], np.gradient(rebar["c"], z), atol=1e-2)
    assert not any(toy.run("REINFORCE", 0, 0.3, 0, 0.0, 0.0, 2)["surrogate"]["c"])


def test_command_line(tmp_path, capsys):
    sizes = ["--seeds", "2", "--steps", "20", "--probes", "5", "--jobs", "1"]
    toy.main([*sizes, "--estimators", "REINFORCE", "relax", "RELAX", "--output", str(tmp_path)])
    record = json.loads((tmp_path / "record.json").read_text())
    assert {row["case"] for row in record["summary"]} == {"REINFORCE", "RELAX"}
    assert len(record["runs"]) == 4
    assert record["settings"]["steps"] == 20
    assert (tmp_path / "figure1.png").stat().st_size > 10_000
    assert (tmp_path / "figure2.png").stat().st_size > 10_000
    assert "RELAX" in capsys.readouterr().out


def test_one_seed_has_no_interval(tmp_path, capsys):
    """Neither "± nan" on the screen nor NaN, which is no JSON, in the record."""
    sizes = ["--seeds", "1", "--steps", "5", "--probes", "2", "--jobs", "1"]
    toy.main([*sizes, "--estimators", "RELAX", "--output", str(tmp_path)])
    assert "nan" not in capsys.readouterr().out.lower()
    (row,) = json.loads((tmp_path / "record.json").read_text(), parse_constant=pytest.fail)["summary"]
    assert row["excess_loss_interval"] is None


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ("--seeds 0", "--seeds must be at least 1; got 0"),
        ("--jobs 0", "--jobs must be at least 1; got 0"),
        ("--target nan", "--target must be finite"),
        ("--learning-rate 0", "--learning-rate must be positive; got 0.0"),
        ("--cv-learning-rate -1", "--cv-learning-rate must not be negative; got -1.0"),
        ("--estimators relaxx", "invalid choice: 'relaxx' (choose from"),
        ("--output {file}", "argument --output: {file} is a file, not a folder"),
        ("--output {file}/below", "argument --output: {file} is a file, not a folder"),
    ],
)
def test_errors(bad, message, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(toy, "compare", lambda options: pytest.fail("computed"))
    file = tmp_path / "notes.txt"
    file.touch()
    with pytest.raises(SystemExit) as raised:
        toy.main(bad.format(file=file).split())
    assert raised.value.code == 2
    assert message.format(file=file) in capsys.readouterr().err


def test_both_names_of_an_estimator():
    for case, (name, _) in toy.CASES.items():
        assert toy.case_of(name) == toy.case_of(case) == case


def test_an_interrupt_is_one_line(tmp_path, monkeypatch, capsys):
    def interrupted(options):
        raise KeyboardInterrupt

    monkeypatch.setattr(toy, "compare", interrupted)
    with pytest.raises(SystemExit) as raised:
        toy.main(["--output", str(tmp_path)])
    assert raised.value.code == 130
    assert capsys.readouterr().err == "python -m sb3_relax.tasks.toy: interrupted\n"


def test_help_lists_estimators_and_defaults(capsys):
    with pytest.raises(SystemExit):
        toy.main(["--help"])
    out = " ".join(capsys.readouterr().out.split())
    assert '"RLOO, K = 2" or rloo;' in out
    assert "runs at a time (default: 2)" in out
    assert all(action.help for action in toy.parser()._actions)
