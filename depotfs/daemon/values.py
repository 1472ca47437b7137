"""Values: what a scalar of the configuration means, from its text.

Every function returns the value or raises ValueError whose message says what was expected. The text
as it was written is read, not YAML's idea of it: there `0644` is a number in base eight, `644` one in
base ten, and `1:30` one in base sixty.
"""

from __future__ import annotations

import grp
import pwd
import re
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from depotfs.daemon.settings import CommitMode
from depotfs.io.durations import parse_duration

_SIZE_UNITS: Final = {
    "": 1,
    "B": 1,
    **{f"{prefix}iB": 1 << (10 * power) for power, prefix in enumerate("KMGT", 1)},
    **{f"{prefix}B": 1000**power for power, prefix in enumerate("kMGT", 1)},
}
_SIZE: Final = re.compile(r"(\d{1,15}(?:\.\d{1,15})?)\s*([A-Za-z]*)", re.ASCII)
_OWNER_MAX: Final = (1 << 32) - 2
"""chown(2) takes 32 bits; all of them set mean none."""
_NAME_MAX: Final = 255  # bytes, <linux/limits.h>


def parse_size(text: str) -> int:
    """Bytes: `512MiB`, `2GB`, `4096`."""
    found = _SIZE.fullmatch(text.strip())
    if not found or found[2] not in _SIZE_UNITS:
        raise ValueError("a size like 512MiB")
    return int(float(found[1]) * _SIZE_UNITS[found[2]])


def parse_deadline(text: str) -> float:
    """Seconds, more than none."""
    if (seconds := parse_duration(text)) <= 0:
        raise ValueError("a duration above zero")
    return seconds


def parse_mode(text: str) -> int:
    """Permission bits in base eight: `0644`, `644`, `0o644`."""
    try:
        mode = int(text, 8)
    except ValueError:
        mode = -1
    if not 0 <= mode <= 0o777:
        raise ValueError("permission bits in base eight, like 0644")
    return mode


def parse_user(text: str) -> int:
    """The number of a user, by number or name."""
    return _parse_owner(text, lambda name: pwd.getpwnam(name).pw_uid, "user")


def parse_group(text: str) -> int:
    """The number of a group, by number or name."""
    return _parse_owner(text, lambda name: grp.getgrnam(name).gr_gid, "group")


def _parse_owner(text: str, find: Callable[[str], int], what: str) -> int:
    with suppress(KeyError, ValueError):  # no such name, or no name at all; too many digits
        if (number := int(text) if text.isdecimal() else find(text)) <= _OWNER_MAX:
            return number
    raise ValueError(f"the number of a {what}, or the name of one of this machine's")


def parse_text(text: str) -> str:
    """The text itself, which is not empty."""
    if not text:
        raise ValueError("text")
    return text


def parse_path(text: str) -> str:
    """The text itself, which can be a path."""
    if not text or "\0" in text:
        raise ValueError("a path")
    return text


def parse_commit(text: str) -> CommitMode:
    """`close` or `background`."""
    try:
        return CommitMode(text)
    except ValueError:
        raise ValueError("close or background") from None


def parse_log_level(text: str) -> str:
    """The name of a level of the `logging` module."""
    if text.upper() not in ("DEBUG", "INFO", "WARNING", "ERROR"):
        raise ValueError("DEBUG, INFO, WARNING or ERROR")
    return text.upper()


def parse_entry_name(text: str) -> str:
    """A name that can be a directory of the mount and is not hidden."""
    if not text or text.startswith(".") or "/" in text or "\0" in text or len(_bytes(text)) > _NAME_MAX:
        raise ValueError("a name that a directory can have: no leading dot, no slash, at most 255 bytes")
    return text


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
