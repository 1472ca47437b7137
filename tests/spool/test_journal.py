"""Lines of the journal: what is whole is read, whatever happened to the rest."""

from __future__ import annotations

import json
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from depotfs.errors import SpoolFull, SpoolUnreadable
from depotfs.spool import lines
from depotfs.spool.journal import Journal
from depotfs.spool.lines import encode, read
from depotfs.spool.recovery import Record
from depotfs.spool.state import State
from tests.spool.targets import PHOTO, target

OPENED = Record(1, "open", State.OPEN, "data/1", target=target(name=None, modified=None, expect=None))
SEALED = Record(1, "seal", State.SEALED, "data/1", 5, True, "", PHOTO, 77)
HELD = Record(2, "hold", State.HELD, "/s/spool-1/file", 9, False, 'no "access"\n', target(filename="a\udcffb"), 2**63)
DONE = Record(1, "done", State.DONE, "data/1")
ALL = [OPENED, SEALED, HELD, DONE]


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Writes beyond `size` bytes of any file fail meanwhile, as on a full disk: first cut short, then refused."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_records_are_read_as_they_were_written() -> None:
    assert read(b"".join(map(encode, ALL))).records == ALL
    assert all(json.loads(encode(record))["v"] == lines.VERSION for record in ALL)


def test_a_journal_cut_anywhere_gives_its_whole_lines() -> None:
    whole_lines = [encode(record) for record in ALL]
    content = b"".join(whole_lines)
    for cut in range(len(content) + 1):
        whole = content[:cut].count(b"\n")
        replay = read(content[:cut])
        assert replay.records == ALL[:whole]
        assert replay.damaged == 0


def test_a_damaged_line_is_counted_and_the_others_are_read() -> None:
    whole_lines = [encode(record) for record in ALL]
    for position in range(len(whole_lines[1]) - 1):
        flipped = bytearray(whole_lines[1])
        flipped[position] ^= 0x04
        replay = read(whole_lines[0] + bytes(flipped) + whole_lines[2])
        assert replay.records == [OPENED, HELD]
        assert replay.damaged == 1


@pytest.mark.parametrize("line", [lines.line_of('"v":2,"event":"begin"'), b'{"v":9}\n'])
def test_another_version_is_refused(line: bytes) -> None:
    with pytest.raises(SpoolUnreadable, match="version"):
        read(encode(SEALED) + line)


def test_compaction_keeps_the_last_line_of_each_file_that_is_not_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Journal, "compact_at", 10_000)
    path = tmp_path / "journal"
    log = Journal(str(path), "boot", 0)
    log.begin([SEALED, HELD])
    log.append(SEALED)
    sizes = []
    for number in range(3, 200):
        log.append(Record(number, "open", State.OPEN, f"data/{number}", target=PHOTO))
        log.append(Record(number, "done", State.DONE, f"data/{number}"))
        if number != 150:
            log.forget(number)
        sizes.append(path.stat().st_size)
    log.close()
    assert max(sizes) < 13_000
    assert sizes != sorted(sizes)
    replay = read(path.read_bytes())
    assert replay.highest == 199
    assert replay.boot == "boot"
    assert replay.records[:2] == [HELD, SEALED]
    # What is left of its bytes is not yet removed, so the record must still say that they are not wanted.
    assert Record(150, "done", State.DONE, "data/150") in replay.records


def test_a_line_that_does_not_fit_leaves_the_journal_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    log = Journal(str(path), "", 0)
    log.begin([])
    log.append(OPENED)
    before = path.read_bytes()
    for room in (0, 1, 100):
        with largest_file(len(before) + room), pytest.raises(SpoolFull):
            log.append(SEALED)
        assert path.read_bytes() == before
    log.append(SEALED, durable=True)
    log.close()
    assert read(path.read_bytes()).records == [OPENED, SEALED]
