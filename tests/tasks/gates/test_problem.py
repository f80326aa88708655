"""Feature selection: the black box, f, the gradient by enumeration, and what is measured and kept."""

import json

import numpy as np
import pytest
import torch

from sb3_relax.estimators import ARMS, Reinforce, check_unbiased
from sb3_relax.tasks.gates.__main__ import main
from sb3_relax.tasks.gates.black_box import BlackBox
from sb3_relax.tasks.gates.problem import FeatureGates, Gates, GatesConfig
from sb3_relax.tasks.gates.rows import PARTS, Rows, load_rows
from sb3_relax.tasks.problem import CASES
from sb3_relax.tasks.trainer import Trainer

NAMES = list(FeatureGates.cases)


def problem(**settings):
    torch.manual_seed(0)
    return FeatureGates(GatesConfig(**{"dataset": "wine", **settings}))


class Few(FeatureGates):
    """The first four of wine's features, so that every b can be visited."""

    def __init__(self, config):
        super().__init__(config)
        self.rows = {part: Rows(rows.x[:, :4], rows.label) for part, rows in self.rows.items()}
        self.mean, self.scale = self.mean[:4], self.scale[:4]
        self.classifier = BlackBox(self.rows["fit"])
        self.model, self.features = Gates(4), 4


def few(**settings):
    torch.manual_seed(0)
    gates = Few(GatesConfig(dataset="wine", cost=0.05, **settings))
    gates.model.logits.data = torch.tensor([0.5, -1.0, 0.2, 1.5])
    return gates


def test_parts_share_no_row_and_leave_none_out():
    rows = load_rows("breast_cancer")
    assert list(rows) == list(PARTS)
    together = np.concatenate([part.x.numpy() for part in rows.values()])
    assert together.shape == (569, 30)
    assert len(np.unique(together, axis=0)) == 569
    assert [len(part.x) for part in rows.values()] == [228, 170, 57, 114]


def test_a_closed_gate_hides_its_feature():
    gates = few()
    batch = gates.held_out("test")
    hidden = torch.tensor([1.0, 0.0, 1.0, 1.0]).expand(len(batch.x), -1)
    other = Rows(batch.x.clone(), batch.label)
    other.x[:, 1] = torch.randn(len(batch.x))
    p = gates.classifier.probabilities(batch, hidden)
    assert torch.equal(p, gates.classifier.probabilities(other, hidden))
    assert not torch.equal(p, gates.classifier.probabilities(other, torch.ones_like(hidden)))
    assert torch.allclose(p.sum(-1), torch.ones(len(p)))


def test_the_black_box_is_the_classifier():
    """Its own way through the trees, several samples at once included."""
    gates = few()
    batch = gates.batch(6, torch.Generator().manual_seed(0))
    b = torch.randint(2, (3, 6, 4)).float()
    p = gates.classifier.probabilities(batch, b)
    x = np.where(b.numpy() > 0, batch.x.numpy(), gates.classifier.mean)
    for sample in range(3):
        assert np.allclose(p[sample], gates.classifier.trees.predict_proba(x[sample]), atol=1e-6)


def test_f_is_half_of_briers_score_and_the_gates_cost():
    gates = few()
    batch = gates.batch(6, torch.Generator().manual_seed(0))
    b = torch.randint(2, (6, 4)).float()
    p = gates.classifier.probabilities(batch, b)
    by_hand = [
        0.5 * sum((p[i, c].item() - (c == batch.label[i].item())) ** 2 for c in range(3)) + 0.05 * b[i].sum().item()
        for i in range(6)
    ]
    assert gates.f(batch, b).tolist() == pytest.approx(by_hand, abs=1e-6)
    assert not gates.f(batch, b).requires_grad


def exact_gradient_of(gates, batch):
    """Σ_b p(b) mean over rows of f(b), by autograd."""
    every = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 4)
    logits = gates.model.logits.detach().clone().requires_grad_()
    p = torch.where(every > 0, logits.sigmoid(), 1 - logits.sigmoid()).prod(-1)
    f = torch.stack([gates.f(batch, b.expand(len(batch.x), -1)).mean() for b in every])
    (gradient,) = torch.autograd.grad((p * f).sum(), logits)
    return gradient


@pytest.mark.parametrize("name", NAMES)
def test_the_mean_of_every_estimator_is_the_gradient_by_enumeration(name):
    gates = few()
    row = gates.batch(1, torch.Generator().manual_seed(1))
    expected = exact_gradient_of(gates, row)
    copies, means = Rows(*(x.expand(1000, *x.shape[1:]) for x in row)), []
    estimators, generator = gates.estimators(name), torch.Generator().manual_seed(0)
    for _ in range(20):
        gates.model.zero_grad()
        gates.estimate(estimators, copies, generator).backward()
        means.append(gates.model.logits.grad.clone())
    means = torch.stack(means)
    z = (means.mean(0) - expected) / (means.std(0) / 20**0.5)
    assert z.abs().max() < 4.5


def test_a_cost_that_is_forgotten_is_seen(monkeypatch):
    """By the same comparison, without noise."""
    gates = few()
    batch = gates.batch(3, torch.Generator().manual_seed(1))
    right = exact_gradient_of(gates, batch)
    monkeypatch.setattr(gates, "cost", 0.0)
    assert (exact_gradient_of(gates, batch) - right).abs().max() > 1e-3


def test_unbiased_by_the_core_s_own_check():
    gates = few()
    row = gates.batch(1, torch.Generator().manual_seed(1))
    latent = gates.model(1).at(gates.model.logits.detach().double())

    def f(b):
        return gates.f(Rows(*(x.expand(len(b), *x.shape[1:]) for x in row)), b.float()).double()

    assert check_unbiased(Reinforce(), latent, f).unbiased
    assert check_unbiased(ARMS(2), latent, lambda b: f(b.flatten(0, -2)).reshape(b.shape[:-1])).unbiased


@pytest.mark.parametrize("name", NAMES)
def test_every_estimator_trains_the_gates(name):
    gates = problem()
    estimators, batch = gates.estimators(name), gates.batch(4, torch.Generator().manual_seed(0))
    for _ in range(2):  # the baseline starts at 0, and so do the gradients of its first layer
        gates.model.zero_grad()
        gates.estimate(estimators, batch, torch.Generator().manual_seed(0)).backward()
        with torch.no_grad():
            for phi in estimators.parameters():
                phi -= 0.01 * phi.grad
    assert (gates.model.logits.grad != 0).all()
    assert all(phi.grad.abs().sum() > 0 for phi in estimators.parameters())


def test_what_is_measured():
    gates = problem()
    gates.model.logits.data = torch.where(torch.arange(13) < 5, 40.0, -40.0)
    batch = gates.held_out("validation")
    measured = gates.measure(batch, torch.Generator().manual_seed(0))
    assert list(measured) == list(gates.measures)
    b = (torch.arange(13) < 5).float().expand(len(batch.x), -1)
    assert measured["score"] == pytest.approx(1 - gates.f(batch, b).mean().item(), abs=1e-6)
    assert measured["score_of_mode"] == pytest.approx(measured["score"], abs=1e-6)
    assert measured["open_gates"] == pytest.approx(5 / 13)
    right = gates.classifier.probabilities(batch, b).argmax(-1) == batch.label
    assert measured["accuracy"] == right.double().mean().item()
    outcome = gates.outcome()
    assert outcome["features"] == [0, 1, 2, 3, 4]
    rows = gates.rows["gates"]
    cost = gates.f(rows, b[:1].expand(len(rows.x), -1)).mean().item()
    assert outcome["cost_of_mode"] == pytest.approx(cost, abs=1e-6)


def test_gates_find_the_features_that_matter():
    """Two of four features are noise to the labels, and cost as much as the others."""
    random = torch.Generator().manual_seed(0)
    gates = few()

    def rows(size):
        x = torch.randn(size, 4, generator=random, dtype=torch.float64)
        return Rows(x, ((x[:, 0] > 0).long() + (x[:, 2] > 0).long()))

    config = GatesConfig(dataset="wine", cost=0.05, calls=8000, batch_size=32, estimator="rloo")
    parts = {part: rows(200) for part in gates.rows}

    def made(_):
        gates.rows, gates.classifier, gates.model = parts, BlackBox(parts["fit"]), Gates(4)
        return gates

    trainer = Trainer(config, made)
    while trainer.step < trainer.steps:
        trainer._step()
    assert gates.outcome()["features"] == [0, 2]


def test_a_rate_for_the_gates_and_one_for_phi():
    trainer = Trainer(GatesConfig(dataset="wine", learning_rate=0.5, phi_learning_rate=0.02), FeatureGates)
    assert [group["lr"] for group in trainer.optimizer.param_groups] == [0.5, 0.02]
    assert [group["lr"] for group in trainer.onlooking.param_groups] == [0.02]


@pytest.mark.usefixtures("quick")
def test_the_command_goes_on_and_keeps_the_gates(tmp_path, capsys):
    arguments = ["--dataset", "wine", "--calls", "600", "--batch-size", "10", "--seeds", "1", "--output", str(tmp_path)]
    main([*arguments, "--estimator", "arms", "nvil"])
    main([*arguments, "--estimator", "disarm"])
    runs = json.loads((tmp_path / "record.json").read_text())["runs"]
    assert [run["estimator"] for run in runs] == ["arms", "nvil", "disarm"]
    assert [run["curve"]["calls"][-1] for run in runs] == [600, 600, 600]
    assert all({"features", "cost_of_mode"} <= run.keys() for run in runs)
    assert len(list((tmp_path / "pictures").iterdir())) == 3
    assert "open_gates" in capsys.readouterr().out


@pytest.mark.parametrize("dataset", ["digits", "wine"])
def test_the_picture(dataset, tmp_path):
    problem(dataset=dataset).draw(tmp_path / "pictures" / "gates.png")
    assert (tmp_path / "pictures" / "gates.png").stat().st_size > 2000


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dataset": "iris"}, "dataset must be one of digits, breast_cancer, wine; got 'iris'"),
        ({"cost": -0.1}, "cost must not be negative; got -0.1"),
    ],
)
def test_settings_that_are_none_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        problem(**settings)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ("--phi-learning-rate 0", "--phi-learning-rate must be positive; got 0.0"),
        ("--cost -1", "gates: cost must not be negative; got -1.0"),
        ("--estimator exact", "invalid choice: 'exact'"),
        ("--dataset iris", "invalid choice: 'iris'"),
    ],
)
def test_errors_of_the_command(bad, message, tmp_path, capsys):
    with pytest.raises(SystemExit) as raised:
        main(["--output", str(tmp_path / "run"), *bad.split()])
    assert raised.value.code == 2
    assert message in capsys.readouterr().err


def test_exact_is_refused():
    assert set(CASES) - set(NAMES) == {"exact"}
    with pytest.raises(ValueError, match="the gates take relax, nvil, rloo, reinforce, disarm, arms; got 'exact'"):
        problem().estimators("exact")
