"""Many runs at once."""

import sys

import pytest

from scripts.run import sweep


def test_a_backend_that_is_not_installed_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray.util.joblib", None)
    with pytest.raises(ImportError, match=r"pip install 'sb3_relax\[ray\]'"):
        sweep.in_parallel(print, {"a": ()}, 1, "runs", "ray")
