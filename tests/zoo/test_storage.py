"""Optuna's tables, created by many processes at the same moment."""

import subprocess
import sys
import time

import pytest
import sqlalchemy.exc

from sb3_relax.zoo import storage

CODE = """
import sys, time
from sb3_relax.zoo.storage import prepare_database
time.sleep(max(0, float(sys.argv[2]) - time.time()))
prepare_database(sys.argv[1])
"""


def test_many_processes_at_once(tmp_path):
    url = f"sqlite:///{tmp_path}/study.db"
    start = str(time.time() + 8)  # when all have been imported
    workers = [subprocess.Popen([sys.executable, "-c", CODE, url, start], stderr=subprocess.PIPE) for _ in range(4)]
    errors = [worker.communicate()[1].decode() for worker in workers]
    assert [worker.returncode for worker in workers] == [0] * 4, "\n".join(errors)


def test_a_database_that_cannot_be_opened_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "SECONDS", 0.0)
    with pytest.raises(sqlalchemy.exc.OperationalError, match="unable to open"):
        storage.prepare_database(f"sqlite:///{tmp_path}/no/such/folder/study.db")
