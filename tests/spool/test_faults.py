"""A disk that fails, and a process that may open no more files, take nothing that was promised and leave no doubt."""

from __future__ import annotations

import errno
import os
import resource
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Final

import pytest

from depotfs.errors import SpoolDamaged, SpoolFull
from depotfs.spool import Spool, SpoolFile, State
from depotfs.spool import spool as spool_module
from depotfs.spool.journal import Journal
from depotfs.spool.lines import encode, encode_begin, read
from depotfs.spool.recovery import Record
from tests.simulation.disk import Disk
from tests.spool.targets import PHOTO, target
from tests.spool.test_crash import in_child

PAGE: Final = 4096


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    with Disk(str(tmp_path / "disk")) as disk:
        yield disk


@pytest.fixture
def spool(disk: Disk) -> Spool:
    spool = Spool(f"{disk.root}/s")
    spool.open()
    return spool


def fail_for(disk: Disk, name: str, call: str, code: int = errno.EIO) -> None:
    """That call fails from now on for the files of that name."""
    disk.refuse = lambda done, path: code if done == call and os.path.basename(path) == name else 0


def heal(disk: Disk) -> None:
    disk.refuse = lambda call, path: 0
    disk.room = None


def after_power_loss(disk: Disk) -> list[SpoolFile]:
    disk.lose_power()
    disk.start()
    return Spool(f"{disk.root}/s").open()


# --- flushes that fail -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("in_order", [True, False])
def test_after_a_flush_that_failed_the_bytes_are_written_again(disk: Disk, spool: Spool, in_order: bool) -> None:
    file = spool.new_file(PHOTO)
    file.truncate(1 << 20)
    for offset in (0, 3) if in_order else (3, 0):
        file.pwrite(b"abc", offset)
    file.truncate(6)
    fail_for(disk, "1", "fsync")
    with pytest.raises(OSError, match="Input/output"):
        file.seal(PHOTO, durable=True)
    assert file.state is State.OPEN
    heal(disk)
    disk.evict()
    file.seal(PHOTO, durable=True)
    [left] = after_power_loss(disk)
    assert (left.state, left.pread(9, 0), left.is_intact()) == (State.SEALED, b"abcabc", True)


def test_bytes_that_memory_forgot_after_a_flush_that_failed_are_never_promised(disk: Disk, spool: Spool) -> None:
    file = spool.new_file(PHOTO)
    file.pwrite(b"old", 0)
    file.seal(PHOTO, durable=True)
    file.pwrite(b"new", 0)
    disk.refuse = lambda call, path: errno.EIO if call in ("fsync", "write") and path.endswith("data/1") else 0
    with pytest.raises(OSError, match="Input/output"):
        file.seal(PHOTO, durable=True)
    heal(disk)
    disk.evict()
    for _ in range(2):
        with pytest.raises(SpoolDamaged):
            file.seal(PHOTO, durable=True)
    assert file.state is State.OPEN
    # Written anew it is what it is again.
    file.truncate(0)
    file.pwrite(b"newer", 0)
    file.seal(PHOTO, durable=True)
    [left] = after_power_loss(disk)
    assert (left.state, left.pread(9, 0)) == (State.SEALED, b"newer")


def test_holes_stay_holes_when_bytes_are_written_again(disk: Disk, spool: Spool) -> None:
    file = spool.new_file(PHOTO)
    file.truncate(1 << 40)
    file.pwrite(b"end", 1 << 39)
    fail_for(disk, "1", "fsync")
    with pytest.raises(OSError, match="Input/output"):
        file.flush()
    heal(disk)
    disk.steps = 0
    file.flush()
    assert disk.steps <= 2
    assert file.pread(3, 1 << 39) == b"end"


def test_a_journal_that_could_not_be_flushed_is_written_anew(
    disk: Disk, spool: Spool, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(2):
        file = spool.new_file(PHOTO)
        file.pwrite(b"abc", 0)
        fail_for(disk, "journal", "fsync")
        file.seal(PHOTO, durable=True)
    assert "is written anew" in caplog.text
    disk.evict()
    assert [left.state for left in after_power_loss(disk)] == [State.SEALED] * 2


def fail_journals(disk: Disk, other: str) -> None:
    """No flush of the journal succeeds, nor one of what is to take its place."""
    names = ("journal", other)
    disk.refuse = lambda call, path: errno.EIO if call == "fsync" and os.path.basename(path) in names else 0


@pytest.mark.parametrize("broken", ["journal.new", "s"])
def test_where_a_new_journal_fails_too_a_seal_is_none(disk: Disk, spool: Spool, broken: str) -> None:
    file = spool.new_file(PHOTO)
    file.pwrite(b"abc", 0)
    fail_journals(disk, broken)
    with pytest.raises(OSError, match="Input/output"):
        file.seal(PHOTO, durable=True)
    assert file.state is State.OPEN
    heal(disk)
    disk.kill()
    disk.start()
    assert [left.state for left in Spool(f"{disk.root}/s").open()] == [State.OPEN]


@pytest.mark.parametrize("broken", ["journal.new", "s"])
def test_where_a_new_journal_fails_too_nothing_is_written_to_what_is_sealed(
    disk: Disk, spool: Spool, broken: str
) -> None:
    file = spool.new_file(PHOTO)
    file.pwrite(b"abc", 0)
    file.seal(PHOTO, durable=True)
    fail_journals(disk, broken)
    with pytest.raises(OSError, match="Input/output"):
        file.pwrite(b"ABC", 0)
    assert file.state is State.SEALED
    heal(disk)
    disk.evict()
    file.seal(target(commit="c2"), durable=True)
    [left] = after_power_loss(disk)
    assert (left.state, left.target.commit, left.pread(9, 0)) == (State.SEALED, "c2", b"abc")


def test_after_a_compaction_that_was_not_flushed_a_promise_is_flushed_with_its_directory(
    disk: Disk, spool: Spool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    file = spool.new_file(PHOTO)
    file.pwrite(b"abc", 0)
    with monkeypatch.context() as patch:
        patch.setattr(Journal, "compact_at", 0)
        fail_for(disk, "s", "fsync")
        for _ in range(5):
            file.retarget(PHOTO)
    assert "could not be shortened" in caplog.text
    heal(disk)
    file.seal(PHOTO, durable=True)
    assert [left.state for left in after_power_loss(disk)] == [State.SEALED]


# --- a full disk -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_a_torn_line_is_cut_off_before_the_next_one(disk: Disk, spool: Spool, code: int) -> None:
    """Also where cutting it off fails at first."""
    file = spool.new_file(PHOTO)
    file.pwrite(b"abc", 0)
    journal = Path(disk.root, "s", "journal")
    whole = journal.read_bytes()
    for room in (1, 50):
        disk.room = room
        fail_for(disk, "journal", "ftruncate", code)
        for _ in range(3):
            with pytest.raises(OSError, match=r"no room|\[Errno"):
                file.seal(PHOTO, durable=False)
            disk.room = room
        assert len(journal.read_bytes()) == len(whole) + room
        # Killed now, it is a torn last line.
        assert read(journal.read_bytes()).damaged == 0
        heal(disk)
        file.retarget(PHOTO)
        whole = journal.read_bytes()
        assert read(whole).damaged == 0
    file.seal(PHOTO, durable=False)
    replay = read(journal.read_bytes())
    assert (replay.damaged, replay.records[-1].state) == (0, State.SEALED)


def test_every_step_on_a_full_disk_is_refused_or_done(tmp_path: Path) -> None:
    """Then there is room again, and what the file is in memory it is after a restart, too."""
    for room in range(0, 6000, 97):
        with Disk(str(tmp_path / str(room))) as disk:
            spool = Spool(f"{disk.root}/s")
            spool.open()
            disk.room = room
            states = _some_life(spool)
            disk.room = None
            spool.new_file(PHOTO).discard()
            disk.kill()
            disk.start()
            spool = Spool(f"{disk.root}/s")
            assert {file.number: file.state for file in spool.open() if file.size} == states
            spool.close()


def tried(*steps: Callable[[], object]) -> list[OSError]:
    """What the steps were refused with."""
    refused = []
    for step in steps:
        try:
            step()
        except OSError as error:
            refused.append(error)
    return refused


def _some_life(spool: Spool) -> dict[int, State]:
    """Each step is done or refused; the states in the end, by number."""
    refused = []
    for end in (SpoolFile.committed, partial(SpoolFile.hold, reason="no"), SpoolFile.close, SpoolFile.discard):
        opened: list[SpoolFile] = []
        refused += tried(partial(_open, spool, None, opened))
        for file in opened:
            refused += tried(
                partial(file.pwrite, b"x" * 100, 0),
                partial(file.seal, PHOTO, durable=True),
                partial(file.delay, "no server"),
                partial(file.pwrite, b"y", 0),
                partial(file.seal, target(commit="c2"), durable=False),
                partial(end, file),
            )
    assert all(isinstance(error, SpoolFull) or error.errno == errno.ENOSPC for error in refused)
    return {file.number: file.state for file in spool.files() if file.size}


# --- descriptors -----------------------------------------------------------------------------------------------------


@contextmanager
def descriptors(more: int) -> Iterator[None]:
    """The process, which has no holes among its descriptors, may open so many more files."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.dup(0)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free + more, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def in_other_process(work: Callable[[], None]) -> None:
    """Fails as `work` does in a process of its own, which has hardly any descriptors."""

    def told(pipe: int) -> None:
        pipe = os.dup2(pipe, 3)
        os.closerange(4, 1 << 16)
        try:
            work()
        except BaseException as error:
            os.write(pipe, "".join(traceback.format_exception(error)).encode())

    said, ended = in_child(told)
    assert ended
    assert said.decode() == ""


def test_eleven_hundred_files_wait_under_the_usual_limit_and_recover(tmp_path: Path) -> None:
    def work() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (1024, 1024))
        spool = Spool(str(tmp_path / "s"))
        spool.open()
        before = len(os.listdir("/proc/self/fd"))
        for number in range(1100):
            file = spool.new_file(PHOTO, str(tmp_path / "staging") if number % 2 else None)
            file.pwrite(b"%d" % number, 0)
            file.seal(PHOTO, durable=False)
            file.close()
        spool.make_durable()
        assert len(os.listdir("/proc/self/fd")) == before
        spool.close()

    in_other_process(work)
    spool = Spool(str(tmp_path / "s"))
    assert all(file.is_intact() for file in spool.open())
    spool.close()


def test_ten_thousand_files_recover_with_few_descriptors(tmp_path: Path) -> None:
    directory = tmp_path / "s"
    (directory / "data").mkdir(parents=True)
    lines = [encode_begin(spool_module._boot_id(), 10_000)]
    for number in range(1, 10_001):
        (directory / "data" / str(number)).write_bytes(b"bytes")
        lines.append(encode(Record(number, "seal", State.SEALED, f"data/{number}", 5, False, "", PHOTO)))
    (directory / "journal").write_bytes(b"".join(lines))

    def work() -> None:
        with descriptors(6):
            spool = Spool(str(directory))
            files = spool.open()
            assert [file.state for file in files] == [State.SEALED] * 10_000
            for file in files:
                assert file.is_intact()
                file.committed(read_on=False)
            spool.close()

    in_other_process(work)
    assert os.listdir(directory / "data") == []


@pytest.mark.parametrize("staged", [False, True])
def test_at_the_limit_every_step_is_refused_or_done(tmp_path: Path, staged: bool) -> None:
    """Once others have closed what they had open all goes on, and the journal says what the files are."""

    def work() -> None:
        Journal.compact_at = 0  # each record would make a new journal, if it could be opened
        for more in range(6):
            directory = tmp_path / str(more)
            spool = Spool(str(directory / "s"))
            spool.open()
            refused = 0
            with descriptors(more):
                refused += _life_in_want(spool, str(directory / "staging") if staged else None)
            assert (refused > 0) == (more < 3), (more, refused)
            states = {file.number: (file.state, file.target) for file in spool.files() if file.size}
            spool.close()
            spool = Spool(str(directory / "s"))
            assert {file.number: (file.state, file.target) for file in spool.open()} == states
            for file in spool.files():
                file.seal(target(commit="c3"), durable=True)
                file.committed()
                file.close()
            assert os.listdir(directory / "s" / "data") == []
            assert not staged or os.listdir(directory / "staging") == []
            spool.close()

    in_other_process(work)


def _life_in_want(spool: Spool, staging: str | None) -> int:
    """How many steps were refused."""
    refused = []
    for end in (SpoolFile.committed, SpoolFile.close):
        opened: list[SpoolFile] = []
        refused += tried(partial(_open, spool, staging, opened))
        for file in opened:
            refused += tried(
                partial(file.pwrite, b"x", 0),
                partial(file.seal, PHOTO, durable=True),
                partial(file.pwrite, b"y", 0),
                partial(file.seal, target(commit="c2"), durable=True),
                file.close,
                file.is_intact,
                partial(end, file),
            )
    spool.make_durable()
    assert {error.errno for error in refused} <= {errno.EMFILE}
    return len(refused)


def _open(spool: Spool, staging: str | None, opened: list[SpoolFile]) -> None:
    opened.append(spool.new_file(PHOTO, staging))
