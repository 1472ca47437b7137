"""Kept files: what a spool has that no storage has, told to people, and what it means for the end of a mount."""

from __future__ import annotations

import enum
import os
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from depotfs.daemon.logs import one_line
from depotfs.spool import SpoolFile, State

SHOWN: Final = 50
"""Files that are named one by one; the log and a terminal are of no use with thousands."""
_TOLD: Final = "told"


class Why(enum.Enum):
    """Why a file is in the spool."""

    OPEN = "open"
    """It is being written."""
    PENDING = "pending"
    """It is to be stored, and will be tried until it is."""
    HELD = "held"
    """It cannot be stored; a person has to decide."""
    ELSEWHERE = "waiting"
    """Its storage is not configured."""
    UNCLOSED = "unclosed"
    """An earlier daemon died while it was written; nobody was promised anything."""
    UNKNOWN = "unknown"
    """The journal was damaged, and no record is left of it."""


_NOT_ASKED: Final = (Why.ELSEWHERE, Why.UNKNOWN)


@dataclass(frozen=True, slots=True)
class KeptFile:
    """One file of the spool.

    Attributes:
        number: names it in this spool for ever.
        size: bytes.
        path: where the bytes are.
        since: seconds since the epoch at which it came to be what it is.
        reason: "" if there is none to tell.
    """

    number: int
    storage: str
    file_id: str
    filename: str
    size: int
    why: Why
    reason: str
    path: str
    since: float

    def message(self) -> dict[str, Any]:
        """As plain values."""
        return {**asdict(self), "why": self.why.value}

    @classmethod
    def from_message(cls, message: Mapping[str, Any]) -> KeptFile:
        """What `message` told."""
        return cls(**{**message, "why": Why(message["why"])})

    def line(self) -> str:
        """For people."""
        age = duration(time.time() - self.since)
        why = f"{self.why.value}: {self.reason}" if self.reason else self.why.value
        return one_line(
            f"{self.storage}/{self.filename}: {self.size} bytes, {age} old, spool file {self.number}, {why}"
        )


def look(files: Iterable[SpoolFile], identities: Collection[str], unclosed: Collection[int]) -> list[KeptFile]:
    """What is in the spool now, and known.

    Args:
        identities: of the configured storages.
        unclosed: numbers of the files that an earlier daemon left open.
    """
    return [_look(file, identities, unclosed) for file in files]


def _look(file: SpoolFile, identities: Collection[str], unclosed: Collection[int]) -> KeptFile:
    target, why, reason = file.target, Why.OPEN, file.reason
    if file.number in unclosed:
        why, reason = Why.UNCLOSED, "it was never closed or synced"
    elif file.state is State.HELD:
        why = Why.HELD
    elif target.identity not in identities:
        why, reason = Why.ELSEWHERE, f"its storage {target.identity} is not configured"
    elif file.state in (State.SEALED, State.MISSING):
        why = Why.PENDING
    return KeptFile(
        file.number, target.storage, target.file_id, target.filename, file.size, why, reason, file.path, file.since
    )


def look_unknown(directory: str) -> list[KeptFile]:
    """What the spool found without a record, and put aside there for a person."""
    found = []
    with suppress(FileNotFoundError), os.scandir(directory) as entries:
        for entry in sorted((entry for entry in entries if entry.name.isdecimal()), key=lambda entry: int(entry.name)):
            stat = entry.stat(follow_symlinks=False)
            reason = f"no record tells what it is; the bytes are {entry.path}"
            found.append(
                KeptFile(int(entry.name), "?", "", "?", stat.st_size, Why.UNKNOWN, reason, entry.path, stat.st_mtime)
            )
    return found


def lines(files: Sequence[KeptFile]) -> list[str]:
    """For people, at most `SHOWN` and one that counts the rest."""
    rest = [f"and {len(files) - SHOWN} more"] if len(files) > SHOWN else []
    return [*(file.line() for file in files[:SHOWN]), *rest]


def duration(seconds: float) -> str:
    """A time that has passed, to one unit: `40 s`, `3 min`, `2 h`, `5 d`."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds // length:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"


class Told:
    """Which files an end of the mount has told of that it was not asked to store: by its code it does so once.

    Args:
        directory: the spool.
    """

    def __init__(self, directory: str) -> None:
        self._path = Path(directory, _TOLD)

    def untold(self, files: Iterable[KeptFile]) -> list[KeptFile]:
        """Those for whose sake an end is not a success.

        All but those that nobody was promised anything of, and those that this daemon was not asked to store if an
        earlier end has told of them.
        """
        told = self._read()
        return [
            file
            for file in files
            if file.why is not Why.UNCLOSED and not (file.why in _NOT_ASKED and file.number in told)
        ]

    def note(self, files: Iterable[KeptFile]) -> None:
        """An end tells of them now. Where that cannot be kept, the next one tells again."""
        numbers = sorted(file.number for file in files if file.why in _NOT_ASKED)
        with suppress(OSError):
            self._path.write_text("".join(f"{number}\n" for number in numbers))

    def _read(self) -> set[int]:
        try:
            return {int(line) for line in self._path.read_text().split() if line.isdecimal()}
        except (OSError, ValueError):
            return set()
