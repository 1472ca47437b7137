"""What is told of the files in a spool, and how a mount ends for their sake."""

import os
import time
from pathlib import Path

import pytest

from depotfs.daemon import kept
from depotfs.daemon.kept import KeptFile, Told, Why
from depotfs.spool import Spool, SpoolFile
from depotfs.spool.target import Target
from depotfs.types import ABSENT, FileId


def spooled(spool: Spool, name: str, identity: str = "here") -> SpoolFile:
    """A file of five bytes for the storage `photos`."""
    file_id = FileId("590f20fd-d941-5e6d-b65e-8496d7f4da20")
    file = spool.new_file(Target("photos", identity, file_id, name, name, "text/plain", None, ABSENT, ""))
    file.pwrite(b"bytes", 0)
    return file


def test_each_file_is_told_with_why_it_is_there_and_since_when(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time()
    spool = Spool(str(tmp_path / "spool"))
    spool.open()
    for name, identity in (("open", "here"), ("sealed", "here"), ("held", "here"), ("away", "there"), ("old", "here")):
        file = spooled(spool, name, identity)
        if name in ("sealed", "away"):
            file.seal(file.target, durable=False)
        if name == "held":
            file.hold("somebody else was first")
    monkeypatch.setattr(time, "time", lambda: now + 7300)
    found = kept.look(spool.files(), {"here"}, {5})
    assert [file.why for file in found] == [why for why in Why if why is not Why.UNKNOWN]
    assert [file.line() for file in found] == [
        "photos/open: 5 bytes, 2 h old, spool file 1, open",
        "photos/sealed: 5 bytes, 2 h old, spool file 2, pending",
        "photos/held: 5 bytes, 2 h old, spool file 3, held: somebody else was first",
        "photos/away: 5 bytes, 2 h old, spool file 4, waiting: its storage there is not configured",
        "photos/old: 5 bytes, 2 h old, spool file 5, unclosed: it was never closed or synced",
    ]
    assert found[0].message()["why"] == "open"
    spool.close()


def made(number: int, why: Why) -> KeptFile:
    return KeptFile(number, "photos", "id", "name", 5, why, "", "/nowhere", 0.0)


def test_bytes_without_a_record_are_told_with_where_they_are(tmp_path: Path) -> None:
    lost = tmp_path / "lost"
    assert kept.look_unknown(str(lost)) == []
    lost.mkdir()
    for name, size in (("10", 1), ("9", 2), ("notes", 3)):
        (lost / name).write_bytes(bytes(size))
        os.utime(lost / name, (time.time() - 7300,) * 2)
    why = f"unknown: no record tells what it is; the bytes are {lost}"
    assert [file.line() for file in kept.look_unknown(str(lost))] == [
        f"?/?: 2 bytes, 2 h old, spool file 9, {why}/9",
        f"?/?: 1 bytes, 2 h old, spool file 10, {why}/10",
    ]


def test_what_was_promised_is_told_by_each_end_but_once_if_its_storage_is_not_configured(tmp_path: Path) -> None:
    files = [made(number, why) for number, why in enumerate(Why, 1)]
    told = Told(str(tmp_path))
    assert [file.why for file in told.untold(files)] == [
        Why.OPEN,
        Why.PENDING,
        Why.HELD,
        Why.ELSEWHERE,
        Why.UNKNOWN,
    ]
    told.note(files)
    again = Told(str(tmp_path))
    assert [file.why for file in again.untold(files)] == [Why.OPEN, Why.PENDING, Why.HELD]
    later = made(9, Why.ELSEWHERE)
    assert later in again.untold([*files, later])


def test_a_list_that_cannot_be_kept_or_read_tells_again(tmp_path: Path) -> None:
    (tmp_path / "told").write_text("1\nx\n\u0663\n")
    assert Told(str(tmp_path)).untold([made(1, Why.ELSEWHERE)]) == []
    (tmp_path / "told").unlink()
    (tmp_path / "told").mkdir()
    told = Told(str(tmp_path))
    told.note([made(1, Why.ELSEWHERE)])
    assert len(told.untold([made(1, Why.ELSEWHERE)])) == 1


def test_thousands_are_counted() -> None:
    files = [made(number, Why.PENDING) for number in range(1000)]
    assert len(kept.lines(files)) == kept.SHOWN + 1
    assert kept.lines(files)[-1] == "and 950 more"


@pytest.mark.parametrize(
    ("seconds", "text"), [(-3, "0 s"), (59, "59 s"), (61, "1 min"), (7199, "1 h"), (86400 * 3, "3 d")]
)
def test_times_have_one_unit(seconds: float, text: str) -> None:
    assert kept.duration(seconds) == text
