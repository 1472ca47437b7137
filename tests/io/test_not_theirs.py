"""What answers at the endpoint is neither S3 nor Google Cloud Storage but a proxy's page, or a wrong port."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from depotfs.errors import StorageUnavailable
from depotfs.io.boto3 import S3Storage
from depotfs.io.content import BytesContent
from depotfs.io.gcs import GCSStorage
from depotfs.io.native import NativeStorage
from tests.io.contract_sources import ABSENT_IDS, METADATA

FILE = ABSENT_IDS[0]


class _Page(BaseHTTPRequestHandler):
    """Answers everything with 200 and a page."""

    protocol_version = "HTTP/1.1"
    page = b""

    def _answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(self.page)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(self.page)

    do_GET = do_HEAD = do_PUT = do_POST = do_PATCH = _answer  # noqa: N815 - http.server's names

    def log_message(self, *_: object) -> None: ...


@pytest.fixture(params=[b"<html><body>Please log in<br></body></html>", b"<html/>", b"It works!"])
def endpoint(request: pytest.FixtureRequest) -> Iterator[str]:
    handler = type("Page", (_Page,), {"page": request.param})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def _s3(endpoint: str) -> NativeStorage:
    return S3Storage("key", "secret", "bucket", endpoint_url=endpoint, attempts=1)


def _gcs(endpoint: str) -> NativeStorage:
    return GCSStorage("project", bucket="bucket", endpoint=endpoint, anonymous=True, attempts=1)


@pytest.mark.parametrize("kind", [_s3, _gcs])
def test_a_page_is_neither_an_empty_bucket_nor_a_file(kind: Callable[[str], NativeStorage], endpoint: str) -> None:
    """Else a backup that mirrors deletions would delete everything."""
    storage = kind(endpoint)
    calls: list[Callable[[], object]] = [
        storage.list,
        lambda: storage.exists(FILE),
        lambda: storage.get(FILE),
        lambda: storage.create(b"x"),
        lambda: storage.replace(FILE, b"x"),
        lambda: storage.put(BytesContent(bytes(20 << 20)), METADATA, file_id=FILE),
    ]
    for call in calls:
        with pytest.raises(StorageUnavailable, match=endpoint):
            call()
    storage.close()
