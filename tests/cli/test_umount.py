"""`depotfs umount` and what it tells of the bytes."""

import os
import signal
from pathlib import Path

from depotfs.daemon import mountpoint
from depotfs.daemon.exits import Exit
from tests.cli.conftest import Command
from tests.daemon.fuse_mount import dead_mount


def test_it_returns_when_the_daemon_has_ended(command: Command) -> None:
    record = command.mount()
    ended = command.umount()
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
    assert not record.is_alive()
    assert command.umount().returncode == Exit.NOT_MOUNTED


def test_bytes_that_stay_in_the_spool_are_named(command: Command) -> None:
    command.mount(STANDIN_KEPT="avatars/photo.jpg,avatars/other.jpg")
    ended = command.umount()
    assert ended.returncode == Exit.BYTES_KEPT
    assert ended.stderr == (
        "depotfs: kept in the spool: avatars/photo.jpg\n"
        "depotfs: kept in the spool: avatars/other.jpg\n"
        f"depotfs: {command.mountpoint} is unmounted, but 2 files could not be stored;"
        " the next mount there tries again\n"
    )


def test_a_daemon_that_takes_longer_than_the_limit_goes_on(command: Command, tmp_path: Path) -> None:
    noted = tmp_path / "noted"
    record = command.mount(STANDIN_SLOW=str(noted))
    ended = command.umount("--timeout", "0.2s")
    assert ended.returncode == Exit.TIMED_OUT
    assert "goes on" in ended.stderr
    assert record.is_alive()
    process = os.pidfd_open(record.pid)
    signal.pidfd_send_signal(process, signal.SIGINT)
    assert command.umount().returncode in (Exit.OK, Exit.NOT_MOUNTED)
    os.close(process)
    assert noted.read_text() == "SIGTERM"


def test_the_mount_of_a_daemon_that_was_killed_is_detached_and_said(command: Command) -> None:
    record = command.mount()
    process = os.pidfd_open(record.pid)
    os.kill(record.pid, signal.SIGKILL)
    while record.is_alive():
        os.sched_yield()
    os.close(process)
    with dead_mount(command.mountpoint):
        ended = command.umount()
        assert ended.returncode == Exit.BYTES_KEPT
        assert "died" in ended.stderr
        assert mountpoint.find_type(str(command.mountpoint)) is None


def test_a_mount_that_is_not_on_record_is_unmounted(command: Command) -> None:
    with dead_mount(command.mountpoint):
        assert command.umount().returncode == 0
        assert mountpoint.find_type(str(command.mountpoint)) is None


def test_what_is_not_ours_stays_mounted(command: Command) -> None:
    with dead_mount(command.mountpoint, "sshfs"):
        assert command.umount().returncode == Exit.NOT_MOUNTED
        assert mountpoint.find_type(str(command.mountpoint)) == "fuse.sshfs"
