"""Recovery decides what becomes of each journalled file after the daemon ended, however it ended."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from depotfs.spool.state import State
from depotfs.spool.target import Target


@dataclass(frozen=True, slots=True)
class Record:
    """One line of the journal; it tells all of its file, so the last one of a number counts.

    Attributes:
        event: what happened: open, reopen, seal, flush, retarget, delay, hold, done; recover, where a start decided.
        path: of the bytes; relative to the spool, or absolute if they are staged elsewhere.
        size: bytes at that time; after `seal` this is what was promised.
        durable: the bytes were on the disk before the record was written.
        checksum: of the bytes, `algorithm:hex`, "" where none was worked out.
        disk: f_fsid (statvfs(3)) of the staging directory's file system, 0 for files in the spool itself.
        target: None only in `done`.
        since: seconds since the epoch at which it came to be in this state, 0 if not known.
    """

    number: int
    event: str
    state: State
    path: str = ""
    size: int = 0
    durable: bool = False
    reason: str = ""
    target: Target | None = None
    disk: int = 0
    checksum: str = ""
    since: float = 0.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a file is from now on; `reason` is for people.

    Attributes:
        final: the journal is to say so; else its record stays as it is, for the next start to decide anew.
    """

    state: State
    reason: str = ""
    final: bool = True


NOTHING_LEFT: Final = Verdict(State.DONE)
MISSING: Final = "nothing is left of its bytes, unless its storage has them"


def last_records(records: list[Record]) -> dict[int, Record]:
    """The record that counts of each number, in the order in which they were written."""
    last: dict[int, Record] = {}
    for record in records:
        last.pop(record.number, None)
        last[record.number] = record
    return last


def decide(record: Record, found: int | None, *, away: bool, rebooted: bool) -> Verdict:
    """What becomes of the file whose last record this is. Deciding again gives the same.

    Args:
        found: size of the file at the record's path, None if there is none.
        away: what is at the record's path is not the disk that the file was made on: not mounted now.
        rebooted: the machine was started anew since, so what was not flushed may be lost.

    | last record  | bytes on the disk                | verdict                                      |
    |--------------|----------------------------------|----------------------------------------------|
    | done         | any                              | done: what is left of them is removed        |
    | any other    | away                             | held until a start finds the disk            |
    | open         | none, or 0                       | done: there is nothing to recover            |
    | open         | some                             | open: kept for a person, never landed        |
    | sealed       | none                             | missing: the storage's now, or lost          |
    | sealed       | the promised size                | sealed: lands, once its checksum is compared |
    | sealed       | another size                     | held                                         |
    | sealed       | not flushed before a reboot, and | held: they may be zeros                      |
    |              | no checksum was kept             |                                              |
    | held         | none                             | done: a person took them                     |
    | held         | some                             | held                                         |
    """
    if record.state is State.DONE:
        return NOTHING_LEFT
    if found is None and away:
        return Verdict(State.HELD, f"the disk of {record.path} is not there", final=False)
    if found is None:
        return Verdict(State.MISSING, MISSING, final=False) if record.state is State.SEALED else NOTHING_LEFT
    if record.state is State.OPEN:
        return Verdict(State.OPEN) if found else NOTHING_LEFT
    if record.state is State.HELD:
        return Verdict(State.HELD, record.reason)
    if found != record.size:
        return Verdict(State.HELD, f"{found} bytes are left where {record.size} were sealed")
    if rebooted and not record.durable and not record.checksum:
        return Verdict(State.HELD, "the machine stopped before the bytes were flushed; compare them before use")
    return Verdict(State.SEALED, record.reason)
