"""What the files of a spool have in common: their journal, their limit, and who else there is."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from depotfs.errors import SpoolFull
from depotfs.spool.flush import Directories
from depotfs.spool.journal import Journal

if TYPE_CHECKING:
    from depotfs.spool.file import SpoolFile


class Budget:
    """How many dirty bytes there are in all files of a spool, and how many there may be.

    Attributes:
        limit: bytes, None for as many as the disk holds.
        used, peak: bytes now, and the most there ever were.
    """

    __slots__ = ("limit", "peak", "used")

    def __init__(self, limit: int | None) -> None:
        self.limit = limit
        self.used = 0
        self.peak = 0

    def check(self, size: int) -> None:
        """Raises SpoolFull if that many bytes more are too many; fewer never are."""
        if self.limit is not None and size > 0 and self.used + size > self.limit:
            raise SpoolFull(f"the spool's limit of {self.limit} bytes is reached")

    def charge(self, size: int) -> None:
        """Counts `size` bytes more, or fewer if negative."""
        self.used += size
        if self.used > self.peak:
            self.peak = self.used


@dataclass(slots=True)
class Home:
    """One spool, as its files see it.

    Attributes:
        files: all that are not done, by number.
    """

    journal: Journal
    budget: Budget
    directories: Directories = field(default_factory=Directories)
    files: dict[int, SpoolFile] = field(default_factory=dict)
