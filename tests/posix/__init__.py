"""Checks of what a directory of files owes its users, as functions of a place: proved on a plain directory, then
run on every mounted storage."""

from __future__ import annotations

from collections.abc import Callable

from tests.posix import attributes, content, directories, lifetime, locking, naming, opening
from tests.posix.place import Place

CHECKS: dict[str, Callable[[Place], None]] = {
    f"{module.__name__.rpartition('.')[2]}-{name.removeprefix('check_')}": check
    for module in (opening, content, lifetime, attributes, naming, directories, locking)
    for name, check in vars(module).items()
    if name.startswith("check_")
}
"""Every check by a readable name."""
