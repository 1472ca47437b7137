"""A spool's files, through their states and through restarts."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from depotfs.errors import SpoolBusy, SpoolFull, SpoolUnreadable, StorageFull
from depotfs.spool import Spool, SpoolFile, State
from depotfs.spool import spool as spool_module
from depotfs.spool.lines import encode, line_of
from depotfs.spool.recovery import Record
from tests.spool.targets import PHOTO, target
from tests.spool.test_journal import largest_file

Restart = Callable[[], list[SpoolFile]]


class Running:
    """A spool that can be started again, as after the daemon was killed."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.spool = Spool(str(directory))
        self.left = self.spool.open()

    def restart(self) -> list[SpoolFile]:
        """What the next daemon finds; nothing was said to the old one."""
        self.spool.close()
        self.spool = Spool(str(self.directory))
        self.left = self.spool.open()
        return self.left

    def bytes_on_disk(self) -> list[str]:
        return sorted(os.listdir(self.directory / "data"))


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    running = Running(tmp_path / "spool")
    yield running
    running.spool.close()


def summary(file: SpoolFile) -> tuple[State, int, str, bytes]:
    return file.state, file.size, file.reason, file.pread(file.size + 1, 0)


def test_a_file_is_written_read_and_cut(running: Running) -> None:
    file = running.spool.new_file(PHOTO)
    assert file.pwrite(b"hello world", 0) == 11
    assert file.pwrite(memoryview(b"!"), 20) == 1
    assert file.size == 21
    assert file.pread(100, 6) == b"world" + bytes(9) + b"!"
    file.truncate(5)
    assert file.pread(100, 0) == b"hello"
    file.truncate(8)
    assert file.size == 8
    assert file.pread(100, 0) == b"hello\0\0\0"
    assert os.stat(file.path).st_mode & 0o777 == 0o600
    assert os.stat(running.directory).st_mode & 0o777 == 0o700


@pytest.mark.parametrize("durable", [False, True])
@pytest.mark.parametrize("staged", [False, True])
def test_a_sealed_file_survives_with_its_target(running: Running, tmp_path: Path, staged: bool, durable: bool) -> None:
    staging = str(tmp_path / "storage" / ".depotfs") if staged else None
    file = running.spool.new_file(PHOTO, staging)
    file.pwrite(b"bytes", 0)
    meant = target(expect="v7", commit="c2", name=None)
    file.seal(meant, durable=durable)
    [found] = running.restart()
    assert found is not file
    assert summary(found) == (State.SEALED, 5, "", b"bytes")
    assert found.target == meant
    assert found.number == file.number
    again = target(file_id="e" * 24)
    found.retarget(again)
    [found] = running.restart()
    assert (found.state, found.target) == (State.SEALED, again)
    found.discard()
    assert running.restart() == []
    assert not os.path.exists(os.path.dirname(file.path) if staged else file.path)


def test_what_was_never_closed_is_kept_and_what_is_empty_is_not(running: Running) -> None:
    running.spool.new_file(PHOTO).pwrite(b"abc", 0)
    running.spool.new_file(PHOTO)
    [found] = running.restart()
    assert summary(found) == (State.OPEN, 3, "", b"abc")
    assert running.bytes_on_disk() == ["1"]


def test_a_write_supersedes_the_seal(running: Running) -> None:
    file = running.spool.new_file(PHOTO)
    file.seal(PHOTO, durable=False)
    file.pwrite(b"more", 0)
    assert file.state is State.OPEN
    assert [found.state for found in running.restart()] == [State.OPEN]
    file = running.left[0]
    file.seal(PHOTO, durable=False)
    file.truncate(2)
    assert [summary(found) for found in running.restart()] == [(State.OPEN, 2, "", b"mo")]


def test_bytes_are_flushed_before_their_promise_and_its_end_before_other_bytes(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = running.spool.new_file(PHOTO)
    steps: list[str] = []

    def noted(name: str, real: Callable[..., Any], *arguments: Any) -> Any:
        place = os.path.basename(os.readlink(f"/proc/self/fd/{arguments[0]}"))
        steps.append(f"{name} {'bytes' if place == '1' else place}")
        return real(*arguments)

    for name in ("fsync", "write", "pwrite"):
        monkeypatch.setattr(os, name, partial(noted, name, getattr(os, name)))
    file.pwrite(b"one", 0)
    file.seal(PHOTO, durable=True)
    file.pwrite(b"two", 0)
    file.seal(PHOTO, durable=False)
    file.pwrite(b"six", 0)
    monkeypatch.undo()
    flushed = ["pwrite bytes", "fsync bytes", "fsync data", "write journal", "fsync journal"]
    assert steps == [
        *flushed,
        *("write journal", "fsync journal", "pwrite bytes", "write journal"),
        *("write journal", "pwrite bytes"),
    ]


def test_a_held_file_waits_over_restarts_until_it_is_sealed_again(running: Running) -> None:
    file = running.spool.new_file(PHOTO)
    file.pwrite(b"abc", 0)
    file.seal(PHOTO, durable=True)
    file.hold("access denied")
    for _ in range(2):
        [found] = running.restart()
        assert summary(found) == (State.HELD, 3, "access denied", b"abc")
    assert running.spool.statistics().current_held == 1
    running.left[0].seal(PHOTO, durable=False)
    assert [summary(found) for found in running.restart()] == [(State.SEALED, 3, "", b"abc")]


@pytest.mark.parametrize("restarted", [False, True])
@pytest.mark.parametrize("end", [SpoolFile.committed, SpoolFile.discard])
def test_a_done_file_is_gone_and_its_open_handle_reads_on(
    running: Running, end: Callable[[SpoolFile], None], restarted: bool
) -> None:
    file = running.spool.new_file(PHOTO)
    file.pwrite(b"abc", 0)
    file.seal(PHOTO, durable=False)
    if restarted:
        [file] = running.restart()
    end(file)
    end(file)
    assert file.state is State.DONE
    assert file.pread(10, 0) == b"abc"
    assert running.bytes_on_disk() == []
    with pytest.raises(ValueError, match="done"):
        file.pwrite(b"x", 0)
    with pytest.raises(ValueError, match="done"):
        file.seal(PHOTO, durable=False)
    file.close()
    file.close()
    assert running.restart() == []


def test_a_file_that_the_storage_took_stays_where_it_put_it(running: Running, tmp_path: Path) -> None:
    staging = tmp_path / "storage" / ".depotfs"
    taken, crashed = (running.spool.new_file(PHOTO, str(staging)) for _ in range(2))
    for file, name in ((taken, "a"), (crashed, "b")):
        file.pwrite(b"abc", 0)
        file.seal(PHOTO, durable=False)
        assert os.path.basename(file.path) == "file"
        os.rename(os.path.dirname(file.path), tmp_path / "storage" / name)
    staging.rmdir()
    taken.committed(moved=True)
    assert taken.pread(3, 0) == b"abc"
    # The other one was taken, too, but the daemon died before it could say so: its storage will.
    for _ in range(2):
        [missing] = running.restart()
        assert (missing.number, missing.state, missing.size) == (crashed.number, State.MISSING, 3)
    missing.committed()
    assert running.restart() == []
    assert (tmp_path / "storage" / "a" / "file").read_bytes() == b"abc"
    assert (tmp_path / "storage" / "b" / "file").read_bytes() == b"abc"


def test_nothing_stays_beside_a_staged_file(running: Running, tmp_path: Path) -> None:
    staging = tmp_path / "storage" / ".depotfs"
    discarded, left = (running.spool.new_file(PHOTO, str(staging)) for _ in range(2))
    assert running.spool.has_staged(str(staging))
    for file in (discarded, left):  # a storage began to write there, and did not finish
        Path(file.path).with_name("metadata.json").write_bytes(b"")
    discarded.discard()
    assert running.restart() == []
    assert os.listdir(staging) == []
    assert not running.spool.has_staged(str(staging))


def test_a_staged_file_waits_for_its_disk(running: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = tmp_path / "storage"
    file = running.spool.new_file(PHOTO, str(storage / ".depotfs"))
    file.pwrite(b"abc", 0)
    file.seal(PHOTO, durable=True)
    real = spool_module.disk_of
    (storage).rename(tmp_path / "elsewhere")
    monkeypatch.setattr(spool_module, "disk_of", lambda path: real(path) + 1)
    for _ in range(2):
        [found] = running.restart()
        assert (found.state, found.size) == (State.HELD, 3)
        assert "disk" in found.reason
    monkeypatch.setattr(spool_module, "disk_of", real)
    (tmp_path / "elsewhere").rename(storage)
    assert [summary(found) for found in running.restart()] == [(State.SEALED, 3, "", b"abc")]


@pytest.fixture
def reboot(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """The machine is started anew; nothing is lost by that itself."""
    boots: list[None] = []

    def reboot() -> None:
        boots.append(None)
        monkeypatch.setattr(spool_module, "_boot_id", lambda: f"boot {len(boots)}")

    return reboot


def test_bytes_that_were_not_flushed_before_a_reboot_land_if_they_are_those_that_were_written(
    running: Running, reboot: Callable[[], None]
) -> None:
    for durable in (False, False, True):
        file = running.spool.new_file(PHOTO)
        file.pwrite(b"abc", 0)
        file.seal(PHOTO, durable=durable)
    # Sealed again on other terms: the bytes are the same, flushed or not.
    for file in running.spool.files():
        file.seal(target(commit="c2"), durable=False)
    os.pwrite(running.spool.files()[0].fd, bytes(3), 0)
    reboot()
    left = running.restart()
    assert [(found.state, found.is_intact()) for found in left] == [
        (State.SEALED, False),
        (State.SEALED, True),
        (State.SEALED, True),
    ]


def test_bytes_without_a_checksum_do_not_land_after_a_reboot_unless_they_were_flushed(
    running: Running, reboot: Callable[[], None]
) -> None:
    for number in (1, 2):
        file = running.spool.new_file(PHOTO)
        file.pwrite(b"bytes", 0)
        old = Record(number, "seal", State.SEALED, f"data/{number}", 5, number == 2, "", PHOTO)
        running.spool._home.journal.append(old)
    reboot()
    for _ in range(2):
        assert [found.state for found in running.restart()] == [State.HELD, State.SEALED]


def test_the_limit_counts_dirty_bytes_once_and_holes_never(tmp_path: Path) -> None:
    spool = Spool(str(tmp_path / "s"), limit=1000)
    spool.open()
    file, other = spool.new_file(PHOTO), spool.new_file(PHOTO)
    file.truncate(1 << 40)
    for _ in range(3):
        file.pwrite(bytes(100), 1 << 39)
    file.truncate(400)
    file.pwrite(bytes(400), 0)
    file.pwrite(bytes(400), 0)
    assert spool.statistics().current_bytes == 400
    other.pwrite(bytes(600), 0)
    assert spool.free_space() == 0
    with pytest.raises(SpoolFull) as caught:
        other.pwrite(b"x", 600)
    assert isinstance(caught.value, StorageFull)
    assert other.size == 600
    other.pwrite(b"y", 599)
    file.committed()
    other.pwrite(b"x", 600)
    statistics = spool.statistics()
    assert (statistics.current_bytes, statistics.peak_bytes, statistics.current_files) == (601, 1000, 1)
    spool.close()


def test_what_is_about_to_be_copied_counts_before(tmp_path: Path) -> None:
    spool = Spool(str(tmp_path / "s"), limit=1000)
    spool.open()
    file, other = spool.new_file(PHOTO), spool.new_file(PHOTO)
    file.allot(1 << 30, 700)
    with pytest.raises(SpoolFull):
        other.allot(400, 301)
    assert (file.size, other.size, spool.statistics().current_bytes) == (1 << 30, 0, 700)
    file.discard()
    other.allot(400, 301)
    spool.close()


def test_a_full_disk_refuses_and_loses_nothing(running: Running) -> None:
    file = running.spool.new_file(PHOTO)
    file.pwrite(b"abc", 0)
    file.seal(PHOTO, durable=False)
    sealed, other, unwanted = (running.spool.new_file(PHOTO) for _ in range(3))
    sealed.seal(PHOTO, durable=False)
    other.pwrite(b"x", 0)
    unwanted.pwrite(b"x", 0)
    with largest_file((running.directory / "journal").stat().st_size + 10):
        with pytest.raises(SpoolFull):
            other.seal(PHOTO, durable=True)
        assert other.state is State.OPEN
        with pytest.raises(SpoolFull):
            running.spool.new_file(PHOTO)
        # What is sealed can be stored all the same: that makes room.
        sealed.seal(PHOTO, durable=False)
        sealed.committed()
        # The seal cannot be taken back, so nothing may be written.
        with pytest.raises(SpoolFull):
            file.pwrite(b"xyz", 0)
        # But what is done is done, and what failed, failed.
        unwanted.discard()
        file.hold("no")
        assert file.state is State.HELD
    assert running.spool.statistics().current_files == 2
    # The daemon died before it could say so. Of the committed file its storage has to be asked.
    running.restart()
    sealed, missing, open_ = running.spool.files()
    assert missing.state is State.MISSING
    assert [summary(found) for found in (sealed, open_)] == [(State.SEALED, 3, "", b"abc"), (State.OPEN, 1, "", b"x")]


def test_what_a_full_disk_kept_from_the_journal_is_in_it_once_there_is_room(running: Running) -> None:
    for _ in range(3):
        file = running.spool.new_file(PHOTO)
        file.pwrite(b"abc", 0)
        file.seal(PHOTO, durable=False)
    committed, held, delayed = running.spool.files()
    with largest_file((running.directory / "journal").stat().st_size + 10):
        committed.committed()
        held.hold("no")
        delayed.delay("no server")
    running.spool.new_file(PHOTO).discard()
    left = running.restart()
    assert [(found.state, found.reason) for found in left] == [(State.HELD, "no"), (State.SEALED, "no server")]


def test_a_daemon_starts_on_a_full_disk_so_that_it_can_make_room(running: Running) -> None:
    files = [running.spool.new_file(PHOTO) for _ in range(20)]
    for file in files:
        file.pwrite(b"abc", 0)
        file.seal(PHOTO, durable=False)
    journal = running.directory / "journal"
    running.spool.close()
    torn = journal.read_bytes() + b'{"crc":"0'
    journal.write_bytes(torn)
    with largest_file(3000):
        assert [found.state for found in running.restart()] == [State.SEALED] * 20
    assert not (running.directory / "journal.new").exists()
    running.left[0].committed()
    running.left[1].hold("no")
    assert [found.state for found in running.restart()] == [State.SEALED] * 18 + [State.HELD]


def test_a_staging_directory_that_cannot_be_made_leaves_nothing(running: Running, tmp_path: Path) -> None:
    (tmp_path / "flat").write_text("a file")
    with pytest.raises(OSError, match="flat"):
        running.spool.new_file(PHOTO, str(tmp_path / "flat" / "staging"))
    assert running.spool.statistics().current_files == 0
    assert running.restart() == []


def test_numbers_are_never_used_twice(running: Running) -> None:
    for number in (1, 2, 3):
        file = running.spool.new_file(PHOTO)
        assert file.number == number
        file.committed()
        assert running.restart() == []


def test_a_damaged_journal_is_kept_and_its_bytes_are_set_aside(
    running: Running, caplog: pytest.LogCaptureFixture
) -> None:
    for content in (b"one", b"two"):
        file = running.spool.new_file(PHOTO)
        file.pwrite(content, 0)
        file.seal(PHOTO, durable=False)
    journal = running.directory / "journal"
    damaged = b"".join(line for line in journal.read_bytes().splitlines(True) if b'"n":1,' not in line) + b"rubbish\n"
    running.spool.close()
    journal.write_bytes(damaged)
    [found] = running.restart()
    assert summary(found)[3] == b"two"
    assert (running.directory / "lost" / "1").read_bytes() == b"one"
    assert (running.directory / "journal.damaged").read_bytes() == damaged
    assert "damaged" in caplog.text
    assert "lost/1" in caplog.text
    assert running.spool.new_file(PHOTO).number == 3


def test_a_journal_of_another_version_changes_nothing(running: Running) -> None:
    running.spool.new_file(PHOTO).pwrite(b"abc", 0)
    running.spool.close()
    journal = running.directory / "journal"
    newer = journal.read_bytes() + b'{"v":2,"event":"split"}\n'
    journal.write_bytes(newer)
    with pytest.raises(SpoolUnreadable, match="version 2"):
        Spool(str(running.directory)).open()
    assert journal.read_bytes() == newer
    assert running.bytes_on_disk() == ["1"]


def test_a_spool_has_one_owner_and_dies_with_it(tmp_path: Path) -> None:
    script = (
        "import sys; from depotfs.spool import Spool; s = Spool(sys.argv[1]); s.open(); print('mine', flush=True); "
        "sys.stdin.read()"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "s")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == b"mine\n"
        spool = Spool(str(tmp_path / "s"))
        with pytest.raises(SpoolBusy, match=str(owner.pid)):
            spool.open()
        owner.kill()
        owner.wait()
    assert spool.open() == []
    assert (tmp_path / "s" / "lock").read_text() == f"{os.getpid()}\n"
    spool.close()


# --- what is left is what was promised -------------------------------------------------------------------------------


@pytest.mark.parametrize("in_order", [True, False])
@pytest.mark.parametrize("durable", [True, False])
@pytest.mark.parametrize("garbled", [True, False])
def test_bytes_that_were_changed_on_the_disk_are_noticed(
    running: Running, in_order: bool, durable: bool, garbled: bool
) -> None:
    file = running.spool.new_file(PHOTO)
    pieces = [(b"first", 0), (b"second", 5)]
    for data, offset in pieces if in_order else reversed(pieces):
        file.pwrite(data, offset)
    file.seal(PHOTO, durable=durable)
    if garbled:
        with (running.directory / file.path).open("r+b") as other:
            other.seek(7)
            other.write(b"X")
    (left,) = running.restart()
    assert left.state is State.SEALED
    assert left.is_intact() is not garbled


@pytest.mark.parametrize("change", ["cut", "grown", "overwritten", "copied"])
def test_the_checksum_is_that_of_the_last_state(running: Running, change: str) -> None:
    file = running.spool.new_file(PHOTO)
    if change == "copied":
        file.allot(6, 6)
        os.pwrite(file.fd, b"copied", 0)
    else:
        file.pwrite(b"written in order", 0)
    if change == "cut":
        file.truncate(3)
    elif change == "grown":
        file.truncate(100)
        file.pwrite(b"!", 100)
    elif change == "overwritten":
        file.pwrite(b"W", 0)
    file.seal(PHOTO, durable=False)
    (left,) = running.restart()
    assert left.is_intact()
    os.pwrite(left.fd, b"?", 1)
    assert not left.is_intact()


def test_sealed_bytes_that_are_gone_are_named_until_their_storage_was_asked(
    running: Running, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(3):
        file = running.spool.new_file(PHOTO)
        file.pwrite(b"bytes", 0)
        file.seal(PHOTO, durable=False)
        os.unlink(file.path)
    for _ in range(2):
        left = running.restart()
        assert [found.state for found in left] == [State.MISSING] * 3
        assert f"spool file {file.number}, {PHOTO.filename!r}: nothing is left of its bytes" in caplog.text
        assert running.spool.statistics().current_missing == 3
        caplog.clear()
    stored, lost, unknown = left
    stored.committed()
    lost.hold("its storage does not have it either")
    running.spool.make_durable()
    assert running.restart()[0].number == unknown.number
    assert len(running.left) == 1


def test_what_is_sealed_or_held_at_an_orderly_end_survives_a_reboot(
    running: Running, reboot: Callable[[], None]
) -> None:
    sealed, held = running.spool.new_file(PHOTO), running.spool.new_file(PHOTO)
    for file in (sealed, held):
        file.pwrite(b"bytes", 0)
        file.seal(PHOTO, durable=False)
    held.hold("lost a race")
    running.spool.make_durable()
    reboot()
    assert [(file.state, file.reason) for file in running.restart()] == [
        (State.SEALED, ""),
        (State.HELD, "lost a race"),
    ]


def test_files_that_wait_hold_no_descriptor_and_a_limit_costs_only_the_call(running: Running) -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 20, limits[1]))
    try:
        for number in range(100):
            file = running.spool.new_file(PHOTO)
            file.pwrite(b"%d" % number, 0)
            file.seal(PHOTO, durable=number % 2 == 0)
            file.close()
        opened: list[SpoolFile] = []
        with pytest.raises(OSError, match="Too many open files") as raised:
            opened.extend(running.spool.new_file(PHOTO) for _ in range(100))
        assert raised.value.errno == errno.EMFILE
        for file in running.spool.files()[100:]:
            file.discard()
            file.close()
        for number, file in enumerate(running.spool.files()):
            assert file.pread(3, 0) == b"%d" % number
            file.close()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert len(running.restart()) == 100


def test_a_file_knows_since_when_it_is_what_it_is_and_why(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1_700_000_000.25
    monkeypatch.setattr("time.time", lambda: now)
    sealed, held = (running.spool.new_file(PHOTO) for _ in range(2))
    assert sealed.since == now
    for file in (sealed, held):
        file.pwrite(b"bytes", 0)
    now += 10
    for file in (sealed, held):
        file.seal(PHOTO, durable=False)
    now += 10
    sealed.delay("no server")
    sealed.seal(PHOTO, durable=False)
    held.hold("lost a race")
    now += 10
    for _ in range(2):
        running.restart()
        assert [(file.state, file.since, file.reason) for file in running.spool.files()] == [
            (State.SEALED, 1_700_000_010.25, "no server"),
            (State.HELD, 1_700_000_020.25, "lost a race"),
        ]
    running.spool.files()[0].seal(target(commit="c2"), durable=False)
    running.spool.files()[0].pwrite(b"B", 0)
    assert (running.spool.files()[0].since, running.spool.files()[0].reason) == (now, "")


def test_of_what_an_older_journal_tells_no_time_the_bytes_do(running: Running) -> None:
    file = running.spool.new_file(PHOTO)
    file.pwrite(b"bytes", 0)
    os.utime(file.path, (1_600_000_000, 1_600_000_000))
    line = encode(Record(1, "seal", State.SEALED, "data/1", 5, False, "", PHOTO, since=0.5)).decode()
    fields = line.partition(",")[2].replace('"since":0.500,', "").replace('"sum":"",', "").rstrip("}\n")
    with (running.directory / "journal").open("ab") as journal:
        journal.write(line_of(fields))
    [left] = running.restart()
    assert (left.state, left.since, left.is_intact()) == (State.SEALED, 1_600_000_000, True)


def test_a_file_that_nobody_reads_ends_without_a_descriptor(running: Running) -> None:
    files = [running.spool.new_file(PHOTO) for _ in range(2)]
    before = len(os.listdir("/proc/self/fd"))
    for file, end in zip(files, (SpoolFile.committed, SpoolFile.discard), strict=True):
        file.pwrite(b"bytes", 0)
        file.seal(PHOTO, durable=True)
        file.close()
        assert file.is_intact()
        file.sum_up()
        end(file, read_on=False)
    assert len(os.listdir("/proc/self/fd")) == before - 2
