"""What becomes of each journalled file, as a table."""

from __future__ import annotations

import pytest

from depotfs.spool.recovery import Record, decide, last_records
from depotfs.spool.state import State
from tests.spool.targets import PHOTO


def record(state: State, *, size: int = 5, durable: bool = False, reason: str = "", checksum: str = "") -> Record:
    return Record(1, state.value, state, "data/1", size, durable, reason, PHOTO, checksum=checksum)


@pytest.mark.parametrize(
    ("last", "found", "away", "rebooted", "state"),
    [
        (record(State.DONE), 5, False, False, State.DONE),
        (record(State.DONE), None, True, True, State.DONE),
        (record(State.OPEN), None, False, False, State.DONE),
        (record(State.OPEN), 0, False, False, State.DONE),
        (record(State.OPEN), 3, False, True, State.OPEN),
        (record(State.SEALED), 5, False, False, State.SEALED),
        (record(State.SEALED, size=0), 0, False, False, State.SEALED),
        (record(State.SEALED), 4, False, False, State.HELD),
        (record(State.SEALED), 6, False, False, State.HELD),
        (record(State.SEALED), 5, False, True, State.HELD),
        (record(State.SEALED, durable=True), 5, False, True, State.SEALED),
        (record(State.SEALED, checksum="crc32:00000000"), 5, False, True, State.SEALED),
        (record(State.SEALED, reason="no server"), 5, False, False, State.SEALED),
        (record(State.SEALED, durable=True), 0, False, True, State.HELD),
        (record(State.SEALED), None, False, False, State.MISSING),
        (record(State.SEALED, size=0, durable=True), None, False, True, State.MISSING),
        (record(State.SEALED), None, True, False, State.HELD),
        (record(State.HELD, reason="no"), 7, False, True, State.HELD),
        (record(State.HELD, reason="no"), None, False, False, State.DONE),
    ],
)
def test_the_table(last: Record, found: int | None, away: bool, rebooted: bool, state: State) -> None:
    verdict = decide(last, found, away=away, rebooted=rebooted)
    assert verdict.state is state
    assert bool(verdict.reason) == (state in (State.HELD, State.MISSING) or (state is last.state and bool(last.reason)))
    # A disk that is away may come back, and a storage be asked: those records must stay as they are.
    assert verdict.final == (not (away and state is State.HELD) and state is not State.MISSING)


def test_the_last_record_of_a_number_counts_and_its_place_among_the_others() -> None:
    first, second = record(State.OPEN), Record(2, "open", State.OPEN, "data/2", target=PHOTO)
    sealed = record(State.SEALED)
    assert list(last_records([first, second, sealed]).values()) == [second, sealed]
