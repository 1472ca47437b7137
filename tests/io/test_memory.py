"""MemoryFileStorage: the contract, and the public `files`."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest

from depotfs.errors import VersionChanged
from depotfs.io.content import BytesContent
from depotfs.io.ids import new_uuid
from depotfs.io.memory import MemoryFileStorage
from depotfs.types import FileStat
from tests.io.contract import StorageContract
from tests.io.contract_sources import ABSENT_IDS, METADATA


class TestMemoryFileStorage(StorageContract):
    @pytest.fixture
    def storage(self) -> MemoryFileStorage:
        return MemoryFileStorage(mongouri="ignored", bucket="ignored")


def test_files_as_filedepot_keeps_them() -> None:
    storage = MemoryFileStorage()
    file_id = storage.create(b"data", "a.txt", "text/plain")
    record = storage.files[file_id]
    assert record["data"] == b"data"
    modified = record["metadata"].pop("last_modified")
    assert isinstance(modified, datetime)
    assert record["metadata"] == {"filename": "a.txt", "content_type": "text/plain", "content_length": 4}


def test_files_that_a_test_put_there() -> None:
    storage = MemoryFileStorage()
    metadata = {"filename": "a.txt", "content_type": None, "content_length": 1, "last_modified": datetime(2001, 1, 1)}
    storage.files[ABSENT_IDS[0]] = {"data": b"x", "metadata": metadata}
    file = storage.get(ABSENT_IDS[0])
    assert (file.read(), file.filename, file.content_type) == (b"x", "a.txt", "application/octet-stream")
    assert file.last_modified == datetime(2001, 1, 1)
    first = storage.stat(ABSENT_IDS[0])
    storage.files[ABSENT_IDS[0]] = {"data": b"y", "metadata": metadata}
    second = storage.stat(ABSENT_IDS[0])
    storage.files[ABSENT_IDS[0]] = {"data": b"y", "metadata": {**metadata, "filename": "b.txt"}}
    third = storage.stat(ABSENT_IDS[0])
    assert first.version != second.version == third.version
    assert second.revision != third.revision


def test_two_storages_are_two() -> None:
    one, other = MemoryFileStorage(), MemoryFileStorage()
    assert one.identity() != other.identity()
    file_id = one.create(b"x")
    assert not other.exists(file_id)


class Contested(MemoryFileStorage):
    """Somebody else replaces each file just before it is stored."""

    attempts = 0

    def put(self, *arguments: Any, **options: Any) -> FileStat:
        self.attempts += 1
        raise VersionChanged("replaced by others")


def test_a_replace_that_always_loses_ends() -> None:
    storage = Contested()
    file_id = MemoryFileStorage.put(storage, BytesContent(b"old"), METADATA, file_id=new_uuid()).file_id
    with pytest.raises(VersionChanged):
        storage.replace(file_id, b"new")
    assert storage.attempts > 10
