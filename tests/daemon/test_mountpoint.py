"""What is mounted where, and what is refused before anything is made."""

import errno
import os
from pathlib import Path

import pytest

from depotfs.daemon import mountpoint
from depotfs.daemon.exits import CommandFailed, Exit
from tests.daemon.fuse_mount import dead_mount


def refused(path: Path) -> Exit:
    """The code with which mounting there is refused; the sentence names the path or the device."""
    with pytest.raises(CommandFailed) as caught:
        mountpoint.check(str(path))
    assert str(path) in str(caught.value) or "/dev/fuse" in str(caught.value)
    assert "\n" not in str(caught.value)
    return caught.value.code


def test_a_mountpoint_that_is_missing_no_directory_or_not_empty_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert refused(tmp_path / "missing") is Exit.MOUNTPOINT_MISSING
    assert refused(tmp_path / "file") is Exit.NOT_A_DIRECTORY
    assert refused(tmp_path) is Exit.NOT_EMPTY
    assert sorted(os.listdir(tmp_path)) == ["file"]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (FileNotFoundError(errno.ENOENT, "No such file or directory"), Exit.NO_FUSE),
        (OSError(errno.ENODEV, "No such device"), Exit.NO_FUSE),
        (PermissionError(errno.EPERM, "Operation not permitted"), Exit.NO_PERMISSION),
    ],
)
def test_a_machine_without_fuse_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: OSError, code: Exit
) -> None:
    def refuse(path: str, flags: int) -> int:
        raise error

    monkeypatch.setattr(os, "open", refuse)
    assert refused(tmp_path) is code


def test_what_is_mounted_is_known_with_odd_names_too(tmp_path: Path) -> None:
    odd = tmp_path / "a b\t\\c#"
    odd.mkdir()
    proc = mountpoint.find("/proc")
    assert proc is not None
    assert (proc.type, proc.source, proc.owner) == ("proc", "proc", None)
    assert mountpoint.find(str(odd)) is None
    with dead_mount(odd):
        mounted = mountpoint.find(str(odd))
        assert mounted is not None
        assert (mounted.type, mounted.source, mounted.owner) == (mountpoint.FILESYSTEM, "test", os.getuid())
        assert mountpoint.find(str(tmp_path)) is None


def test_a_dead_mount_of_ours_is_no_obstacle_and_can_be_detached(tmp_path: Path) -> None:
    assert not mountpoint.is_dead(str(tmp_path))
    with dead_mount(tmp_path):
        assert mountpoint.is_dead(str(tmp_path))
        mountpoint.check(str(tmp_path))
        mountpoint.detach(str(tmp_path))
        assert mountpoint.find(str(tmp_path)) is None
        assert os.listdir(tmp_path) == []


def test_a_dead_mount_of_another_program_is_an_obstacle(tmp_path: Path) -> None:
    with dead_mount(tmp_path, "sshfs"):
        assert refused(tmp_path) is Exit.ALREADY_MOUNTED
        assert not mountpoint.is_ours(str(tmp_path))
        assert mountpoint.find(str(tmp_path)) is not None


def test_a_path_is_resolved_without_asking_a_mount_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "real" / "mount").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (tmp_path / "direct").symlink_to(tmp_path / "real" / "mount")
    monkeypatch.chdir(tmp_path)
    expected = os.path.realpath(tmp_path / "real" / "mount")
    assert mountpoint.resolve("link/mount/") == expected
    assert mountpoint.resolve("direct") == expected
    with dead_mount(tmp_path / "real" / "mount"):
        assert mountpoint.resolve("link/mount") == expected
