"""`depotfs mount` around its daemon."""

import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from depotfs.daemon.exits import Exit
from tests.cli.conftest import Command
from tests.daemon.fuse_mount import dead_mount


def test_in_the_foreground_it_says_one_line_when_it_serves_and_ends_with_the_signal(command: Command) -> None:
    with command.start("mount", "mnt", stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line == f"depotfs: serving 1 storage at {command.mountpoint}\n"
        assert command.ask("status")["pid"] == process.pid
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
    assert not command.mounted


@pytest.mark.skipif(os.geteuid() != 0, reason="only root lets others in, unless fuse.conf says more")
def test_in_the_background_it_returns_when_it_serves(command: Command) -> None:
    daemon = command.mount("--read-only", "--allow-other", "--log-level", "debug")
    assert os.getsid(daemon) == daemon
    assert re.search(rf" {command.mountpoint} .*allow_other", Path("/proc/self/mountinfo").read_text())
    with pytest.raises(OSError, match="Read-only"):
        (command.mountpoint / "default" / "new").touch()
    assert command.umount().returncode == 0


@pytest.mark.parametrize("background", [[], ["--daemon"]], ids=["foreground", "background"])
@pytest.mark.parametrize(
    ("failure", "code", "words"),
    [
        ("spool", Exit.SPOOL_BUSY, "depotfs: The spool is another daemon's\n"),
        ("sentence", Exit.NO_PERMISSION, "depotfs: The kernel refuses to mount\n"),
        ("surprise", Exit.UNEXPECTED, "KeyError: 'surprise'"),
    ],
)
def test_a_daemon_that_cannot_start_gives_its_cause(
    command: Command, background: list[str], failure: str, code: Exit, words: str
) -> None:
    command.module = "tests.cli.standin"
    ended = command.run("mount", *background, "mnt", STANDIN_FAIL=failure)
    assert ended.returncode == code
    assert words in ended.stderr


@pytest.mark.parametrize("background", [[], ["--daemon"]], ids=["foreground", "background"])
def test_a_configuration_with_mistakes_shows_them_all_and_nothing_is_made(
    command: Command, background: list[str]
) -> None:
    (command.directory / "depotfs.yaml").write_text("storages: {a: {path: x}}\nmounts: {}\n")
    ended = command.run("mount", *background, "mnt")
    assert ended.returncode == Exit.USAGE
    assert ended.stderr == (
        "depotfs.yaml:1: storages.a.path: unknown key, expected one of storage_path, durable\n"
        "depotfs.yaml:1: storages.a.storage_path: missing, depotfs.io.local.LocalFileStorage needs it\n"
        "depotfs.yaml:2: mounts: unknown key, expected mount?\n"
    )
    assert os.listdir(command.mountpoint) == []


def test_a_mountpoint_that_will_not_do_is_one_sentence_and_nothing_is_made(command: Command) -> None:
    (command.directory / "file").touch()
    for name, code in (("no", Exit.MOUNTPOINT_MISSING), ("file", Exit.NOT_A_DIRECTORY), (".", Exit.NOT_EMPTY)):
        ended = command.run("mount", "--daemon", name)
        assert ended.returncode == code
        assert ended.stderr.count("\n") == 1
    assert sorted(os.listdir(command.directory)) == ["file", "mnt"]


@pytest.mark.parametrize("words", [[], ["--daemon"]], ids=["foreground", "background"])
def test_a_directory_is_not_mounted_over_its_own_storage(command: Command, words: list[str]) -> None:
    """As `mkdir x; cd x; depotfs mount .` would: the storage is ./files."""
    ended = command.start("mount", *words, ".", cwd=command.mountpoint)
    said = ended.communicate(timeout=60)[1]
    assert ended.returncode == Exit.USAGE
    assert f"storage_path {command.mountpoint}/files lies in the mountpoint {command.mountpoint}" in said
    assert (command.mounted, os.listdir(command.mountpoint)) == (False, [])


def test_python_does_not_look_for_modules_in_the_mount(command: Command) -> None:
    """`python -m depotfs`, as here, has the working directory in its path."""
    (command.directory / "depotfs.yaml").write_text("storages: {a: {storage_path: files}}\nmount: {spool: spool}\n")
    with command.start("mount", "--config", "../depotfs.yaml", ".", cwd=command.mountpoint) as process:
        while not command.mounted:
            os.sched_yield()
        (command.mountpoint / "a" / "one").write_text("1")
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0


def test_a_spool_that_others_may_write_to_is_refused(command: Command) -> None:
    state = command.directory / "state" / "depotfs"
    (state / "spool").mkdir(parents=True)
    (state / "spool").chmod(0o777)
    ended = command.run("mount", "mnt")
    assert ended.returncode == Exit.NO_PERMISSION
    assert f"{state}/spool can be written to by others" in ended.stderr
    assert not command.mounted


def test_a_dead_mount_is_detached_only_once_the_configuration_is_good(command: Command) -> None:
    with dead_mount(command.mountpoint):
        bad = command.run("mount", "--config", "none.yaml", "mnt")
        assert bad.returncode == Exit.USAGE
        assert not os.access(command.mountpoint, os.F_OK)
        command.mount()
        assert os.listdir(command.mountpoint) == ["default"]
        assert command.umount().returncode == 0


def test_wrong_arguments_are_code_2_and_say_what_was_expected(command: Command) -> None:
    assert command.run("mount").returncode == Exit.USAGE
    ended = command.run("mount", "mnt", "--log-level", "loud")
    assert ended.returncode == Exit.USAGE
    assert "expected DEBUG, INFO, WARNING or ERROR, found 'loud'" in ended.stderr


def test_on_a_terminal_the_way_out_is_told(command: Command) -> None:
    ours, theirs = os.openpty()
    with command.start("mount", "mnt", stdout=theirs) as process:
        os.close(theirs)
        assert (
            os.read(ours, 1000).strip()
            == f"depotfs: serving 1 storage at {command.mountpoint}; Ctrl-C unmounts".encode()
        )
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
    os.close(ours)


def test_in_the_background_it_tells_where_the_log_is(command: Command) -> None:
    ended = command.run("mount", "--daemon", "--log-file", "a/log", "mnt")
    assert ended.stdout == f"depotfs: serving at {command.mountpoint}; the log is {command.directory}/a/log\n"
    assert (command.directory / "a" / "log").read_text().endswith(f" INFO serving at {command.mountpoint}\n")
    assert command.umount().returncode == 0


def test_an_unknown_option_is_answered_with_the_usage_of_the_command(command: Command) -> None:
    ended = command.run("mount", "--fast", "mnt")
    assert ended.returncode == Exit.USAGE
    assert ended.stderr.startswith("usage: depotfs mount ")
    assert ended.stderr.endswith("error: unrecognized arguments: --fast\n")


@pytest.mark.parametrize(
    ("spool", "code", "words"),
    [
        ("/proc/x", Exit.USAGE, "The spool /proc/x cannot be used: No such file or directory"),
        ("depotfs.yaml/x", Exit.USAGE, "depotfs.yaml/x cannot be used: Not a directory"),
        ("/sys/x", Exit.NO_PERMISSION, "The spool /sys/x cannot be used: "),
    ],
)
def test_a_spool_that_cannot_be_is_told_with_its_cause(command: Command, spool: str, code: Exit, words: str) -> None:
    (command.directory / "depotfs.yaml").write_text(
        f"storages: {{a: {{storage_path: x}}}}\nmount: {{spool: {spool}}}\n"
    )
    ended = command.run("mount", "mnt")
    assert ended.returncode == code
    assert words in ended.stderr
    assert ended.stderr.count("\n") == 1


def test_a_log_that_cannot_be_is_told_with_its_cause(command: Command) -> None:
    ended = command.run("mount", "--log-file", "/sys/log", "mnt")
    assert ended.returncode == Exit.NO_PERMISSION
    assert ended.stderr.startswith("depotfs: The log file /sys/log cannot be opened: ")


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("unshare"), reason="only root leaves a mount namespace out")
def test_what_the_kernel_refuses_is_told_in_one_line_as_it_says_it(command: Command) -> None:
    """Root of a user namespace may not mount into a mount namespace that is not its own."""
    ended = subprocess.run(
        ["unshare", "-Ur", *command.line("mount", "mnt")],
        cwd=command.directory, env=command.environment, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert ended.returncode == Exit.NO_PERMISSION
    assert ended.stderr == (
        f"depotfs: {command.mountpoint} cannot be mounted: fusermount3: mount failed: Operation not permitted\n"
    )


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("unshare"), reason="only root has a namespace made")
def test_it_serves_in_a_user_namespace_with_a_read_only_run(command: Command) -> None:
    script = 'mount -t tmpfs -o ro tmpfs /run && "$@" mount --daemon mnt && echo 1 > mnt/default/one && "$@" umount mnt'
    ended = subprocess.run(
        ["unshare", "-Urm", "sh", "-ec", script, "sh", *command.line()],
        cwd=command.directory, env=command.environment, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (ended.returncode, ended.stderr) == (0, "")
    assert len(os.listdir(command.directory / "files")) == 1
