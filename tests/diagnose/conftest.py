"""Shared by all tests of the diagnosis."""

import pytest


@pytest.fixture(autouse=True)
def _few_timings(few_timings):
    """Of a hundred, no test outside of test_cost.py would know more."""
