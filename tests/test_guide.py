"""Every example of filedepot's user guide, as it is written there but for imports and file paths."""

# ruff: noqa: SIM115 - the guide opens files without closing them

from __future__ import annotations

import io
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from depotfs.io.utils import FileIntent
from depotfs.manager import DepotManager
from tests.servers.process import missing


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    DepotManager._clear()
    yield
    DepotManager._clear()


@pytest.fixture
def png(tmp_path: Path) -> str:
    """The guide's /tmp/file.png: bytes that are text in no encoding that `open` would assume."""
    path = tmp_path / "file.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n\x00\xff\xfe")
    return str(path)


@pytest.fixture
def mongouri(request: pytest.FixtureRequest) -> str:
    try:
        server = request.getfixturevalue("mongod")
    except pytest.FixtureLookupError:
        missing("mongod")
    return str(server.new_uri())


def test_configuring_and_getting_a_storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    DepotManager.configure("default", {"depot.storage_path": "./files"})
    depot = DepotManager.get()
    assert depot is DepotManager.get("default")
    fileid = depot.create(b"x")
    assert (tmp_path / "files" / fileid / "file").read_bytes() == b"x"


def test_saving_and_retrieving_files(tmp_path: Path, png: str) -> None:
    DepotManager.configure("default", {"depot.storage_path": str(tmp_path / "files")})
    depot = DepotManager.get()
    fileid = depot.create(open(png))  # in text mode, as the guide has it
    assert (depot.get(fileid).filename, depot.get(fileid).content_type) == ("file.png", "image/png")
    fileid = depot.create(open(png), "thumbnail.png", "image/png")
    stored_file = depot.get(fileid)
    stored_file.content_type  # This will be 'image/png'  # noqa: B018
    image = stored_file.read()
    assert (stored_file.filename, stored_file.content_type) == ("thumbnail.png", "image/png")
    assert image == Path(png).read_bytes()
    stored_file = DepotManager.get_file("default/%s" % fileid)
    assert stored_file.read() == image


def test_replacing_and_deleting_files(tmp_path: Path, png: str) -> None:
    DepotManager.configure("default", {"depot.storage_path": str(tmp_path / "files")})
    depot = DepotManager.get()
    fileid = depot.create(b"old", "old.txt")
    another_image = tmp_path / "another_image.jpg"
    another_image.write_bytes(b"\xff\xd8\xff another")
    depot.replace(fileid, open(another_image), "thumbnail.jpg", "image/png")
    file = depot.get(fileid)
    assert (file.filename, file.content_type, file.read()) == ("thumbnail.jpg", "image/png", b"\xff\xd8\xff another")
    depot.replace(fileid, open(png))
    file = depot.get(fileid)
    assert (file.filename, file.content_type) == ("file.png", "image/png")
    depot.delete(fileid)
    depot.delete(fileid)
    assert not depot.exists(fileid)


@pytest.mark.parametrize("backend", ["depot.io.local.LocalFileStorage", "depot.io.memory.MemoryFileStorage"])
def test_storing_data_as_files(tmp_path: Path, backend: str) -> None:
    (tmp_path / "file").write_bytes(b"HELLO WORLD")

    class Guide:
        fs: Any = DepotManager.configure("a", {"depot.backend": backend, "depot.storage_path": str(tmp_path / "files")})

        def examples(self) -> None:
            # Works with file objects
            file_id = self.fs.create(FileIntent(open(tmp_path / "file", "rb"), "file.txt", "text/plain"))
            f = self.fs.get(file_id)
            assert (f.content_type, f.filename, f.read()) == ("text/plain", "file.txt", b"HELLO WORLD")
            # Works also with bytes
            file_id = self.fs.create(FileIntent(b"HELLO WORLD", "file.txt", "text/plain"))
            f = self.fs.get(file_id)
            assert f.content_type == "text/plain"
            assert f.filename == "file.txt"
            assert f.read() == b"HELLO WORLD"

    Guide().examples()


def test_file_metadata(tmp_path: Path, png: str) -> None:
    DepotManager.configure("default", {"depot.storage_path": str(tmp_path / "files")})
    stored_file = DepotManager.get().get(DepotManager.get().create(open(png, "rb")))
    assert stored_file.filename == stored_file.name == "file.png"
    assert stored_file.content_type == "image/png"
    assert isinstance(stored_file.last_modified, datetime)
    assert stored_file.content_length == Path(png).stat().st_size
    assert stored_file.public_url is None


def test_serving_files_on_http(tmp_path: Path, png: str) -> None:
    def application(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", [])
        return [b"the application"]

    app: Any = application
    my_files = DepotManager.configure("my_files", {"depot.storage_path": str(tmp_path / "files")})
    fileid = my_files.create(open(png), "thumbnail.png", "image/png")
    app = DepotManager.make_middleware(app)
    assert DepotManager.url_for("my_files/%s" % fileid) == "/depot/my_files/%s" % fileid

    def requested(path: str) -> tuple[str, bytes]:
        environ = {"REQUEST_METHOD": "GET", "PATH_INFO": path, "SCRIPT_NAME": "", "wsgi.input": io.BytesIO()}
        status: list[str] = []
        body = app(environ, lambda given, headers, exc_info=None: status.append(given))
        return status[0], b"".join(body)

    assert requested("/depot/my_files/%s" % fileid) == ("200 OK", Path(png).read_bytes())
    assert requested("/elsewhere") == ("200 OK", b"the application")


def test_switching_default_storage(tmp_path: Path) -> None:
    for name in ("first", "second"):
        DepotManager.configure(name, {"depot.storage_path": str(tmp_path / name)})
    fileid = DepotManager.get().create(b"x")
    DepotManager.set_default("second")
    assert DepotManager.get() is DepotManager.get("second")
    assert DepotManager.get_file("first/%s" % fileid).read() == b"x"


@pytest.mark.xdist_group("mongod")
def test_gridfs(mongouri: str, png: str) -> None:
    DepotManager.configure("my_gridfs", {"depot.backend": "depot.io.gridfs.GridFSStorage", "depot.mongouri": mongouri})
    depot = DepotManager.get("my_gridfs")
    fileid = depot.create(open(png), "thumbnail.png", "image/png")
    stored_file = DepotManager.get_file("my_gridfs/%s" % fileid)
    assert (stored_file.content_type, stored_file.read()) == ("image/png", Path(png).read_bytes())


@pytest.mark.xdist_group("mongod")
def test_replacing_a_storage_through_aliases(tmp_path: Path, mongouri: str, png: str) -> None:
    DepotManager.configure("local_avatars", {"depot.storage_path": str(tmp_path / "lfs")})
    DepotManager.alias("avatar", "local_avatars")
    storage = DepotManager.get("avatar")
    fileid = storage.create(open(png), "thumbnail.png", "image/png")
    old = f"local_avatars/{fileid}"

    DepotManager._clear()  # the application starts again, with another configuration
    DepotManager.configure("local_avatars", {"depot.storage_path": str(tmp_path / "lfs")})
    DepotManager.configure(
        "gridfs_avatars", {"depot.backend": "depot.io.gridfs.GridFSStorage", "depot.mongouri": mongouri}
    )
    DepotManager.alias("avatar", "gridfs_avatars")
    storage = DepotManager.get("avatar")
    fileid = storage.create(open(png), "thumbnail.png", "image/png")
    assert DepotManager.get("gridfs_avatars").exists(fileid)
    for path in (old, f"avatar/{fileid}"):
        assert DepotManager.get_file(path).read() == Path(png).read_bytes()


def test_backups_between_storages(tmp_path: Path, png: str) -> None:
    DepotManager.configure("local_avatars", {"depot.storage_path": str(tmp_path / "lfs")})
    DepotManager.configure("backup_avatars", {"depot.storage_path": str(tmp_path / "lfs_backup")})
    storage = DepotManager.get("local_avatars")
    backup = DepotManager.get("backup_avatars")
    made = {storage.create(open(png), "thumbnail.png", "image/png") for _ in range(3)}
    for fileid in storage.list():
        f = storage.get(fileid)
        backup.replace(f, f)
    assert set(backup.list()) == made
    for fileid in made:
        f, copy = storage.get(fileid), backup.get(fileid)
        for name in ("filename", "content_type", "content_length", "last_modified"):
            assert getattr(copy, name) == getattr(f, name)
        assert copy.read() == f.read()
