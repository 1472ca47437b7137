"""The command with its real daemon: mounts that answer, refuse, crash and come back."""

import os
import shutil
import signal
import sys
from pathlib import Path

import pytest

from depotfs.daemon import mountpoint
from depotfs.daemon.exits import Exit
from tests.cli.conftest import Command
from tests.servers.process import missing


@pytest.fixture
def real(command: Command, monkeypatch: pytest.MonkeyPatch) -> Command:
    """The command as users have it."""
    if not shutil.which("fusermount3") or not os.access("/dev/fuse", os.R_OK | os.W_OK):
        missing("FUSE")
    monkeypatch.setattr(Command, "line", lambda _, *arguments: [sys.executable, "-m", "depotfs", *arguments])
    return command


def kill(command: Command) -> None:
    """The daemon is gone, and nobody could clean up."""
    record = command.record()
    assert record is not None
    os.kill(record.pid, signal.SIGKILL)
    while not mountpoint.is_dead(str(command.mountpoint)):
        os.sched_yield()


def test_what_is_written_is_stored_and_there_again_after_a_remount(real: Command) -> None:
    real.mount()
    (real.mountpoint / "default" / "hello.txt").write_text("hello")
    assert real.umount().returncode == 0
    assert os.listdir(real.mountpoint) == []
    (file_id,) = (name for name in os.listdir(real.directory / "files") if not name.startswith("."))
    real.mount("--read-only")
    assert os.listdir(real.mountpoint / "default") == [file_id]
    assert (real.mountpoint / "default" / "hello.txt").read_text() == "hello"
    with pytest.raises(OSError, match="Read-only"):
        (real.mountpoint / "default" / "other.txt").write_text("no")
    assert real.umount().returncode == 0


def test_a_second_mount_is_refused_at_the_same_place_and_on_the_same_spool(real: Command) -> None:
    text = "storages: {default: {storage_path: files}}\nmount: {spool: spool}\n"
    (real.directory / "depotfs.yaml").write_text(text)
    real.mount()
    try:
        assert real.run("mount", str(real.mountpoint)).returncode == Exit.ALREADY_MOUNTED
        other = real.directory / "other"
        other.mkdir()
        refused = real.run("mount", "--daemon", str(other))
        assert refused.returncode == Exit.SPOOL_BUSY
        assert refused.stderr.count("\n") == 1
        assert mountpoint.find_type(str(other)) is None
    finally:
        assert real.umount().returncode == 0


def test_a_crashed_daemon_answers_with_an_error_until_the_next_one_takes_over(real: Command) -> None:
    real.mount()
    kill(real)
    with pytest.raises(OSError, match="not connected"):
        os.listdir(real.mountpoint)
    real.mount()
    assert os.listdir(real.mountpoint) == ["default"]
    kill(real)
    ended = real.umount()
    assert ended.returncode == Exit.BYTES_KEPT
    assert os.listdir(real.mountpoint) == []


def test_a_storage_path_that_cannot_be_used_does_not_keep_the_others_from_being_served(real: Command) -> None:
    Path(real.directory, "a-file").touch()
    text = "storages: {good: {storage_path: files}, bad: {storage_path: a-file}}\n"
    (real.directory / "depotfs.yaml").write_text(text)
    real.mount()
    try:
        (real.mountpoint / "good" / "a.txt").write_text("a")
        with pytest.raises(OSError):
            (real.mountpoint / "bad" / "a.txt").write_text("a")
    finally:
        assert real.umount().returncode in (Exit.OK, Exit.BYTES_KEPT)
