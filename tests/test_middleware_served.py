"""The middleware around a Flask application, under waitress, asked by curl and over plain connections."""

from __future__ import annotations

import http.client
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from depotfs.errors import StorageUnavailable, VersionChanged
from depotfs.io.local import LocalFileStorage
from depotfs.io.memory import MemoryFileStorage
from depotfs.io.utils import FileIntent
from tests.servers.process import ServerProcess, accepts, free_port, missing

pytestmark = pytest.mark.xdist_group("waitress")

LARGE = os.urandom(1 << 20) * 9
ROOT = Path(__file__).parents[1]


class Vanishing(MemoryFileStorage):
    """A storage whose files are gone after their first MiB, and whose server is down for ids that begin with 0."""

    def stat(self, file_id: Any) -> Any:
        if file_id.startswith("0"):
            raise StorageUnavailable("The server at storage.test does not answer", retry_after=7)
        return super().stat(file_id)

    def open_content(self, file: Any) -> Any:
        reader: Any = super().open_content(file)
        whole = reader.pread

        def pread(offset: int, size: int) -> bytes:
            if offset >= 1 << 20:
                raise VersionChanged(f"File {reader.stat.file_id} was replaced")
            return bytes(whole(offset, min(size, 1 << 20)))

        reader.pread = pread
        return reader


def make_app() -> Any:
    """The application: a form that stores what is uploaded, and the middleware in front of it."""
    from flask import Flask, request

    from depotfs.manager import DepotManager

    DepotManager.configure("local", {"depot.storage_path": os.environ["DEPOTFS_TEST_PATH"]})
    DepotManager.configure("memory", {"depot.backend": "depotfs.io.memory.MemoryFileStorage"})
    DepotManager.configure("vanishing", {"depot.backend": f"{__name__}.Vanishing"})
    app = Flask(__name__)

    @app.post("/<name>")
    def upload(name: str) -> str:
        storage = DepotManager.get(name)
        assert storage is not None
        return DepotManager.url_for(f"{name}/{storage.create(request.files['file'])}")

    app.wsgi_app = DepotManager.make_middleware(app.wsgi_app)  # type: ignore[method-assign]
    return app


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    process = ServerProcess("waitress")
    port = free_port()
    path = tmp_path_factory.mktemp("storage")
    search = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    serve = [sys.executable, "-m", "waitress", f"--listen=127.0.0.1:{port}", "--call", f"{__name__}:make_app"]
    process.start(serve, lambda: accepts(port), environment={"DEPOTFS_TEST_PATH": str(path), "PYTHONPATH": search})
    yield Server(port, LocalFileStorage(str(path)), process.log)
    process.stop()


class Server:
    """The running server; `local` is the storage of its local files, `log` what it printed."""

    def __init__(self, port: int, local: LocalFileStorage, log: Path) -> None:
        self.port = port
        self.local = local
        self.log = log

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    def curl(self, *arguments: str | Path, status: int = 0) -> bytes:
        """What curl printed; it ended with that status."""
        program = shutil.which("curl") or missing("curl")
        done = subprocess.run([program, "--silent", *map(str, arguments)], capture_output=True, timeout=60)
        assert done.returncode == status, done.stderr.decode()
        return done.stdout

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)

    def upload(self, storage: str, path: Path, content_type: str = "text/plain") -> str:
        """The address at which the uploaded file is served."""
        form = f"file=@{path};type={content_type}"
        return self.url(self.curl("--form", form, self.url(f"/{storage}")).decode())


@pytest.mark.parametrize("storage", ["local", "memory"])
def test_what_is_uploaded_to_the_application_is_served(server: Server, tmp_path: Path, storage: str) -> None:
    source, target = tmp_path / "отчёт.txt", tmp_path / "target"
    source.write_bytes(LARGE)
    url = server.upload(storage, source)
    head = server.curl("--dump-header", "-", "--output", target, url).decode()
    assert target.read_bytes() == LARGE
    assert "Content-Type: text/plain" in head
    assert "filename*=UTF-8''%D0%BE%D1%82%D1%87%D1%91%D1%82.txt" in head


@pytest.mark.parametrize("storage", ["local", "memory"])
def test_a_download_resumes_where_it_was_cut(server: Server, tmp_path: Path, storage: str) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(LARGE)
    target.write_bytes(LARGE[:3_000_001])
    url = server.upload(storage, source)
    got = server.curl("--continue-at", "-", "--output", target, "--write-out", "%{http_code} %{size_download}", url)
    assert got.decode() == f"206 {len(LARGE) - 3_000_001}"
    assert target.read_bytes() == LARGE


def test_ranges_and_heads_leave_the_connection_in_order(server: Server) -> None:
    path = f"/depot/local/{server.local.create(FileIntent(LARGE, 'a', None))}"
    connection = server.connect()
    for method, asked, status, body in [
        ("HEAD", None, 200, b""),
        ("GET", "bytes=5-9", 206, LARGE[5:10]),
        ("HEAD", "bytes=5-9", 200, b""),
        ("GET", "bytes=999999999-", 416, None),
        ("GET", "bytes=-3000000", 206, LARGE[-3_000_000:]),
        ("GET", None, 200, LARGE),
    ]:
        connection.request(method, path, headers={"Range": asked} if asked else {})
        answer = connection.getresponse()
        data = answer.read()
        assert answer.status == status
        assert body is None or data == body
    connection.request("GET", path, headers={"Range": "bytes=0-1,1000000-1000003"})
    data = connection.getresponse().read()
    assert LARGE[1_000_000:1_000_004] in data
    connection.request("GET", path, headers={"If-None-Match": str(answer.headers["ETag"])})
    assert connection.getresponse().status == 304
    connection.close()


def test_no_name_or_address_splits_the_answer(server: Server) -> None:
    evil = 'a"\r\nSet-Cookie: stolen=1\r\n\r\n<script>'
    file_id = server.local.create(FileIntent(b"data", evil, "text/html\r\nSet-Cookie: stolen=1"))
    connection = server.connect()
    for path, status in [
        (f"/depot/local/{file_id}", 200),
        (f"/depot/local/{file_id}%0d%0aSet-Cookie:%20stolen=1", 404),
        (f"/depot/local%0d%0aSet-Cookie:%20stolen=1/{file_id}", 404),
    ]:
        connection.request("GET", path)
        answer = connection.getresponse()
        assert (answer.status, answer.headers["Set-Cookie"]) == (status, None)
        assert b"script" not in answer.read()
    connection.close()


def test_a_file_that_goes_while_it_is_sent_is_seen_as_cut_by_the_client(server: Server, tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(LARGE)
    url = server.upload("vanishing", source)
    server.curl("--output", target, url, status=18)  # "Partial file"
    got = target.read_bytes()
    assert len(got) < 2 << 20
    assert LARGE.startswith(got)
    assert "VersionChanged" in server.log.read_text()


def test_a_storage_that_is_down_asks_to_come_again(server: Server) -> None:
    url = server.url("/depot/vanishing/00000000-0000-0000-0000-000000000000")
    answer = server.curl("--include", url).decode()
    assert answer.startswith("HTTP/1.1 503 ")
    assert "Retry-After: 7" in answer
    assert "storage.test" not in answer


def test_a_download_outlives_the_replacement_of_its_file(server: Server) -> None:
    file_id = server.local.create(FileIntent(LARGE, "a", None))
    connection = server.connect()
    connection.request("GET", f"/depot/local/{file_id}")
    answer = connection.getresponse()
    begun = answer.read(100)
    server.local.replace(file_id, b"new")
    assert begun + answer.read() == LARGE
    connection.request("GET", f"/depot/local/{file_id}")
    assert connection.getresponse().read() == b"new"
    connection.close()
