"""Files are whole or absent, and what killed writers leave is removed by the next."""

import os
import signal
import threading
import time

import pytest

from sb3_relax.files import whole

needs_locks = pytest.mark.skipif(whole.fcntl is None, reason="the system has no locks of files")


def in_a_child(action):
    """The exit status of a process that does ``action`` as if it had just been started; negative: the signal."""
    child = os.fork()
    if child == 0:
        whole._searched.clear()
        try:
            action()
        except BaseException:
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def die_writing(path):
    whole.os.fsync = lambda descriptor: os.kill(os.getpid(), signal.SIGKILL)
    whole.write_whole(path, b"new")


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@needs_locks
def test_what_a_killed_writer_left_is_removed_by_the_next_one_in_the_folder(tmp_path):
    whole.write_whole(tmp_path / "agent.zip", b"old")
    for _ in range(3):
        assert in_a_child(lambda: die_writing(tmp_path / "agent.zip")) == -signal.SIGKILL
        assert len(names(tmp_path)) == 2
    assert in_a_child(lambda: whole.write_whole(tmp_path / "other.zip", b"x")) == 0
    assert names(tmp_path) == ["agent.zip", "other.zip"]
    assert (tmp_path / "agent.zip").read_bytes() == b"old"


@needs_locks
def test_what_another_process_is_writing_is_left_alone(tmp_path, monkeypatch):
    goes_on = threading.Event()
    monkeypatch.setattr(os, "fsync", lambda descriptor: goes_on.wait(60))
    writer = threading.Thread(target=whole.write_whole, args=(tmp_path / "agent.zip", b"new"))
    writer.start()
    while not names(tmp_path):
        time.sleep(0.001)
    assert in_a_child(lambda: whole.remove_leftovers(tmp_path)) == 0
    assert len(names(tmp_path)) == 1
    goes_on.set()
    writer.join(60)
    assert names(tmp_path) == ["agent.zip"]
    assert (tmp_path / "agent.zip").read_bytes() == b"new"


@needs_locks
def test_a_file_taken_for_a_leftover_before_it_was_locked_is_begun_again(tmp_path, monkeypatch):
    lock, taken = whole.fcntl.flock, []

    def late(file, how):
        if not taken:
            taken.append(file.name)
            os.unlink(file.name)
        lock(file, how)

    monkeypatch.setattr(whole.fcntl, "flock", late)
    whole.write_whole(tmp_path / "agent.zip", b"new")
    assert names(tmp_path) == ["agent.zip"]


@needs_locks
def test_files_of_the_users_own_are_no_leftovers(tmp_path):
    for name in (".mine.partial", "agent.zip.0123456789abcdef.partial", ".agent.zip.0123456789ABCDEF.partial"):
        (tmp_path / name).write_bytes(b"")
    before = names(tmp_path)
    assert in_a_child(lambda: whole.remove_leftovers(tmp_path)) == 0
    assert names(tmp_path) == before


def test_many_writers_of_one_file(tmp_path):
    contents = [bytes([number]) * 100_000 for number in range(8)]
    writers = [threading.Thread(target=whole.write_whole, args=(tmp_path / "file", content)) for content in contents]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert names(tmp_path) == ["file"]
    assert (tmp_path / "file").read_bytes() in contents
