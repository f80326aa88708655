"""The pages say what the records say."""

from sb3_relax.estimators import ESTIMATORS
from scripts.tables import bench, double_cv, which
from tests.scripts.command import script


def test_readme_tables_are_what_the_records_say():
    assert "every table is what the records say" in script("tables", "--check").stdout


def test_an_estimator_that_fails_on_one_instance_shows_it():
    """MuProp's median on the toy is 2.9e-08, and on one of the three instances it has twice REINFORCE's."""
    for table in (which.differentiable_table(), bench.estimators_table()):
        assert "2.9e-08 (2)" in next(row for row in table.splitlines() if row.startswith("| muprop"))


def test_an_estimator_has_the_name_that_it_has_now():
    """The record of the normals was written when CurvatureLAX was called stein."""
    names = [row.split("|")[1].strip() for row in which.normals_table().splitlines()[2:]]
    assert "lax_curvature" in names
    assert {name.split()[0] for name in names} <= {*ESTIMATORS}


def test_double_cv_pays_for_its_two_calls():
    """Two calls of K = 2 are at best two samples where slopes say nothing: level with REINFORCE is 2, and not 1."""
    row = next(row for row in double_cv.double_cv_table().splitlines() if row.startswith("| wave | at 0 "))
    assert row.split("|")[3].strip() == "2"
