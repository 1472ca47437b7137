"""Google Cloud Storage: what filedepot 0.12 wrote is ours, and what we write is filedepot's."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import pytest
from google.auth.credentials import AnonymousCredentials

from depotfs.io.gcs import GCSStorage
from depotfs.io.memory import MemoryFileStorage
from depotfs.types import FileId
from tests.io.contract_files import NAMES
from tests.io.contract_sources import noise
from tests.servers.gcs import FakeGcsServer

pytestmark = pytest.mark.xdist_group("gcs_fake")
KEYS = ("x-depot-filename", "x-depot-modified", "x-depot-content-type")


@pytest.fixture
def ours(gcs_fake: FakeGcsServer) -> Iterator[GCSStorage]:
    storage = GCSStorage(**gcs_fake.storage_options(gcs_fake.new_bucket()), prefix="depot/")
    yield storage
    storage.close()


@pytest.fixture
def theirs(gcs_fake: FakeGcsServer, ours: GCSStorage, monkeypatch: pytest.MonkeyPatch) -> Any:
    """filedepot's storage of the same files."""
    from depot.io.gcs import GCSStorage as Filedepots

    monkeypatch.setenv("STORAGE_EMULATOR_HOST", gcs_fake.endpoint)
    credentials: Any = AnonymousCredentials
    return Filedepots("test", credentials(), ours.bucket_name, policy="private", prefix="depot/")


def seen(file: Any) -> tuple[Any, ...]:
    return file.filename, file.content_type, file.last_modified, file.content_length, file.read()


def test_theirs_is_ours(ours: GCSStorage, theirs: Any) -> None:
    for name in NAMES:
        file_id = theirs.create(b"content of " + name.encode(), name, "text/x-own")
        assert seen(ours.get(file_id)) == seen(theirs.get(file_id))
        assert ours.get(file_id).filename == name
    assert sorted(ours.list()) == sorted(i.removeprefix("depot/") for i in theirs.list())


def test_ours_is_theirs(ours: GCSStorage, theirs: Any) -> None:
    for name in NAMES:
        file_id = ours.create(b"content of " + name.encode(), name, "text/x-own")
        assert seen(theirs.get(file_id)) == seen(ours.get(file_id))
        assert theirs.get(file_id).filename == name


def test_the_same_is_stored(ours: GCSStorage, theirs: Any) -> None:
    blobs = [
        ours.bucket.get_blob("depot/" + storage.create(b"x", "имя 100%.txt", "text/x-own"))
        for storage in (ours, theirs)
    ]
    mine, other = ({key: blob.metadata[key] for key in KEYS if key != "x-depot-modified"} for blob in blobs)
    assert mine == other
    assert [blob.content_type for blob in blobs] == ["text/x-own"] * 2
    assert set(blobs[1].metadata) == set(KEYS)


def test_each_replaces_the_others(ours: GCSStorage, theirs: Any) -> None:
    file_id = theirs.create(b"theirs", "a.txt", "text/plain")
    version = ours.stat(file_id).version
    assert ours.replace(file_id, b"ours") == file_id
    assert seen(theirs.get(file_id))[:2] == ("a.txt", "text/plain")
    assert theirs.get(file_id).read() == b"ours"
    theirs.replace(file_id, b"theirs again", "b.txt", "text/b")
    assert seen(ours.get(file_id))[0] == "b.txt"
    assert ours.get(file_id).read() == b"theirs again"
    assert ours.stat(file_id).version != version
    updated = ours.update(ours.stat(file_id), filename="ü.txt", modified=981173106)
    assert updated.commit == ""
    assert theirs.get(file_id).filename == "ü.txt"
    assert str(theirs.get(file_id).last_modified) == "2001-02-03 04:05:06"
    theirs.delete(file_id)
    assert not ours.exists(file_id)
    other = FileId(theirs.create(io.BytesIO(b"x"), "c"))
    ours.delete(other)
    assert not theirs.exists(other)


def test_backup_of_theirs(ours: GCSStorage, theirs: Any) -> None:
    data = {theirs.create(noise(1000 + number), f"{number}.txt"): noise(1000 + number) for number in range(3)}
    copy = MemoryFileStorage()
    for file_id in ours.list():
        file = ours.get(file_id)
        copy.replace(file, file)
        theirs.delete(file_id)
    assert ours.list() == []
    for file_id in copy.list():
        file = copy.get(file_id)
        ours.replace(file, file)
    assert {file_id: theirs.get(file_id).read() for file_id in data} == data
    assert [theirs.get(file_id).filename for file_id in data] == ["0.txt", "1.txt", "2.txt"]
