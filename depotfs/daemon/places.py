"""Places: where a mount keeps its spool and its log unless told otherwise."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

from depotfs.daemon.exits import CommandFailed, Exit
from depotfs.daemon.settings import Settings

_ESCAPED_MAX = 200  # bytes; leaves room for an ending within a file name's 255


def state_directory() -> Path:
    """Where what must not be lost is kept: as the environment says, else `/var/lib/depotfs` of root, the user's own.

    Raises:
        CommandFailed: neither says it.
    """
    if given := os.environ.get("STATE_DIRECTORY"):
        return Path(given.partition(":")[0])
    if given := os.environ.get("XDG_STATE_HOME"):
        return Path(given, "depotfs")
    if os.geteuid() == 0:
        return Path("/var/lib/depotfs")
    try:
        return Path.home() / ".local/state/depotfs"
    except RuntimeError:
        sentence = "This user has no home directory: say by XDG_STATE_HOME where the spool and the log are kept"
        raise CommandFailed(Exit.USAGE, sentence) from None


def spool_directory(settings: Settings, mountpoint: str) -> str:
    """The spool of that mount: the configured directory, else one per mountpoint below `state_directory()`."""
    return settings.spool_directory or str(state_directory() / "spool" / escape(mountpoint))


def state_places(settings: Settings, mountpoint: str) -> list[Path]:
    """The spool and the directories above it that are only there for it."""
    spool = Path(spool_directory(settings, mountpoint))
    return [spool] if settings.spool_directory else [state_directory(), spool.parent, spool]


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
