"""Trust: what tells the daemon which code to run, or which files to move and remove, only its user may change."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from pathlib import Path

from depotfs.daemon.exits import CommandFailed, Exit
from depotfs.daemon.mountpoint import user_name

_OTHERS = stat.S_IWGRP | stat.S_IWOTH


def find_fault(found: os.stat_result) -> str | None:
    """Why a file or directory is not to be trusted: its owner, or that others may write to it; None if it is.

    As ssh has it for its configuration: it belongs to this user or root, and no other may write to it.
    """
    if found.st_uid not in (0, os.geteuid()):
        return f"belongs to {user_name(found.st_uid)}"
    if found.st_mode & _OTHERS:
        return f"can be written to by others (its mode is {stat.S_IMODE(found.st_mode):04o})"
    return None


def check_directories(paths: Iterable[Path]) -> None:
    """Those that exist are to be trusted: a journal tells which files to move and remove. CommandFailed."""
    for path in paths:
        fault = find_fault(path.stat()) if path.exists() else None
        if fault is not None:
            sentence = f"The spool cannot be trusted: {path} {fault}; only its owner, you, may write to it"
            raise CommandFailed(Exit.NO_PERMISSION, sentence)
