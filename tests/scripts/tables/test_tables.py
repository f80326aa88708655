"""The pages say what the records say."""

from tests.scripts.command import script


def test_readme_tables_are_what_the_records_say():
    assert "every table is what the records say" in script("tables", "--check").stdout
