"""`depotfs umount` and what it tells of the bytes."""

import os
import select
import signal
from contextlib import suppress
from pathlib import Path

import pytest

from depotfs.daemon import mountpoint
from depotfs.daemon.exits import Exit
from tests.cli.conftest import Command, GatedCommand
from tests.daemon.fuse_mount import dead_mount
from tests.posix.place import opened

AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes another user")


def asked(command: Command, times: int) -> None:
    """The daemon has heard so many requests to end."""
    while command.log().count("asked to end") < times:
        os.sched_yield()


def test_it_returns_when_the_daemon_has_ended(command: Command) -> None:
    process = os.pidfd_open(command.mount())
    ended = command.umount()
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
    assert select.select([process], [], [], 30)[0]
    os.close(process)
    assert command.umount().returncode == Exit.NOT_MOUNTED


def test_it_finds_the_daemon_in_any_environment(gated: GatedCommand) -> None:
    """The mount leads to it; nothing that differs between the daemon's environment and the caller's does."""
    gated.mount()
    gated.write("one")
    names = ["RUNTIME_DIRECTORY", "XDG_RUNTIME_DIR", "STATE_DIRECTORY", "XDG_STATE_HOME", "HOME"]
    environment = {**gated.environment, **dict.fromkeys(names, "/elsewhere")}
    with gated.start("umount", str(gated.mountpoint), env=environment) as waiting:
        asked(gated, 1)
        assert waiting.poll() is None
        gated.open_gate()
        assert waiting.wait(60) == 0
    assert gated.contents() == ["one"]


def test_the_limit_of_waiting_ends_only_the_waiting_and_so_does_another_umount_or_signal(gated: GatedCommand) -> None:
    daemon = gated.mount()
    gated.write("one")
    ended = gated.umount("--timeout", "0.1s")
    assert ended.returncode == Exit.TIMED_OUT
    assert "still storing files after 0.1 s and will continue" in ended.stderr
    waiting = [gated.start("umount", str(gated.mountpoint)) for _ in range(2)]
    asked(gated, 3)
    os.kill(daemon, signal.SIGTERM)  # as `systemctl stop` does
    while "SIGTERM: storing everything" not in gated.log():
        os.sched_yield()
    (gated.mountpoint / "photos" / "two").write_text("two")  # it still serves
    gated.open_gate()
    for process in waiting:
        assert process.communicate(timeout=60)[1] == ""
        assert process.returncode == 0
    assert gated.contents() == ["one", "two"]


def test_at_once_it_keeps_and_names_what_is_not_stored(gated: GatedCommand) -> None:
    process = os.pidfd_open(gated.mount())
    gated.write("one")
    fd = os.open(gated.mountpoint / "photos" / "one", os.O_RDONLY)
    ended = gated.umount("--now")
    with suppress(OSError):
        os.close(fd)
    assert ended.returncode == Exit.BYTES_KEPT
    kept, told = ended.stderr.splitlines()
    assert kept.startswith("depotfs: kept in the spool: photos/one: 3 bytes, ")
    assert kept.endswith(" old, spool file 1, pending")
    assert told == f"depotfs: {gated.mountpoint} is unmounted, but 1 files are not stored; the spool keeps them"
    assert select.select([process], [], [], 30)[0]
    os.close(process)
    assert (gated.mounted, gated.contents()) == (False, [])
    gated.mount()
    assert "WARNING in the spool: photos/one: 3 bytes, " in gated.log()
    gated.open_gate()
    assert gated.umount().returncode == 0
    assert gated.contents() == ["one"]


def test_while_somebody_uses_it_the_mount_stays(command: Command) -> None:
    command.mount()
    path = command.mountpoint / "default" / "one"
    with opened(path, os.O_CREAT | os.O_RDWR) as fd:
        os.write(fd, b"1")
        ended = command.umount()
        assert ended.returncode == Exit.IN_USE
        holder, told = ended.stderr.splitlines()
        assert holder.startswith("depotfs: in use by ")
        assert f"(process {os.getpid()}): {path}" in holder
        assert told.startswith(f"depotfs: {command.mountpoint} is in use, so it is still mounted")
        os.write(fd, b"2")
    assert path.read_bytes() == b"12"
    assert command.umount().returncode == 0


def test_a_daemon_that_cannot_be_asked_is_no_success(command: Command) -> None:
    command.mount()
    socket = Path(command.ask("status")["spool"], "control")
    away = socket.rename(socket.with_name("away"))
    ended = command.umount()
    assert ended.returncode == Exit.NOT_ASKED
    assert "cannot be asked, so nothing was unmounted" in ended.stderr
    assert os.listdir(command.mountpoint) == ["default"]
    away.rename(socket)
    assert command.umount().returncode == 0


@AS_ROOT
def test_the_mount_of_another_user_is_said_to_be_that_users(command: Command) -> None:
    command.mount("--allow-other")
    for parent in [command.mountpoint, *command.mountpoint.parents[:4]]:
        parent.chmod(0o755)
    ended = command.start("umount", str(command.mountpoint), user="nobody", group="nogroup")
    assert "is root's; only that user and root may ask its daemon" in ended.communicate(timeout=60)[1]
    assert ended.returncode == Exit.NO_PERMISSION
    assert os.listdir(command.mountpoint) == ["default"]


def test_the_mount_of_a_daemon_that_was_killed_is_detached_and_said(command: Command) -> None:
    process = os.pidfd_open(command.mount())
    signal.pidfd_send_signal(process, signal.SIGKILL)
    assert select.select([process], [], [], 30)[0]
    os.close(process)
    ended = command.umount()
    assert ended.returncode == Exit.BYTES_KEPT
    assert "died" in ended.stderr
    assert not command.mounted


def test_a_dead_mount_that_leads_nowhere_is_detached_and_no_success(command: Command) -> None:
    with dead_mount(command.mountpoint):
        assert command.umount().returncode == Exit.BYTES_KEPT
        assert not command.mounted


def test_what_is_not_ours_stays_mounted(command: Command) -> None:
    with dead_mount(command.mountpoint, "sshfs"):
        assert command.umount().returncode == Exit.NOT_MOUNTED
        mounted = mountpoint.find(str(command.mountpoint))
        assert mounted is not None
        assert mounted.type == "fuse.sshfs"
