"""The place of a spool file's bytes: a file in the spool, or one in a directory of its own beside its storage."""

from __future__ import annotations

import errno
import logging
import os
from contextlib import suppress

_logger = logging.getLogger(__name__)


def create(path: str, *, staged: bool) -> int:
    """A read-write descriptor of the new, empty file at `path`. Raises OSError: nothing is there."""
    if not staged:
        return _create(path, 0o600)
    directory = os.path.dirname(path)
    try:
        os.mkdir(directory)
    except FileNotFoundError:
        # The storage removes its staging directory whenever it is idle.
        os.makedirs(directory)
    try:
        # The storage's file in the end: with the modes that any program's new file gets.
        return _create(path, 0o666)
    except BaseException:
        with suppress(OSError):
            os.rmdir(directory)
        raise


def _create(path: str, mode: int) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)


def shared_directories(path: str, *, staged: bool) -> list[str]:
    """Those that other files come to be in, too, and that have to be flushed for this one; inner ones first."""
    inner = os.path.dirname(path)
    if not staged:
        return [inner]
    staging = os.path.dirname(inner)
    return [staging, os.path.dirname(staging)]


def remove(path: str, *, staged: bool) -> bool:
    """Whether nothing is at `path` now; if staged, its directory is gone too. What cannot be removed is logged."""
    try:
        with suppress(FileNotFoundError):
            os.unlink(path)
        if staged:
            _remove_directory(os.path.dirname(path))
    except OSError as error:
        _logger.warning("%s is not needed any more but cannot be removed: %s", path, error)
        return False
    return True


def _remove_directory(directory: str) -> None:
    with suppress(FileNotFoundError):
        try:
            os.rmdir(directory)
        except OSError as error:
            if error.errno != errno.ENOTEMPTY:
                raise
            # What a storage began to write beside the bytes when it died.
            for name in os.listdir(directory):
                os.unlink(f"{directory}/{name}")
            os.rmdir(directory)
