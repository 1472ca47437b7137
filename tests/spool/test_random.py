"""Lives of a spool that chance decides: calls in every order, disks that fail, crashes and losses of power."""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pytest

from depotfs import disk as steps
from depotfs.spool import Spool, SpoolFile, State
from depotfs.spool.journal import Journal
from tests.simulation.disk import Disk
from tests.spool.targets import target

FAULTS: Final = {
    "write": (errno.EIO, errno.ENOSPC),
    "fsync": (errno.EIO,),
    "open": (errno.EMFILE, errno.ENOSPC),
    "ftruncate": (errno.EIO,),
    "mkdir": (errno.ENOSPC,),
    "unlink": (errno.EIO,),
    "rmdir": (errno.EIO,),
    "rename": (errno.EIO,),
}


@dataclass
class Expected:
    """What is known of a file from outside.

    Attributes:
        content: as it was written.
        promised: what the seal promised that counts, or what was held durably; None without.
        durable: that outlasts a loss of power.
        ever: all that anybody tried to promise.
        over: it was committed or discarded.
    """

    content: bytearray = field(default_factory=bytearray)
    promised: bytes | None = None
    durable: bool = False
    ever: set[bytes] = field(default_factory=set)
    over: bool = False


class Lives:
    """A spool and what is expected of it."""

    def __init__(self, disk: Disk, seed: int) -> None:
        self._chance = random.Random(seed)
        self._disk = disk
        self._weather: list[str] = []
        self._expected: dict[int, Expected] = {}
        self._lost: set[Path] = set()
        self._owed: set[int] = set()
        self._states: dict[int, State] = {}
        self._storage = f"{disk.root}/storage"
        steps.make_directory(self._storage)
        self._spool = self._next_spool()
        self._spool.open()

    def live(self) -> None:
        """Calls, an end of one kind or another, and the next start."""
        for _ in range(self._chance.randrange(40)):
            self._change_weather()
            try:
                self._call()
            except OSError:
                if not self._weather and self._disk.room is None:
                    raise
            self._check()
        powerless = self._end()
        self._die_in_recovery()
        self._clear_weather()
        self._disk.start()
        self._spool = self._next_spool()
        found = {file.number: file for file in self._spool.open()}
        # Only a loss of power can take the record of bytes, if nobody was promised anything of them.
        lost = set(Path(self._disk.root, "s").glob("lost/*"))
        assert powerless or lost == self._lost
        self._lost = lost
        for number, expected in self._expected.items():
            if powerless:
                self._compare_after_power_loss(found.get(number), expected)
            elif number not in self._owed:
                self._compare(number, found.get(number), expected)
        for number, expected in self._expected.items():
            gone = Expected(ever=expected.ever, over=True)
            self._expected[number] = self._as_found(found[number]) if number in found else gone

    # --- the world ---------------------------------------------------------------------------------------------------

    def _next_spool(self) -> Spool:
        return Spool(f"{self._disk.root}/s")

    def _clear_weather(self) -> None:
        self._weather = []
        self._disk.refuse = lambda call, path: 0
        self._disk.room = None

    def _change_weather(self) -> None:
        if self._chance.random() < 0.8:
            return
        self._clear_weather()
        if self._chance.random() < 0.4:
            self._weather = self._chance.sample(sorted(FAULTS), self._chance.randrange(1, 3))
            self._disk.refuse = self._refuse
        elif self._chance.random() < 0.3:
            self._disk.room = self._chance.randrange(1500)

    def _refuse(self, call: str, path: str) -> int:
        return self._chance.choice(FAULTS[call]) if call in self._weather and self._chance.random() < 0.5 else 0

    def _end(self) -> bool:
        """Whether power was lost."""
        if orderly := self._chance.random() < 0.3:
            self._clear_weather()
            self._make_durable()
            self._spool.close()
        self._states = {file.number: file.state for file in self._spool.files()}
        self._owed = set(self._spool._home.journal._owed)
        if powerless := self._chance.random() < (0.7 if orderly else 0.5):
            self._disk.lose_power(self._chance if self._chance.random() < 0.7 else None)
        else:
            self._disk.kill()
        return powerless

    def _die_in_recovery(self) -> None:
        if self._chance.random() < 0.5:
            self._weather = self._chance.sample(sorted(FAULTS), 2)
            self._disk.refuse = self._refuse
            self._disk.start()
            spool = self._next_spool()
            try:
                spool.open()
            except OSError:
                assert spool.files() is not None
            self._disk.kill()

    # --- calls -------------------------------------------------------------------------------------------------------

    def _call(self) -> None:
        files = self._spool.files()
        if not files or self._chance.random() < 0.15:
            staging = self._chance.choice((None, f"{self._storage}/.depotfs"))
            self._expected[self._spool._next] = Expected(over=True)  # should it fail
            self._expected[self._spool.new_file(target(commit=""), staging).number] = Expected()
            return
        file = self._chance.choice(files)
        calls = (
            self._write,
            self._write,
            self._truncate,
            self._seal,
            self._seal,
            self._seal,
            self._aside,
            self._finish,
        )
        self._chance.choice(calls)(file, self._expected[file.number])
        if self._chance.random() < 0.03:
            self._make_durable()

    def _write(self, file: SpoolFile, expected: Expected) -> None:
        offset = self._chance.choice((0, file.size, file.size, self._chance.randrange(10_000)))
        data = self._chance.randbytes(self._chance.choice((1, 100, 5000)))
        with self._changing(file, expected):
            count = file.pwrite(data, offset)
        expected.content.extend(bytes(max(0, offset - len(expected.content))))
        expected.content[offset : offset + count] = data[:count]

    @staticmethod
    @contextmanager
    def _changing(file: SpoolFile, expected: Expected) -> Iterator[None]:
        """A seal is taken back before, or stands, but then power may not be lost before a flush that succeeds."""
        try:
            yield
        except OSError:
            expected.durable = False
            raise
        finally:
            if file.state is State.OPEN:
                expected.promised = None

    def _truncate(self, file: SpoolFile, expected: Expected) -> None:
        size = self._chance.choice((0, file.size, self._chance.randrange(12_000)))
        with self._changing(file, expected):
            file.truncate(size)
        expected.content.extend(bytes(max(0, size - len(expected.content))))
        del expected.content[size:]

    def _seal(self, file: SpoolFile, expected: Expected) -> None:
        durable = self._chance.random() < 0.5
        content = bytes(expected.content)
        expected.ever.add(content)
        file.seal(target(commit=f"c{self._chance.randrange(3)}"), durable=durable)
        expected.durable = durable or (expected.promised is not None and expected.durable)
        expected.promised = content

    def _aside(self, file: SpoolFile, expected: Expected) -> None:
        match self._chance.randrange(6):
            case 0:
                file.retarget(target(commit="other"))
            case 1:
                file.hold("no")
            case 2:
                file.delay(self._chance.choice(("no server", "no room")))
            case 3:
                file.close()
            case 4:
                file.sum_up()
            case 5:
                assert file.is_intact()

    def _finish(self, file: SpoolFile, expected: Expected) -> None:
        expected.over = True
        self._chance.choice((SpoolFile.committed, SpoolFile.discard))(file)
        file.close()

    def _make_durable(self) -> None:
        self._spool.make_durable()
        if not self._weather and self._disk.room is None:
            for file in self._spool.files():
                if file.state is not State.OPEN:
                    expected = self._expected[file.number]
                    expected.promised, expected.durable = bytes(expected.content), True
                    expected.ever.add(expected.promised)

    # --- what must hold ----------------------------------------------------------------------------------------------

    def _check(self) -> None:
        files = self._spool.files()
        assert {file.number for file in files} == {n for n, expected in self._expected.items() if not expected.over}
        for file in files:
            expected = self._expected[file.number]
            assert file.size == len(expected.content)
            assert file.state is not State.SEALED or expected.promised == bytes(expected.content)
        assert 0 <= self._spool.statistics().current_bytes <= sum(file.size for file in files)

    def _compare(self, number: int, found: SpoolFile | None, expected: Expected) -> None:
        """The program was killed: nothing is lost."""
        state = self._states.get(number, State.DONE)
        if found is None:
            assert state is State.DONE or (state is State.OPEN and not expected.content)
        else:
            assert (found.state, content(found)) == (state, bytes(expected.content))
            assert found.is_intact()

    @staticmethod
    def _compare_after_power_loss(found: SpoolFile | None, expected: Expected) -> None:
        if expected.durable and expected.promised is not None and not expected.over:
            assert found is not None
            assert found.state in (State.SEALED, State.HELD)
            assert found.is_intact()
            assert content(found) == expected.promised
        elif found is not None and found.state is State.SEALED and found.is_intact():
            assert content(found) in expected.ever

    def _as_found(self, file: SpoolFile) -> Expected:
        ever = self._expected[file.number].ever
        if file.state is State.MISSING or not file.is_intact():
            file.discard(read_on=False)
            return Expected(ever=ever, over=True)
        found = content(file)
        if file.state is State.OPEN:
            return Expected(bytearray(found), ever=ever)
        return Expected(bytearray(found), found, False, ever | {found})


def content(file: SpoolFile) -> bytes:
    """All of it, without a descriptor being left."""
    try:
        return file.pread(file.size + 1, 0)
    finally:
        file.close()


@pytest.mark.parametrize("seed", range(int(os.environ.get("SEEDS", "60"))))
def test_lives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    monkeypatch.setattr(Journal, "compact_at", seed * 997 % 8000)
    with Disk(str(tmp_path / "disk")) as disk:
        lives = Lives(disk, seed)
        for _ in range(6):
            lives.live()
