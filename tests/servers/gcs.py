"""Google Cloud Storage servers: our own fake (strict, with faults on demand), and fake-gcs-server, by others."""

from __future__ import annotations

import json
import os
import shutil
import sys
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.servers.process import ServerProcess, free_port, missing

_ROOT = Path(__file__).parents[2]


class GcsServer:
    """A running server on loopback.

    Attributes:
        endpoint: its URL; process: the process that answers requests.
    """

    def __init__(self, process: ServerProcess, port: int) -> None:
        self.process = process
        self.port = port
        self.endpoint = f"http://127.0.0.1:{port}"

    def new_bucket(self, **resource: Any) -> str:
        """The name of an empty bucket that nobody else uses."""
        name = f"bucket-{uuid.uuid4().hex[:16]}"
        self._ask("POST", "/storage/v1/b?project=test", {"name": name, **resource})
        return name

    def storage_options(self, bucket: str) -> dict[str, Any]:
        """Constructor arguments of a `GCSStorage` of that bucket."""
        return {"project_id": "test", "bucket": bucket, "endpoint": self.endpoint, "anonymous": True}

    def answers(self) -> bool:
        """Whether it answers a request."""
        try:
            self._ask("GET", "/storage/v1/b?project=test")
        except urllib.error.HTTPError:
            return True
        except OSError:
            return False
        return True

    def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(self.endpoint + path, data, headers, method=method)
        with urllib.request.urlopen(request, timeout=10) as answer:
            return dict(json.loads(answer.read() or b"{}"))


class FakeGcsServer(GcsServer):
    """Our own server, in a process of its own."""

    def requests(self, bucket: str) -> list[dict[str, Any]]:
        """All requests so far that touched the bucket: method, path, query, size (of the body), range."""
        return list(self._ask("GET", f"/_control/log?bucket={bucket}")["requests"])

    def open_uploads(self, bucket: str) -> int:
        """Resumable uploads that were begun and neither ended nor cancelled."""
        return int(self._ask("GET", f"/_control/uploads?bucket={bucket}")["open"])

    @contextmanager
    def faults(self, *faults: dict[str, Any], rewrite_step: int = 1 << 62) -> Iterator[None]:
        """While inside, the server misbehaves; see `tests.servers.fake_gcs.Control`."""
        self._ask(
            "POST", "/_control", {"faults": [{"times": 1} | fault for fault in faults], "rewrite_step": rewrite_step}
        )
        try:
            yield
        finally:
            self._ask("POST", "/_control", {})


@pytest.fixture(scope="session")
def gcs_fake() -> Iterator[FakeGcsServer]:
    process, port = ServerProcess("gcs-fake"), free_port()
    server = FakeGcsServer(process, port)
    environment = {"PYTHONPATH": str(_ROOT)}
    try:
        process.start(
            [sys.executable, "-m", "tests.servers.fake_gcs", str(port)], server.answers, environment=environment
        )
        yield server
    finally:
        process.stop()


@pytest.fixture(scope="session")
def fake_gcs_server() -> Iterator[GcsServer]:
    folders = [os.environ.get("DEPOTFS_TEST_BIN", ""), str(_ROOT / ".cache" / "bin"), os.environ.get("PATH", "")]
    program = shutil.which("fake-gcs-server", path=os.pathsep.join(folder for folder in folders if folder))
    process, port = ServerProcess("fake-gcs-server"), free_port()
    server = GcsServer(process, port)
    options = ["-scheme", "http", "-host", "127.0.0.1", "-port", str(port), "-backend", "memory"]
    try:
        process.start(
            [program or missing("fake-gcs-server"), *options, "-public-host", f"127.0.0.1:{port}"], server.answers
        )
        yield server
    finally:
        process.stop()
