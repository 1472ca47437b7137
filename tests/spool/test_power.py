"""Power lost at any step on the disk: what was promised durably is there, and nothing is taken for what it is not."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from depotfs import disk as steps
from depotfs.spool import Spool, SpoolFile, State
from depotfs.spool.journal import Journal
from tests.simulation.disk import Disk
from tests.spool.targets import PHOTO, target


class Died(BaseException):
    """The power is gone."""


class Life:
    """A daemon's, and what it was told by its spool.

    Attributes:
        durable: by number, what was promised to outlast a loss of power, until that was over.
        sealed: by number, whatever was promised at some time.
    """

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self.durable: dict[int, bytes] = {}
        self.sealed: dict[int, set[bytes]] = {}

    def seal(self, file: SpoolFile, content: bytes, *, durable: bool) -> None:
        self.sealed.setdefault(file.number, set()).add(content)
        file.seal(target(commit=f"c{file.number}"), durable=durable)
        if durable:
            self.durable[file.number] = content

    def write(self, file: SpoolFile, content: bytes, offset: int = 0) -> None:
        self.durable.pop(file.number, None)
        file.pwrite(content, offset)

    def committed(self, file: SpoolFile, *, moved: bool = False) -> None:
        self.durable.pop(file.number, None)
        file.committed(moved=moved)

    def run(self) -> None:
        """One file of each fate, in the spool and beside a storage."""
        spool = Spool(f"{self._disk.root}/state/spool")
        spool.open()
        storage = f"{self._disk.root}/storage"
        steps.make_directory(storage)
        for staging in (None, f"{storage}/.depotfs"):
            kept, again, done, weak = (spool.new_file(PHOTO, staging) for _ in range(4))
            for file in (kept, again, done):
                self.write(file, b"x" * 5000)
                self.seal(file, b"x" * 5000, durable=True)
            self.write(again, b"y" * 6000)
            self.seal(again, b"y" * 6000, durable=False)
            self.write(again, b"z", 3)
            self.seal(again, b"yyyz" + b"y" * 5996, durable=True)
            kept.hold("no")
            kept.seal(target(commit="other"), durable=False)
            self.committed(done)
            self.write(weak, b"weak")
            self.seal(weak, b"weak", durable=False)
        taken = spool.new_file(PHOTO, f"{storage}/.depotfs")
        self.write(taken, b"taken")
        self.seal(taken, b"taken", durable=True)
        self.durable.pop(taken.number)
        os.rename(os.path.dirname(taken.path), f"{storage}/id")
        self.committed(taken, moved=True)
        spool.make_durable()
        for file in spool.files():
            self.durable[file.number] = file.pread(file.size, 0)
        spool.close()


@pytest.fixture(autouse=True)
def small_journal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Journal, "compact_at", 1500)  # so that a compaction falls into each life


def check(life: Life, left: list[SpoolFile]) -> None:
    files = {file.number: file for file in left}
    for number, content in life.durable.items():
        assert number in files, f"{number} is lost"
        assert files[number].state in (State.SEALED, State.HELD)
        assert files[number].pread(10_000, 0) == content
    for number, file in files.items():
        if file.state is State.SEALED and os.path.exists(file.path) and file.is_intact():
            assert file.pread(10_000, 0) in life.sealed[number]


@pytest.mark.parametrize("seed", [None, 1, 2, 3])
def test_power_lost_before_each_step(tmp_path: Path, seed: int | None) -> None:
    finished, number = False, 0
    while not finished:
        with Disk(str(tmp_path / str(number))) as disk:
            life = Life(disk)
            _die_before(disk, number)
            try:
                life.run()
                finished = True
            except Died:
                pass
            disk.refuse = lambda call, path: 0
            disk.lose_power(None if seed is None else random.Random(f"{seed}/{number}"))
            disk.start()
            # The machine stops again while the next daemon recovers; the one after it finds the same.
            _die_before(disk, 1 + number % 9)
            try:
                Spool(f"{disk.root}/state/spool").open()
            except Died:
                disk.refuse = lambda call, path: 0
                disk.lose_power(None if seed is None else random.Random(f"{seed}/{number}/2"))
            else:
                disk.kill()
            disk.refuse = lambda call, path: 0
            disk.start()
            spool = Spool(f"{disk.root}/state/spool")
            check(life, spool.open())
            spool.close()
        number += 1
    assert number > 100


def _die_before(disk: Disk, step: int) -> None:
    left = [step]

    def refuse(call: str, path: str) -> int:
        left[0] -= 1
        if left[0] < 0:
            raise Died
        return 0

    disk.refuse = refuse
