"""Runtime: where a mount keeps its record and its spool, and what the record says.

The record of a mount is a small JSON file that `depotfs umount` finds the daemon by, and that still
tells the outcome after the daemon has ended. It is state for programs, not for people; losing it costs
nothing but a vaguer answer.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import stat
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from depotfs.daemon.exits import CommandFailed, Exit
from depotfs.daemon.settings import Settings

_ESCAPED_MAX = 200  # bytes; leaves room for an ending within a file name's 255


@dataclass(frozen=True, slots=True)
class MountRecord:
    """What is known of one daemon.

    Attributes:
        started: the kernel's start time of the process, in clock ticks: tells it from a later one of the same pid.
        outcome: exit code of a daemon that has ended, None while it serves.
        kept: what the spool still has for the next mount, one readable line each.
    """

    pid: int
    started: int
    mountpoint: str
    outcome: int | None = None
    kept: tuple[str, ...] = ()

    def is_alive(self) -> bool:
        """Whether that very process still runs."""
        return self.outcome is None and start_time(self.pid) == self.started


def start_time(pid: int) -> int | None:
    """When a running process started, in the kernel's clock ticks; None if none runs (proc(5), stat, field 22)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def write_record(mountpoint: str) -> None:
    """This process is on record as the daemon of that mountpoint (an absolute path)."""
    own = os.getpid()
    _write(MountRecord(own, start_time(own) or 0, mountpoint))


def write_outcome(mountpoint: str, code: int, kept: Sequence[str] = ()) -> None:
    """The record tells how this daemon ended; after a clean end there is none.

    Args:
        kept: lines for the user about what the spool still has; those of an earlier call stay if there are none.
    """
    record = find_record(mountpoint)
    if record is None or record.pid != os.getpid():
        return
    if code == Exit.OK:
        _path(mountpoint).unlink(missing_ok=True)
        return
    _write(MountRecord(record.pid, record.started, mountpoint, code, tuple(kept) or record.kept))


def find_record(mountpoint: str) -> MountRecord | None:
    """The record of that mountpoint, None where there is none that can be understood."""
    try:
        found = json.loads(_path(mountpoint).read_text())
        return MountRecord(**{**found, "kept": tuple(found["kept"])})
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _write(record: MountRecord) -> None:
    path = _path(record.mountpoint)
    temporary = path.with_suffix(f".{os.getpid()}")
    temporary.write_text(json.dumps(asdict(record)))
    temporary.replace(path)


def _path(mountpoint: str) -> Path:
    return runtime_directory() / f"{escape(mountpoint)}.json"


def runtime_directory() -> Path:
    """Where records are, made if missing: `$RUNTIME_DIRECTORY`, `$XDG_RUNTIME_DIR/depotfs`, `/run/depotfs`, in /tmp.

    Raises:
        CommandFailed: the one in /tmp belongs to somebody else or others may write to it.
    """
    if given := os.environ.get("RUNTIME_DIRECTORY"):
        path = Path(given.partition(":")[0])
    elif os.geteuid() == 0:
        path = Path("/run/depotfs")
    elif given := os.environ.get("XDG_RUNTIME_DIR"):
        path = Path(given, "depotfs")
    else:
        return _own_directory(Path(f"/tmp/depotfs-{os.geteuid()}"))
    path.mkdir(0o700, parents=True, exist_ok=True)
    return path


def _own_directory(path: Path) -> Path:
    """Anybody could have made it in /tmp, and told us through a record whom to send signals."""
    with contextlib.suppress(FileExistsError):
        path.mkdir(0o700)
    found = path.stat(follow_symlinks=False)
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
        raise CommandFailed(Exit.NO_PERMISSION, f"{path} must be a directory that only its owner, you, may write to")
    return path


def state_directory() -> Path:
    """Where what must not be lost is kept: as the environment says, else `/var/lib/depotfs` of root, the user's own."""
    if given := os.environ.get("STATE_DIRECTORY"):
        return Path(given.partition(":")[0])
    if given := os.environ.get("XDG_STATE_HOME"):
        return Path(given, "depotfs")
    return Path("/var/lib/depotfs") if os.geteuid() == 0 else Path.home() / ".local/state/depotfs"


def spool_directory(settings: Settings, mountpoint: str) -> str:
    """The spool of that mount: the configured directory, else one per mountpoint below `state_directory()`."""
    return settings.spool_directory or str(state_directory() / "spool" / escape(mountpoint))


def log_file(mountpoint: str) -> str:
    """Where a daemon in the background writes its log unless told otherwise."""
    return str(state_directory() / "log" / f"{escape(mountpoint)}.log")


def escape(path: str) -> str:
    """An absolute path as one file name, different for every path: `/srv/photos` → `srv-photos`."""
    plain = re.sub(rb"[^A-Za-z0-9_.:/]|^\.", lambda found: b"\\x%02x" % found[0][0], os.fsencode(path.strip("/")))
    text = plain.replace(b"/", b"-").decode() or "-"
    if len(text) > _ESCAPED_MAX:
        digest = hashlib.sha256(os.fsencode(path)).hexdigest()[:32]
        text = f"{text[: _ESCAPED_MAX - 33]}-{digest}"
    return text
