"""One flush of the disk serves all who wait for it."""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from depotfs import disk
from depotfs.errors import SpoolFull
from depotfs.spool import Spool, State
from depotfs.spool.flush import SharedFlush
from tests.spool.targets import PHOTO, target


class Gate:
    """A flush that begins and ends when the test says so.

    Attributes:
        calls: how often it was begun.
        error: what it ends with from now on.
    """

    def __init__(self) -> None:
        self.calls = 0
        self.error: OSError | None = None
        self.begun = threading.Semaphore(0)
        self.end = threading.Semaphore(0)

    def flush(self) -> None:
        self.calls += 1
        self.begun.release()
        assert self.end.acquire(timeout=30)
        if self.error is not None:
            raise self.error


def waiting(shared: SharedFlush, count: int) -> None:
    """So many threads wait for a flush that is not theirs."""
    while len(shared._changed._waiters) < count:  # type: ignore[attr-defined]
        os.sched_yield()


def test_all_who_come_meanwhile_share_the_next_flush() -> None:
    gate = Gate()
    shared = SharedFlush(gate.flush)
    with ThreadPoolExecutor(65) as threads:
        first = threads.submit(shared.wait)
        assert gate.begun.acquire(timeout=30)
        others = [threads.submit(shared.wait) for _ in range(64)]
        waiting(shared, 64)
        gate.end.release()
        first.result(timeout=30)
        assert gate.begun.acquire(timeout=30)
        assert not any(other.done() for other in others)
        gate.end.release()
        for other in others:
            other.result(timeout=30)
    assert gate.calls == 2
    gate.end.release()
    shared.wait()
    assert gate.calls == 3


def test_a_flush_that_fails_fails_for_all_who_shared_it_and_for_nobody_else() -> None:
    gate = Gate()
    shared = SharedFlush(gate.flush)
    with ThreadPoolExecutor(9) as threads:
        first = threads.submit(shared.wait)
        assert gate.begun.acquire(timeout=30)
        others: list[Future[None]] = [threads.submit(shared.wait) for _ in range(8)]
        waiting(shared, 8)
        gate.end.release()
        first.result(timeout=30)
        gate.error = SpoolFull("no room")
        gate.end.release()
        errors = [other.exception(timeout=30) for other in others]
    assert [(type(error), str(error)) for error in errors] == [(SpoolFull, "no room")] * 8
    assert gate.calls == 2
    gate.error = None
    gate.end.release()
    shared.wait()


def test_durable_seals_at_once_share_their_flushes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = Spool(str(tmp_path / "s"))
    spool.open()
    home, data = spool._home, str(tmp_path / "s" / "data")
    shared = {"journal": home.journal._shared, data: SharedFlush(lambda: disk.sync_directory(data))}
    monkeypatch.setitem(home.directories._shared, data, shared[data])
    flushed: list[str] = []

    def first_waits_for_all(place: str, real: Callable[[Any], None], what: Any) -> None:
        flushed.append(place)
        if flushed.count(place) == 1 and place in shared:
            waiting(shared[place], 63)
        real(what)

    def sync_file(fd: int, real: Callable[[Any], None] = disk.sync_file) -> None:
        first_waits_for_all(os.path.basename(os.readlink(f"/proc/self/fd/{fd}")), real, fd)

    def sync_directory(path: str, real: Callable[[Any], None] = disk.sync_directory) -> None:
        first_waits_for_all(path, real, path)

    monkeypatch.setattr(disk, "sync_file", sync_file)
    monkeypatch.setattr(disk, "sync_directory", sync_directory)
    files = [spool.new_file(PHOTO) for _ in range(64)]
    with ThreadPoolExecutor(64) as threads:
        for file in files:
            file.pwrite(b"bytes", 0)
        for done in [threads.submit(file.seal, target(commit=f"c{file.number}"), durable=True) for file in files]:
            done.result(timeout=60)
    assert Counter(flushed) == {"journal": 2, data: 2} | {str(file.number): 1 for file in files}
    assert all(file.state is State.SEALED for file in files)
    spool.close()


def test_an_orderly_end_flushes_the_journal_and_the_directory_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = Spool(str(tmp_path / "s"))
    spool.open()
    for _ in range(100):
        file = spool.new_file(PHOTO)
        file.pwrite(b"bytes", 0)
        file.seal(PHOTO, durable=False)
        file.close()
    descriptors = len(os.listdir("/proc/self/fd"))
    flushed: list[str] = []
    real = os.fsync

    def fsync(fd: int) -> None:
        flushed.append(os.path.basename(os.readlink(f"/proc/self/fd/{fd}")))
        real(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    spool.make_durable()
    assert (flushed.count("journal"), flushed.count("data"), len(flushed)) == (1, 1, 102)
    assert flushed[-1] == "journal"
    assert len(os.listdir("/proc/self/fd")) == descriptors
    spool.make_durable()
    assert flushed[102:] == ["journal"]
    spool.close()
