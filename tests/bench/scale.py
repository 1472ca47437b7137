"""Scale: how much data the benchmarks move."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Scale:
    """Numbers of files and rounds; sizes are bytes.

    Attributes:
        large: of the file that is read and written in order; huge: of the one that shows what memory is needed.
        files: small ones that are copied on a local storage; remote_files: on a server.
        listed: files in the listing.
    """

    rounds: int
    large: int
    huge: int
    files: int
    remote_files: int
    listed: int


FULL: Final = Scale(rounds=5, large=1 << 30, huge=5 << 30, files=2000, remote_files=1000, listed=10_000)
QUICK: Final = Scale(rounds=3, large=128 << 20, huge=512 << 20, files=300, remote_files=100, listed=2000)
