"""Mountpoint: a directory, what is mounted on it, and whether depotfs may be."""

from __future__ import annotations

import ctypes
import errno
import os
import pwd
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from depotfs.daemon.exits import CommandFailed, Exit

_CAP_SYS_ADMIN: Final = 21  # <linux/capability.h>
_MNT_DETACH: Final = 2  # <sys/mount.h>
_UMOUNT_NOFOLLOW: Final = 8  # <sys/mount.h>
_IN_CONTAINERS: Final = "a container needs --device /dev/fuse --cap-add SYS_ADMIN"
_libc = ctypes.CDLL(None, use_errno=True)

FILESYSTEM: Final = "fuse.depotfs"
"""The type of our mounts in /proc/self/mountinfo."""


@dataclass(frozen=True, slots=True)
class Mounted:
    """What is mounted at a path.

    Attributes:
        type: of the file system; source: what it says that it is made of.
        device: `major:minor`, which no other mounted file system has.
        owner: who mounted a FUSE file system, None for others.
    """

    type: str
    source: str
    device: str
    owner: int | None


def resolve(path: str) -> str:
    """The absolute path without symbolic links; of a mountpoint of ours without asking its daemon, which may hang."""
    parent, name = os.path.split(os.path.abspath(path))
    lexical = os.path.join(os.path.realpath(parent), name)
    return lexical if find(lexical) else os.path.realpath(path)


def find(path: str) -> Mounted | None:
    """What is mounted at exactly that absolute path, None if nothing is (proc(5), mountinfo); asks the kernel alone."""
    found = None
    for line in Path("/proc/self/mountinfo").read_text(errors="surrogateescape").split("\n")[:-1]:
        before, _, after = line.partition(" - ")
        fields = before.split(" ")
        if _unescape(fields[4]) == path:
            found = _mounted(fields[2], *after.split(" ")[:3])  # the last line is the topmost mount
    return found


def _mounted(device: str, filesystem: str, source: str, options: str) -> Mounted:
    owner = re.search(r"(?:^|,)user_id=(\d+)", options)
    return Mounted(filesystem, _unescape(source), device, int(owner[1]) if owner else None)


def _unescape(field: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), field)


def user_name(uid: int | None) -> str:
    """The name of a user, or the number of one without."""
    try:
        return pwd.getpwuid(uid or 0).pw_name
    except KeyError:
        return f"the user {uid}"


def is_ours(path: str) -> bool:
    """Whether a depotfs is mounted at exactly that absolute path."""
    mounted = find(path)
    return mounted is not None and mounted.type == FILESYSTEM


def is_dead(path: str) -> bool:
    """Whether a mount of ours is there whose daemon has ended."""
    if not is_ours(path):
        return False
    try:
        os.statvfs(path)  # which the kernel never answers from what it has cached, as it does stat(2)
    except OSError as error:
        return error.errno in (errno.ENOTCONN, errno.ECONNABORTED)
    return False


def check(path: str) -> None:
    """A depotfs may be mounted at that absolute path, as far as can be told beforehand; nothing was changed.

    A mount of ours whose daemon is dead is no obstacle; `detach` it right before mounting.

    Raises:
        CommandFailed: with the cause's own code.
    """
    if not is_dead(path):
        _check_directory(path)
    _check_device()
    if not _is_privileged() and not is_dead(path) and not os.access(path, os.W_OK):
        raise CommandFailed(Exit.NO_PERMISSION, f"You cannot write to {path}, so you cannot mount there")


def check_allow_other() -> None:
    """Other users may be let in. CommandFailed if fusermount3 would refuse that."""
    if not _is_privileged() and not _user_allow_other():
        sentence = "allow_other needs the line user_allow_other in /etc/fuse.conf, or root"
        raise CommandFailed(Exit.NO_PERMISSION, sentence)


def _check_directory(path: str) -> None:
    if is_ours(path):
        raise CommandFailed(Exit.ALREADY_MOUNTED, f"A depotfs is mounted at {path} already")
    try:
        with os.scandir(path) as entries:
            first = next(entries, None)
    except FileNotFoundError:
        raise CommandFailed(Exit.MOUNTPOINT_MISSING, f"The mountpoint {path} does not exist; make it first") from None
    except NotADirectoryError:
        raise CommandFailed(Exit.NOT_A_DIRECTORY, f"The mountpoint {path} is not a directory") from None
    except PermissionError:
        raise CommandFailed(Exit.NO_PERMISSION, f"You cannot look into the mountpoint {path}") from None
    except OSError as error:
        if error.errno in (errno.ENOTCONN, errno.ECONNABORTED):
            sentence = f"A dead mount of another program is at {path}; detach it with: umount -l {path}"
            raise CommandFailed(Exit.ALREADY_MOUNTED, sentence) from None
        raise
    if first is not None:
        raise CommandFailed(Exit.NOT_EMPTY, f"The mountpoint {path} is not empty: it has {first.name!r}")


def _check_device() -> None:
    try:
        os.close(os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC))
    except PermissionError:
        sentence = f"You cannot open /dev/fuse: as root, chmod 0666 /dev/fuse; {_IN_CONTAINERS}"
        raise CommandFailed(Exit.NO_PERMISSION, sentence) from None
    except OSError as error:
        sentence = f"/dev/fuse cannot be opened ({error.strerror}): this kernel has no FUSE, or {_IN_CONTAINERS}"
        raise CommandFailed(Exit.NO_FUSE, sentence) from None
    if not _is_privileged() and not shutil.which("fusermount3"):
        sentence = "fusermount3 is not installed, and only root mounts without it; install the package fuse3"
        raise CommandFailed(Exit.NO_FUSE, sentence)


def _user_allow_other() -> bool:
    try:
        lines = Path("/etc/fuse.conf").read_text(errors="replace").splitlines()
    except OSError:
        return False
    return any(line.strip() == "user_allow_other" for line in lines)


def _is_privileged() -> bool:
    """Whether this process mounts by itself: root, or a service that was given CAP_SYS_ADMIN (capabilities(7))."""
    status = Path("/proc/self/status").read_text()
    effective = next(line for line in status.splitlines() if line.startswith("CapEff:"))
    return bool(int(effective.split()[1], 16) >> _CAP_SYS_ADMIN & 1)


class InUse(Exception):
    """Somebody has a file or directory of the mount open, or as the working directory; it stays mounted."""


def unmount(path: str) -> None:
    """Nothing of ours is mounted there any more.

    Raises:
        InUse: nothing has changed.
        CommandFailed: the user may not.
    """
    reason = _umount(path, 0)
    if reason is None:
        return
    if os.strerror(errno.EBUSY) in reason:
        raise InUse(f"{path} is in use")
    raise CommandFailed(Exit.NO_PERMISSION, f"{path} cannot be unmounted: {reason}")


def detach(path: str) -> None:
    """Nothing of ours is mounted there any more; whoever still has a file open there gets ENOTCONN.

    Raises:
        CommandFailed: the user may not.
    """
    if (reason := _umount(path, _MNT_DETACH)) is not None:
        mounted = find(path)
        if mounted is not None and mounted.owner not in (None, os.geteuid()):
            reason = f"it is {user_name(mounted.owner)}'s; only that user and root may"
        raise CommandFailed(Exit.NO_PERMISSION, f"{path} cannot be unmounted: {reason}")


def _umount(path: str, flags: int) -> str | None:
    """Why our mount is still there, None if it is not; fusermount3 is asked where the kernel refuses this user."""
    if not _libc.umount2(os.fsencode(path), flags | _UMOUNT_NOFOLLOW):
        return None
    code = ctypes.get_errno()
    reason = os.strerror(code)
    if code == errno.EPERM and shutil.which("fusermount3"):
        command = ["fusermount3", "-u", *(["-z"] if flags & _MNT_DETACH else []), path]
        ended = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "LC_ALL": "C"})
        reason = ended.stderr.strip()
    return reason if is_ours(path) else None
