"""kill -9 between any two steps on the disk: what was acknowledged is there, what was given up is not."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

from depotfs.spool import Spool, SpoolFile, State
from depotfs.spool.journal import Journal
from tests.spool.targets import PHOTO, target

STEPS: Final = ("open", "write", "pwrite", "ftruncate", "mkdir", "rmdir", "unlink", "rename", "fsync", "link")
"""The calls of `os` that change the disk; `Path` goes through them, too."""


def kill_before_step(number: int) -> None:
    """This process is killed just before its `number`-th step on the disk."""
    left = [number]

    def guarded(real: Callable[..., Any]) -> Callable[..., Any]:
        def step(*arguments: Any, **options: Any) -> Any:
            left[0] -= 1
            if left[0] < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*arguments, **options)

        return step

    for name in STEPS:
        setattr(os, name, guarded(getattr(os, name)))


def in_child(work: Callable[[int], None]) -> tuple[bytes, bool]:
    """What `work` wrote to its descriptor in a process of its own, and whether it came to its end."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        try:
            work(writing)
            os._exit(0)
        finally:
            os._exit(1)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        said = pipe.read()
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return said, not os.WIFSIGNALED(status)


def life(directory: Path, acknowledge: Callable[[str], None]) -> None:
    """One file of each fate."""
    Journal.compact_at = 1500  # so that one falls into it
    spool = Spool(str(directory / "s"))
    spool.open()
    staging = str(directory / "storage" / ".depotfs")
    for staged in (None, staging):
        kept = spool.new_file(target(commit="kept"), staged)
        kept.pwrite(b"kept", 0)
        kept.seal(target(commit="kept"), durable=staged is None)
        acknowledge(f"{kept.number} sealed kept")
        done = spool.new_file(target(commit="done"), staged)
        done.pwrite(b"done", 0)
        done.seal(target(commit="done"), durable=False)
        acknowledge(f"{done.number} sealed done")
        done.committed()
        acknowledge(f"{done.number} gone")
        again = spool.new_file(target(commit="again"), staged)
        again.pwrite(b"first", 0)
        again.seal(target(commit="again"), durable=False)
        acknowledge(f"{again.number} sealed first")
        acknowledge(f"{again.number} changing")
        again.pwrite(b"other", 0)
        again.seal(target(commit="again"), durable=True)
        acknowledge(f"{again.number} sealed other")
        again.hold("no")
        acknowledge(f"{again.number} held other")
    taken = spool.new_file(PHOTO, staging)
    taken.pwrite(b"taken", 0)
    taken.seal(PHOTO, durable=False)
    acknowledge(f"{taken.number} sealed taken")
    acknowledge(f"{taken.number} taking")
    os.rename(os.path.dirname(taken.path), directory / "storage" / "id")
    taken.committed(moved=True)
    acknowledge(f"{taken.number} gone")


def check(said: bytes, left: list[SpoolFile]) -> None:
    """Everything acknowledged holds; of a step that was under way, either outcome does."""
    files = {file.number: file for file in left}
    last = {int(line.split()[0]): line.split()[1:] for line in said.decode().splitlines()}
    for number, (event, *content) in last.items():
        file = files.get(number)
        if event == "gone":
            assert file is None
        elif event in ("sealed", "held"):
            if file is None:
                # Only what was just being committed may be gone without its acknowledgement.
                assert number == max(last)
                assert content == ["done"]
                continue
            assert file.state in (State.SEALED, State.HELD)
            assert file.pread(100, 0) == content[0].encode()
            assert file.target.commit in (*content, "again", "c1")
        elif event == "changing":
            assert file is not None
            # Sealed as it was, or open: never a promise about other bytes than those.
            assert file.pread(100, 0) in (b"first", b"other")
            assert file.state is State.OPEN or file.size == 5
            assert file.state is not State.HELD
        else:
            assert event == "taking"


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the machine's death, not the daemon's, could tell whether it was done."""
    monkeypatch.setattr(os, "fsync", lambda fd: None)


def test_killed_before_each_step(tmp_path: Path) -> None:
    finished, step = False, 0
    while not finished:
        directory = tmp_path / str(step)
        directory.mkdir()

        def work(pipe: int, step: int = step, directory: Path = directory) -> None:
            write = os.write
            kill_before_step(step)

            def acknowledge(text: str) -> None:
                write(pipe, text.encode() + b"\n")

            life(directory, acknowledge)

        said, finished = in_child(work)
        # The next daemon dies while it recovers, at one point or another; the one after it finds the same.
        inner = 1 + step % 12

        def recover(pipe: int, inner: int = inner, directory: Path = directory) -> None:
            kill_before_step(inner)
            Spool(str(directory / "s")).open()

        in_child(recover)
        spool = Spool(str(directory / "s"))
        left = spool.open()
        check(said, left)
        assert not (directory / "s" / "lost").exists()
        known = {os.path.basename(file.path) for file in left if not file.staged}
        assert set(os.listdir(directory / "s" / "data")) == known
        spool.close()
        step += 1
    assert step > 60


def test_killed_at_random_times_with_a_journal_that_grows(tmp_path: Path) -> None:
    random.seed(3)
    spool = Spool(str(tmp_path / "s"))

    def work(pipe: int) -> None:
        Journal.compact_at = 3000
        spool.open()
        for number in range(100_000):
            file = spool.new_file(PHOTO)
            file.pwrite(b"%d" % file.number, 0)
            file.seal(PHOTO, durable=False)
            os.write(pipe, b"%d sealed %d\n" % (file.number, file.number))
            if number % 3:
                os.write(pipe, b"%d ending\n" % file.number)
                file.committed()
                os.write(pipe, b"%d gone\n" % file.number)
            file.close()

    for _ in range(8):
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            work(writing)
            os._exit(1)
        os.close(writing)
        with os.fdopen(reading, "rb") as pipe:
            lines = [pipe.readline() for _ in range(random.randrange(20, 400))]
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            lines += pipe.read().splitlines(True)
        files = {file.number: file for file in spool.open()}
        last = {int(line.split()[0]): line.split()[1] for line in lines if line.endswith(b"\n")}
        for number, event in last.items():
            if event == b"sealed":
                assert files[number].state is State.SEALED
                assert files[number].pread(100, 0) == b"%d" % number
            elif event == b"gone":
                assert number not in files
        for file in files.values():
            file.discard()
        assert os.listdir(tmp_path / "s" / "data") == []
        spool.close()
