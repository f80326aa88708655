"""States to measure in, and how many episodes they must be of."""

import pytest

from sb3_relax import RELAXA2C
from sb3_relax.diagnose import diagnose
from sb3_relax.diagnose.restore import EnvSource
from sb3_relax.diagnose.states import visit
from sb3_relax.errors import UsageError


def test_states_of_too_few_episodes_are_refused():
    """Of two episodes, the standard error of a product of means would be 0 / 0."""
    model = RELAXA2C("MlpPolicy", "CartPole-v1", device="cpu", seed=0)
    source = EnvSource("CartPole-v1")
    with pytest.raises(ValueError, match="at least 3"):
        visit(model.policy, source, 10, 2, 50, 0)
    assert len(set(visit(model.policy, source, 30, 3, 10, 0).episodes)) == 3
    # three of these thirty steps are of two episodes
    with pytest.raises(UsageError, match="of 2 episodes, and standard errors need 3: measure with a larger n_states"):
        visit(model.policy, source, 3, 3, 10, 0)


@pytest.mark.parametrize("name", ["n_states", "n_episodes"])
def test_sizes_that_give_no_standard_error_are_refused(name):
    model = RELAXA2C("MlpPolicy", "CartPole-v1", device="cpu", seed=0)
    with pytest.raises(ValueError, match=f"{name} must be .*3"):
        diagnose(model, "CartPole-v1", **{name: 2})
