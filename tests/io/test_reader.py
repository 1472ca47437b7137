"""Readers of contents that are replaced, cut short or changed on their way."""

from __future__ import annotations

import dataclasses
import hashlib
from typing import Any

import pytest

from depotfs.errors import ContentDamaged, VersionChanged
from depotfs.io.interfaces import FileStorage
from depotfs.io.memory import MemoryFileStorage
from depotfs.io.reader import ContentReader, ReaderStream
from depotfs.types import FileId, FileStat
from tests.io.contract_sources import ABSENT_IDS, METADATA, content_of, noise, put

FILE, OTHER = ABSENT_IDS


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds of each pause that was made, none of which takes any time."""
    made: list[float] = []
    monkeypatch.setattr("depotfs.io.reader.time.sleep", made.append)
    return made


class Restless(MemoryFileStorage):
    """Its files are replaced whenever their content is asked for, `times` times; readers are refused then.

    Attributes:
        times: how often that goes on; None: for ever.
    """

    times: int | None = None

    def open_content(self, file: FileId | FileStat) -> ContentReader:
        reader = super().open_content(file)
        whole = reader.pread

        def pread(offset: int, size: int) -> bytes:
            if self.times == 0:
                return whole(offset, size)
            self.times = None if self.times is None else self.times - 1
            raise VersionChanged("replaced")

        reader.pread = pread  # type: ignore[method-assign]
        return reader


def test_a_file_that_is_replaced_all_the_time_ends_with_an_error(pauses: list[float]) -> None:
    storage = Restless()
    file = storage.get(put(storage, b"data").file_id)
    for read in (file.read, lambda: file.read(2), lambda: file.readinto(bytearray(3))):  # type: ignore[attr-defined]
        pauses.clear()
        with pytest.raises(VersionChanged):
            read()
        assert 5 < len(pauses) < 20
        assert pauses == sorted(pauses)
        assert 1 < sum(pauses) < 10


def test_a_file_that_is_replaced_several_times_is_read_in_the_end(pauses: list[float]) -> None:
    storage = Restless()
    storage.times = 5
    assert storage.get(put(storage, b"data").file_id).read() == b"data"
    assert len(pauses) == 5


def test_a_file_that_went_meanwhile_can_be_read_when_it_is_back(pauses: list[float]) -> None:
    storage = Restless()
    storage.times = 1
    stat = put(storage, b"data")
    file = storage.get(stat.file_id)
    kept = storage.files.pop(stat.file_id)
    for _ in range(2):
        with pytest.raises(OSError, match=stat.file_id):
            file.read()
    storage.files[stat.file_id] = kept
    assert file.read() == b"data"


class Marked(MemoryFileStorage):
    """Keeps checksums, and hands out what `damage` makes of the bytes."""

    def damage(self, data: bytes) -> bytes:
        return data

    def stat(self, file_id: FileId) -> FileStat:
        return self._marked(super().stat(file_id))

    def open_content(self, file: FileId | FileStat) -> ContentReader:
        reader = super().open_content(file)
        reader.stat = self._marked(reader.stat)
        whole = reader.pread
        reader.pread = lambda offset, size: self.damage(whole(offset, size))  # type: ignore[method-assign]
        return reader

    def _marked(self, stat: FileStat) -> FileStat:
        return dataclasses.replace(stat, checksum=f"md5:{hashlib.md5(self.files[stat.file_id]['data']).hexdigest()}")


class Changing(Marked):
    """One bit is another one on the way."""

    def damage(self, data: bytes) -> bytes:
        return data[:-1] + bytes([data[-1] ^ 1])


class Cutting(Marked):
    """The last byte never arrives."""

    def damage(self, data: bytes) -> bytes:
        return data[:-1]


@pytest.mark.parametrize("kind", [Changing, Cutting])
@pytest.mark.parametrize("size", [1, 5_000_001])
def test_what_is_read_whole_is_as_it_was_stored(kind: type[Marked], size: int) -> None:
    storage = kind()
    stat = storage.stat(put(storage, noise(size), FILE).file_id)

    def in_pieces() -> None:
        stream = ReaderStream(storage.open_content(stat))
        while stream.read(1 << 20):
            pass

    for read in (
        lambda: storage.get(FILE).read(),
        lambda: storage.load(FILE, size),
        lambda: ReaderStream(storage.open_content(stat)).readall(),
        in_pieces,
        lambda: FileStorage.copy(storage, stat, OTHER, METADATA),
        lambda: MemoryFileStorage().create(storage.get(FILE)),
    ):
        with pytest.raises(ContentDamaged, match=FILE):
            read()
    assert storage.list() == [FILE]


def test_what_is_not_read_in_order_is_not_compared() -> None:
    storage = Marked()
    data = noise(300_000)
    stream = ReaderStream(storage.open_content(put(storage, data)))
    parts: list[Any] = []
    for offset in (100_000, 0, 200_000):
        stream.seek(offset)
        parts.append(stream.read(100_000))
    assert b"".join((parts[1], parts[0], parts[2])) == data
    stream.seek(0)
    assert stream.readall() == data


def test_nothing_is_whole_too() -> None:
    storage = Marked()
    stat = storage.stat(put(storage, b"").file_id)
    assert storage.load(stat.file_id, 0) == (stat, b"")
    assert content_of(storage, stat) == b""
