"""Nesting: nothing that a daemon works with may lie in the tree that it serves, where it would wait for itself."""

from __future__ import annotations

import os
from collections.abc import Iterator

from depotfs.daemon import mountpoint, places
from depotfs.daemon.settings import Settings, StorageSettings
from depotfs.errors import ConfigurationError


def check(settings: Settings, where: str, log_file: str | None = None) -> None:
    """No place that the settings name lies at or below that mountpoint, an absolute path without symbolic links.

    Looked through are symbolic links, and bind mounts of the mountpoint itself, as long as nothing of ours is mounted.

    Raises:
        ConfigurationError: with a line for each place that does.
    """
    inside = [what for what, path in _places(settings, where, log_file) if is_within(path, where)]
    if inside:
        lines = [f"{what} lies in the mountpoint {where}: whoever used it would wait for itself" for what in inside]
        raise ConfigurationError("\n".join(lines))


def is_within(path: str, where: str) -> bool:
    """Whether the path is, or would be, at or below that mountpoint."""
    if _is_below(os.path.abspath(path), where):
        return True
    real = os.path.realpath(path)
    return _is_below(real, where) or (not mountpoint.is_ours(where) and _passes_through(real, where))


def _is_below(path: str, where: str) -> bool:
    return f"{path}/".startswith(f"{where.rstrip('/')}/")


def _passes_through(path: str, where: str) -> bool:
    """Whether the directory itself is met under another name on the way to the path."""
    try:
        directory = os.stat(where)
    except OSError:
        return False
    while path != "/":
        try:
            if os.path.samestat(os.stat(path), directory):
                return True
        except OSError:
            pass  # what does not exist yet is made below its parents
        path = os.path.dirname(path)
    return False


def _places(settings: Settings, where: str, log_file: str | None) -> Iterator[tuple[str, str]]:
    """What the daemon goes to while it serves, with the sentence's beginning for each."""
    for storage in settings.storages:
        for key, path in _paths(storage):
            yield f"storage {storage.name}: {key} {path}", path
    spool = places.spool_directory(settings, where)
    yield f"the spool {spool}", spool
    for directory in settings.python_path:
        yield f"python_path: {directory}", directory
    if log_file is not None:
        yield f"the log file {log_file}", log_file


def _paths(storage: StorageSettings) -> Iterator[tuple[str, str]]:
    """Options that name a place; of a class of the user's own any that reads as a path may be one."""
    ours = storage.backend.startswith(("depotfs.", "depot."))
    for key, value in storage.options.items():
        if isinstance(value, str) and value.startswith("/") and (key in ("storage_path", "credentials") or not ours):
            yield key, value
