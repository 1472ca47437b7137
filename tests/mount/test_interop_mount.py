"""filedepot and a mount over the same data: bytes and metadata, both ways."""

from __future__ import annotations

import calendar
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.mount.harness import Mount
from tests.mount.storages import StorageUnderTest, on_kinds
from tests.posix.place import pattern

NAME = "Отчёт №1 100%.pdf"


@pytest.fixture
def filedepot(storage: StorageUnderTest, request: pytest.FixtureRequest) -> Any:
    """The storage as filedepot opens it."""
    import depot.io.boto3
    import depot.io.gridfs
    import depot.io.local

    backends = {
        "local": depot.io.local.LocalFileStorage,
        "gridfs": depot.io.gridfs.GridFSStorage,
        "s3": depot.io.boto3.S3Storage,
    }
    options = dict(storage.options)
    if storage.kind == "s3":
        options["policy"] = "private"
    return backends[storage.kind](**options)


@pytest.fixture
def mount(storage: StorageUnderTest, tmp_path: Path) -> Iterator[Mount]:
    with Mount(tmp_path / "m", {"files": storage.config}, mount={"attr_timeout": "0"}) as mount, mount.watched():
        yield mount


@on_kinds("local", "gridfs", "s3")
def test_stored_by_filedepot(kind: str, mount: Mount, filedepot: Any) -> None:
    content = pattern(700_001)
    file_id = filedepot.create(content, NAME, "application/pdf")
    stored = filedepot.get(file_id)
    path = mount.path / "files" / file_id
    assert os.listdir(path.parent) == [file_id]
    assert path.read_bytes() == content
    assert path.stat().st_size == len(content)
    assert path.stat().st_mtime == calendar.timegm(stored.last_modified.timetuple())
    filedepot.replace(file_id, b"replaced", "new name.txt", "text/plain")
    assert path.read_bytes() == b"replaced"
    with open(path, "ab") as file:
        file.write(b" and appended")
    stored = filedepot.get(file_id)
    assert (stored.filename, stored.content_type) == ("new name.txt", "text/plain")
    assert stored.read() == b"replaced and appended"
    filedepot.delete(file_id)
    assert not path.exists()
    assert os.listdir(path.parent) == []


@on_kinds("local", "gridfs", "s3")
def test_stored_through_the_mount(kind: str, mount: Mount, storage: StorageUnderTest, filedepot: Any) -> None:
    content = pattern(700_001)
    path = mount.path / "files" / NAME
    path.write_bytes(content)
    os.utime(path, (1_234_567_890, 1_234_567_890))
    file_id = storage.derive(NAME)
    assert filedepot.list() == [file_id]
    stored = filedepot.get(file_id)
    assert (stored.filename, stored.content_type, stored.content_length) == (NAME, "application/pdf", len(content))
    assert calendar.timegm(stored.last_modified.timetuple()) == 1_234_567_890
    assert stored.read() == content
    path.write_bytes(b"")
    mount.wait_until(lambda: filedepot.get(file_id).read() == b"", "empty content, stored at the release")
    os.rename(path, path.with_name("moved.txt"))
    assert not filedepot.exists(file_id)
    assert filedepot.get(storage.derive("moved.txt")).filename == "moved.txt"
    path.with_name("moved.txt").unlink()
    assert filedepot.list() == []
    mount.stop()
    assert filedepot.list() == []
