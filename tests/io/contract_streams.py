"""The contract's second part: stored files and readers as streams."""

from __future__ import annotations

import csv
import hashlib
import io
import shutil
import zipfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest

from depotfs.errors import VersionChanged
from depotfs.io.content import BytesContent
from depotfs.io.interfaces import FileStorage
from depotfs.types import FileId
from tests.io.contract_sources import METADATA, OneWay, content_of, noise, put


class Endless(io.RawIOBase):
    """A one-way stream of `size` bytes that are made as they are read; `largest` is the most ever asked for."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self._left = size
        self._block = noise(65_536)
        self.digest = hashlib.sha256()
        self.largest = 0

    def readable(self) -> bool:
        return True

    def read(self, size: int | None = -1, /) -> bytes:
        assert size is not None
        assert size > 0, "the whole content was asked for at once"
        self.largest = max(self.largest, size)
        piece = self._block[: min(size, self._left)]
        self._left -= len(piece)
        self.digest.update(piece)
        return piece


class StreamsContract:
    """StoredFile as a binary file; ContentReader."""

    def test_read_in_pieces(self, storage: FileStorage) -> None:
        data = noise(700_001)
        file = storage.get(storage.create(data))
        assert file.read(0) == b""
        assert file.read(1) == data[:1]
        assert file.read(300_000) == data[1:300_001]
        assert file.read(0) == b""
        assert file.read(-5) == data[300_001:]
        assert (file.read(), file.read(5), file.read(None)) == (b"", b"", b"")
        assert storage.get(file).read(None) == data
        assert storage.get(file).read(len(data) + 1) == data

    def test_seek_and_tell(self, storage: FileStorage) -> None:
        data = noise(600_000)
        file = storage.get(storage.create(data))
        assert file.seekable()
        assert file.readable()
        assert not file.writable()
        assert (file.seek(-10, io.SEEK_END), file.read()) == (599_990, data[-10:])
        assert (file.seek(299_999), file.read(3), file.tell()) == (299_999, data[299_999:300_002], 300_002)
        assert (file.seek(-2, io.SEEK_CUR), file.read(2)) == (300_000, data[300_000:300_002])
        assert (file.seek(700_000), file.read(5)) == (700_000, b"")
        assert (file.seek(0), file.read()) == (0, data)
        for offset, whence, why in ((-1, io.SEEK_SET, "negative"), (0, 9, "whence")):
            with pytest.raises(ValueError, match=why):
                file.seek(offset, whence)

    def test_readinto(self, storage: FileStorage) -> None:
        file = storage.get(storage.create(b"0123456789"))
        buffer = bytearray(4)
        taken = []
        while count := file.readinto(buffer):  # type: ignore[attr-defined]
            taken.append(bytes(buffer[:count]))
        assert taken == [b"0123", b"4567", b"89"]

    def test_lines(self, storage: FileStorage) -> None:
        data = b"first\n\nthird is longer\n" + b"x" * 600_000 + b"\nlast"
        file = storage.get(storage.create(data))
        assert list(file) == data.splitlines(keepends=True)
        file.seek(0)
        assert [file.readline(3), file.readline(), file.readline(0)] == [b"fir", b"st\n", b""]

    def test_inside_other_readers(self, storage: FileStorage) -> None:
        archive = io.BytesIO()
        with zipfile.ZipFile(archive, "w") as pack:
            pack.writestr("a.txt", noise(400_000))
            pack.writestr("b.csv", "имя,1\r\n")
        file_id = storage.create(archive.getvalue(), "a.zip")
        with zipfile.ZipFile(storage.get(file_id)) as pack:
            assert pack.namelist() == ["a.txt", "b.csv"]
            assert pack.testzip() is None
            assert pack.read("a.txt") == noise(400_000)
            with pack.open("b.csv") as member:
                assert list(csv.reader(io.TextIOWrapper(member, "utf-8"))) == [["имя", "1"]]
        text = storage.get(storage.create("первая\nвторая\n".encode()))
        assert io.TextIOWrapper(text, "utf-8").readlines() == ["первая\n", "вторая\n"]
        copy = io.BytesIO()
        shutil.copyfileobj(io.BufferedReader(storage.get(file_id)), copy)  # type: ignore[type-var]
        assert copy.getvalue() == archive.getvalue()

    def test_closed_file(self, storage: FileStorage) -> None:
        with storage.get(storage.create(b"x")) as file:
            assert file.read() == b"x"
        assert file.closed
        for call in (file.read, lambda: file.seek(0), file.readline):
            with pytest.raises(ValueError, match="closed"):
                call()
        file.close()

    def test_large_content_is_streamed(self, storage: FileStorage) -> None:
        source = Endless(21 * 1024 * 1024 + 17)
        file_id = storage.create(source, "large.bin")
        assert source.largest <= 16 * 1024 * 1024
        file = storage.get(file_id)
        assert file.content_length == 21 * 1024 * 1024 + 17
        digest = hashlib.sha256()
        while piece := file.read(1 << 20):
            digest.update(piece)
        assert digest.digest() == source.digest.digest()

    def test_pread_anywhere(self, storage: FileStorage) -> None:
        data = noise(600_017)
        stat = put(storage, data)
        reader = storage.open_content(stat.file_id)
        assert reader.stat == stat
        chunk = 261_120  # GridFS's
        for offset, size in [
            (0, 1),
            (0, 0),
            (1, chunk),
            (chunk - 1, 2),
            (chunk, chunk),
            (3, 600_000),
            (600_016, 1),
            (600_016, 5),
            (600_017, 5),
            (10**9, 5),
            (0, 10**8),
        ]:
            assert reader.pread(offset, size) == data[offset : offset + size], (offset, size)
        reader.close()
        reader.close()

    def test_pieces_are_what_pread_gives(self, storage: FileStorage) -> None:
        data = noise(3_000_017)
        reader = storage.open_content(put(storage, data))
        chunk = 261_120  # GridFS's
        for offset, size, piece in [
            (0, 10**8, 1 << 20),
            (1 << 17, 2_000_000, 1 << 17),
            (7, 5, 9),
            (chunk, chunk, 1000),
        ]:
            pieces = [bytes(part) for part in reader.pieces(offset, size, piece)]
            assert b"".join(pieces) == data[offset : offset + size], (offset, size, piece)
            assert all(len(part) == piece for part in pieces[:-1])
        assert list(reader.pieces(len(data), 5, 1000)) == list(reader.pieces(0, 0, 1000)) == []
        reader.close()

    def test_pieces_are_of_one_version(self, storage: FileStorage) -> None:
        stat = put(storage, noise(3_000_017))
        reader = storage.open_content(stat)
        pieces = reader.pieces(0, stat.size, 1 << 20)
        got = [bytes(next(pieces))]
        storage.put(BytesContent(bytes(3_000_017)), METADATA, file_id=stat.file_id)
        with suppress(VersionChanged):
            got += map(bytes, pieces)
        assert noise(3_000_017).startswith(b"".join(got))
        reader.close()

    def test_pread_of_nothing(self, storage: FileStorage) -> None:
        reader = storage.open_content(put(storage, b"").file_id)
        assert (reader.pread(0, 10), reader.pread(7, 10), reader.stat.size) == (b"", b"", 0)
        reader.close()

    def test_pread_from_threads(self, storage: FileStorage) -> None:
        data = noise(2_000_003)
        reader = storage.open_content(put(storage, data))
        offsets = range(0, len(data), 150_001)
        with ThreadPoolExecutor(8) as pool:
            pieces = list(pool.map(lambda offset: reader.pread(offset, 150_001), offsets))
        reader.close()
        assert b"".join(pieces) == data

    def test_reader_has_the_descriptor_of_these_bytes_or_none(self, storage: FileStorage) -> None:
        data = noise(100_000)
        reader = storage.open_content(put(storage, data))
        fd = reader.fileno()
        if fd is not None:
            with open(fd, "rb", closefd=False) as file:
                assert file.read() == data
        reader.close()

    def test_one_way_stream_of_odd_size(self, storage: FileStorage) -> None:
        data = noise(6 * 1024 * 1024 + 1)
        file_id = FileId(storage.create(OneWay(data)))
        assert content_of(storage, file_id) == data
