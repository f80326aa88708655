"""The compiled gradient is the gradient."""

import copy
import shutil
from functools import partial

import pytest
import torch

from sb3_relax.estimators import ESTIMATORS
from sb3_relax.tasks.vae.cases import CASES
from sb3_relax.tasks.vae.compiled import CompiledGradient, require_compiler
from sb3_relax.tasks.vae.objective import accumulate_gradient
from sb3_relax.tasks.vae.trainer import Config, Trainer, require_same
from tests.tasks.vae.synthetic import bits
from tests.tasks.vae.test_gradients import live, tiny
from tests.tasks.vae.test_trainer import same, state


@pytest.fixture
def compiler():
    try:
        require_compiler(torch.device("cpu"))
    except ValueError as error:
        pytest.skip(str(error))


def as_it_is(graph):
    """Compiles nothing, which takes most of the time."""
    return graph


@pytest.fixture(autouse=True)
def _setting():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)
    torch.set_num_threads(before)


def problem(name, layers, hidden_layers=0):
    """A model, its estimators with control variates that matter, and three images."""
    model, _ = tiny(layers, hidden_layers)
    return model, live(name, layers, model.units), (torch.rand(3, 4) < 0.5).double()


def gradients(model, estimators):
    return {
        name: None if parameter.grad is None else parameter.grad.clone()
        for module in (model, estimators)
        for name, parameter in module.named_parameters()
    }


def forward_and_compare(gradient, model, estimators, x):
    """Three steps by ``gradient`` and by a twin that is not compiled: f, every gradient, every statistic."""
    twins = copy.deepcopy(model), copy.deepcopy(estimators)
    exact = {} if x.dtype == torch.float64 else {"rtol": 1e-4, "atol": 1e-5}
    for seed in range(3):  # whatever were constant in the graph would show in the second
        x, shift = 1 - x, torch.tensor(float(seed), dtype=x.dtype)
        for module in twins:
            module.zero_grad()
        f = gradient(x, torch.Generator().manual_seed(seed), shift)
        expected = accumulate_gradient(*twins, x, torch.Generator().manual_seed(seed), shift)
        torch.testing.assert_close(f, expected, **exact)
        got, wanted = gradients(model, estimators), gradients(*twins)
        assert [n for n in got if got[n] is None] == [n for n in wanted if wanted[n] is None]
        for parameter, of_twin in wanted.items():
            if of_twin is not None:
                torch.testing.assert_close(got[parameter], of_twin, **(exact or {"rtol": 1e-7, "atol": 1e-9}))
        for buffer, statistic in twins[1].named_buffers():
            torch.testing.assert_close(estimators.get_buffer(buffer), statistic, **exact)
        for pair in ((model, estimators), twins):
            torch.manual_seed(seed)
            for module in pair:
                for parameter in module.parameters():
                    parameter.data.add_(0.1 * torch.rand(parameter.shape))


@pytest.mark.traces
@pytest.mark.parametrize(("layers", "hidden_layers"), [(1, 0), (2, 0), (1, 2)])
@pytest.mark.parametrize("name", CASES)
def test_the_traced_gradient_is_the_gradient(name, layers, hidden_layers):
    if name == "vimco" and layers > 1:
        pytest.skip("VIMCO is no layer's estimator")
    model, estimators, x = problem(name, layers, hidden_layers)
    forward_and_compare(CompiledGradient(model, estimators, as_it_is), model, estimators, x)


@pytest.mark.parametrize(("name", "layers"), [("nvil", 1), pytest.param("relax", 2, marks=pytest.mark.slow)])
def test_the_compiled_gradient_is_the_gradient(compiler, name, layers):
    model, estimators, x = problem(name, layers)
    model, estimators, x = model.float(), estimators.float(), x.float()
    forward_and_compare(CompiledGradient(model, estimators), model, estimators, x)


def test_frozen_parameters_and_the_global_generator_are_left_alone():
    model, estimators, x = problem("relax", 2)
    model.decoders.requires_grad_(False)
    before = torch.get_rng_state()
    gradient = CompiledGradient(model, estimators, as_it_is)
    gradient(x, torch.Generator(), torch.zeros(()))
    assert torch.equal(before, torch.get_rng_state())
    assert all(parameter.grad is None for parameter in model.decoders.parameters())
    assert all(parameter.grad is not None for parameter in model.encoders.parameters())


@pytest.mark.traces
def test_another_shape_of_batch_is_traced_anew():
    model, estimators, x = problem("relax", 1)
    gradient = CompiledGradient(model, estimators, as_it_is)
    for batch in (x, x[:2], x):
        forward_and_compare(gradient, model, estimators, batch)


def test_a_value_that_is_not_finite_is_refused():
    model, estimators, x = problem("relax", 1)
    traced = CompiledGradient(model, estimators, as_it_is)
    traced(x, torch.Generator(), torch.zeros(()))
    model.prior.data[0] = torch.nan
    with pytest.raises(ValueError, match=r"f\(b\) must be finite; got nan"):
        traced(x, torch.Generator(), torch.zeros(()))


def test_noise_that_is_not_uniform_is_refused():
    class Noisy(ESTIMATORS["reinforce"]):
        def forward(self, latent, f, generator=None):
            return super().forward(latent, lambda b: f(b) + 0 * torch.randn(b.shape[:-1]), generator)

    model, _, x = problem("reinforce", 1)
    with pytest.raises(TypeError, match=r"randn.*only torch.rand can be compiled"):
        CompiledGradient(model, torch.nn.ModuleList([Noisy()]), as_it_is)(x, torch.Generator(), torch.zeros(()))


def test_without_a_compiler_it_is_refused_before_anything_runs(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(ValueError, match=r"needs a C\+\+ compiler, and .* is not there"):
        Trainer(Config("bits", units=8, compile=True), bits())


@pytest.mark.parametrize(
    ("model", "estimator"), [("linear1", "nvil"), pytest.param("linear2", "relax", marks=pytest.mark.slow)]
)
def test_compiled_training_is_training_and_goes_on_bit_for_bit(compiler, tmp_path, model, estimator):
    torch.set_default_dtype(torch.float32)
    config = partial(Config, "bits", model, estimator, units=8)
    plain, compiled, again = (Trainer(config(compile=on), bits()) for on in (False, True, True))
    plain.train(20, 10)
    compiled.train(10, 10, tmp_path / "checkpoint.pt")
    again.load(tmp_path / "checkpoint.pt")
    for trainer in (compiled, again):
        trainer.train(20, 10)
    assert same(state(again), state(compiled))
    for a, b in zip(plain.model.parameters(), compiled.model.parameters(), strict=True):
        if a.dim() > 1:  # a gradient of 0 and one of rounding are far apart to Adam's first step
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)
    with pytest.raises(ValueError, match=r"compile True \(now False\)"):
        plain.load(tmp_path / "checkpoint.pt")


def test_a_checkpoint_from_before_there_was_compile_is_of_a_plain_run(tmp_path):
    config = Config("bits", units=8)
    old = {name: value for name, value in vars(config).items() if name != "compile"}
    require_same(tmp_path, {"config": old, "processes": 1}, config, 1)
