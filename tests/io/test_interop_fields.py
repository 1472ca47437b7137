"""filedepot's `depot.fields`, for columns that hold files, with our storages behind its manager."""

from __future__ import annotations

import io
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import depot.fields.upload
import depot.io.utils
import pytest
from depot.manager import DepotManager

from depotfs.io.utils import FileIntent
from tests.io.contract_sources import PNG, TEXT, Field, noise
from tests.servers.mongod import Mongod
from tests.servers.s3 import S3Server

sqlalchemy: Any = pytest.importorskip("sqlalchemy")
orm: Any = pytest.importorskip("sqlalchemy.orm")
fields: Any = pytest.importorskip("depot.fields.sqlalchemy")


@pytest.fixture(params=["local", "memory", "gridfs", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    """The default storage of filedepot's manager, of our class."""
    options: dict[str, str] = {}
    if request.param == "local":
        options = {"backend": "depotfs.io.local.LocalFileStorage", "storage_path": str(tmp_path / "files")}
    elif request.param == "memory":
        options = {"backend": "depotfs.io.memory.MemoryFileStorage"}
    elif request.param == "gridfs":
        mongod: Mongod = request.getfixturevalue("mongod")
        options = {
            "backend": "depotfs.io.gridfs.GridFSStorage",
            "mongouri": mongod.uri(f"fields-{uuid.uuid4().hex[:8]}"),
        }
    else:
        server: S3Server = request.getfixturevalue("minio")
        options = {
            "backend": "depotfs.io.boto3.S3Storage",
            "access_key_id": server.access_key,
            "secret_access_key": server.secret_key,
            "bucket": server.new_bucket(),
            "endpoint_url": server.endpoint,
        }
    DepotManager._clear()
    storage = DepotManager.configure("default", {f"depot.{name}": value for name, value in options.items()})
    yield storage
    storage.close()
    DepotManager._clear()


@pytest.mark.parametrize(
    ("content", "name", "kind"),
    [
        (lambda: b"data", "unnamed", "application/octet-stream"),
        (lambda: io.BytesIO(b"data"), "unnamed", "application/octet-stream"),
        (lambda: Field(b"data", "photo.png"), "photo.png", PNG),
        (lambda: depot.io.utils.FileIntent(b"data", "имя.txt", TEXT), "имя.txt", TEXT),
        (lambda: depot.io.utils.FileIntent(io.BytesIO(b"data"), "photo.png", PNG), "photo.png", PNG),
        (lambda: FileIntent(b"data", "photo.png", PNG), "photo.png", PNG),
    ],
    ids=["bytes", "stream", "form field", "their intent", "their intent of a stream", "our intent"],
)
def test_uploaded_file(storage: Any, content: Callable[[], Any], name: str, kind: str) -> None:
    uploaded = depot.fields.upload.UploadedFile(content())
    again = depot.fields.upload.UploadedFile.decode(uploaded.encode())
    assert (again.filename, again.content_type, again.path) == (name, kind, f"default/{uploaded.file_id}")
    assert (again.file.filename, again.file.read()) == (name, b"data")
    assert DepotManager.get_file(again.path).last_modified.strftime("%Y-%m-%d %H:%M:%S") == again.uploaded_at


class Document:
    """A row with a file."""

    id: int
    content: Any

    def __init__(self, content: Any) -> None:
        self.content = content


@pytest.fixture(scope="module")
def mapped() -> Any:
    registry = orm.registry()
    columns = [sqlalchemy.Column("id", sqlalchemy.Integer, primary_key=True)]
    columns.append(sqlalchemy.Column("content", fields.UploadedFileField()))
    registry.map_imperatively(Document, sqlalchemy.Table("documents", registry.metadata, *columns))
    return registry.metadata


@pytest.fixture
def session(storage: Any, mapped: Any) -> Iterator[Any]:
    engine = sqlalchemy.create_engine("sqlite://")
    mapped.create_all(engine)
    with orm.Session(engine) as session:
        yield session
    engine.dispose()


def test_files_of_rows_live_and_go_with_their_transactions(storage: Any, session: Any) -> None:
    document = Document(depot.io.utils.FileIntent(noise(300_000), "a.png", PNG))
    session.add(document)
    session.commit()
    stored = document.content
    assert (stored.filename, stored.file.read()) == ("a.png", noise(300_000))

    document.content = b"rolled back"
    session.flush()
    assert len(storage.list()) == 2
    session.rollback()
    assert storage.list() == [stored.file_id]
    assert document.content.file.read() == noise(300_000)

    document.content = FileIntent(b"replaced", "b.txt", TEXT)
    session.commit()
    assert storage.list() == [document.content.file_id] != [stored.file_id]
    assert (document.content.file.filename, document.content.file.read()) == ("b.txt", b"replaced")

    session.delete(document)
    session.commit()
    assert storage.list() == []
