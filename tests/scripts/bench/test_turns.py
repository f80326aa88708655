"""Functions timed in turns."""

import numpy as np

from scripts.bench.turns import in_turns


def test_each_call_is_timed_by_the_clock_and_the_first_round_is_left_out():
    now, calls = 0.0, []

    def taking(name, *seconds):
        left = iter(seconds)

        def function():
            nonlocal now
            now += next(left)
            calls.append(name)

        return function

    functions = {"a": taking("a", 100, 100, 1, 2, 3, 5), "b": taking("b", 100, 100, 10, 20, 30, 50)}
    times = in_turns(functions, rounds=2, calls=2, clock=lambda: now)
    assert calls == ["a", "a", "b", "b"] * 3
    np.testing.assert_allclose(times["a"], [1.5, 4])
    np.testing.assert_allclose(times["b"], [15, 40])
