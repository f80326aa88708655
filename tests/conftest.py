"""Shared by all tests: one thread a process (the workers share the cores), and float64 where exactness is claimed."""

import gc
import multiprocessing
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
import torch

torch.set_num_threads(1)
# environments in processes of their own come from a server that has imported what each would import for itself
multiprocessing.set_forkserver_preload(["stable_baselines3", "sb3_relax"])
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # as a shell starts what it runs in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem):
    """Tests of tracing run in a thread: torch writes down the stack at every operation, and pytest's is deep."""
    if pyfuncitem.get_closest_marker("traces") is None:
        return None
    arguments = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}
    with ThreadPoolExecutor(1) as pool:
        pool.submit(pyfuncitem.obj, **arguments).result()
    return True


@pytest.hookimpl(wrapper=True)
def pytest_collection(session):
    """Nothing that imports and collection make is garbage: looking through it again and again takes time."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_collection_modifyitems(items):
    """Workers must collect the same tests: a name with an address in it is another one in each."""
    by_address = [item.nodeid for item in items if " at 0x" in item.nodeid]
    if by_address:
        raise pytest.UsageError(f"give {by_address[0]} another id: a function's is its __name__, not its str()")


@pytest.fixture
def float64():
    """Exact tests run in double precision."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


@pytest.fixture(autouse=True)
def seeded():
    # torch.manual_seed() also writes down who called it, once for each kind of device, as long as there is none of them
    seed = torch.manual_seed if torch.cuda.is_available() else torch.default_generator.manual_seed
    seed(0)


@pytest.fixture
def few_timings(monkeypatch):
    """The diagnosis takes the shortest of five updates for what one costs, in the place of a hundred."""
    from sb3_relax.diagnose import measure

    monkeypatch.setattr(measure, "measure_cost", partial(measure.measure_cost, repeats=5))


@pytest.fixture(autouse=True)
def no_figures_left():
    """What one test drew is no other's to find: matplotlib keeps figures for the whole process."""
    yield
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")
