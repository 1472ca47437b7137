"""GridFSStorage and filedepot 0.12 on the same collections."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pytest
from bson import ObjectId
from depot.io.gridfs import GridFSStorage as FiledepotStorage

from depotfs.errors import VersionChanged
from depotfs.io.gridfs import GridFSStorage
from depotfs.io.gridfs_documents import CHUNK_SIZE
from depotfs.types import FileId
from tests.io.contract_sources import ABSENT_IDS, METADATA, TEXT, content_of, noise, put
from tests.io.gridfs_faults import killed_at
from tests.servers.mongod import Mongod

pytestmark = [
    pytest.mark.xdist_group("mongod"),
    pytest.mark.filterwarnings("ignore:GridOut property:DeprecationWarning"),  # filedepot's use of pymongo
]

NAME = 'имя "x", 100%/.txt'
SIZES = [0, 1, CHUNK_SIZE, CHUNK_SIZE + 1, 40 * CHUNK_SIZE - 1]


@pytest.fixture
def uri(mongod: Mongod) -> str:
    return mongod.new_uri()


@pytest.fixture
def ours(uri: str) -> Iterator[GridFSStorage]:
    storage = GridFSStorage(uri)
    yield storage
    storage.close()


@pytest.fixture
def theirs(uri: str) -> Iterator[FiledepotStorage]:
    storage = FiledepotStorage(uri)
    yield storage
    storage._cli.close()


def _picture(file: Any) -> tuple[bytes, str, str, datetime, int]:
    return file.read(), file.filename, file.content_type, file.last_modified, file.content_length


@pytest.mark.parametrize("size", SIZES)
def test_filedepot_reads_ours(ours: GridFSStorage, theirs: FiledepotStorage, size: int) -> None:
    file_id = ours.create(noise(size), NAME, TEXT)
    assert _picture(theirs.get(file_id)) == _picture(ours.get(file_id))
    assert theirs.list() == [file_id]
    data = noise(size + 1, seed=2)
    ours.replace(file_id, data, "new", "image/png")
    assert _picture(theirs.get(file_id)) == _picture(ours.get(file_id)) == (data, *_picture(ours.get(file_id))[1:])
    ours.update(ours.stat(FileId(file_id)), filename=NAME, modified=METADATA.modified)
    assert _picture(theirs.get(file_id)) == (data, NAME, "image/png", datetime(2001, 2, 3, 4, 5, 6), size + 1)
    copy = ours.copy(ours.stat(FileId(file_id)), ABSENT_IDS[1], METADATA)
    assert theirs.get(copy.file_id).read() == data
    theirs.delete(file_id)
    assert ours.list() == [copy.file_id]
    ours.delete(copy.file_id)
    assert _leftovers(theirs) == 0


@pytest.mark.parametrize("size", SIZES)
def test_we_read_filedepots(ours: GridFSStorage, theirs: FiledepotStorage, size: int) -> None:
    data = noise(size)
    file_id = FileId(theirs.create(data, NAME, TEXT))
    assert _picture(ours.get(file_id)) == _picture(theirs.get(file_id))
    stat = ours.stat(file_id)
    reader = ours.open_content(stat)
    for offset in {0, size // 2, max(0, size - 3)}:
        assert reader.pread(offset, CHUNK_SIZE) == data[offset : offset + CHUNK_SIZE]
    copy = ours.copy(stat, ABSENT_IDS[0], METADATA)
    assert content_of(ours, copy) == data
    updated = ours.update(stat, filename="new")
    assert updated.version == stat.version
    assert _picture(theirs.get(file_id)) == (data, "new", *_picture(ours.get(file_id))[2:])
    theirs.replace(file_id, data[1:], NAME, TEXT)
    assert content_of(ours, file_id) == data[1:]
    with pytest.raises(VersionChanged):
        reader.pread(0, 1) if size else ours.open_content(stat)
    ours.replace(file_id, b"ours", NAME)
    assert theirs.get(file_id).read() == b"ours"
    theirs.replace(file_id, b"theirs again", NAME)
    assert content_of(ours, file_id) == b"theirs again"
    ours.delete(file_id)
    ours.delete(copy.file_id)
    assert _leftovers(theirs) == 0


def test_documents_are_filedepots(ours: GridFSStorage, theirs: FiledepotStorage) -> None:
    """Field by field and type by type, but for ours."""
    ids = [ObjectId(storage.create(noise(CHUNK_SIZE + 5), NAME, TEXT)) for storage in (ours, theirs)]
    files, chunks = theirs._db.filedepot.files, theirs._db.filedepot.chunks
    mine, other = (files.find_one({"_id": file_id}) for file_id in ids)
    assert isinstance(mine.pop("depotfs"), dict)
    assert {name: type(value) for name, value in mine.items()} == {name: type(value) for name, value in other.items()}
    for varying in ("_id", "uploadDate", "last_modified"):
        del mine[varying], other[varying]
    assert mine == other
    my_chunks, other_chunks = (list(chunks.find({"files_id": file_id}).sort("n")) for file_id in ids)
    assert all(isinstance(chunk.pop("depotfs"), ObjectId) for chunk in my_chunks)
    assert all(chunk.pop("crc32") == zlib.crc32(chunk["data"]) for chunk in my_chunks)
    for mine, other in zip(my_chunks, other_chunks, strict=True):
        assert mine.keys() == other.keys()
        assert [(mine[k], type(mine[k])) for k in ("n", "data")] == [(other[k], type(other[k])) for k in ("n", "data")]


def test_indexes_are_filedepots(mongod: Mongod) -> None:
    indexes = []
    for kind in (GridFSStorage, FiledepotStorage):
        uri = mongod.new_uri()
        kind(uri).create(b"x", "x")
        filedepot = FiledepotStorage(uri)
        indexes.append([filedepot._db.filedepot[c].index_information() for c in ("files", "chunks")])
        filedepot._cli.close()
    assert indexes[0] == indexes[1]


def test_filedepot_replaces_in_the_middle_of_our_swap(ours: GridFSStorage, theirs: FiledepotStorage, uri: str) -> None:
    new = noise(2 * CHUNK_SIZE + 1)
    for step in range(2, 9):
        put(ours, noise(3 * CHUNK_SIZE), ABSENT_IDS[1])
        if not killed_at(uri, step, lambda s: put(s, noise(4 * CHUNK_SIZE), ABSENT_IDS[1], expect="*")):
            break
        theirs.replace(ABSENT_IDS[1], new, NAME, TEXT)
        assert content_of(ours, ABSENT_IDS[1]) == theirs.get(ABSENT_IDS[1]).read() == new
        ours.sweep(older_than=0)
        assert content_of(ours, ABSENT_IDS[1]) == theirs.get(ABSENT_IDS[1]).read() == new
    ours.delete(ABSENT_IDS[1])
    ours.sweep(older_than=0)
    assert _leftovers(theirs) == 0


def test_backup_of_the_guide_both_ways(ours: GridFSStorage, theirs: FiledepotStorage, mongod: Mongod) -> None:
    files = {ours.create(noise(n), f"{n}.txt", TEXT): n for n in (0, 5, CHUNK_SIZE + 1)}
    target = FiledepotStorage(mongod.new_uri())
    for file_id in ours.list():
        file = theirs.get(file_id)
        target.replace(file, file)
    back = GridFSStorage(mongod.new_uri())
    for file_id in target.list():
        file = target.get(file_id)
        back.replace(file, file)
    assert {file_id: back.get(file_id).content_length for file_id in back.list()} == files
    target._cli.close()
    for file_id, size in files.items():
        assert _picture(back.get(file_id))[:3] == (noise(size), f"{size}.txt", TEXT)
    back.close()


def _leftovers(theirs: FiledepotStorage) -> int:
    return int(theirs._db.filedepot.chunks.count_documents({}) + theirs._db.filedepot.files.count_documents({}))
