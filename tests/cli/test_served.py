"""The command with its real daemon: mounts that answer, refuse, crash and come back."""

import errno
import os
import resource
import signal
import subprocess
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest

from depotfs.daemon import mountpoint
from depotfs.daemon.exits import Exit
from tests.cli.conftest import Command
from tests.posix.place import opened


def kill(command: Command, daemon: int) -> None:
    """The daemon is gone, and nobody could clean up."""
    os.kill(daemon, signal.SIGKILL)
    while not mountpoint.is_dead(str(command.mountpoint)):
        os.sched_yield()


def test_what_is_written_is_stored_and_there_again_after_a_remount(command: Command) -> None:
    command.mount()
    (command.mountpoint / "default" / "hello.txt").write_text("hello")
    assert command.umount().returncode == 0
    assert os.listdir(command.mountpoint) == []
    (file_id,) = (name for name in os.listdir(command.directory / "files") if not name.startswith("."))
    command.mount("--read-only")
    assert os.listdir(command.mountpoint / "default") == [file_id]
    assert (command.mountpoint / "default" / "hello.txt").read_text() == "hello"
    with pytest.raises(OSError, match="Read-only"):
        (command.mountpoint / "default" / "other.txt").write_text("no")
    assert command.umount().returncode == 0


def test_a_second_mount_is_refused_at_the_same_place_and_on_the_same_spool(command: Command) -> None:
    text = "storages: {default: {storage_path: files}}\nmount: {spool: spool}\n"
    (command.directory / "depotfs.yaml").write_text(text)
    command.mount()
    try:
        assert command.run("mount", str(command.mountpoint)).returncode == Exit.ALREADY_MOUNTED
        other = command.directory / "other"
        other.mkdir()
        refused = command.run("mount", "--daemon", str(other))
        assert refused.returncode == Exit.SPOOL_BUSY
        assert refused.stderr.count("\n") == 1
        assert mountpoint.find(str(other)) is None
    finally:
        assert command.umount().returncode == 0


def test_a_crashed_daemon_answers_with_an_error_until_the_next_one_takes_over(command: Command) -> None:
    kill(command, command.mount())
    with pytest.raises(OSError, match="not connected"):
        os.listdir(command.mountpoint)
    daemon = command.mount()
    assert os.listdir(command.mountpoint) == ["default"]
    kill(command, daemon)
    ended = command.umount()
    assert ended.returncode == Exit.BYTES_KEPT
    assert os.listdir(command.mountpoint) == []


def test_a_storage_path_that_cannot_be_used_does_not_keep_the_others_from_being_served(command: Command) -> None:
    Path(command.directory, "a-file").touch()
    text = "storages: {good: {storage_path: files}, bad: {storage_path: a-file}}\n"
    (command.directory / "depotfs.yaml").write_text(text)
    command.mount()
    try:
        (command.mountpoint / "good" / "a.txt").write_text("a")
        with pytest.raises(OSError):
            (command.mountpoint / "bad" / "a.txt").write_text("a")
    finally:
        assert command.umount().returncode in (Exit.OK, Exit.BYTES_KEPT)


def test_df_shows_no_more_free_than_the_spool_may_take(command: Command) -> None:
    (command.directory / "depotfs.yaml").write_text(
        "storages: {default: {storage_path: files}}\nmount: {spool_size: 1MiB}\n"
    )
    command.mount()
    found = os.statvfs(command.mountpoint)
    assert found.f_bavail * found.f_frsize == 1 << 20
    with opened(command.mountpoint / "default" / "one", os.O_CREAT | os.O_WRONLY) as fd:
        os.write(fd, b"x" * (512 << 10))
        found = os.statvfs(command.mountpoint)
        assert found.f_bavail * found.f_frsize == 512 << 10
    assert command.umount().returncode == 0


def open_until_refused(directory: Path, most: int) -> tuple[list[int], int]:
    """Descriptors of new files, each with a byte; and the errno that ended it, 0 if none did."""
    descriptors: list[int] = []
    try:
        for number in range(most):
            descriptors.append(os.open(directory / f"{number}", os.O_CREAT | os.O_RDWR))
            os.write(descriptors[-1], b"x")
    except OSError as error:
        return descriptors, error.errno or -1
    return descriptors, 0


@pytest.mark.parametrize(("hard", "expected"), [(2000, 0), (200, errno.EMFILE)])
def test_as_many_files_are_open_as_the_user_may_have(command: Command, hard: int, expected: int) -> None:
    """A shell's limit does not count; at the hard one the caller is told, and once others close all is well."""
    limits = partial(resource.setrlimit, resource.RLIMIT_NOFILE, (120, hard))
    daemon = command.start("mount", "mnt", preexec_fn=limits, stdout=subprocess.PIPE)
    assert daemon.stdout is not None
    daemon.stdout.readline()
    directory = command.mountpoint / "default"
    descriptors, told = open_until_refused(directory, 300)
    for fd in descriptors:
        with suppress(OSError):  # at the limit its commit may have to wait, and says so
            os.close(fd)
    (directory / "later").write_text("fine")
    assert (directory / "later").read_text() == "fine"
    assert command.umount().returncode == 0
    daemon.communicate(timeout=30)
    assert told == expected
    assert len(os.listdir(command.directory / "files")) in (len(descriptors) + 1, len(descriptors) + 2)
